"""One TCP connection: heads bounded in time and size, and a number of connections that is bounded, too.

uvicorn bounds none of these. What a client still sends after an early answer (413, 401) is read and dropped for a
moment: closing at once would reset the connection, and the client would often see that instead of the answer.
"""

import asyncio
import contextlib
import os
import weakref
from functools import partial
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from sandbox.api import guests
from sandbox.api.idle import Idle
from sandbox.api.problems import HTTP_CODES
from sandbox.api.refusal import Refusal, Refusals
from sandbox.api.turnstile import FULL, URL, Passage, Turnstile, asks_for_the_usual
from sandbox.api.visit import request_id_of

MOST_CONNECTIONS = 2 * guests.MOST
_MOST_HEAD_BYTES = 64 << 10
_GRACE_S = 0.1
_LINGER_S = 10.0
_LINGER_BYTES = 1 << 30
"""Many clients send all of a body before they look for an answer."""
_MOST_UNANSWERED = 100
"""Requests that a client may have on one connection before it has the first one's answer."""
_FRAMING = 16
"""Bytes around one of a body's, at most: who sends it in pieces of a byte each needs six."""
TOO_MANY = Refusal(503, "overloaded", "too many connections are open; try again later", 1)
TOO_LARGE = Refusal(431, HTTP_CODES[431], f"the headers are over {_MOST_HEAD_BYTES} bytes; send less")
NOT_HTTP = Refusal(400, HTTP_CODES[400], "what came is not HTTP/1.1")


def protocol(head_timeout: float, turnstile: Turnstile, refusals: Refusals) -> type[HttpToolsProtocol]:
    """The protocol with a bound on how long a request's head may take, in seconds, and on runs at a time."""
    bounds = {"head_timeout": head_timeout, "turnstile": turnstile, "refusals": refusals, "idle": Idle()}
    return type("Connection", (Connection,), bounds)


class _TooMuch(Exception):
    """Ends the parser's work on what has come."""


