"""What the kernel publishes: IOPub messages without a thread, and `sys.stdout` over them.

ipykernel's own IOPub thread, event pipes and per-stream watchers cost threads, memory and latency in every fork.
Here whoever has something to say says it, under one lock.
"""

import contextlib
import io
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import zmq

_FLUSH_AT = 32 << 10
"""Characters buffered before a writer has to publish them itself: this is the back-pressure."""
QUIET_S = 0.02
"""A line written after this much silence goes out at once; a burst is gathered for as long."""


class Publisher:
    """The IOPub socket. Sends are serialised, block when the reader is slow, and are never cut by a SIGINT."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._socket: zmq.Socket[bytes] | None = None
        self._interrupted = False
        self._sending = False

    def attach(self, socket: "zmq.Socket[bytes]") -> None:
        """From here on messages go to `socket`."""
        self._socket = socket

    def detach(self) -> None:
        """Drop everything from now on: in a forked child the socket belongs to its parent."""
        self._lock = threading.RLock()
        self._socket = None

    def send_multipart(self, parts: Sequence[bytes], copy: bool = True, track: bool = False) -> None:
        """The one method of a socket that jupyter_client's Session calls."""
        with self._lock:
            if self._socket is None:
                return
            self._sending = threading.current_thread() is threading.main_thread()
            try:
                self._socket.send_multipart(parts, copy=copy)
            finally:
                self._sending = False
        if self._interrupted:
            self._interrupted = False
            raise KeyboardInterrupt

    def on_sigint(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: a KeyboardInterrupt between the parts of a message would garble the next one."""
        if self._sending:
            self._interrupted = True
        else:
            signal.default_int_handler(number, frame)


class Output(io.TextIOBase):
    """`sys.stdout` or `sys.stderr`: text published as stream messages of the execution that wrote it."""

    def __init__(self, name: str, fd: int, publish: Callable[[str, str, Any], None], parent: Callable[[], Any]) -> None:
        self.name = name
        self._fd = fd
        self._publish = publish
        self._parent = parent
        self._lock = threading.RLock()
        self._pending: list[str] = []
        self._pending_size = 0
        self._pending_parent: Any = None
        self._last_sent = 0.0
        self.quiet_s = QUIET_S
        self._pid = os.getpid()
        self._dirty = threading.Event()
        self._flusher: threading.Thread | None = None

    encoding = "utf-8"
    errors = "backslashreplace"

    def adopt(self) -> None:
        """Called once in the kernel's own process; any other pid is a fork that user code made."""
        self._pid = os.getpid()

    def fileno(self) -> int:
        """The real descriptor, so that subprocesses and faulthandler can be given this stream."""
        return self._fd

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
        if os.getpid() != self._pid:
            _write_all(self._fd, text.encode("utf-8", "backslashreplace"))
            return len(text)
        parent = self._parent()
        with self._lock:
            if parent is not self._pending_parent and self._pending:
                self._send()
            self._pending_parent = parent
            self._pending.append(text)
            self._pending_size += len(text)
            line = "\n" in text or self.name == "stderr"
            calm = time.monotonic() - self._last_sent > self.quiet_s
            if (line and calm) or self._pending_size >= _FLUSH_AT:
                self._send()
            elif line:
                self._flush_soon()
        return len(text)

    def flush(self) -> None:
        """Publish what is pending."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._send()

    def after_fork_in_child(self) -> None:
        """A fork made by user code: its parent publishes what was pending, so forget it here."""
        self._lock = threading.RLock()
        self._pending, self._pending_size = [], 0

    def _send(self) -> None:
        if not self._pending:
            return
        text = "".join(self._pending)
        self._pending, self._pending_size = [], 0
        # A single print of a gigabyte must not become one message: the reader caps what it takes in.
        for start in range(0, len(text), 1 << 20):
            self._publish(self.name, text[start : start + (1 << 20)], self._pending_parent)
        self._last_sent = time.monotonic()

    def _flush_soon(self) -> None:
        if self._flusher is None:
            self._flusher = threading.Thread(target=self._flush_forever, name=f"{self.name} flusher", daemon=True)
            self._flusher.start()
        self._dirty.set()

    def _flush_forever(self) -> None:
        while True:
            self._dirty.wait()
            self._dirty.clear()
            time.sleep(QUIET_S)
            with self._lock:
                self._send()


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        with contextlib.suppress(InterruptedError):
            view = view[os.write(fd, view) :]
