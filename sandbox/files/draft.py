"""Bytes on their way in."""

import ctypes
import hashlib
import os
import threading
from pathlib import Path

from sandbox.files.disk import sync

_EARLY = 8 << 20
"""Bytes after which the disk is asked to begin writing, so that the final fsync finds little left to do."""
_SYNC_FILE_RANGE_WRITE = 2

_libc = ctypes.CDLL(None)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


class Draft:
    """One file, until it has its name. Every method blocks.

    Whoever is cancelled cannot stop a thread, only stop to wait for it. So the steps exclude each other, and after
    `discard` those that come late do nothing.
    """

    def __init__(self, path: Path) -> None:
        self.settled = False
        """Whether nothing is left to discard."""
        self._path = path
        self._fd = -1
        self._hash = hashlib.sha256()
        self._size = 0
        self._steps = threading.Lock()

    def write(self, data: bytes | bytearray) -> None:
        with self._steps:
            self._write(data)

    def end(self, data: bytes | bytearray) -> str:
        """The last bytes; the digest of all."""
        with self._steps:
            self._write(data)
            return self._hash.hexdigest()

    def _write(self, data: bytes | bytearray) -> None:
        if self.settled:
            return
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._hash.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        before, self._size = self._size, self._size + len(data)
        early = before // _EARLY * _EARLY
        if self._size // _EARLY * _EARLY > early:
            # A hint: where it is not understood, fsync has more to do.
            _libc.sync_file_range(self._fd, early, self._size - early, _SYNC_FILE_RANGE_WRITE)

    def place(self, path: Path) -> None:
        """Give it its name, unless these bytes are there already. When this returns, a power cut cannot take them."""
        with self._steps:
            if self.settled:
                return
            if path.exists():
                os.unlink(self._path)
            else:
                os.fsync(self._fd)
                os.rename(self._path, path)
            self._close()
            self.settled = True
        sync(path.parent)

    def discard(self) -> None:
        with self._steps:
            if not self.settled and self._fd >= 0:
                self._close()
                os.unlink(self._path)
            self.settled = True

    def _close(self) -> None:
        os.close(self._fd)
        self._fd = -1
