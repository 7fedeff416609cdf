"""Answers that are given before the application is asked: as whole as its own, and ready as bytes.

A thousand of them may be due at once. So they are sent first, and counted and logged a moment later.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus

from starlette.types import Send

from sandbox import logs
from sandbox.api import problems
from sandbox.api.lines import Lines
from sandbox.metrics import Metrics

ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    # Nothing that comes from here is a page; what a program wrote must not become one under our origin.
    (b"content-security-policy", b"sandbox; default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
)
"""Headers of every answer."""
_LATER_S = 1.0
_PAUSE_S = 0.05
_AT_A_TIME = 50
"""Log lines until whoever waits gets a turn; more when more are due than a second's worth."""
_BLANK = "{}"
log = logs.logger(__name__)


class Refusal:
    """One kind of refusal, for which only the request's id is missing."""

    def __init__(self, status: int, code: str, detail: str, retry_after: int | None = None) -> None:
        """retry_after: seconds."""
        self.status = status
        self.code = code
        more = {} if retry_after is None else {"retry_after": retry_after}
        self._body = problems.encoded(_BLANK, status, code, detail, **more).split(f'"{_BLANK}"'.encode())
        headers = [(b"content-type", problems.MEDIA_TYPE.encode()), (b"cache-control", b"no-store"), *ALWAYS]
        if retry_after is not None:
            headers.append((b"retry-after", str(retry_after).encode()))
        self._headers = headers
        self._head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode() + _lines(headers)

    def answer(self, request_id: str, *, last: bool) -> bytes:
        """All of it. last: nothing more is answered on this connection."""
        identity, body = request_id.encode(), self._body_for(request_id)
        close = b"connection: close\r\n" if last else b""
        return b"%bx-request-id: %b\r\ncontent-length: %d\r\n%b\r\n%b" % (self._head, identity, len(body), close, body)

    async def send(self, request_id: str, send: Send) -> None:
        """The same as an ASGI application's answer."""
        body = self._body_for(request_id)
        own = [(b"x-request-id", request_id.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": self.status, "headers": [*self._headers, *own]})
        await send({"type": "http.response.body", "body": body})

    def _body_for(self, request_id: str) -> bytes:
        return (b'"%b"' % request_id.encode()).join(self._body)


def _lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in headers)


@dataclass(frozen=True, slots=True)
class _Refused:
    refusal: Refusal
    request_id: str
    method: str | None
    path: str | None


class Refusals:
    """What was refused so, on its way into metrics and log. For one event loop."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._untold: deque[_Refused] = deque()
        self._lines = Lines()

    def add(self, refusal: Refusal, request_id: str, method: str | None = None, path: str | None = None) -> None:
        """method, path: None where nobody knows them. path: one that there is, without a query."""
        if not self._untold:
            asyncio.get_running_loop().call_later(_LATER_S, self._tell)
        self._untold.append(_Refused(refusal, request_id, method, path))

    def _tell(self) -> None:
        due = len(self._untold)
        for _ in range(min(due, max(_AT_A_TIME, due // 20))):
            told = self._untold.popleft()
            status, code = told.refusal.status, told.refusal.code
            self._metrics.request(told.method or "", told.path, status, 0.0)
            if status == HTTPStatus.SERVICE_UNAVAILABLE:
                self._metrics.rejection(code)
            if (more := self._lines.next()) is None:
                continue
            log.info(
                "request",
                request_id=told.request_id,
                method=told.method,
                path=told.path,
                status=status,
                problem=code,
                key=None,
                **more,
            )
        if self._untold:
            asyncio.get_running_loop().call_later(_PAUSE_S, self._tell)
