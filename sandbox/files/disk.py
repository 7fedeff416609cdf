"""What makes files durable.

`syncfs` writes whatever a filesystem has to write, other people's too, and so takes as long as that takes; in return
many files cost one commit of its journal instead of one each, for which everybody waits who syncs anything meanwhile.
"""

import contextlib
import ctypes
import os
import platform
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Self

MANY = 8
"""Files from which on all of a filesystem is synced instead of each."""
_TYPES = frozenset({0xEF53, 0x58465342, 0x9123683E})
"""ext4, XFS and Btrfs, whose `syncfs` is known to do it. Others', FUSE's for one, may do nothing and say nothing."""
_TELLS = (5, 8)
"""The Linux from which on `syncfs` tells that something could not be written."""

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
        self._as_a_whole = _release() >= _TELLS and _type_of(fd) in _TYPES

    @classmethod
    @contextlib.contextmanager
    def of(cls, directory: Path) -> Iterator[Self]:
        """From before the first write: what could not be written is told to who has it open by then."""
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield cls(fd)
        finally:
            os.close(fd)

    def sync(self, paths: Collection[Path]) -> None:
        """Make what was written to these durable."""
        # What fails as a whole may have failed for somebody else's file: each for itself tells the truth about ours.
        if len(paths) < MANY or not self._as_a_whole or _libc.syncfs(self._fd) < 0:
            for path in paths:
                sync(path)


def _release() -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])


def _type_of(fd: int) -> int:
    """Its magic number, which is the first word of what `statfs` tells; 0 where it cannot be told."""
    told = (ctypes.c_long * 32)()
    return told[0] & 0xFFFFFFFF if _libc.fstatfs(fd, told) == 0 else 0
