"""What leaves an execution is budgeted: head and tail of its text are kept, the middle is counted, spilled, marked.

The reader is a model with a finite context and a server with finite memory; the program may print for ever.
"""

import codecs
import os
from collections import deque
from collections.abc import Callable

OUTPUTS = ".outputs"
"""Where full texts are spilled, below the workspace."""
_AT_ONCE = 64 << 10


class Text:
    """One stream (stdout or stderr) of one execution. Bytes in; bounded UTF-8 out through `emit`.

    The first half of the budget passes at once, so that a caller can watch; the last half waits in a ring until
    the end, because only then is it known to be the tail.
    """

    def __init__(self, budget: int, emit: Callable[[str], None], spill: "Spill") -> None:
        self._head_left = budget // 2
        self._tail_size = budget - budget // 2
        self._tail: deque[bytes] = deque()
        self._tail_held = 0
        self._head: list[bytes] = []
        self._emit = emit
        self._spill = spill
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self.dropped = 0

    def write(self, data: bytes) -> None:
        """Take in what the program wrote."""
        if self._head_left:
            head, data = data[: self._head_left], data[self._head_left :]
            self._head_left -= len(head)
            self._head.append(head)
            self._emit_bytes(head)
        if not data:
            return
        if self._tail_held + len(data) > self._tail_size:
            self._spill_to(data)
        self._tail.append(data)
        self._tail_held += len(data)
        while self._tail_held > self._tail_size:
            self._drop(self._tail_held - self._tail_size)

    def _spill_to(self, data: bytes) -> None:
        if not self._spill.started:
            self._spill.write(b"".join([*self._head, *self._tail]))
            self._head.clear()
        self._spill.write(data)

    def _drop(self, excess: int) -> None:
        oldest = self._tail.popleft()
        if len(oldest) > excess:
            self._tail.appendleft(oldest[excess:])
        lost = min(len(oldest), excess)
        self._tail_held -= lost
        self.dropped += lost

    def end(self) -> None:
        """Emit the tail, and the mark if something was dropped."""
        if self.dropped:
            self._emit(self._decoder.decode(b"", final=True))
            self._decoder.reset()
            where = self._spill.finish()
            kept = f"; all of it is in {where}" if where else ""
            self._emit(f"\n[… {self.dropped} bytes dropped here{kept} …]\n")
        tail = b"".join(self._tail)
        for start in range(0, len(tail), _AT_ONCE):
            self._emit_bytes(tail[start : start + _AT_ONCE])
        self._emit(self._decoder.decode(b"", final=True))

    def _emit_bytes(self, data: bytes) -> None:
        self._emit(self._decoder.decode(data))


class Spill:
    """The full text in a workspace file, for as long as it fits."""

    def __init__(self, workspace: str, name: str, limit: int) -> None:
        self._directory = f"{workspace}/{OUTPUTS}"
        self._path = f"{self._directory}/{name}"
        self._left = limit
        self._fd = -1
        self.started = False

    def write(self, data: bytes) -> None:
        """Append; the first failure or the limit ends and removes the file."""
        if not self.started:
            self.started = True
            self._open()
        if self._fd < 0:
            return
        self._left -= len(data)
        if self._left < 0 or not self._append(data):
            self._give_up()

    def finish(self) -> str | None:
        """Where the whole text is, or None if it did not fit."""
        if self._fd < 0:
            return None
        os.close(self._fd)
        self._fd = -1
        return self._path

    def _open(self) -> None:
        try:
            os.makedirs(self._directory, exist_ok=True)
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError:
            self._fd = -1

    def _append(self, data: bytes) -> bool:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            return False
        return True

    def _give_up(self) -> None:
        os.close(self._fd)
        self._fd = -1
        try:
            os.unlink(self._path)
        except OSError:
            return
