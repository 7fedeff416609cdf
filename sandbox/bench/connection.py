"""A keep-alive connection that costs its process so little that the server is what is measured.

httpx takes about a millisecond of processor time for a request; on two cores that would be a good part of the figure.
"""

import asyncio
import contextlib
import math
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

import httptools

from sandbox.errors import SandboxFailed, Unreachable

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    raw_headers: list[tuple[bytes, bytes]]
    """As they came."""
    body: bytes
    """Whole, or as much as was to be kept."""
    ms: float
    """From the request's first byte, on its way to the server, until the answer's last byte was here."""

    @property
    def headers(self) -> dict[str, str]:
        """Names in lower case. Made when it is asked for, which is not while others are waited for."""
        return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self.raw_headers}


class Connection(asyncio.Protocol):
    """One request at a time. Use `open`."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._writable = asyncio.Event()
        self._writable.set()
        self._answer: asyncio.Future[Answer] | None = None
        self._start = 0.0
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._room: float = math.inf
        """Bytes of the body that are still to be kept."""

    @classmethod
    @asynccontextmanager
    async def open(cls, host: str, port: int) -> AsyncIterator[Self]:
        """Raises `Unreachable`."""
        try:
            transport, connection = await asyncio.get_running_loop().create_connection(
                lambda: cls(f"{host}:{port}"), host, port
            )
        except OSError as error:
            raise Unreachable(f"{host}:{port} takes no connection: {error}") from error
        try:
            yield connection
        finally:
            transport.abort()

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | bytearray = b"",
        *,
        media: str = "application/json",
        wanted: int = 200,
        keep: float = math.inf,
    ) -> Answer:
        """The answer, if its status is `wanted`. Raises `SandboxFailed` for any other, but not for 429 and 503.

        keep: about how many bytes of its body, for whom a hundred megabytes in one piece would hold up all others here.
        """
        if self._transport.is_closing():
            raise Unreachable("the connection is closed; open another")
        self._answer = asyncio.get_running_loop().create_future()
        self._room = keep
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: {media}\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        ).encode()
        self._start = time.perf_counter()
        if len(body) <= _PIECE:
            self._write_now(head + body)
        else:
            self._transport.write(head)
            for start in range(0, len(body), _PIECE):
                await self._writable.wait()
                self._transport.write(memoryview(body)[start : start + _PIECE])
        answer = await self._answer
        if answer.status not in (wanted, 429, 503):
            raise SandboxFailed(f"{method} {path} was answered with {answer.status}: {answer.body[:500]!r}")
        return answer

    def _write_now(self, data: bytes) -> None:
        """Past the loop, which sends what was written in a round only at its end: for the first of a thousand requests
        that go out together, that is when the last of them has been made.
        """
        sock: socket.socket = self._transport.get_extra_info("socket")
        if not self._transport.get_write_buffer_size():
            with contextlib.suppress(BlockingIOError):
                data = data[os.write(sock.fileno(), data) :]
        if data:
            self._transport.write(data)

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | bytearray = b"",
        *,
        media: str = "application/json",
        wanted: int = 200,
        keep: float = math.inf,
    ) -> Answer:
        """As `request`, where 429 and 503 are failures, too."""
        answer = await self.request(method, path, body, media=media, wanted=wanted, keep=keep)
        if answer.status != wanted:
            raise SandboxFailed(f"{method} {path} was refused with {answer.status}: {answer.body[:500]!r}")
        return answer

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """From asyncio."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """From asyncio."""
        self._writable.set()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Unreachable(f"the server has closed the connection: {exc or 'without a word'}"))

    def pause_writing(self) -> None:
        """From asyncio."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """From asyncio."""
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """From asyncio."""
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        """From the parser."""
        self._headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        """From the parser."""
        if self._room > 0:
            self._body.append(body)
            self._room -= len(body)

    def on_message_complete(self) -> None:
        """From the parser."""
        ms = 1000 * (time.perf_counter() - self._start)
        headers, self._headers = self._headers, []
        pieces, self._body = self._body, []
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(self._parser.get_status_code(), headers, b"".join(pieces), ms))