class Connection(HttpToolsProtocol):
    """uvicorn's protocol within bounds."""

    head_timeout: float
    turnstile: Turnstile
    refusals: Refusals
    idle: "Idle[Connection]"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: float | None = None
        """When the connection is closed if nothing comes, in the loop's time."""
        self._timer: asyncio.TimerHandle | None = None
        """Fires at the deadline or before it: to move one with each request would cost more than to refuse it."""
        self._head_bytes = 0
        self._head_came = False
        """With what is being read now: then its size says nothing of a head's."""
        self._head_begun = False
        """Of a request that may be behind others."""
        self._body_bytes = 0
        """In what is being read now."""
        self._around_body = 0
        """Bytes since the head that are not the body's own, and more than these need."""
        self._closes = False
        """After this answer, as the client wants it."""
        self._answering: RequestResponseCycle | None = None
        self._refused = False
        """The turnstile has; what is left of the request is read, so that the next can come."""
        self._held: list[bytes] | None = None
        """A run's body, while it may be that all of it comes together with its head."""
        self._dropped: int | None = None
        """Bytes since an answer that did not wait for the body; None while there is none."""
        self._deaf = False
        """More was asked than is let wait: what was taken is answered, and that is all."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """From asyncio."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS and not self._displace():
            self._refuse(TOO_MANY)
        else:
            self._rest(self.head_timeout, spare=True)

    def _displace(self) -> bool:
        """Take the place of a connection that nobody uses: who only connects must not keep out who asks."""
        other = self.idle.take(_has_nothing_unsent)
        if other is None:
            return False
        other.transport.close()  # without a word, which might be taken for the answer to what is just being asked
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """From asyncio."""
        self.idle.discard(self)
        self._disarm()
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)
        for cycle in (self._answering, *(cycle for cycle, _ in self.pipeline)):  # uvicorn tells the newest only
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def data_received(self, data: bytes) -> None:
        """From asyncio."""
        if self._deaf:
            return
        if self._dropped is not None:
            self._dropped += len(data)
            if self._dropped > _LINGER_BYTES:
                self.transport.close()
                return
        waiting, self._head_came = self._waits_for_head(), False
        if waiting and self._deadline is None:
            self._arm(self.head_timeout)
        self._feed(data)
        if self._held is not None:
            self._begin(Passage(self.turnstile))
        if self._refused and self._deadline is None:
            self._arm(self.head_timeout)
        if self._head_came:
            return
        if self._head_begun or (waiting and self._waits_for_head()):
            self._head_bytes += len(data)
            if self._head_bytes > _MOST_HEAD_BYTES:
                self._refuse(TOO_LARGE)
        else:
            self._around_body = max(0, self._around_body + len(data) - _FRAMING * self._body_bytes)
            if self._around_body > _MOST_HEAD_BYTES:
                self.transport.close()  # whoever waits for the body learns that it will not come

    def _feed(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._body_bytes = 0
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._feed_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("")

    def _feed_without_upgrade(self, rest: bytes) -> None:
        """There is nothing here to upgrade to, and the parser would take what follows the head for another protocol."""
        if self.parser.get_method() == b"CONNECT":
            self.send_400_response("")
            return
        wishes = b",".join(value for name, value in self.headers if name == b"connection").lower()
        lines = [b"%b %b HTTP/1.1" % (self.parser.get_method(), self.url)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] not in (b"connection", b"upgrade")]
        if b"close" in [wish.strip() for wish in wishes.split(b",")]:
            lines.append(b"connection: close")
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        self._feed(b"\r\n".join([*lines, b"", rest]))

    def on_message_begin(self) -> None:
        """From the parser."""
        super().on_message_begin()
        self._head_begun = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """From the parser: of a head, or behind a body, where it means nothing here."""
        if self._head_begun:
            super().on_header(name, value)

    def pause_writing(self) -> None:
        """From asyncio. Refusals are written at once, so who does not read them may not ask for more."""
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        """From asyncio."""
        super().resume_writing()
        if not self.pipeline:
            self.flow.resume_reading()

    def _wait_for_reader(self) -> None:
        if self.flow.write_paused and self._is_first():  # else whoever answers waits, and has to hear if it leaves
            self.flow.pause_reading()

    def on_headers_complete(self) -> None:
        """From the parser."""
        if self.parser.should_upgrade():
            return
        self.idle.discard(self)
        self._disarm()
        self._head_bytes, self._head_came, self._head_begun, self._around_body = 0, True, False, 0
        if len(self.pipeline) >= _MOST_UNANSWERED - 1 and not self._is_first():
            self._listen_no_more()
            raise _TooMuch
        self._closes = not self.parser.should_keep_alive()
        if self.url != URL or not self._is_first():
            self._accept()
            return
        if not self.turnstile.full:
            self._held = []
            return
        self.turnstile.refused()
        self._refused = True
        if self.expect_100_continue:  # its body comes only if we want it
            self._answer_refused(last=True)

    def on_body(self, body: bytes) -> None:
        """From the parser."""
        self._body_bytes += len(body)
        if self._held is not None:
            self._held.append(body)
        elif not self._refused:
            super().on_body(body)

    def _begin(self, passage: Passage) -> None:
        """Give the application a run, and what has come of its body: all, if it is inside."""
        held, self._held = self._held or [], None
        if self.transport.is_closing():
            return
        app, self.app = self.app, partial(self._counted, passage)
        try:
            self._accept()
        finally:
            self.app = app
        for piece in held:
            super().on_body(piece)

    def _accept(self) -> None:
        super().on_headers_complete()
        if self._closes:
            transport: Any = _Patient(self)
            self.cycle.transport = transport

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle

        async def answer(scope: Any, receive: Any, send: Any) -> None:
            try:
                await app(scope, receive, send)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not cycle.response_started or task is None or not task.cancelling():
                    raise
                # A stream that outlasts the drain. uvicorn would take it for a fault of the application's.
                cycle.disconnected = True
                self.transport.close()

        super()._start_asgi_task(cycle, answer)

    def _answer_refused(self, *, last: bool) -> None:
        self._refused = False
        self._disarm()
        request_id = _request_id(self.headers)
        self._write_now(FULL.answer(request_id, last=last))
        self.refusals.add(FULL, request_id, self.parser.get_method().decode(), URL.decode())
        if last:
            self.transport.close()
        else:
            self._rest(self.timeout_keep_alive, spare=False)
            self._wait_for_reader()

    def _write_now(self, data: bytes) -> None:
        """Past the loop, which sends what was written in a round only when everything that came in it is read.

        So the first of a thousand clients has its answer while the last is not read yet.
        """
        if self.transport.is_closing():
            return
        if not self.transport.get_write_buffer_size():
            with contextlib.suppress(OSError):  # would block, or is cut: the transport knows what to do
                data = data[os.write(self.transport.get_extra_info("socket").fileno(), data) :]
        if data:
            self.transport.write(data)

    async def _counted(self, passage: Passage, scope: Any, receive: Any, send: Any) -> None:
        async def received() -> Any:
            message = await receive()
            if message["type"] == "http.request" and not message["more_body"]:
                await passage.enter_late()
            return message

        async def answered(message: Any) -> None:
            passage.leave()
            await send(message)

        try:
            if passage.inside:
                await self.turnstile.turn()
                # One that repeats what was done needs no sandbox for its answer.
                refusal = None if _is_keyed(scope) else self.turnstile.refusal()
                if refusal is not None:
                    await self._refuse_run(refusal, scope, answered)
                    return
            await self.app(scope, received, answered)
        finally:
            passage.leave()

    async def _refuse_run(self, refusal: Refusal, scope: Any, send: Any) -> None:
        request_id = _request_id(scope["headers"])
        await refusal.send(request_id, send)
        self.refusals.add(refusal, request_id, scope["method"], URL.decode())

    def on_message_complete(self) -> None:
        """From the parser."""
        if self.parser.should_upgrade():
            return
        if self._held is not None:
            passage = Passage(self.turnstile)
            if passage.enter(usual=asks_for_the_usual(b"".join(self._held))):
                self._begin(passage)
            else:
                self._held, self._refused = None, True
        if self._refused:
            self._answer_refused(last=not self.parser.should_keep_alive())
            return
        super().on_message_complete()
        if self._dropped is not None:
            self._dropped = None
            self._disarm()
            if self._closes:
                self.transport.close()
            else:
                self._rest(self.timeout_keep_alive, spare=False)

    def on_response_complete(self) -> None:
        """From the answer."""
        unread = self.cycle.more_body and not self.pipeline
        super().on_response_complete()
        if unread and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._dropped = 0
            self._rest(_LINGER_S, spare=True)
        elif self._waits_for_head() and not self.transport.is_closing():
            if self._closes:
                self.transport.close()
                return
            self.idle.add(self, spare=False)
            if self._head_begun:
                self._arm(self.head_timeout)
        self._wait_for_reader()

    def send_400_response(self, msg: str) -> None:
        """Not HTTP, or more of it than is read."""
        if self._deaf:
            return
        self._held = None
        self._refuse(NOT_HTTP)

    def _waits_for_head(self) -> bool:
        return self._dropped is None and not self._refused and self._is_first()

    def _is_first(self) -> bool:
        """Whether no request before it on this connection still waits for its answer."""
        cycle: RequestResponseCycle | None = self.cycle  # None until the first request, whatever its annotation says
        return cycle is None or cycle.response_complete

    def _refuse(self, refusal: Refusal) -> None:
        if self.transport.is_closing():
            return
        if not self._is_first():  # an answer now would be taken for another request's
            self._listen_no_more()
            return
        request_id = request_id_of("")
        self.transport.write(refusal.answer(request_id, last=True))
        self.refusals.add(refusal, request_id)
        self.transport.close()

    def _listen_no_more(self) -> None:
        """What was taken is answered; with the last answer whoever waits for more learns that there will be none."""
        self._deaf = True
        self.cycle.keep_alive = False

    def _rest(self, seconds: float, *, spare: bool) -> None:
        """Nothing is asked on it, for so long at most. spare: see `Idle`."""
        self.idle.add(self, spare=spare)
        self._arm(seconds)

    def _arm(self, seconds: float) -> None:
        self._deadline = self.loop.time() + seconds
        if self._timer is not None and self._timer.when() > self._deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self.loop.call_at(self._deadline, self._look_at_clock)

    def _disarm(self) -> None:
        self._deadline = None

    def _look_at_clock(self, passed: float | None = None) -> None:
        """passed: the deadline of the look before, when it was over."""
        self._timer = None
        if self._deadline is None or self.transport.is_closing():
            return
        if self._deadline == passed:
            self.transport.close()
        elif self.loop.time() < self._deadline:
            self._timer = self.loop.call_at(self._deadline, self._look_at_clock)
        else:  # what came while the loop was busy is read before it closes
            self._timer = self.loop.call_later(_GRACE_S, self._look_at_clock, self._deadline)


class _Patient:
    """The transport as an answer sees it after which the client wants it closed: not while a body still comes."""

    def __init__(self, connection: Connection) -> None:
        self._transport = connection.transport
        self._cycle = weakref.ref(connection.cycle)  # whose transport this is
        self.write = self._transport.write
        self.is_closing = self._transport.is_closing

    def close(self) -> None:
        cycle = self._cycle()
        if cycle is None or not (cycle.response_complete and cycle.more_body):
            self._transport.close()


def _has_nothing_unsent(connection: Connection) -> bool:
    """Else closing it would wait for who may never read."""
    return connection.transport.get_write_buffer_size() == 0


def _request_id(headers: list[tuple[bytes, bytes]]) -> str:
    return request_id_of(dict(headers).get(b"x-request-id", b"").decode("latin-1"))


def _is_keyed(scope: Any) -> bool:
    return any(name == b"idempotency-key" for name, _ in scope["headers"])
