"""What goes out of one request: with the headers that every answer has, and in memory no longer than it counts there.

    start ─ held back while a long body may follow ─ the body counts among all bodies, or 503 ─ start ─ slices, each
    when the one before is nearly sent

What is written in one piece lies in the connection's buffer until the client has read it, where nobody counts it.
"""

from starlette.types import Message, Send

from sandbox.api import problems
from sandbox.api.refusal import ALWAYS
from sandbox.api.visit import Bodies, Visit
from sandbox.errors import Overloaded
from sandbox.node import Node

_SLICE = 1 << 16
"""Bytes, as many as uvicorn lets wait in a connection's buffer."""
HELD = "sandbox.held"
"""In a message with the first piece of a body of which all pieces are in memory: their bytes together."""


class Unheld(Exception):
    """No room for an answer that has not begun. Not one of ours: those are answered where the routes are."""

    def __init__(self, refusal: Overloaded) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


class Answer:
    """An ASGI `send`."""

    def __init__(self, send: Send, visit: Visit, bodies: Bodies, node: Node) -> None:
        self._send = send
        self._visit = visit
        self._bodies = bodies
        self._node = node
        self._start: Message | None = None
        self._owner = ""
        self._held = 0

    async def __call__(self, message: Message) -> None:
        """One message. Raises `Unheld` in place of the first that would go out."""
        if message["type"] == "http.response.start":
            self._start = {**message, "headers": self._headers(message)}
            if not _is_long(message):
                await self._begin()
            return
        if message["type"] == "http.response.body":
            await self._send_body(message)
        else:
            await self._send(message)

    def release(self) -> None:
        """The request is over."""
        if self._held:
            self._bodies.give_back(self._owner, self._held)
            self._held = 0

    async def _send_body(self, message: Message) -> None:
        body, more = message.get("body", b""), message.get("more_body", False)
        if self._start is not None:
            self._hold(message.get(HELD, 0 if more else len(body)))
            await self._begin()
        if len(body) > _SLICE:
            view = memoryview(body)
            for start in range(0, len(body), _SLICE):
                last = start + _SLICE >= len(body)
                piece = view[start : start + _SLICE]
                await self._send({"type": "http.response.body", "body": piece, "more_body": more or not last})
        else:
            await self._send({"type": "http.response.body", "body": body, "more_body": more})

    def _hold(self, size: int) -> None:
        """size: bytes; none of a stream, which makes each piece when the one before is gone."""
        if size <= _SLICE:
            return
        owner = self._visit.owner.id if self._visit.owner else ""
        try:
            self._bodies.take(owner, size)
        except Overloaded as refusal:
            self._start = None
            raise Unheld(refusal) from None
        self._owner, self._held = owner, size

    async def _begin(self) -> None:
        start, self._start = self._start, None
        assert start is not None
        self._visit.status = start["status"]
        await self._send(start)

    def _headers(self, message: Message) -> list[tuple[bytes, bytes]]:
        headers = [*message["headers"], *ALWAYS, (b"x-request-id", self._visit.request_id.encode())]
        if not any(name == b"cache-control" for name, _ in headers):
            headers.append((b"cache-control", b"no-store"))
        if not any(name == b"ratelimit-limit" for name, _ in headers):  # of the limit that was reached
            headers += self._rate()
        return headers

    def _rate(self) -> list[tuple[bytes, bytes]]:
        owner = self._visit.owner
        if owner is None or owner.limits.per_minute is None:
            return []
        for standing in self._node.quota.snapshot(owner):
            if standing.name == "per_minute":
                told = problems.rate_limit(standing.limit, standing.remaining, standing.reset or 0.0)
                return [(name.encode(), value.encode()) for name, value in told.items()]
        return []


def _is_long(start: Message) -> bool:
    """Whether it says that a long body follows. A stream says no length, and its start must not wait for its body."""
    length = next((value for name, value in start["headers"] if name == b"content-length"), b"0")
    return int(length) > _SLICE
