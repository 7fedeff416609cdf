"""What one session feels of another that takes all it can get.

A victim runs `print(1)` over HTTP, one call after the other, in a session of its own, alone and beside an attacker in
turns, so that what changes about the machine meanwhile is in both. A figure is the ratio of the two, taken from the
same numbers of calls. The pool is full again before an attack begins: what sandboxes cost that are started to replace
those that were taken is an attack of its own, and a part of those in which the attacker's own ends.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Self

from sandbox.bench.connection import Connection
from sandbox.bench.figure import Figure, quantiles, runs
from sandbox.bench.process import Server
from sandbox.errors import SandboxFailed

_PRINT = json.dumps({"code": "print(1)"}).encode()
_CALLS = 400
_ROUNDS = 4
_FIRST = 10
"""Calls that are not counted whenever the attacker comes or goes."""
_PAUSE_S = 0.01
_ATTACK_S = 60
_STATUS = re.compile(rb'"status":"(\w+)"')
_HEAD = 1000
"""Bytes of an execution's JSON in which its status is told."""


@dataclass(frozen=True, slots=True)
class Attack:
    """A program that takes all of one thing, over and over until it is ended."""

    takes: str
    code: str
    ends: frozenset[str] = field(default=frozenset({"timeout"}))
    """The statuses that it may have when it ends by itself; then it is run again at once."""
    anew: bool = False
    """Whether that is in another session, which takes another sandbox."""


def _attack(takes: str, code: str, *ends: str) -> Attack:
    return Attack(takes, code, frozenset({"timeout", *ends}))


ATTACKS: Mapping[str, Attack] = {
    "memory": _attack(
        "memory, until it dies of it",
        "hoard = []\nwhile True: hoard.append(bytearray(b'x') * (16 << 20))",
        "oom",
    ),
    "pages": _attack(
        "pages, and gives them back",
        """
import mmap
page = bytes(1 << 20)
while True:
    with mmap.mmap(-1, 256 << 20) as held:
        for _ in range(256): held.write(page)
""",
        "oom",  # gVisor counts late what was given back
    ),
    "disk": _attack(
        "disk: /mnt/data, /tmp and /dev/shm full",
        """
import os
block = bytes(1 << 20)
while True:
    for directory in ("/mnt/data", "/tmp", "/dev/shm"):
        try:
            with open(f"{directory}/big", "wb", buffering=0) as file:
                while True: file.write(block)
        except OSError:
            os.unlink(f"{directory}/big")
""",
        "oom",  # a full disk may be a full sandbox
    ),
    "inodes": _attack(
        "inodes: as many files as there may be",
        """
import os
while True:
    made = 0
    try:
        while made < 20_000:
            open(f"/mnt/data/{made}", "w").close()
            made += 1
    except OSError: pass
    for number in range(made): os.unlink(f"/mnt/data/{number}")
""",
    ),
    "processes": _attack(
        "processes: a fork bomb",
        """
import os
while True:
    try: os.fork()
    except OSError: pass
""",
        "oom",
        "killed",
    ),
    "cpu": _attack(
        "processor time, by 64 processes",
        """
import os
for _ in range(6): os.fork()
while True: pass
""",
        "oom",
        "killed",
    ),
    "descriptors": _attack(
        "descriptors: pipes and sockets",
        """
import contextlib, os, socket
while True:
    held = []
    with contextlib.suppress(OSError):
        while True:
            held += [*os.pipe(), *(end.detach() for end in socket.socketpair())]
    for fd in held: os.close(fd)
""",
    ),
    "output": _attack("output: prints without end", "while True: print('x' * 1000)"),
    "results": _attack(
        "results: a hundred, of a mebibyte each",
        """
from IPython.display import HTML, display
for _ in range(100): display(HTML("x" * (1 << 20)))
""",
        "ok",
    ),
    "files": _attack(
        "files to be stored: 8,000 small ones an execution",
        """
import os
for number in range(8000):
    with open(f"/mnt/data/{number}", "wb") as file: file.write(os.urandom(16))
""",
        "ok",
    ),
    "bytes": _attack(
        "bytes to be stored: 200 MB an execution",
        """
import os
with open("/mnt/data/big", "wb") as file:
    for _ in range(200): file.write(os.urandom(1_000_000))
""",
        "ok",
    ),
    "deaths": _attack("kernels: it kills its own", "import os; os.kill(os.getpid(), 9)", "killed"),
    "starts": Attack("sandboxes: a new session for each line of code", "1", frozenset({"ok"}), anew=True),
}


