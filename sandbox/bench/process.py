"""The server that is measured: a process of its own with a data directory of its own."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from sandbox.bench.connection import Connection
from sandbox.config import PREFIX, Settings
from sandbox.errors import SandboxFailed
from sandbox.guest.process import die_with_parent

_START_S = 120.0
_STOP_S = 90.0
_SETTLE_S = 300.0
"""Twenty containers of gVisor's take a minute and a half on two processors that have nothing else to do."""
_LOOK_S = 0.02
_THEIRS = {"database_url", "api_key", "server", "upstreams", "models", "model"}
"""What a benchmark has nothing to do with, and no business to use."""


class Server:
    """`sandbox serve`, running. Use `open`."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, pool: int) -> None:
        self.url = url
        self.pool = pool
        """How many sandboxes it keeps warm."""
        self.pid = process.pid
        self.killed = False
        self._process = process
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: Settings, *, pool: int, room: int | None = None, **others: float | str
    ) -> AsyncIterator[Self]:
        """Started with these settings, apart from where it listens and keeps its data; stopped with SIGTERM.

        Its data lie beside the real ones, on the same disk. room: for how many sandboxes besides the pool's there is a
        memory budget; default is the settings'. others: settings by name. Raises `SandboxFailed` when it does not start
        or does not stop cleanly.
        """
        with home_of(settings) as home:
            async with cls.within(home, settings, pool=pool, room=room, **others) as server:
                yield server

    @classmethod
    @asynccontextmanager
    async def within(
        cls, home: Path, settings: Settings, *, pool: int, room: int | None = None, **others: float | str
    ) -> AsyncIterator[Self]:
        """As `open`, with its data in `home`, where the next one may go on with them."""
        values = _values(settings) | {"database_url": f"sqlite:///{home}/data/sandbox.db"} | others
        if room is not None:
            values["memory_budget_mb"] = (pool + room) * settings.memory_mb
        log = home / "log"
        process = await _started(home, log, pool, values)
        killed = False
        try:
            server = cls(process, await _announced(process, log), pool)
            yield server
            killed = server.killed
        finally:
            code = await _stop(process)
        if code and not killed:
            raise SandboxFailed(f"the server ended with {code}: {_last_words(log)}")

    @asynccontextmanager
    async def connect(self, count: int) -> AsyncIterator[list[Connection]]:
        """This many open connections."""
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(Connection.open(*self._address)) for _ in range(count)]

    async def kill(self, *, alone: bool = True) -> None:
        """`kill -9`; until it is dead. alone: its processes are left to themselves."""
        self.killed = True
        children = [] if alone else self._children()
        self._process.kill()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self._process.wait()

    async def ready(self) -> None:
        """Wait until it says that it is. Raises `SandboxFailed`."""
        try:
            async with asyncio.timeout(_SETTLE_S), self.connect(1) as (connection,):
                while (await connection.request("GET", "/health")).status != 200:  # noqa: ASYNC110  # it is elsewhere
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            raise SandboxFailed(f"the server was not ready within {_SETTLE_S:g} s") from None

    async def full(self) -> None:
        """Wait until its pool is. Raises `SandboxFailed`."""
        await self._until(lambda text: _gauge(text, "sandbox_pool_warm") >= self.pool)

    async def settle(self, sessions: int = 0) -> None:
        """Wait until its pool is full, of sandboxes as good as they get, all stand by that should, and no more than
        `sessions` others are left.

        Raises `SandboxFailed`.
        """
        await self._until(
            lambda text: _gauge(text, "sandbox_pool_rested") > 0 and _gauge(text, "sandbox_sessions") <= sessions
        )

    async def _until(self, true: Callable[[str], bool]) -> None:
        try:
            async with asyncio.timeout(_SETTLE_S), self.connect(1) as (connection,):
                while not true((await connection.ask("GET", "/metrics")).body.decode()):  # noqa: ASYNC110  # elsewhere
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            raise SandboxFailed(f"the server did not come to rest within {_SETTLE_S:g} s") from None

    def memory(self) -> int:
        """Resident bytes of the server and of its processes; what sandboxes hold is not theirs."""
        return sum(_resident(pid) for pid in (self.pid, *self._children()))

    def _children(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]


@contextlib.contextmanager
def home_of(settings: Settings) -> Iterator[Path]:
    """A directory for a server's data while the block lasts: beside the real ones, on the same disk."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=settings.data_dir) as directory:
        yield Path(directory)


async def _started(home: Path, log: Path, pool: int, values: dict[str, Any]) -> asyncio.subprocess.Process:
    with log.open("wb") as stderr:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sandbox", "serve", "--host", "127.0.0.1", "--port", "0"),
            *("--data-dir", str(home / "data"), "--pool", str(pool)),
            env=os.environ | {PREFIX + name.upper(): str(value) for name, value in values.items()},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            preexec_fn=_end_with_us,
        )


def _end_with_us() -> None:
    die_with_parent(signal.SIGTERM)


async def _announced(process: asyncio.subprocess.Process, log: Path) -> str:
    """The URL, which is the first line that it prints."""
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_START_S):
            line = await process.stdout.readline()
            if not line:
                await process.wait()  # for its last words
    except TimeoutError:
        line = b""
    if not line.startswith(b"http"):
        raise SandboxFailed(f"the server did not start: {_last_words(log)}")
    return line.decode().strip()


async def _stop(process: asyncio.subprocess.Process) -> int:
    """Its exit code."""
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(_STOP_S):
            return await process.wait()
    except BaseException:
        process.kill()
        await process.wait()
        raise


def _last_words(log: Path) -> str:
    return log.read_bytes()[-2000:].decode(errors="replace").strip() or "it said nothing"


def _values(settings: Settings) -> dict[str, Any]:
    """What was set by argument, environment or file, in the words of the environment."""
    told = json.loads(settings.model_dump_json(exclude_none=True, exclude=_THEIRS))
    values: dict[str, Any] = told
    return values


def _gauge(text: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    if found is None:
        raise SandboxFailed(f"/metrics has no {name}")
    return float(found[1])


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
