"""Descriptors that outlive an engine, for the next one in the same place to go on with.

Two have a copy of each: systemd, where it has started us, and a process of our own, which is the same for everybody
else. The way of a descriptor: `keep` ─ either `drop`, before anybody may use what it leads to, or the engine is gone;
then the next one has it from the start, unless that comes too late.

Where it can fail: the process cannot be started, or there is no room for a socket of its own (then it keeps nothing);
it dies, or is killed with us (so are its copies, and only those); a `drop` cannot be told (the process is killed, with
all that it has, because what is in use must not outlive us; systemd is told again until it listens, and gives what it
has to nobody but our successor); nobody comes in time (all is closed).
"""

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Self

from sandbox import logs
from sandbox.runtime.docker import holder
from sandbox.runtime.docker.systemd import Systemd

_logger = logs.logger(__name__)
HOLD_S = 5.0
"""How long the process holds them without an engine: who starts a dead server again at once does so in a second or two.
"""
_MOST = 64
"""Descriptors that are held at a time, so that there is always room to tell of one more."""
_INHERIT_S = 1.0


class FdStore:
    """An engine's side. Use `open`."""

    def __init__(self, inherited: dict[str, int], systemd: Systemd, listener: socket.socket | None) -> None:
        self.inherited = inherited
        """What the engine before this one has left here, by name. Whoever takes one out of it has to close it."""
        self._systemd = systemd
        self._listener = listener
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._held = set[str]()
        self._starting: asyncio.Task[asyncio.subprocess.Process] | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator[Self]:
        """The engine at `path`, whose own it is and where the next one looks, too. At the end nothing is kept.

        Waits for a dead engine's process for a second, at most.
        """
        systemd = Systemd.of_environment()
        inherited = systemd.inherit()
        for name, fd in (await asyncio.to_thread(_inherit, path)).items():
            if name in inherited:
                os.close(fd)
            else:
                inherited[name] = fd
        with _listening(path) as listener:
            store = cls(inherited, systemd, listener)
            try:
                yield store
            finally:
                await store._close()

    def keep(self, name: str, fd: int) -> None:
        """Hold a copy of `fd`. Does nothing where that is not possible."""
        if len(self._held) >= _MOST:
            return
        self._held.add(name)
        self._systemd.keep(name, fd)
        if self._listener is None:
            return
        with contextlib.suppress(OSError):
            holder.send(self._ours, holder.KEEP, name.encode(), fd)
            if self._starting is None:
                self._starting = asyncio.create_task(self._start(self._listener), name="start the fd store")
                self._starting.add_done_callback(_tell)

    def drop(self, name: str) -> None:
        """Close the copy, if there is one. It is as good as done: what is told is read even if we die now."""
        if name not in self._held:
            return
        self._held.remove(name)
        self._systemd.drop(name)
        try:
            holder.send(self._ours, holder.DROP, name.encode())
        except ConnectionError:
            pass  # it is dead, and its copies with it
        except OSError:
            self._kill()

    async def _start(self, listener: socket.socket) -> asyncio.subprocess.Process:
        passed = (self._theirs.fileno(), listener.fileno())
        try:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", holder.__file__, *map(str, (*passed, HOLD_S))),
                pass_fds=passed,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,  # ours may be a pipe, whose end somebody waits for
                env={},
                start_new_session=True,
            )
        finally:
            self._theirs.close()  # with no process, what was sent is closed now
            listener.close()

    def _kill(self) -> None:
        if self._starting is not None and not self._starting.done():
            self._starting.add_done_callback(lambda _: self._kill())
        elif (process := self._process()) is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    def _process(self) -> asyncio.subprocess.Process | None:
        if self._starting is None or not self._starting.done() or self._starting.exception() is not None:
            return None
        return self._starting.result()

    async def _close(self) -> None:
        if self._starting is not None:
            await asyncio.wait((self._starting,))
        for name in self._held:
            self._systemd.drop(name)
        self._kill()
        for fd in self.inherited.values():
            os.close(fd)
        self._theirs.close()
        self._ours.close()
        if (process := self._process()) is not None:
            await process.wait()


def _tell(starting: "asyncio.Task[asyncio.subprocess.Process]") -> None:
    if not starting.cancelled() and (error := starting.exception()) is not None:
        _logger.warning("what is warm would not outlive this engine", why=str(error))


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """The same path in words that a socket's address has room for."""
    fd = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket | None]:
    """The next engine's way to the process; None where the file system has none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        path.unlink(missing_ok=True)
        bound = False
        try:
            with _short(path) as address:
                listener.bind(address)
            listener.listen(1)
            bound = True
        except OSError as error:
            _logger.warning("what is warm would not outlive this engine", why=str(error))
        try:
            yield listener if bound else None
        finally:
            path.unlink(missing_ok=True)


def _inherit(path: Path) -> dict[str, int]:
    """What a dead engine's process at `path` holds, by name; it has nothing after that."""
    found = dict[str, int]()
    until = time.monotonic() + _INHERIT_S
    store = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.suppress(OSError), store, _short(path) as address:
        store.settimeout(_INHERIT_S)
        store.connect(address)
        while received := holder.receive(store):
            _, name, fd = received
            if fd >= 0:
                found[name.decode()] = fd
            store.settimeout(max(until - time.monotonic(), 0.001))
    return found
