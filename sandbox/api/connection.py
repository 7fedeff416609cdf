"""One TCP connection: heads bounded in time and size, and a number of connections that is bounded, too.

uvicorn bounds none of these. What a client still sends after an early answer (413, 401) is read and dropped for a
moment: closing at once would reset the connection, and the client would often see that instead of the answer.
"""

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from sandbox.api.problems import MEDIA_TYPE
from sandbox.api.turnstile import REFUSAL, URL, Turnstile

MOST_CONNECTIONS = 8192
_MOST_HEAD_BYTES = 64 << 10
_GRACE_S = 0.1
_LINGER_S = 10.0
_LINGER_BYTES = 1 << 30
"""Many clients send all of a body before they look for an answer."""


def protocol(head_timeout: float, turnstile: Turnstile) -> type[HttpToolsProtocol]:
    """The protocol with a bound on how long a request's head may take, in seconds, and on runs at a time."""
    return type("Connection", (Connection,), {"head_timeout": head_timeout, "turnstile": turnstile})


class Connection(HttpToolsProtocol):
    """uvicorn's protocol within bounds."""

    head_timeout: float
    turnstile: Turnstile

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._refused = False
        """The turnstile has; what is left of the request is read, so that the next can come."""
        self._dropped: int | None = None
        """Bytes since an answer that did not wait for the body; None while there is none."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """From asyncio."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            self._refuse(503, "overloaded", "too many connections are open; try again later", b"retry-after: 1\r\n")
        else:
            self._arm(self.head_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """From asyncio."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """From asyncio."""
        if self._dropped is not None:
            self._dropped += len(data)
            if self._dropped > _LINGER_BYTES:
                self.transport.close()
                return
        waiting = self._waits_for_head()
        if waiting and self._timer is None:
            self._arm(self.head_timeout)
        super().data_received(data)
        if waiting and self._waits_for_head():
            self._head_bytes += len(data)
            if self._head_bytes > _MOST_HEAD_BYTES:
                self._refuse(431, "headers_too_large", f"the headers are over {_MOST_HEAD_BYTES} bytes; send less")

    def on_headers_complete(self) -> None:
        """From the parser."""
        self._disarm()
        self._head_bytes = 0
        if self.url != URL or not self._is_first():
            super().on_headers_complete()
            return
        if not self.turnstile.enter():
            self._refused = True
            self._arm(self.head_timeout)
            if self.expect_100_continue:  # its body comes only if we want it
                self.transport.write(REFUSAL)
                self.transport.close()
            return
        app = self.app
        self.app = self._counted
        try:
            super().on_headers_complete()
        finally:
            self.app = app

    def on_body(self, body: bytes) -> None:
        """From the parser."""
        if not self._refused:
            super().on_body(body)

    def _answer_refused(self) -> None:
        self._refused = False
        self._disarm()
        self.transport.write(REFUSAL)
        if self.parser.should_keep_alive():
            self._arm(self.timeout_keep_alive)
        else:
            self.transport.close()

    async def _counted(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self.turnstile.turn()
            await self.app(scope, receive, send)
        finally:
            self.turnstile.leave()

    def on_message_complete(self) -> None:
        """From the parser."""
        if self._refused:
            self._answer_refused()
            return
        super().on_message_complete()
        if self._dropped is not None:
            self._dropped = None
            self._disarm()
            self._arm(self.timeout_keep_alive)

    def on_response_complete(self) -> None:
        """From the answer."""
        unread = self.cycle.more_body and not self.pipeline
        super().on_response_complete()
        if unread and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._dropped = 0
            self._arm(_LINGER_S)

    def send_400_response(self, msg: str) -> None:
        """Not HTTP."""
        self._refuse(400, "invalid_request", "what came is not HTTP/1.1")

    def _waits_for_head(self) -> bool:
        return self._dropped is None and not self._refused and self._is_first()

    def _is_first(self) -> bool:
        """Whether no request before it on this connection still waits for its answer."""
        cycle: RequestResponseCycle | None = self.cycle  # None until the first request, whatever its annotation says
        return cycle is None or cycle.response_complete

    def _refuse(self, status: int, code: str, detail: str, headers: bytes = b"") -> None:
        if self.transport.is_closing():
            return
        told = {"type": f"urn:sandbox:problem:{code}", "title": code, "status": status, "detail": detail, "code": code}
        body = json.dumps(told).encode()
        head = f"HTTP/1.1 {status} {code}\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + headers + b"connection: close\r\n\r\n" + body)
        self.transport.close()

    def _arm(self, seconds: float, *, last: bool = False) -> None:
        self._timer = self.loop.call_later(seconds, self._time_out, last)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_out(self, last: bool) -> None:
        self._timer = None
        if last:
            self.transport.close()
        else:
            self._arm(_GRACE_S, last=True)  # what came while the loop was busy is read before that
