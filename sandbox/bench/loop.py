"""What the model loop costs on top of the model and the sandbox, and how many loops go at a time.

The model's server is a process of its own that always says the same, at once or after 50 ms.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from statistics import median

from sandbox.bench.connection import Connection
from sandbox.bench.figure import Figure, quantiles, runs
from sandbox.bench.process import Server
from sandbox.bench.upstream import Upstream, conversation, running
from sandbox.config import Settings
from sandbox.engine import Engine
from sandbox.errors import SandboxFailed
from sandbox.interpreters.session import SessionInterpreter
from sandbox.loop.events import Ending, Finished
from sandbox.loop.loop import Loop
from sandbox.loop.messages import Message, Request
from sandbox.tables import UpstreamTable

_PROGRAMS = 4
_CROWD = 100
_POOL = 20
_LATENCY_MS, _LONG_MS = 50.0, 1000.0
_SLOTS = 256
_MODEL = "bench/bench"
_REQUEST = Request(_MODEL, (Message.of("user", "How much is it?"),))
_ASKED = json.dumps(
    {
        "model": _MODEL,
        "messages": [{"role": "user", "content": "How much is it?"}],
        "tools": [{"type": "code_interpreter"}],
    }
).encode()


async def turn(settings: Settings, scale: float) -> list[Figure]:
    """A run of five turns and four executions in one session, less what the same requests take without a loop (bare
    sockets) and what the same executions take in the same session: what is left, by the turns.
    """
    async with (
        running(_PROGRAMS, 0) as upstream,
        Engine.open(_with(settings, upstream)) as engine,
        engine.session() as session,
    ):
        interpreter = await SessionInterpreter.of(engine, session)
        asking, executing = await _asking(upstream, scale), []
        for _ in range(runs(200, scale)):
            start = time.perf_counter()
            await session.execute("print(1)")
            executing.append(1000 * (time.perf_counter() - start))
        loops = [await _run(Loop(engine.models, interpreter)) for _ in range(5 + runs(60, scale))][5:]
    turns = _PROGRAMS + 1
    added = [(run - turns * asking - _PROGRAMS * median(executing)) / turns for run in loops]
    return [Figure("what the loop adds to a turn, p50", median(added), "ms", 5, 2, len(added))]


async def responses(settings: Settings, scale: float) -> list[Figure]:
    """A Responses call with one execution in a container that is there, over HTTP, less the bare loop's run of the same
    turns and the same program in this process: what the API, the durable session and its rows cost.
    """
    async with running(1, 0) as upstream:
        async with Engine.open(_with(settings, upstream)) as engine, engine.session() as session:
            interpreter = await SessionInterpreter.of(engine, session)
            bare = [await _run(Loop(engine.models, interpreter)) for _ in range(5 + runs(100, scale))][5:]
        tables = json.dumps({"bench": {"url": upstream.url}})
        async with Server.open(settings, pool=2, upstreams=tables) as server, server.connect(1) as (connection,):
            await server.settle()
            made = json.loads((await connection.ask("POST", "/v1/containers", b'{"name": "bench"}')).body)
            tool = {"type": "code_interpreter", "container": made["id"]}
            asked = json.dumps({"model": _MODEL, "input": "How much is it?", "tools": [tool]}).encode()
            times = [await _responded(connection, asked) for _ in range(5 + runs(100, scale))][5:]
    added = median(times) - median(bare)
    return [Figure("a Responses call with one execution, over the bare loop, p50", added, "ms", 10, 5, len(times))]


async def _responded(connection: Connection, asked: bytes) -> float:
    """Milliseconds of one call."""
    answer = await connection.ask("POST", "/v1/responses", asked)
    if b"code_interpreter_call" not in answer.body or b"It is 1." not in answer.body:
        raise SandboxFailed(f"the benchmark's response has another answer: {answer.body[:500]!r}")
    return answer.ms


async def _asking(upstream: Upstream, scale: float) -> float:
    """Milliseconds for a turn's request and answer on a bare connection."""
    times = []
    async with Connection.open(upstream.host, upstream.port) as connection:
        for number in range(runs(200, scale)):
            body = {"model": "bench", "messages": conversation(number % (_PROGRAMS + 1)), "stream": True}
            answer = await connection.ask("POST", "/v1/chat/completions", json.dumps(body).encode())
            times.append(answer.ms)
    return median(times)


async def _run(loop: Loop) -> float:
    """Milliseconds of one run."""
    start = time.perf_counter()
    async with contextlib.aclosing(loop.run(_REQUEST)) as events:
        async for event in events:
            if isinstance(event, Finished) and event.why is Ending.ANSWERED:
                return 1000 * (time.perf_counter() - start)
    raise SandboxFailed("the benchmark's run did not end with an answer")


async def crowd(settings: Settings, scale: float) -> list[Figure]:
    """100 chat completions at once, each with one program in a sandbox of its own, on a model that takes 50 ms for each
    of its two turns and a pool of 20.
    """
    times = await _crowd(settings, scale, _LATENCY_MS)
    p50, p99 = quantiles(times)
    count = _count(scale)
    return [
        Figure(f"{count} loops at once, p50", p50, "ms", 2000, 1000, len(times)),
        Figure(f"{count} loops at once, p99", p99, "ms", 2000, 1000, len(times)),
    ]


async def patient(settings: Settings, scale: float) -> list[Figure]:
    """The same on a model that takes a second for each turn, less these two seconds: what is started ahead is seen."""
    times = [each - 2 * _LONG_MS for each in await _crowd(settings, scale, _LONG_MS)]
    p50, p99 = quantiles(times)
    count = _count(scale)
    return [
        Figure(f"{count} loops on a slow model, over its time, p50", p50, "ms", 1000, 500, len(times)),
        Figure(f"{count} loops on a slow model, over its time, p99", p99, "ms", 1500, 500, len(times)),
    ]


def _count(scale: float) -> int:
    return min(_CROWD, max(4, round(10 * _CROWD * scale)))


async def _crowd(settings: Settings, scale: float, latency_ms: float) -> list[float]:
    """Milliseconds of each."""
    count = _count(scale)
    async with running(1, latency_ms) as upstream:
        tables = json.dumps({"bench": {"url": upstream.url, "concurrency": _SLOTS}})
        opening = Server.open(settings, pool=_POOL, room=count, max_waiting_per_key=count, upstreams=tables)
        async with opening as server:
            times: list[float] = []
            for number in range(1 + runs(5, scale)):
                await server.settle()
                async with server.connect(count) as connections:
                    answers = await asyncio.gather(
                        *(each.request("POST", "/v1/chat/completions", _ASKED) for each in connections)
                    )
                if wrong := [answer for answer in answers if answer.status != 200 or b"It is 1." not in answer.body]:
                    raise SandboxFailed(f"{len(wrong)} of {count} runs failed: {wrong[0].body[:500]!r}")
                if number:
                    times += [answer.ms for answer in answers]
            return times


def _with(settings: Settings, upstream: Upstream) -> Settings:
    """The settings, with this upstream alone."""
    return settings.model_copy(update={"upstreams": {"bench": UpstreamTable(url=upstream.url)}, "models": {}})


LOOP_MEASURES: dict[str, Callable[[Settings, float], Awaitable[list[Figure]]]] = {
    "turn": turn,
    "loops": crowd,
    "slow-loops": patient,
    "responses": responses,
}
