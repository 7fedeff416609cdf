"""How fast `sandbox serve` answers: this process is the client, the server is another, HTTP over loopback between them.

Client and server share the machine's processors, so what the client costs is part of every figure. Each measure has a
server of its own, with logs and rows written as always; its first runs are not counted. Connections are kept alive.
"""

import asyncio
import contextlib
import gc
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from statistics import median

import httpx

from sandbox.bench.connection import Answer, Connection
from sandbox.bench.figure import Figure, quantiles, runs
from sandbox.bench.process import Server
from sandbox.config import Settings
from sandbox.errors import SandboxFailed

_WARM_UP = 5
_PRINT = json.dumps({"code": "print(1)"}).encode()
_SUM = json.dumps({"code": "sum(range(10**4))"}).encode()
_SESSIONS = 50
_CLIENTS = 20
_BURST = 1000
_POOL = 20
_QUEUE = 20
_CHURNERS = 4
_BYTES = 100_000_000


async def run(server: Server, scale: float) -> list[Figure]:
    """`POST /v1/run` with a full pool and nothing else to do, from asking httpx until the JSON is here."""
    times = await _calls(server, "/v1/run", runs(200, scale), settle=True)
    p50, p99 = quantiles(times)
    return [
        Figure("POST /v1/run print(1), warm pool, p50", p50, "ms", 20, 10, len(times)),
        Figure("POST /v1/run print(1), warm pool, p99", p99, "ms", 80, 80, len(times)),
    ]


async def session(server: Server, scale: float) -> list[Figure]:
    """`print(1)` in a session that has run before, one after the other, through httpx."""
    async with _sessions(server, 1) as (path,):
        times = await _calls(server, f"{path}/executions", runs(500, scale))
    p50, p99 = quantiles(times)
    return [
        Figure("execution in a session over HTTP, p50", p50, "ms", 10, 6, len(times)),
        Figure("execution in a session over HTTP, p99", p99, "ms", 30, 30, len(times)),
    ]


async def parallel(server: Server, scale: float) -> list[Figure]:
    """Sessions that each compute `sum(range(10**4))` again and again: answers per second in all."""
    count = min(_SESSIONS, max(2, round(5 * _SESSIONS * scale)))
    seconds = max(1.0, 15 * scale)
    async with _sessions(server, count) as opened, server.connect(count) as connections:
        paths = dict(zip(connections, opened, strict=True))

        async def execute(connection: Connection) -> None:
            _check(await connection.ask("POST", f"{paths[connection]}/executions", _SUM), '"49995000"')

        done = await _throughput(execute, connections, max(1.0, 3 * scale), seconds)
    return [Figure(f"{count} sessions, executions in all", done / seconds, "per s", 200, 400, done)]


async def fresh(server: Server, scale: float) -> list[Figure]:
    """`POST /v1/run` by 20 clients without a pause; begins to count when the pool's head start is used up."""
    seconds = max(1.0, 20 * scale)
    await server.settle()
    async with server.connect(_CLIENTS) as connections:

        async def once(connection: Connection) -> None:
            _check(await connection.ask("POST", "/v1/run", _PRINT), r'"1\n"')

        done = await _throughput(once, connections, max(2.0, 4 * scale), seconds)
    return [Figure(f"fresh sandbox per request, {_CLIENTS} clients", done / seconds, "per s", 15, 40, done)]


async def reject(server: Server, scale: float) -> list[Figure]:
    """1,000 `POST /v1/run` at once to a pool of 20, with room for 20 sandboxes more and a queue of 20: how long the
    rejected ones wait.

    All connections are open and idle before. Then this process writes one request to each without reading in between
    (that alone takes some 20 ms), and reads what comes. A request's time is from its own write until its own 429 or 503
    is parsed here. So most of it is the turn of those before it, which is what a client would see, and some is this
    process being busy with the others. Those that are admitted run meanwhile on the same processors; this process has
    the server's priority over them, if it may, because a client has processors of its own.
    """
    count = min(_BURST, max(100, round(10 * _BURST * scale)))
    times: list[float] = []
    await server.settle()  # before, because the server does not wait for ever for a connection's first request
    async with server.connect(count) as connections, _prior(os.getpriority(os.PRIO_PROCESS, server.pid)):
        for number in range(1 + runs(5, scale)):
            await server.settle()
            answers = await asyncio.gather(*(each.request("POST", "/v1/run", _PRINT) for each in connections))
            refused = [answer for answer in answers if answer.status != 200]
            if not refused:
                raise SandboxFailed(f"none of {count} requests was refused")
            if curt := [answer.body for answer in refused if "retry-after" not in answer.headers]:
                raise SandboxFailed(f"a refusal has no Retry-After: {curt[0].decode()[:500]}")
            if number:
                times += [answer.ms for answer in refused]
    p99 = quantiles(times)[1]
    return [Figure(f"{count} requests at once, rejected within, p99", p99, "ms", 100, 30, len(times))]


@asynccontextmanager
async def _prior(niceness: int) -> AsyncIterator[None]:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, niceness)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, own)


