"""How soon a server that was killed is back: `kill -9`, the next one at once, over the same data."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

from sandbox.bench.figure import Figure, quantiles, runs
from sandbox.bench.process import Server, home_of
from sandbox.config import Settings
from sandbox.errors import Unreachable

_POOL = 20
_BUSY = 4
_ANY = 1 << 20
"""Sessions: the dead left theirs."""
_SPIN = json.dumps({"code": "while True: pass"}).encode()


async def recovery(settings: Settings, scale: float, pool: int = _POOL) -> list[Figure]:
    """From the death of a server with a full pool and four sessions that compute: until the next one answers, says
    that it is ready, has its pool full again, and has everything preloaded again.
    """
    answers: list[float] = []
    readies: list[float] = []
    fulls: list[float] = []
    wholes: list[float] = []
    bare: list[float] = []
    with home_of(settings) as home:
        await _lives_and_dies(settings, home, pool)
        for _ in range(runs(10, scale)):
            began = time.perf_counter()
            async with Server.within(home, settings, pool=pool, room=_BUSY) as server:
                answers.append(time.perf_counter() - began)
                await server.ready()
                readies.append(time.perf_counter() - began)
                await server.full()
                fulls.append(time.perf_counter() - began)
                await server.settle(_ANY)
                wholes.append(time.perf_counter() - began)
                async with _busy(server):
                    await server.kill()
        for _ in range(runs(4, scale)):
            await _lives_and_dies(settings, home, pool, alone=False)
            began = time.perf_counter()
            async with Server.within(home, settings, pool=pool, room=_BUSY) as server:
                await server.ready()
                bare.append(time.perf_counter() - began)
        async with Server.within(home, settings, pool=pool, room=_BUSY) as server:
            # Who comes next removes the last one's containers, while it fills its pool, and nobody else can tell whose
            # they are.
            await server.full()
    count = len(answers)
    return [
        Figure("kill -9 to the next server's first answer, p50", quantiles(answers)[0], "s", 2, 1, count),
        Figure(f"kill -9 to ready, a pool of {pool}, p50", quantiles(readies)[0], "s", 2, 1, count),
        Figure(f"kill -9 to ready, a pool of {pool}, longest", max(readies), "s", 4, 2, count),
        Figure(f"kill -9 to {pool} warm, p50", quantiles(fulls)[0], "s", 4, 2, count),
        Figure(f"kill -9 to {pool} warm, longest", max(fulls), "s", 8, 4, count),
        Figure(f"kill -9 to {pool} warm with every library, p50", quantiles(wholes)[0], "s", 15, 10, count),
        Figure("kill -9 of all its processes to ready, p50", quantiles(bare)[0], "s", 4, 2, len(bare)),
    ]


async def _lives_and_dies(settings: Settings, home: Path, pool: int, *, alone: bool = True) -> None:
    async with Server.within(home, settings, pool=pool, room=_BUSY) as server:
        await server.settle(_ANY)
        async with _busy(server):
            await server.kill(alone=alone)


@contextlib.asynccontextmanager
async def _busy(server: Server) -> AsyncIterator[None]:
    """Within the block, sessions compute and the pool is full; what becomes of them is not what is asked here."""
    async with server.connect(_BUSY) as connections:
        computing = []
        for connection in connections:
            opened = await connection.ask("POST", "/v1/sessions", b"{}", wanted=201)
            path = f"/v1/sessions/{json.loads(opened.body)['id']}/executions"
            computing.append(asyncio.ensure_future(connection.request("POST", path, _SPIN)))
        await server.full()
        yield
        for ended in await asyncio.gather(*computing, return_exceptions=True):
            if isinstance(ended, BaseException) and not isinstance(ended, Unreachable):
                raise ended
