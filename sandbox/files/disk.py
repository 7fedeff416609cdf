"""What makes files durable."""

import contextlib
import ctypes
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Self

_MANY = 8
"""Files from which on all of a filesystem is synced instead of each."""

_libc = ctypes.CDLL(None, use_errno=True)


def sync(path: Path) -> None:
    """Make a file or a directory durable. Blocks."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Disk:
    """The filesystem that a directory is on. Use `of`; every method blocks."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    @contextlib.contextmanager
    def of(cls, directory: Path) -> Iterator[Self]:
        """From before the first write, because what the disk refuses is told to who has it open by then."""
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield cls(fd)
        finally:
            os.close(fd)

    def sync(self, paths: Collection[Path]) -> None:
        """Make what was written to these durable.

        One by one each takes a commit of the filesystem's journal, for which everybody waits who syncs anything. Many
        are written with all else that the filesystem has to write.
        """
        if len(paths) < _MANY:
            for path in paths:
                sync(path)
        elif _libc.syncfs(self._fd) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