async def victim(server: Server, scale: float, attacks: Mapping[str, Attack] = ATTACKS) -> list[Figure]:
    """Every attack, one after the other."""
    figures, all_alone = [], list[float]()
    for attack in attacks.values():
        alone, beside = await _beside(server, attack, max(_ROUNDS, runs(_CALLS, scale)))
        all_alone += alone
        count = len(beside)
        for name, ours, theirs in zip(("p50", "p99"), quantiles(beside), quantiles(alone), strict=True):
            figures.append(Figure(f"beside who takes {attack.takes}, {name}", ours / theirs, "×", 2, 1.2, count))
    p50, p99 = quantiles(all_alone)
    return [
        Figure("a victim's calls, alone, p50", p50, "ms", 10, 6, len(all_alone)),
        Figure("a victim's calls, alone, p99", p99, "ms", 30, 30, len(all_alone)),
        *figures,
    ]


async def _beside(server: Server, attack: Attack, count: int) -> tuple[list[float], list[float]]:
    """Milliseconds of the victim's calls, alone and beside the attacker, `count` of each."""
    alone: list[float] = []
    beside: list[float] = []
    async with server.connect(1) as (connection,):
        path = await _opened(connection)
        try:
            for _ in range(_ROUNDS):
                await server.settle(sessions=1)
                alone += await _calls(connection, path, -(-count // _ROUNDS))
                async with _Attacker.at_work(server, attack) as attacker:
                    beside += await _calls(connection, path, -(-count // _ROUNDS))
                    await attacker.is_at_it()
        finally:
            await connection.ask("DELETE", path)
    return alone, beside


async def _calls(connection: Connection, path: str, count: int) -> list[float]:
    times = []
    for _ in range(_FIRST + count):
        answer = await connection.ask("POST", f"{path}/executions", _PRINT)
        if b'"status":"ok"' not in answer.body:
            raise SandboxFailed(f"the victim's program did not do what it must: {answer.body[:500]!r}")
        times.append(answer.ms)
        await asyncio.sleep(_PAUSE_S)
    return times[_FIRST:]


class _Attacker:
    """Somebody who runs an attack in a session of his own. Use `at_work`."""

    def __init__(self, connection: Connection, attack: Attack, path: str) -> None:
        self._connection = connection
        self._attack = attack
        self._path = path
        self._leaves = False
        self._work = asyncio.create_task(self._again_and_again(), name="attack")

    @classmethod
    @contextlib.asynccontextmanager
    async def at_work(cls, server: Server, attack: Attack) -> AsyncIterator[Self]:
        """Within the block he is at it."""
        async with server.connect(2) as (connection, other):
            path = await _opened(connection)
            await server.settle(sessions=2)
            attacker = cls(connection, attack, path)
            try:
                yield attacker
            finally:
                await attacker._leave()
                await other.ask("DELETE", attacker._path)

    async def is_at_it(self) -> None:
        """He should be; raises why he is not."""
        if self._work.done():
            await self._work

    async def _leave(self) -> None:
        self._leaves = True
        if not self._attack.anew:  # else he is between two sessions, of which one would stay
            self._work.cancel()
        await asyncio.gather(self._work, return_exceptions=True)

    async def _again_and_again(self) -> None:
        attack = self._attack
        body = json.dumps({"code": attack.code, "timeout_s": _ATTACK_S}).encode()
        while not self._leaves:
            # Neither kept nor decoded as a whole: it may be a hundred megabytes, and the victim's clock is ours.
            answer = await self._connection.ask("POST", f"{self._path}/executions", body, keep=_HEAD)
            told = _STATUS.search(answer.body, 0, _HEAD)
            status = told[1].decode() if told else "unknown"
            if status not in attack.ends:
                raise SandboxFailed(f"who takes {attack.takes} ended as {status}: {answer.body[:500]!r}")
            if attack.anew:
                await self._connection.ask("DELETE", self._path)
                self._path = await _opened(self._connection)


async def _opened(connection: Connection) -> str:
    """The path of a new session that has run something."""
    answer = await connection.ask("POST", "/v1/sessions", b"{}", wanted=201)
    path = f"/v1/sessions/{json.loads(answer.body)['id']}"
    await connection.ask("POST", f"{path}/executions", _PRINT)
    return path
