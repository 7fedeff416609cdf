"""Sessions that come and go while somebody kills what serves them, and a tally of what their clients were told.

A client opens a session, runs three cells, uploads a file and reads it back, and ends the session. What it is told may
be an error that says so, or an execution that says it was killed or had lost its state. It may never be a success with
anything else in it than the program said: that is a lie, and lies are counted.
"""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from sandbox.client import AsyncClient, AsyncSession
from sandbox.config import PREFIX, Settings
from sandbox.errors import SandboxError, Unreachable
from sandbox.execution import Execution, Status
from sandbox.runtime.docker.daemon import client_for
from tests.chaos.traces import ContainerTraces, EmbeddedTraces, Found, Traces
from tests.host import WAIT_SECONDS
from tests.server import Server, start

_END_SECONDS = 120.0
"""Ends a wait for a server that was asked to end; it drains for 30 seconds at most."""
MEMORY_MB = 256


@dataclass
class Tally:
    """What came of it."""

    sessions: int = 0
    told: Counter[str] = field(default_factory=Counter)
    """How executions ended, and errors by their name."""
    lies: list[str] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    recoveries_s: list[float] = field(default_factory=list)
    """From the death of a server to the first sandbox that its successor hands out."""
    resident: list[tuple[int, int]] = field(default_factory=list)
    """Sessions so far, and bytes that the server, as old as they are, has resident."""
    descriptors: list[int] = field(default_factory=list)
    """Of the server between sessions."""