async def files(server: Server, scale: float) -> list[Figure]:
    """A file of 100 MB into a session that has a sandbox, and back; until the answer's last byte is here.

    An upload is answered when it is stored on disk (fsync) and in the sandbox. The download comes right after it, so
    the bytes are in the page cache.
    """
    size = min(_BYTES, max(1_000_000, round(10 * _BYTES * scale)))
    data = bytearray(os.urandom(size))
    up, down = [], []
    async with _sessions(server, 1) as (session_path,), server.connect(1) as (connection,):
        path = f"{session_path}/files/data.bin"
        for number in range(1 + runs(7, scale)):
            data[:8] = os.urandom(8)  # or it would be stored already
            digest = sha256(data).hexdigest()
            stored = await connection.ask("PUT", path, data, media="application/octet-stream", wanted=201)
            loaded = await connection.ask("GET", path)
            if digest not in stored.body.decode() or loaded.body != data:
                raise SandboxFailed("other bytes came back than were sent")
            await connection.ask("DELETE", path, wanted=204)
            if number:
                up.append(stored.ms)
                down.append(loaded.ms)
    megabytes = size / 1_000_000
    return [
        Figure(f"upload of {megabytes:g} MB, p50", 1000 * megabytes / median(up), "MB/s", 150, 400, len(up)),
        Figure(f"download of {megabytes:g} MB, p50", 1000 * megabytes / median(down), "MB/s", 150, 400, len(down)),
    ]


async def churn(server: Server, scale: float) -> list[Figure]:
    """Sessions opened, used once and closed by 4 clients: how much more memory the server and its launcher hold after
    10,000 than after 1,000, each time at rest.
    """
    total = max(20, runs(10_000, scale))
    begun = total // 10
    async with server.connect(_CHURNERS) as connections:
        await _churn(connections, begun)
        await server.settle()
        before = server.memory()
        await _churn(connections, total - begun)
        await server.settle()
        growth = 100 * (server.memory() - before) / before
    return [Figure(f"memory after {total} sessions, over {begun} (RSS)", growth, "%", 5, 1, total)]


async def _calls(server: Server, path: str, count: int, *, settle: bool = False) -> list[float]:
    """Milliseconds of each."""
    times = []
    async with httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client:
        for _ in range(_WARM_UP + count):
            if settle:
                await server.settle()
            start = time.perf_counter()
            response = await client.post(path, json={"code": "print(1)"})
            times.append(1000 * (time.perf_counter() - start))
            _check(Answer(response.status_code, [], response.content, times[-1]), r'"1\n"')
    return times[_WARM_UP:]


@asynccontextmanager
async def _sessions(server: Server, count: int) -> AsyncIterator[list[str]]:
    """The paths of sessions that have run something, on a server at rest; closed at the end."""
    paths = []
    async with server.connect(1) as (connection,):
        for _ in range(count):
            answer = await connection.ask("POST", "/v1/sessions", b"{}", wanted=201)
            paths.append(f"/v1/sessions/{json.loads(answer.body)['id']}")
            for _ in range(_WARM_UP):
                _check(await connection.ask("POST", f"{paths[-1]}/executions", _PRINT), r'"1\n"')
    await server.settle(sessions=count)
    yield paths
    # Another connection, because the server does not keep one open that is idle for long.
    async with server.connect(1) as (connection,):
        for path in paths:
            await connection.ask("DELETE", path)


async def _churn(connections: Sequence[Connection], count: int) -> None:
    turns = iter(range(count))

    async def client(connection: Connection) -> None:
        for _ in turns:
            answer = await connection.ask("POST", "/v1/sessions", b"{}", wanted=201)
            path = f"/v1/sessions/{json.loads(answer.body)['id']}"
            _check(await connection.ask("POST", f"{path}/executions", _PRINT), r'"1\n"')
            await connection.ask("DELETE", path)

    await asyncio.gather(*(client(connection) for connection in connections))


async def _throughput(
    once: Callable[[Connection], Awaitable[None]], connections: Sequence[Connection], warm_up: float, seconds: float
) -> int:
    """How often all clients together did it within `seconds`, from `warm_up` seconds on."""
    begin = time.perf_counter() + warm_up
    end = begin + seconds
    count = 0

    async def client(connection: Connection) -> None:
        nonlocal count
        while time.perf_counter() < end:
            await once(connection)
            count += begin <= time.perf_counter() < end

    await asyncio.gather(*(client(connection) for connection in connections))
    return count


def _check(answer: Answer, shown: str) -> None:
    """Raises `SandboxFailed` when the program did not do what it must. Parses nothing, because time is measured."""
    text = answer.body.decode()
    if answer.status != 200 or '"status":"ok"' not in text or shown not in text:
        raise SandboxFailed(f"the benchmark's program did not do what it must: {answer.status} {text[:500]}")


def served(
    measure: Callable[[Server, float], Awaitable[list[Figure]]], *, pool: int, room: int | None = None, **others: float
) -> Callable[[Settings, float], Awaitable[list[Figure]]]:
    """The measure on a server of its own. See `Server.open`."""

    async def measured(settings: Settings, scale: float) -> list[Figure]:
        async with Server.open(settings, pool=pool, room=room, **others) as server:
            gc.disable()  # or 0.1 s in which this process looks for its own garbage would be told as the server's time
            try:
                return await measure(server, scale)
            finally:
                gc.enable()

    return measured


SERVER_MEASURES: dict[str, Callable[[Settings, float], Awaitable[list[Figure]]]] = {
    "run": served(run, pool=4),
    "session": served(session, pool=4),
    "parallel": served(parallel, pool=4, room=_SESSIONS),
    "fresh": served(fresh, pool=_POOL, room=_CLIENTS),
    "reject": served(reject, pool=_POOL, room=_POOL, max_waiting=_QUEUE, max_waiting_per_key=_QUEUE),
    "files": served(files, pool=1, memory_mb=1024, disk_mb=512),
    "churn": served(churn, pool=4),
}
