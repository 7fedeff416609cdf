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
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sandbox.client import AsyncClient, AsyncSession
from sandbox.errors import Overloaded, SandboxError, Unreachable
from sandbox.execution import Execution, Status
from tests.host import WAIT_SECONDS, Embedded, alive, groups
from tests.server import Server, start

VICTIMS = ("kernel", "init", "zygote", "launcher", "server")
_WEIGHTS = (40, 25, 10, 10, 15)
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

    def __init__(self, data_dir: Path, pool: int) -> None:
        self._data_dir = data_dir
        self._pool = pool
        self._server: Server | None = None
        self.pids: set[int] = set()
        self.instances: set[str] = set()
        self._restarting = asyncio.Lock()

    async def url(self) -> str:
        """Of the server that lives."""
        async with self._restarting:
            if self._server is None or self._server.process.poll() is not None:
                self._bury()
                self._server = await asyncio.to_thread(self._start)
            return self._server.url

    def _start(self) -> Server:
        process = start(self._data_dir, "--pool", str(self._pool))
        assert process.stdout is not None
        return Server(process.stdout.readline().decode().strip(), process)

    def _bury(self) -> None:
        if self._server is not None and self._server.process.stdout is not None:
            self._server.process.stdout.close()

    @property
    def server(self) -> int:
        """Its pid."""
        assert self._server is not None
        return self._server.process.pid

    def look(self) -> Embedded | None:
        """The runtime, remembered for the search for orphans; None while it is on its way."""
        with contextlib.suppress(ValueError, StopIteration, OSError, KeyError):
            host = Embedded.below(self.server)
            self.instances.add(host.instance)
            self.pids |= {self.server, host.launcher, *host.zygotes(), *host.contained()}
            return host
        return None

    async def kill(self, victim: str, chance: random.Random) -> bool:
        """`kill -9` one of these. Whether there was one."""
        host = self.look()
        found: list[int] = []
        with contextlib.suppress(OSError, KeyError):
            if victim == "server":
                found = [self.server]
            elif host is not None:
                found = {"kernel": host.kernels, "init": host.inits, "zygote": host.zygotes}.get(
                    victim, lambda: [host.launcher]
                )()
        if not found:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(chance.choice(found), signal.SIGKILL)
        if victim == "server" and self._server is not None:
            await asyncio.to_thread(self._server.process.wait)
        return True

    async def stop(self) -> None:
        """Let the last server end by itself."""
        if self._server is not None and self._server.process.poll() is None:
            self.look()
            self._server.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(self._server.process.wait)
        self._bury()

    async def orphans(self) -> list[str]:
        """What is left of any life when all have ended: processes, control groups, directories, mounts."""
        deadline = time.monotonic() + WAIT_SECONDS
        while (left := self._left()) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        return left

    def _left(self) -> list[str]:
        # Who loses its parent becomes ours; and the PID 1 of a sandbox cannot end before its kernel has been reaped.
        for pid in self.pids:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        processes = [f"process {pid}" for pid in self.pids if alive(pid)]
        cgroups = [str(group) for instance in self.instances for group in groups(instance)]
        stages = [path for instance in self.instances if os.path.exists(path := f"/run/sandbox/{instance}")]
        table = Path("/proc/self/mounts").read_text().splitlines()
        mounts = [line for line in table if any(f"/run/sandbox/{each}/" in line for each in self.instances)]
        return [*processes, *cgroups, *stages, *mounts]


async def churn(household: Household, sessions: int, clients: int, share: float, chance: random.Random) -> Tally:
    """sessions: in all. share: of them that meet a death."""
    tally = Tally()
    left = iter(range(sessions))
    await asyncio.gather(*(_client(household, tally, left, share, chance) for _ in range(clients)))
    return tally


async def _client(household: Household, tally: Tally, left: Iterator[int], share: float, chance: random.Random) -> None:
    for number in left:
        fatal = chance.random() < share
        cut = chance.randrange(6) if fatal else None
        try:
            async with AsyncClient(await household.url(), retries=3) as client:
                await _session(household, tally, client, number, cut, chance)
        except Unreachable:
            await _recover(household, tally)
        except SandboxError as error:
            tally.told[type(error).__name__] += 1
        tally.sessions += 1
        _measure(household, tally)


async def _session(
    household: Household, tally: Tally, client: AsyncClient, number: int, cut: int | None, chance: random.Random
) -> None:
    session = await client.open_session(memory_mb=MEMORY_MB)
    steps: list[Callable[[], Awaitable[None]]] = [
        lambda: _cell(tally, session, f"x = {number}; print(x)", f"{number}\n", fresh=True),
        lambda: _cell(tally, session, "print(x + 1)", f"{number + 1}\n", fresh=False),
        lambda: _file(tally, session, str(number).encode() * 2000),
        lambda: _cell(tally, session, "print(len(open('f').read()))", f"{len(str(number)) * 2000}\n", fresh=True),
    ]
    death: asyncio.Task[None] | None = None
    for index, step in enumerate(steps):
        if index == cut:
            death = asyncio.create_task(_death(household, tally, chance))
            await asyncio.sleep(chance.random() / 50)
        await step()
    if cut is not None and death is None:
        death = asyncio.create_task(_death(household, tally, chance))
    await session.close()
    if death is not None:
        await death


async def _death(household: Household, tally: Tally, chance: random.Random) -> None:
    (victim,) = chance.choices(VICTIMS, _WEIGHTS)
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
    tally.told["Unreachable"] += 1
    began = time.monotonic()
    async with AsyncClient(await household.url(), retries=0) as client:
        with contextlib.suppress(Unreachable, Overloaded):
            execution = await client.run("print('on')", memory_mb=MEMORY_MB)
            if execution.status is Status.OK:
                tally.recoveries_s.append(time.monotonic() - began)


def _measure(household: Household, tally: Tally) -> None:
    household.look()
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{household.server}/status").read_text()
        resident = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmRSS"))
        tally.resident.append((tally.sessions, resident))
        tally.descriptors.append(len(os.listdir(f"/proc/{household.server}/fd")))
