"""Files that a program writes to through memory.

Such a write moves none of the times that a change is seen by, neither on a tmpfs nor anywhere else once the page is
there. So a file gets a new time when this process's Python maps it for writing, and again at the end of every later
cell that finds other bytes in it. Mappings that native code makes by itself are seen from the first of Python's on.
"""

import contextlib
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass

_READ_OR_COPY = (1, 3)
"""`mmap.ACCESS_READ`, `mmap.ACCESS_COPY`: nothing of these reaches the file."""
_PIECE = 1 << 20
_MOST = 256 << 20
"""Bytes that are read at the end of a cell, in its time; files beyond that are taken for changed."""


@dataclass(frozen=True, slots=True)
class _Seen:
    inode: int
    digest: bytes | None
    """None: too much to be read."""


class Mapped:
    """Those of one process. workspace: the directory whose files anybody looks at."""

    def __init__(self, workspace: str) -> None:
        self._below = f"{workspace}/"
        self._any = False
        self._last: dict[str, _Seen] = {}
        """By path, what was mapped at the end of the last cell."""

    def on_map(self, fd: int, access: int) -> None:
        """Python is about to map what `fd` is open on. Whether privately is not said, and taken for no."""
        if fd < 0 or access in _READ_OR_COPY:
            return
        with contextlib.suppress(OSError):
            writable = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
            if writable and stat.S_ISREG(os.fstat(fd).st_mode):
                self._any = True
                _touch(fd)

    def on_end(self) -> None:
        """A cell has ended: what it has changed is told by the file's time."""
        if not self._any:
            return
        mapped, now, room = self._writable(), dict[str, _Seen](), _MOST
        for path in sorted(self._last.keys() | mapped, key=_size):  # so that one large file leaves the others theirs
            with contextlib.suppress(OSError), _opened(path) as fd:
                status = os.fstat(fd)
                room -= status.st_size
                now[path] = _Seen(status.st_ino, _digest(fd) if room >= 0 else None)
                if _may_have_changed(self._last.get(path, now[path]), now[path]):
                    _touch(fd)
        self._last = {path: seen for path, seen in now.items() if path in mapped}

    def _writable(self) -> set[str]:
        """Paths of the workspace's files that this process can write to through memory."""
        with open("/proc/self/maps", errors="surrogateescape") as maps:
            # address rights offset device inode path
            lines = [line.rstrip("\n").split(maxsplit=5) for line in maps if " rw-s " in line]
        return {fields[5] for fields in lines if len(fields) == 6 and fields[5].startswith(self._below)}


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _may_have_changed(before: _Seen, now: _Seen) -> bool:
    # Another inode is another file of that name, whose own times tell of it.
    return before.inode == now.inode and (now.digest is None or before.digest != now.digest)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # it may be a FIFO by now
    try:
        yield fd
    finally:
        os.close(fd)


def _touch(fd: int) -> None:
    os.utime(fd, ns=(os.fstat(fd).st_atime_ns, time.time_ns()))


def _digest(fd: int) -> bytes:
    digest = hashlib.sha256()
    while piece := os.read(fd, _PIECE):
        digest.update(piece)
    return digest.digest()
