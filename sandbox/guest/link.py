"""The link between a kernel and its init: packets on a pair of Unix sockets.

A packet is there whole or not at all, so neither a death nor an exception that a signal's handler raises leaves half
of one behind. It is

    kind SP execution SP number NL body

Of text, `number` is where among the bytes of its stream the body begins: what is sent twice is then told once. Of
everything else it is the length of the content, which packets that begin with NL go on with. To the kernel: `execute`
{code, functions}, `answer` [[number, how, text], …]. From it: `hello` with four descriptors (the read ends of its
descriptors 1 and 2, a pipe for `flushed`, its `pending.Pending` memory), text as `stdout` and `stderr`, `begun` (an
interrupt is heard from now on), `reply`, `flushed`, `wants`, and what Jupyter calls `display_data`,
`update_display_data`, `execute_result` and `error`.

The kernel's process is the program's: what comes from it may be anything.
"""

import collections
import contextlib
import json
import math
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sandbox.guest.frames import MAX_BODY

STREAMS = ("stdout", "stderr")
BODY = 64 << 10
"""Bytes of content in one packet."""
NUDGE = signal.SIGURG
"""Breaks a kernel's waits and means nothing else. Python looks for signals and then waits: one that comes in between is
heard when the wait ends, and that may be never. Who has no handler for this one does not notice it.
"""
_PACKET = BODY + 1024
_MAX_CONTENT = MAX_BODY
_AT_A_TIME = 64
"""Packets that a kernel takes in before its loop gets another turn."""


@dataclass(frozen=True, slots=True)
class Message:
    """What was said, of whole packets; the content is still bytes so that its length can be judged first."""

    kind: str
    execution: str
    start: int
    """Of text: its place in the stream. Of everything else 0."""
    content: bytes

    def read(self, most: int) -> dict[str, Any]:
        """The content; an empty object if it is no JSON object, or longer than `most` bytes."""
        if len(self.content) <= most:
            with contextlib.suppress(ValueError, RecursionError):
                value = json.loads(self.content, parse_constant=_refuse, parse_float=_finite)
                if isinstance(value, dict):
                    return value
        return {}


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON, and the host would not take it")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):  # `1e999` is JSON, and what it is read as cannot be written
        _refuse(text)
    return number


def packets(kind: str, execution: str, content: bytes) -> Iterator[bytes]:
    """What says this."""
    yield b"%s %s %d\n%s" % (kind.encode(), execution.encode(), len(content), content[:BODY])
    for start in range(BODY, len(content), BODY):
        yield b"\n" + content[start : start + BODY]


class Assembler:
    """Packets in, whole messages out. What is malformed, cut off or over the cap is skipped."""

    def __init__(self) -> None:
        self._head: tuple[str, str] | None = None
        self._missing = 0
        self._content = bytearray()

    def add(self, packet: bytes) -> Message | None:
        """The message that `packet` completes."""
        head, _, body = packet.partition(b"\n")
        if head:
            self._head = None
            try:
                kind, execution, number = head.decode().split(" ")
                length = int(number)
            except ValueError:
                return None
            if kind in STREAMS:
                return Message(kind, execution, length, body)
            if not len(body) <= length <= _MAX_CONTENT:
                return None
            self._head, self._missing, self._content = (kind, execution), length, bytearray()
        if self._head is None:
            return None
        self._content += body
        self._missing -= len(body)
        if self._missing > 0:
            return None
        head_of, self._head = self._head, None
        return Message(*head_of, 0, bytes(self._content)) if self._missing == 0 else None


def _received(link: socket.socket, assembler: Assembler, limit: int) -> Iterator[Message]:
    """Of `limit` packets at most. Raises `EOFError` when the other end is closed."""
    for _ in range(limit):
        try:
            packet = link.recv(_PACKET, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except ConnectionError:
            packet = b""
        if not packet:
            raise EOFError
        message = assembler.add(packet)
        if message is not None:
            yield message


class KernelEnd:
    """The kernel's end. Until `attach` and after `detach` what is sent goes nowhere."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._socket: socket.socket | None = None
        self._assembler = Assembler()

    def attach(self, link: socket.socket) -> None:
        """From here on init is at the other end of `link`."""
        self._socket = link

    def detach(self) -> None:
        """In a fork that user code made: the link is its parent's."""
        self._lock = threading.RLock()
        self._socket = None

    def hello(self, fds: Sequence[int]) -> None:
        """The first message: this kernel listens."""
        assert self._socket is not None
        socket.send_fds(self._socket, list(packets("hello", "-", b"")), fds)

    def send_text(self, stream: str, execution: str, start: int, data: bytes) -> None:
        """At most `BODY` bytes of a stream. Blocks while init does not read: this is the back-pressure."""
        self._send([b"%s %s %d\n%s" % (stream.encode(), execution.encode(), start, data)])

    def send(self, kind: str, execution: str, content: bytes) -> None:
        """A message. One that is over the cap arrives without its content, and counts there as dropped."""
        self._send(packets(kind, execution, content if len(content) <= _MAX_CONTENT else b"{}"))

    def _send(self, pieces: "Iterator[bytes] | list[bytes]") -> None:
        with self._lock:
            if self._socket is None:
                for _ in pieces:  # a rehearsal warms this, too
                    pass
                return
            with contextlib.suppress(ConnectionError):  # init is gone, and we are about to go
                for piece in pieces:
                    self._socket.send(piece)

    def fileno(self) -> int:
        """Readable when `receive` has something."""
        assert self._socket is not None
        return self._socket.fileno()

    def receive(self) -> Iterator[Message]:
        """What has arrived. Raises `EOFError` when init is gone."""
        assert self._socket is not None
        return _received(self._socket, self._assembler, _AT_A_TIME)


class InitEnd:
    """Init's end, which never blocks."""

    def __init__(self, link: socket.socket) -> None:
        link.setblocking(False)
        self._socket = link
        self._assembler = Assembler()
        self._unsent: collections.deque[bytes] = collections.deque()

    def fileno(self) -> int:
        """Readable when `receive` has something, writable when `flush` can do something."""
        return self._socket.fileno()

    @property
    def blocked(self) -> bool:
        """Whether something waits for the kernel to read."""
        return bool(self._unsent)

    def execute(self, execution: str, code: str, functions: dict[str, Any]) -> None:
        """Have the kernel run `code`. functions: those that it may call."""
        self._say("execute", execution, {"code": code, "functions": functions})

    def answer(self, answers: list[Any]) -> None:
        """What became of calls."""
        self._say("answer", "-", answers)

    def _say(self, kind: str, execution: str, value: Any) -> None:
        self._unsent.extend(packets(kind, execution, json.dumps(value).encode()))
        self.flush()

    def flush(self) -> None:
        """Send what the kernel has room for. Its end is noticed elsewhere."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while self._unsent:
                self._socket.send(self._unsent[0])
                self._unsent.popleft()

    def greeting(self) -> list[int]:
        """The descriptors of `hello`; fewer than four from a kernel that died on the way."""
        try:
            _, fds, _, _ = socket.recv_fds(self._socket, _PACKET, 4)
        except ConnectionError:
            return []
        return list(fds)

    def receive(self, limit: int) -> Iterator[Message]:
        """What has arrived, of `limit` packets at most. Raises `EOFError` when the kernel has closed its end."""
        return _received(self._socket, self._assembler, limit)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
