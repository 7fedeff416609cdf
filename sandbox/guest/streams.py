"""`sys.stdout` and `sys.stderr` of a kernel: text is gathered for a moment, then published on behalf of who wrote it.

ipykernel's own IOPub thread, event pipes and per-stream watchers cost threads, memory and latency in every fork.
Here whoever has something to say says it, under one lock.
"""

import _thread
import contextlib
import io
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from sandbox.guest.link import BODY
from sandbox.guest.pending import CAPACITY, Pending

QUIET_S = 0.02
"""A line written after this much silence goes out at once; a burst is gathered for as long."""

Publish = Callable[[str, int, bytes, Any], None]
"""Of a stream, from this byte on, these bytes, on behalf of this request."""


class Output(io.TextIOBase):
    """`sys.stdout` or `sys.stderr`: text published as stream messages of the execution that wrote it."""

    def __init__(self, name: str, fd: int, pending: Pending, publish: Publish, parent: Callable[[], Any]) -> None:
        self.name = name
        self._fd = fd
        self._pending = pending
        self._publish = publish
        self._parent = parent
        self._lock = threading.RLock()
        self._writer: Any = None
        """The request whose text is pending."""
        self._last_sent = 0.0
        self.quiet_s = QUIET_S
        self._pid = os.getpid()
        # Bare locks and threads: an exception out of a signal's handler leaves an Event or a Thread half changed.
        self._dirty = threading.Lock()
        self._dirty.acquire()
        self._flusher = 0
        self._bytes: _Bytes | None = None

    encoding = "utf-8"
    errors = "backslashreplace"

    def adopt(self) -> None:
        """Called once in the kernel's own process; any other pid is a fork that user code made."""
        self._pid = os.getpid()

    def gather_in(self, pending: Pending) -> None:
        """Where text waits from here on. None may be waiting."""
        self._pending, self._writer = pending, None

    def fileno(self) -> int:
        """The real descriptor, so that subprocesses and faulthandler can be given this stream."""
        return self._fd

    @property
    def buffer(self) -> io.BufferedIOBase:
        """For bytes."""
        if self._bytes is None:
            self._bytes = _Bytes(self)
        return self._bytes

    def isatty(self) -> bool:
        """Never."""
        return False

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Publish at the end of a line, unless a burst is being gathered.

        As on a terminal, a line without its end waits for it, for `flush`, or for the end of the cell.
        """
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self.write_bytes(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def write_bytes(self, data: bytes) -> None:
        """As `write`. What is no UTF-8 is made legible by who reads it, as what subprocesses write."""
        if os.getpid() != self._pid:
            _write_all(self._fd, data)
            return
        writer = self._parent()
        with self._lock:
            if writer is not self._writer:
                self._send()
                self._writer = writer
                self._pending.belong_to(execution_of(writer))
            self._gather(data)
            line = b"\n" in data or self.name == "stderr"
            calm = time.monotonic() - self._last_sent > self.quiet_s
            if line and calm:
                self._send()
            elif line:
                self._flush_soon()

    def _gather(self, data: bytes) -> None:
        """What there is no room for is published by its writer: this is the back-pressure."""
        if len(data) > self._pending.room:
            self._send()
        if len(data) <= CAPACITY:
            self._pending.add(data)
            return
        start = 0
        while start < len(data):
            end = _boundary(data, start + BODY)
            self._publish(self.name, self._pending.start, data[start:end], self._writer)
            self._pending.pass_by(end - start)
            start = end

    def flush(self) -> None:
        """Publish what is pending."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._send()

    def after_fork_in_child(self) -> None:
        """A fork made by user code: its parent publishes what was pending, so forget it here."""
        self._lock = threading.RLock()

    def _send(self) -> None:
        if not self._pending:
            return
        # Before it is forgotten: an exception out of a signal's handler may come between, and has it sent again.
        self._publish(self.name, self._pending.start, self._pending.data(), self._writer)
        self._pending.pass_by()
        self._last_sent = time.monotonic()

    def _flush_soon(self) -> None:
        if not self._flusher:
            self._flusher = _thread.start_new_thread(self._flush_forever, ())
        try:
            self._dirty.release()
        except RuntimeError:  # it knows already
            return

    def _flush_forever(self) -> None:
        while True:
            self._dirty.acquire()
            time.sleep(QUIET_S)
            with self._lock:
                self._send()


class _Bytes(io.BufferedIOBase):
    """What `sys.stdout.buffer` is. Nothing waits here, and closing it closes nothing."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def writable(self) -> bool:
        """Always."""
        return True

    def fileno(self) -> int:
        """See `Output`."""
        return self._output.fileno()

    def write(self, data: Any) -> int:
        """See `Output.write_bytes`."""
        with memoryview(data) as view:
            self._output.write_bytes(view.tobytes())
            return view.nbytes

    def flush(self) -> None:
        """Publish what is pending."""
        self._output.flush()

    def close(self) -> None:
        """As `flush`: who wraps it in a stream of his own closes it in passing."""
        self.flush()


def _boundary(data: bytes, end: int) -> int:
    """Where to cut UTF-8, so that no character is cut."""
    for at in range(end, end - 4, -1):
        if at >= len(data) or data[at] & 0xC0 != 0x80:
            return at
    return end  # it is none


def execution_of(request: Any) -> str:
    """The id of the execution that a request asks for."""
    return str(request["header"]["msg_id"]) if request else "-"


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        with contextlib.suppress(InterruptedError):
            view = view[os.write(fd, view) :]
