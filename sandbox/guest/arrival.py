"""A file on its way into the workspace.

It has a name there from its first byte on, so a program may open it and write to it. Whoever stores what was sent must
know of that. So we hold a lease on it, which the kernel takes from us when anybody else opens it. Where there are no
leases (gVisor), what has arrived is read again.
"""

import errno
import fcntl
import os
from typing import Protocol

from sandbox.guest.walk import Seen

_PIECE = 1 << 20


class Arrival:
    """fd: open for reading and writing on a file that was just made at `temporary`, and is to be at `path`; its own
    from now on. Who makes one ignores SIGIO, by which the kernel tells that it takes a lease.
    """

    def __init__(self, fd: int, temporary: str, path: str) -> None:
        self.fd = fd
        self.temporary = temporary
        self.path = path
        self._written = _digest() if _is_without_leases(fd) else None
        # Who was faster than the lease may have written and be gone again.
        self._is_empty = os.fstat(fd).st_size == 0

    def write(self, data: bytes) -> None:
        """Append all of it. Raises `OSError`."""
        if self._written is not None:
            self._written.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self.fd, view) :]

    def told(self) -> tuple[int, int, str]:
        """What the host is told of it, as of any file. Where it may hold something else than was written here, in no
        version that is ever seen: it is taken for changed, then. Raises `OSError`.
        """
        size, modified_ns, version = Seen.of(os.fstat(self.fd)).told()
        # In this order: who opens it after its times were read changes them by what is written.
        return size, modified_ns, version if self._is_as_written() else ""

    def _is_as_written(self) -> bool:
        if self._written is None or (found := _digest()) is None:
            return self._is_empty and fcntl.fcntl(self.fd, fcntl.F_GETLEASE) == fcntl.F_WRLCK
        os.lseek(self.fd, 0, os.SEEK_SET)
        while data := os.read(self.fd, _PIECE):
            found.update(data)
        return found.digest() == self._written.digest()


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


def _digest() -> _Digest | None:
    # Only here: the inits that have leases, of which there are many, need no cryptography in their memory.
    try:
        import hashlib
    except ImportError:  # those see no other libraries any more than what they began with
        return None
    return hashlib.sha256()


def _is_without_leases(fd: int) -> bool:
    """Take one; false, too, when somebody else has it open, so that there is none to be had."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as error:
        return error.errno != errno.EAGAIN
    return False
