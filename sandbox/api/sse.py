"""Server-sent events, and those of an execution.

Each event's `id` is a cursor; `Last-Event-ID` brings what comes after it, from this server or its next life. While
nothing happens a comment is sent, so that proxies keep the connection and both ends notice when it is dead.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from sandbox.api import encode
from sandbox.api.problems import code_of
from sandbox.errors import SandboxError
from sandbox.events import EventLog

T = TypeVar("T")
MEDIA_TYPE = "text/event-stream"
HEARTBEAT_S = 15.0
_BEGIN = b"retry: 1000\n\n"
_BEAT = b":\n\n"

DESCRIPTION = (
    "Server-sent events `started`, `stdout`, `stderr`, `result`, `error`, `artifact` and, last, `done`, whose data is "
    "the Execution. Each has an `id`; a client that was cut off sends the last one as `Last-Event-ID` to "
    "`GET …/events` and misses nothing. An event `problem` means that the server failed and there will be no `done`."
)
_NAMES = ["started", "stdout", "stderr", "result", "error", "artifact", "done", "problem"]
SCHEMA = {
    "type": "object",
    "description": "Each event.",
    "properties": {
        "id": {"type": "string", "description": "A cursor."},
        "event": {"type": "string", "enum": _NAMES},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}
EXAMPLE = (
    'id: 0.0.0.0.0.0\nevent: started\ndata: {"id":"exe_…","session_id":"ses_…"}\n\n'
    'id: 3.0.0.0.0.0\nevent: stdout\ndata: {"text":"42\\n"}\n\n'
    'id: 3.0.0.0.0.1\nevent: done\ndata: {"id":"exe_…","status":"ok",…}\n\n'
)


class Streamed(Response):
    """Pieces of bytes as they come, until there are no more or the client leaves; a heartbeat while there are none."""

    media_type = MEDIA_TYPE

    def __init__(self, pieces: AsyncGenerator[bytes, None], left: Callable[[], Awaitable[None]] | None = None) -> None:
        """pieces: each one or more whole events. It is closed in any case. left: called when the client leaves."""
        super().__init__(status_code=200, headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._pieces = pieces
        self._left = left

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        sending = asyncio.create_task(self._send(send))
        others = (asyncio.create_task(_beat(send)), asyncio.create_task(gone(receive)))
        try:
            await asyncio.wait((sending, *others), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                await sending
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            elif self._left is not None:
                await self._left()
        finally:
            for task in (sending, *others):
                task.cancel()
            await asyncio.gather(sending, *others, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        async with contextlib.aclosing(self._pieces) as pieces:
            async for piece in pieces:
                await _piece(send, piece)


def event_stream(
    log: EventLog, *, last_id: str | None = None, left: Callable[[], Awaitable[None]] | None = None
) -> Streamed:
    """The events of an execution. last_id: valid, or None. left: called when the client leaves."""
    return Streamed(_events(log, last_id), left)


async def _events(log: EventLog, last_id: str | None) -> AsyncGenerator[bytes, None]:
    yield _BEGIN
    try:
        async for event in log.follow(last_id):
            data = event.data
            if event.name == "done":
                data = encode.execution(data["execution"], log.created_at)
            body = b"".join(await encode.to_pieces(data))  # one, between whose parts no heartbeat gets
            yield f"id: {event.id}\nevent: {event.name}\ndata: ".encode() + body + b"\n\n"
    except SandboxError as error:
        told = {"code": code_of(type(error)), "detail": str(error)}
        yield b"event: problem\ndata: " + encode.to_json(told) + b"\n\n"


async def _piece(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _beat(send: Send) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        await _piece(send, _BEAT)


async def gone(receive: Receive) -> None:
    """Wait until the client has left. Its body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_here(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What the work gives, while the client waits for it; raises `ClientDisconnect` when it leaves."""
    working, going = asyncio.ensure_future(work), asyncio.ensure_future(gone(receive))
    try:
        await asyncio.wait((working, going), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, going):
            task.cancel()
        await asyncio.gather(working, going, return_exceptions=True)