class Household:
    """A server that is started again when it is killed, and whatever belonged to one of its lives."""

    def __init__(
        self, data_dir: Path, pool: int, traces: Traces | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        """traces: of the runtime that it has by `env`; default is the embedded one's."""
        self._data_dir = data_dir
        self._pool = pool
        self._traces = traces or EmbeddedTraces()
        self._env = env
        self._server: Server | None = None
        """The one that lives, so that nobody is sent to a dead one. It changes under the lock only."""
        self._changing = asyncio.Lock()

    @classmethod
    @contextlib.contextmanager
    def of(cls, data_dir: Path, settings: Settings, pool: int = 4) -> Iterator[Self]:
        """On the runtime of these settings; where sandboxes are containers, they are as large as what is asked for,
        because one that is not warm takes its client's patience."""
        if settings.runtime != "docker":
            yield cls(data_dir, pool, env={f"{PREFIX}RUNTIME": settings.runtime})
            return
        told = {"runtime": "docker", "oci_runtime": settings.oci_runtime, "memory_mb": MEMORY_MB}
        told |= {} if settings.docker_host is None else {"docker_host": settings.docker_host}
        env = {PREFIX + name.upper(): str(value) for name, value in told.items()}
        with contextlib.closing(client_for(settings.docker_host)) as client:
            traces = ContainerTraces(client, data_dir, hidden=settings.oci_runtime == "runsc")
            yield cls(data_dir, pool, traces, env)

    async def url(self) -> str:
        """Of the server that lives."""
        async with self._changing:
            if self._server is not None and self._server.process.poll() is not None:
                self._bury(self._server)
            if self._server is None:
                self._server = await asyncio.to_thread(self._start)
            return self._server.url

    def _start(self) -> Server:
        process = start(self._data_dir, "--pool", str(self._pool), env=self._env)
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        if not url:
            process.wait()
            process.stdout.close()
            raise AssertionError("the server has not started, its log says why")
        return Server(url, process)

    def _bury(self, server: Server) -> None:
        """What it would have said is not read any more."""
        self._server = None
        assert server.process.stdout is not None
        server.process.stdout.close()

    @property
    def server(self) -> int | None:
        """The pid of the one that lives."""
        return None if self._server is None else self._server.process.pid

    @property
    def victims(self) -> Mapping[str, int]:
        """Who can be killed, and how often of a hundred deaths."""
        return {**self._traces.parts, "server": 15}

    @property
    def spared(self) -> Mapping[str, str]:
        """Who cannot be, and why."""
        return self._traces.spared

    def look(self) -> Found:
        """Who is there, remembered for the search for orphans."""
        return {} if (server := self.server) is None else self._traces.look(server)

    async def kill(self, victim: str, chance: random.Random) -> bool:
        """`kill -9` one of these. Whether there was one."""
        who = self.look().get(victim)
        if victim == "server":
            return await self._kill_server()
        found: list[int] = []
        with contextlib.suppress(OSError, KeyError, IndexError):
            found = [] if who is None else who()
        if not found:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(chance.choice(found), signal.SIGKILL)
        return True

    async def _kill_server(self) -> bool:
        # Whoever asks for the server meanwhile waits until it is dead, and gets the next one.
        async with self._changing:
            server = self._server
            if server is None:
                return False
            server.process.kill()
            await asyncio.to_thread(server.process.wait)
            self._bury(server)
            return True

    async def stop(self) -> None:
        """Let the last server end by itself."""
        if self._traces.inherited:
            await self.url()
        async with self._changing:
            server = self._server
            if server is None:
                return
            self.look()
            server.process.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(server.process.wait, _END_SECONDS)
            finally:
                server.process.kill()
                server.process.wait()
                self._bury(server)

    async def orphans(self) -> list[str]:
        """What is left of any life when all have ended: processes, containers, control groups, directories, mounts."""
        deadline = time.monotonic() + WAIT_SECONDS
        while (left := self._traces.left()) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        return left


async def churn(
    household: Household,
    sessions: int,
    clients: int,
    share: float,
    chance: random.Random,
    victims: Sequence[str] | None = None,
) -> Tally:
    """sessions: in all. share: of them that meet a death. victims: who dies, one after the other; default is chance's
    choice."""
    tally = Tally()
    left = iter(range(sessions))
    deaths = iter(victims) if victims is not None else _chosen(household.victims, chance)
    await asyncio.gather(*(_client(household, tally, left, share, deaths, chance) for _ in range(clients)))
    return tally


def _chosen(victims: Mapping[str, int], chance: random.Random) -> Iterator[str]:
    while True:
        yield chance.choices([*victims], [*victims.values()])[0]


async def _client(
    household: Household,
    tally: Tally,
    left: Iterator[int],
    share: float,
    deaths: Iterator[str],
    chance: random.Random,
) -> None:
    for number in left:
        victim = next(deaths, None) if chance.random() < share else None
        try:
            async with AsyncClient(await household.url(), retries=3) as client:
                await _session(household, tally, client, number, victim, chance)
        except Unreachable:
            tally.told["Unreachable"] += 1
            await _recover(household, tally)
        except SandboxError as error:
            tally.told[type(error).__name__] += 1
        tally.sessions += 1
        _measure(household, tally)


async def _session(
    household: Household, tally: Tally, client: AsyncClient, number: int, victim: str | None, chance: random.Random
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        session = await client.open_session(memory_mb=MEMORY_MB)
        steps: list[Callable[[], Awaitable[object]]] = [
            lambda: _cell(tally, session, f"x = {number}; print(x)", f"{number}\n", fresh=True),
            lambda: _cell(tally, session, "print(x + 1)", f"{number + 1}\n", fresh=False),
            lambda: _file(tally, session, str(number).encode() * 2000),
            lambda: _cell(tally, session, "print(len(open('f').read()))", f"{len(str(number)) * 2000}\n", fresh=True),
            session.close,
        ]
        cut = chance.randrange(len(steps))
        for index, step in enumerate(steps):
            if index == cut and victim is not None:
                death = asyncio.create_task(_death(household, tally, victim, chance))
                stack.push_async_callback(asyncio.gather, death)  # nobody dies after the session that was to see it
                await asyncio.sleep(chance.random() / 50)
            await step()


async def _death(household: Household, tally: Tally, victim: str, chance: random.Random) -> None:
    if await household.kill(victim, chance):
        tally.kills[victim] += 1


async def _cell(tally: Tally, session: AsyncSession, code: str, said: str, *, fresh: bool) -> None:
    """fresh: the program needs no variable of an earlier one."""
    execution = await session.execute(code)
    tally.told[execution.status] += 1
    if execution.status is Status.OK:
        honest = execution.stdout == said
    elif execution.status is Status.ERROR:
        honest = not fresh and execution.error is not None and execution.error.name == "NameError"
    else:
        honest = execution.status is Status.KILLED and _is_whole(execution)
    if not honest:
        tally.lies.append(f"{code!r}: {execution!r}")


def _is_whole(execution: Execution) -> bool:
    return bool(execution.reason) and execution.state_lost


async def _file(tally: Tally, session: AsyncSession, data: bytes) -> None:
    await session.upload("f", data)
    if (found := await session.download("f")) != data:
        tally.lies.append(f"{len(data)} bytes went up, {len(found)} others came down")


async def _recover(household: Household, tally: Tally) -> None:
    """Wait for the successor of a server that died."""
    began = time.monotonic()
    async with AsyncClient(await household.url(), retries=0) as client:
        try:
            execution = await client.run("print('on')", memory_mb=MEMORY_MB)
        except SandboxError as error:  # its launcher, its zygote or itself is the next to die
            tally.told[type(error).__name__] += 1
            return
    tally.told[execution.status] += 1
    if execution.status is Status.OK:
        tally.recoveries_s.append(time.monotonic() - began)


def _measure(household: Household, tally: Tally) -> None:
    household.look()
    if (server := household.server) is None:
        return
    with contextlib.suppress(OSError, StopIteration):
        status = Path(f"/proc/{server}/status").read_text()
        resident = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmRSS"))
        tally.resident.append((tally.sessions, resident))
        tally.descriptors.append(len(os.listdir(f"/proc/{server}/fd")))
