"""One request on its way through: what the guard and the routes tell each other of it."""

import asyncio
import time
from typing import Any

from fastapi import HTTPException, Request
from starlette.types import Message, Receive

from sandbox.errors import TooLarge
from sandbox.keys import Owner

_LEAST_RATE = 4096
"""Bytes per second below which a body is given up, once its first seconds are over."""


class Body:
    """A request's body within bounds of size and time."""

    __slots__ = ("_declared", "_ended", "_patience", "_receive", "_waited", "limit", "received")

    def __init__(self, receive: Receive, declared: int | None, *, limit: int, patience: float) -> None:
        """declared: Content-Length. patience: seconds that the client gets beyond what `_LEAST_RATE` gives it."""
        self._receive = receive
        self._declared = declared
        self._patience = patience
        self._waited = 0.0
        self._ended = False
        self.received = 0
        self.limit = limit
        """Bytes; a route may change it before it reads."""

    async def receive(self) -> Message:
        """The next ASGI message. Raises `TooLarge`, and `HTTPException` (408) for a body that comes too slowly."""
        if self._ended:
            return await self._receive()
        if self._declared is not None:
            self._check(self._declared)
        # Only the client's time counts, not ours between two calls.
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._patience + self.received / _LEAST_RATE - self._waited):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(
                408, "the body came too slowly and was given up; send it again", headers={"connection": "close"}
            ) from None
        self._waited += time.monotonic() - began
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
            self._check(self.received)
            self._ended = not message.get("more_body", False)
        return message

    def _check(self, size: int) -> None:
        if size > self.limit:
            raise TooLarge(f"the body has more than the {self.limit} bytes that are taken here; send less")


class Visit:
    """What is known of a request so far."""

    __slots__ = ("body", "owner", "request_id", "route", "started", "status")

    def __init__(self, request_id: str, body: Body) -> None:
        self.request_id = request_id
        self.body = body
        self.route: str | None = None
        """The template of the route that takes it (`/v1/sessions/{session_id}`)."""
        self.owner: Owner | None = None
        self.started = time.perf_counter()
        self.status = 0
        """Of the answer; 0 until it begins."""

    @classmethod
    def of(cls, request: Request) -> "Visit":
        """The one that the guard has put there."""
        visit: Visit = _state(request)["visit"]
        return visit


def _state(request: Request) -> dict[str, Any]:
    state: dict[str, Any] = request.scope["state"]
    return state
