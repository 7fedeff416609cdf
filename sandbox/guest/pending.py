"""Text that a program has written and its kernel has not sent yet, in memory that init reads when the kernel dies.

A burst of lines is gathered before it travels. Whatever ends the process meanwhile, a fault in native code or the
memory limit, what was written up to then is still told.

    u64 start | u64 end (of the bytes here, in the stream) | u16 length, execution | bytes
"""

import contextlib
import mmap
import os
import struct

from sandbox.guest.link import STREAMS, Message

CAPACITY = 32 << 10
"""Bytes that one stream may have waiting."""
_SPAN = struct.Struct("<QQ")
_LENGTH = struct.Struct("<H")
_MAX_EXECUTION = 110
_DATA = 128
_SIZE = _DATA + CAPACITY
_MFD_NOEXEC_SEAL = 8


class Pending:
    """Of one stream. Each change is complete with the eight bytes that it writes last."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        start, end = _SPAN.unpack_from(memory)
        self._start: int = start
        self._end: int = end

    @property
    def start(self) -> int:
        """Where in the stream the first byte here is."""
        return self._start

    @property
    def room(self) -> int:
        """Bytes that still fit."""
        return CAPACITY - (self._end - self._start)

    def __len__(self) -> int:
        return self._end - self._start

    def belong_to(self, execution: str) -> None:
        """Whose text comes next. Nothing may wait."""
        name = execution.encode()[:_MAX_EXECUTION]
        _LENGTH.pack_into(self._memory, _SPAN.size, len(name))
        self._memory[_SPAN.size + _LENGTH.size :][: len(name)] = name

    def add(self, data: bytes) -> None:
        """Append what there is room for."""
        begin = _DATA + len(self)
        self._memory[begin : begin + len(data)] = data
        self._end += len(data)
        _SPAN.pack_into(self._memory, 0, self._start, self._end)

    def data(self) -> bytes:
        """What waits."""
        return bytes(self._memory[_DATA : _DATA + len(self)])

    def pass_by(self, size: int = 0) -> None:
        """What waited has been sent, and `size` bytes after it that never waited here."""
        self._start = self._end = self._end + size
        _SPAN.pack_into(self._memory, 0, self._start, self._end)


def private() -> dict[str, Pending]:
    """Both streams', in memory that dies with the process."""
    return _cut(memoryview(bytearray(_SIZE * len(STREAMS))))


def shared() -> tuple[dict[str, Pending], int]:
    """Both streams', and a descriptor to read them by."""
    fd = _memory()
    os.truncate(fd, _SIZE * len(STREAMS))
    return _cut(memoryview(mmap.mmap(fd, _SIZE * len(STREAMS)))), fd


def _memory() -> int:
    for flags in (_MFD_NOEXEC_SEAL, 0):  # without it, before Linux 6.3 and in gVisor
        with contextlib.suppress(OSError):
            return os.memfd_create("pending", os.MFD_CLOEXEC | flags)
    # Where there are no memory files, because nobody could count them.
    return os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)


def _cut(memory: memoryview) -> dict[str, Pending]:
    return {name: Pending(memory[index * _SIZE : (index + 1) * _SIZE]) for index, name in enumerate(STREAMS)}


def leftovers(fd: int) -> list[Message]:
    """What a dead kernel had not sent. The program could write to this memory, too: only lengths are believed."""
    found = []
    for index, name in enumerate(STREAMS):
        with contextlib.suppress(OSError, ValueError, struct.error):
            memory = os.pread(fd, _SIZE, index * _SIZE)
            start, end = _SPAN.unpack_from(memory)
            (length,) = _LENGTH.unpack_from(memory, _SPAN.size)
            execution = memory[_SPAN.size + _LENGTH.size :][: min(length, _MAX_EXECUTION)].decode()
            if 0 < end - start <= CAPACITY:
                found.append(Message(name, execution, start, memory[_DATA : _DATA + end - start]))
    return found
