"""An answer in pieces, read as raw bytes: the objects that both SDKs make of each piece would cost a multiple."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import httpx2

from sandbox.client.events import Decoder, Message
from sandbox.errors import UpstreamFailed
from sandbox.loop.messages import Delta, Reply
from sandbox.loop.upstream.failures import Failures
from sandbox.loop.upstream.transport import MOST_BYTES

_T = TypeVar("_T")
_MOST_ARGUMENTS, _MOST_PARTS = 1 << 20, 10_000
"""Characters of a call's arguments, and parts of an answer: no model writes as much, and each costs us time."""
_LINGER_S = 0.1
"""For how long the end of an answer is waited for after its last event: with it the connection can be used again."""


class Reading(Protocol):
    """A reply on its way, of either dialect."""

    finished: bool

    def feed(self, chunk: Any) -> Delta:
        """Take a piece. Raises `ValueError`."""

    def reply(self) -> Reply:
        """All of it. Raises `ValueError`."""


@dataclass(frozen=True, slots=True)
class Wire:
    """A dialect as an answer speaks it."""

    reading: Callable[[], Reading]
    whole: Callable[[Any], Reply]
    """A reply of an answer in one piece. Raises `ValueError`."""
    error: Callable[[Any], Mapping[str, Any] | None]
    """What an answer or a piece says went wrong."""
    last: Callable[[Message], bool]
    """Whether nothing comes after this event."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer."""

    response: httpx2.Response
    wire: Wire
    failures: Failures
    silence_s: float

    async def read(self) -> AsyncGenerator[Delta | Reply, None]:
        """Pieces with something in them, then the reply. Raises `UpstreamError` of whatever kind."""
        kind = self.response.headers.get("content-type", "")
        async with contextlib.aclosing(self._pieces()) as pieces:
            if "json" in kind:  # there are servers that cannot stream, and say so by not doing it
                reply = self._understood(self.wire.whole, self._sound(await _all(pieces)))
                yield Delta(reply.message.text)
            elif "html" in kind:
                raise self.failures.nonsense(await _all(pieces))
            else:
                reading, ended = self.wire.reading(), False
                decoder = Decoder()
                async for piece in pieces:
                    for message in decoder.feed(piece):
                        if ended := self.wire.last(message):
                            break
                        if not message.data:
                            continue
                        delta = self._understood(reading.feed, self._sound(message.data))
                        if delta.text or delta.raw is not None:
                            yield delta
                    if ended:
                        break
                if not (ended or reading.finished):
                    raise self.failures.cut()
                await _drain(pieces)
                reply = self._understood(reading.reply)
            self._bound(reply)
            yield reply

    def _bound(self, reply: Reply) -> None:
        if len(reply.message.parts) > _MOST_PARTS:
            raise self.failures.nonsense(f"an answer of more than {_MOST_PARTS:,} parts")
        if any(len(call.arguments) > _MOST_ARGUMENTS for call in reply.message.calls):
            raise self.failures.nonsense(f"a call with more than {_MOST_ARGUMENTS:,} characters of arguments")

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        size = 0
        try:
            async for piece in self.response.aiter_bytes():
                size += len(piece)
                if size > MOST_BYTES:  # where it was compressed
                    raise self.failures.nonsense(f"an answer of more than {MOST_BYTES >> 20} MB")
                yield piece
        except httpx2.ReadTimeout as error:
            raise self.failures.silent(self.silence_s) from error
        except httpx2.HTTPError as error:
            raise self.failures.cut(error) from error

    def _sound(self, text: str) -> Any:
        """JSON that does not say that something went wrong."""
        try:
            said = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self.failures.nonsense(text) from error
        if (wrong := self.wire.error(said)) is not None:
            raise self.failures.said(wrong)
        return said

    def _understood(self, read: Callable[..., _T], *said: Any) -> _T:
        try:
            return read(*said)
        except ValueError as error:
            raise self.failures.nonsense(str(error)) from error


async def _all(pieces: AsyncIterator[bytes]) -> str:
    return b"".join([piece async for piece in pieces]).decode(errors="replace")


async def _drain(pieces: AsyncIterator[bytes]) -> None:
    # A server that has said its last word may fail or forget to close: the answer is complete all the same.
    with contextlib.suppress(TimeoutError, UpstreamFailed):
        async with asyncio.timeout(_LINGER_S):
            async for _ in pieces:
                pass
