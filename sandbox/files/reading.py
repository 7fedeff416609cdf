"""A file that is being read."""

import os
import threading
from pathlib import Path

from sandbox.errors import FileMissing

PIECE = 1 << 20
"""Bytes that one step of a thread reads or writes; a `put` of shorter pieces holds three times as many at most."""


class Reading:
    """A file that is being read. As with `Draft`, every method blocks and steps exclude each other."""

    def __init__(self, path: Path, start: int, end: int | None) -> None:
        self.closed = False
        """After the last piece it closes itself."""
        self._path = path
        self._position = start
        self._end = end
        self._fd = -1
        self._steps = threading.Lock()

    def next(self) -> bytes:
        with self._steps:
            if self.closed:
                return b""
            if self._fd < 0:
                self._open()
            end = self._end or 0
            data = os.pread(self._fd, max(0, min(PIECE, end - self._position)), self._position)
            self._position += len(data)
            if not data or self._position >= end:
                self._close()
            return data

    def _open(self) -> None:
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise FileMissing(f"the bytes {self._path.name} are not kept here") from None
        size = os.fstat(self._fd).st_size
        self._end = size if self._end is None else min(self._end, size)

    def close(self) -> None:
        with self._steps:
            if not self.closed:
                self._close()

    def _close(self) -> None:
        self.closed = True
        if self._fd >= 0:
            os.close(self._fd)
