"""What goes out of one request: with the headers that every answer has, and no faster than it is read.

    start ─ held back while a long body may follow ─ room for the body, or 503 ─ start ─ slices, each when the one
    before is nearly sent

What is written in one piece lies in the connection's buffer until the client has read it, where nobody counts it. So a
long piece has to have room in `Unread` until it is gone, and has to be read in time; a stream that has begun is cut
where it has none.
"""

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import Message, Send

from sandbox.api import problems
from sandbox.api.refusal import ALWAYS
from sandbox.api.unread import Unread
from sandbox.api.visit import LEAST_RATE, Visit
from sandbox.batches import in_turns
from sandbox.errors import Overloaded
from sandbox.node import Node

_SLICE = 1 << 16
"""Bytes, as many as uvicorn lets wait in a connection's buffer."""
_SLICE_S = 30.0 + _SLICE / LEAST_RATE
"""In which a client has to read one, as it has to send a body."""
HELD = "sandbox.held"
"""In a message with the first piece of a body of which all pieces are in memory: their bytes together."""


class Unheld(Exception):
    """No room for an answer that has not begun. Not one of ours: those are answered where the routes are."""

    def __init__(self, refusal: Overloaded) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


class Answer:
    """An ASGI `send`. For use by several tasks, whose pieces stay whole."""

    def __init__(self, send: Send, visit: Visit, unread: Unread, node: Node) -> None:
        self._send = send
        self._visit = visit
        self._unread = unread
        self._node = node
        self._start: Message | None = None
        self._turn = asyncio.Lock()
        self._is_held = False
        """Room for all of it is taken."""
        self._held = 0

    async def __call__(self, message: Message) -> None:
        """One message. Raises `Unheld` in place of the first that would go out, `ClientDisconnect` for who does not
        read.
        """
        if message["type"] == "http.response.start":
            self._start = {**message, "headers": self._headers(message)}
            if not _is_long(message):
                await self._begin()
        elif message["type"] == "http.response.body":
            async with self._turn:
                await self._send_body(message.get("body", b""), message)
        else:
            await self._send(message)

    def release(self) -> None:
        """The request is over."""
        if self._held:
            self._unread.give_back(self._owner, self._held)
            self._held = 0

    @property
    def _owner(self) -> str:
        return self._visit.owner.id if self._visit.owner else ""

    async def _send_body(self, body: bytes, message: Message) -> None:
        more = message.get("more_body", False)
        size = message.get(HELD, len(body))
        counts = size > _SLICE and not self._is_held
        self._is_held = self._is_held or HELD in message
        if counts:
            await self._hold(size)
        if self._start is not None:
            await self._begin()
        if len(body) <= _SLICE:
            await self._send({"type": "http.response.body", "body": body, "more_body": more})
        else:
            await self._send_slices(memoryview(body), more=more)
        if counts and not self._is_held:  # of a stream, whose next piece is made when this one is gone
            self.release()

    async def _send_slices(self, body: memoryview, *, more: bool) -> None:
        # A client that reads as fast as this is sent would else have it all before anybody else is served.
        async for start in in_turns(range(0, len(body), _SLICE)):
            last = start + _SLICE >= len(body)
            piece = {"type": "http.response.body", "body": body[start : start + _SLICE], "more_body": more or not last}
            try:
                async with asyncio.timeout(_SLICE_S):
                    await self._send(piece)
            except TimeoutError:
                raise ClientDisconnect from None

    async def _hold(self, size: int) -> None:
        try:
            await self._unread.take(self._owner, size)
        except Overloaded as refusal:
            if self._start is None:
                raise ClientDisconnect from None
            self._start = None
            raise Unheld(self._told(refusal)) from None
        self._held = size

    def _told(self, refusal: Overloaded) -> Overloaded:
        visit = self._visit
        if visit.session_id is None or visit.execution_id is None:
            return refusal
        where = f"/v1/sessions/{visit.session_id}/executions/{visit.execution_id}"
        return Overloaded(f"{refusal}; what was executed is at {where}", refusal.retry_after)

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
