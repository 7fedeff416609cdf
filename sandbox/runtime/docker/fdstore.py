"""Descriptors that outlive an engine, for the next one to go on with.

Two have a copy of each: systemd, where it started us and its unit has a file descriptor store (sd_notify(3),
`FDSTORE=1`), and a process of our own that is the same for everybody else. The way of a descriptor: `keep` ─ either
`drop`, before anybody may use what it leads to, or the engine is gone. Then the next one gets it: from systemd with its
environment (sd_listen_fds(3)), from the process by asking in its directory, within `HOLD_S`, or it is closed there.

Where it can fail: the process cannot be started, or its socket is full (nothing is kept that the engine did not have
anyway); it dies, or is killed with us (so are its copies, and only those); a `drop` cannot be told (the process is
killed, with all that it has: what is in use must not outlive us; systemd gives it to nobody but our successor);
nobody comes in time.

The process is this file, run by itself: standard library only.
"""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

HOLD_S = 5.0
"""For who starts a dead server again at once, which takes a second or two."""
_MOST = 64
"""Descriptors that are held at a time, so that there is always room to tell of one more."""
_PATIENCE_S = 1.0
"""How long a heir and the store wait for each other's next word."""
_NAME = "fdstore"
_KEEP, _DROP = b"+", b"-"
_PACKET = 256
_OURS = "sandbox-"
"""What systemd has may be somebody else's, too."""
_FIRST_GIVEN = 3


class FdStore:
    """An engine's side. Use `open`."""

    def __init__(self, listener: socket.socket) -> None:
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._listener = listener
        self._held = set[str]()
        self._starting: asyncio.Task[asyncio.subprocess.Process] | None = None
        self._manager = os.environ.get("NOTIFY_SOCKET")

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, directory: Path) -> AsyncIterator[Self]:
        """One that the next engine finds in `directory`; its process is started when there is something to keep.

        At the end nothing is kept. Raises `OSError`.
        """
        with _Place(directory) as place, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(place)
            listener.listen(1)
            store = cls(listener)
            try:
                yield store
            finally:
                await store._close()

    def keep(self, name: str, fd: int) -> None:
        """Hold a copy of `fd`. Does nothing where that is not possible."""
        if len(self._held) >= _MOST:
            return
        self._held.add(name)
        self._tell_manager(_stored(name), fd)
        with contextlib.suppress(OSError):
            socket.send_fds(self._ours, [_KEEP + name.encode()], [fd])
            if self._starting is None:
                self._starting = asyncio.create_task(self._start(), name="start the fd store")
                self._starting.add_done_callback(_seen)

    def drop(self, name: str) -> None:
        """Close the copy, if there is one. It is as good as done: what is told is read even if we die now."""
        if name not in self._held:
            return
        self._held.remove(name)
        self._tell_manager(_removed(name))
        try:
            self._ours.send(_DROP + name.encode())
        except BlockingIOError:
            self._kill()
        except OSError:
            pass  # it is dead, and its copies with it

    def _tell_manager(self, words: str, *fds: int) -> None:
        if self._manager is not None:
            _notify(self._manager, words, *fds)

    async def _start(self) -> asyncio.subprocess.Process:
        passed = (self._theirs.fileno(), self._listener.fileno())
        try:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", __file__, *map(str, (*passed, HOLD_S))),
                pass_fds=passed,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,  # ours may be a pipe, whose end somebody waits for
                env={},
                start_new_session=True,
            )
        finally:
            self._theirs.close()  # with no process, what was sent is closed now
            self._listener.close()

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
            self._tell_manager(_removed(name))
        self._kill()
        self._theirs.close()
        self._ours.close()
        if (process := self._process()) is not None:
            await process.wait()


class _Place:
    """A path by which the store's socket in a directory can be bound and dialled: a socket's own has to be short."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> str:
        self._fd = os.open(self._directory, os.O_PATH | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._fd}/{_NAME}"

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _seen(starting: "asyncio.Task[asyncio.subprocess.Process]") -> None:
    if not starting.cancelled():
        starting.exception()  # where there is no process nothing is kept, and that is all


def inherit(directory: Path) -> dict[str, int]:
    """What a dead engine has left, by name: all that systemd gave to this process, and what the store in `directory`
    holds. The descriptors are the caller's from now on, and nobody else has them.

    Empty when there is nothing. Blocks for a second, at most.
    """
    found = _given()
    store = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.suppress(OSError), store, _Place(directory) as place:
        store.settimeout(_PATIENCE_S)
        store.connect(place)
        while received := _receive(store):
            name, fd = received[0][1:].decode(), received[1]
            if name in found:
                os.close(fd)
            else:
                found[name] = fd
    return found


def _given() -> dict[str, int]:
    """What systemd has kept of ours, once; it has nothing of it then."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    del os.environ["LISTEN_PID"]
    found = dict[str, int]()
    for fd, name in enumerate(os.environ.pop("LISTEN_FDNAMES", "").split(":"), _FIRST_GIVEN):
        if name.startswith(_OURS):
            os.set_inheritable(fd, False)
            found[name.removeprefix(_OURS)] = fd
    if (manager := os.environ.get("NOTIFY_SOCKET")) is not None:
        for name in found:
            _notify(manager, _removed(name))
    return found


def _stored(name: str) -> str:
    return f"FDSTORE=1\nFDNAME={_OURS}{name}\nFDPOLL=0"


def _removed(name: str) -> str:
    return f"FDSTOREREMOVE=1\nFDNAME={_OURS}{name}"


def _notify(manager: str, words: str, *fds: int) -> None:
    """Tell systemd. One that does not read has no more of ours than our successor will be given."""
    address = f"\0{manager[1:]}" if manager.startswith("@") else manager
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(address)
        socket.send_fds(sock, [words.encode()], fds)


def _receive(sock: socket.socket) -> tuple[bytes, int] | None:
    """A packet and its descriptor, -1 for none; None at the end."""
    packet, fds, _, _ = socket.recv_fds(sock, _PACKET, 1)
    for fd in fds:
        os.set_inheritable(fd, False)
    return (packet, fds[0] if fds else -1) if packet else None


def _hold(link: socket.socket, listener: socket.socket, seconds: float) -> None:
    held = dict[bytes, int]()
    with contextlib.suppress(ConnectionError):
        while received := _receive(link):
            packet, fd = received
            name = packet[1:]
            if name in held:
                os.close(held.pop(name))
            if packet[:1] == _KEEP and fd >= 0:
                held[name] = fd
    if held:
        _hand_over(held, listener, seconds)


def _hand_over(held: dict[bytes, int], listener: socket.socket, seconds: float) -> None:
    listener.settimeout(seconds)
    with contextlib.suppress(OSError):
        heir, _ = listener.accept()
        with heir:
            heir.settimeout(_PATIENCE_S)
            for name, fd in held.items():
                socket.send_fds(heir, [_KEEP + name], [fd])


if __name__ == "__main__":
    _hold(socket.socket(fileno=int(sys.argv[1])), socket.socket(fileno=int(sys.argv[2])), float(sys.argv[3]))
