"""One request on its way through: what the guard and the routes tell each other of it."""

import asyncio
import os
import re
import time
from typing import Any

from fastapi import HTTPException, Request
from starlette.types import Message, Receive

from sandbox.api.guests import Guests
from sandbox.api.tally import MOST, Tally
from sandbox.errors import Overloaded, TooLarge
from sandbox.keys import Owner

CLIENT_LEFT = 499
"""What the log has for the status of a request whose client left before its answer began."""
LEAST_RATE = 4096
"""Bytes per second below which an upload or a long answer is given up, once its first seconds are over."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_RETRY_S = 1.0


def request_id_of(theirs: str) -> str:
    """The client's, if it is a plain word, else a new one."""
    return theirs if _REQUEST_ID.fullmatch(theirs) else f"req_{os.urandom(16).hex()}"


class Bodies:
    """The bytes of bodies that are in memory, of all requests together."""

    def __init__(self, most: int) -> None:
        """most: bytes. One owner can have half of them, so that it keeps nobody out."""
        self._most = most
        self._all = 0
        self._by_owner: dict[str, int] = {}

    def take(self, owner: str, size: int) -> None:
        """Raises `Overloaded`."""
        had = self._by_owner.get(owner, 0)
        if self._all + size > self._most or had + size > self._most // 2:
            raise Overloaded("too many bytes of requests are in memory; try again, or send files as uploads", _RETRY_S)
        self._all += size
        self._by_owner[owner] = had + size

    def give_back(self, owner: str, size: int) -> None:
        """When the request is over."""
        self._all -= size
        self._by_owner[owner] -= size
        if not self._by_owner[owner]:
            del self._by_owner[owner]


class Body:
    """A request's body within bounds of size and time. What is not streamed is JSON, in memory, and counts there."""

    __slots__ = (
        "_bodies", "_declared", "_ended", "_limit", "_owner", "_patience", "_receive", "_received", "_streamed",
        "_taken", "_tally", "_waited",
    )  # fmt: skip

    def __init__(self, receive: Receive, declared: int | None, bodies: Bodies, *, limit: int, patience: float) -> None:
        """declared: Content-Length. limit: bytes. patience: seconds that the client gets."""
        self._receive = receive
        self._bodies = bodies
        self._owner = ""
        self._taken = 0
        self._streamed = False
        self._declared = declared
        self._patience = patience
        self._waited = 0.0
        self._ended = False
        self._received = 0
        self._tally = Tally()
        self._limit = limit

    def of(self, owner: Owner) -> None:
        """Whose it is."""
        self._owner = owner.id

    def stream(self, limit: int) -> None:
        """It goes on to a disk as it comes, so it may be longer, and take a second more for every `LEAST_RATE`."""
        self._streamed = True
        self._limit = limit

    def release(self) -> None:
        """The request is over."""
        # What it receives from has the request, which has this: a circle, for every request that there ever is.
        self._receive = _nothing
        if self._taken:
            self._bodies.give_back(self._owner, self._taken)
            self._taken = 0

    async def receive(self) -> Message:
        """The next ASGI message. Raises `TooLarge`, `Overloaded`, and `HTTPException` (408) for one that is slow."""
        if self._ended:
            return await self._receive()
        if self._declared is not None:
            self._check(self._declared)
        # Only the client's time counts, not ours between two calls.
        began = time.monotonic()
        allowed = self._patience + (self._received / LEAST_RATE if self._streamed else 0.0)
        try:
            async with asyncio.timeout(allowed - self._waited):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, "the body came too slowly and was given up; send it again") from None
        self._waited += time.monotonic() - began
        if message["type"] == "http.request":
            piece = message.get("body", b"")
            self._received += len(piece)
            self._check(self._received)
            self._ended = not message.get("more_body", False)
            if piece and not self._streamed:
                self._hold(piece)
        return message

    def _hold(self, piece: bytes) -> None:
        if not self._ended or self._received > MOST:  # in so many bytes there are no more values
            self._tally.add(piece)
        self._bodies.take(self._owner, len(piece))
        self._taken += len(piece)

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise TooLarge(f"the body has more than the {self._limit} bytes that are taken here; send less")


class Visit:
    """What is known of a request so far."""

    __slots__ = (
        "_counts", "_guests", "body", "execution_id", "owner", "request_id", "route", "session_id", "started", "status",
    )  # fmt: skip

    def __init__(self, request_id: str, body: Body, guests: Guests) -> None:
        self.request_id = request_id
        self.body = body
        self._guests = guests
        self._counts = False
        """Among its owner's."""
        self.route: str | None = None
        """The template of the route that takes it (`/v1/sessions/{session_id}`)."""
        self.owner: Owner | None = None
        self.session_id: str | None = None
        self.execution_id: str | None = None
        """What it is about, or what it made."""
        self.started = time.perf_counter()
        self.status = 0
        """Of the answer; 0 until it begins."""

    def enter(self, owner: Owner) -> None:
        """It is known whose it is. Raises `Overloaded`."""
        self.owner = owner
        self._guests.come(owner.id)
        self._counts = True
        self.body.of(owner)

    def leave(self) -> None:
        """It is over."""
        self.body.release()
        if self._counts and self.owner is not None:
            self._guests.go(self.owner.id)

    @property
    def ids(self) -> dict[str, str]:
        """What log lines say of it, beside the request's own id."""
        named = {"session_id": self.session_id, "execution_id": self.execution_id}
        return {name: value for name, value in named.items() if value is not None}

    @classmethod
    def of(cls, request: Request) -> "Visit":
        """The one that the guard has put there."""
        visit: Visit = _state(request)["visit"]
        return visit


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def _state(request: Request) -> dict[str, Any]:
    state: dict[str, Any] = request.scope["state"]
    return state
