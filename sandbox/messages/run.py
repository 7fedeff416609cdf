"""A run of the loop as one message of the dialect."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any

from sandbox.calls import MAX_ANSWER
from sandbox.chats import Chat
from sandbox.chats.parking import Parking
from sandbox.chats.parking import Run as Running
from sandbox.errors import InvalidRequest, RateLimited, SandboxError
from sandbox.execution import Answer
from sandbox.keys import Owner
from sandbox.loop import events as happened
from sandbox.loop import tool as run_python
from sandbox.loop.anthropic_messages import results
from sandbox.loop.anthropic_messages.asked import Asked
from sandbox.loop.anthropic_messages.results import BASH, EDITOR, PYTHON
from sandbox.loop.anthropic_messages.said import Result, call_id
from sandbox.loop.anthropic_messages.writing import Event, Writing
from sandbox.loop.events import Ending
from sandbox.loop.messages import Opaque, Reply, Text, ToolCall, Usage
from sandbox.loop.surrogates import encodable
from sandbox.messages.capture import Capture
from sandbox.messages.container import described
from sandbox.node import Node

_STOPS = {
    Ending.CALLS: "tool_use",
    Ending.LENGTH: "max_tokens",
    Ending.FILTERED: "refusal",
    Ending.TURNS: "pause_turn",
}
"""All others are `end_turn`: the model, or we in its place, have said how it ended."""
_NAMES = {run_python.NAME: PYTHON, PYTHON: PYTHON, BASH: BASH, EDITOR: EDITOR}


class Run:
    """One answer, or several: when code waits for a tool of the caller's, the answer ends and `go_on` begins another.

    `events` may be called once for each; `message` is what they made.
    """

    def __init__(
        self,
        node: Node,
        owner: Owner,
        chat: Chat,
        asked: Asked,
        capture: Capture,
        session_id: str | None,
        parking: Parking["Run"] | None,
    ) -> None:
        """session_id: of the container that the caller named. parking: None when code can call nothing."""
        self.stream = asked.stream
        """The caller wants the events."""
        self._node = node
        self._owner = owner
        self._chat = chat
        self._capture = capture
        self._session_id = session_id
        self._is_named = session_id is not None
        """The caller knows the container, or is about to."""
        self._late_is_result = asked.version is not None and asked.version.late_is_result
        self._run = chat.trace_id.removeprefix("trc_")
        self._writing = Writing(f"msg_{self._run}", asked.request.model)
        self._words = _Words(self._writing, asked, hidden=chat.fenced)
        self._turn = 0
        self._ids: dict[str, str] = {}
        """Of this turn's calls, by what the upstream calls them."""
        self._open: str | None = None
        """The call whose block has been written and whose result has not."""
        self._parking = parking
        self._running: Running | None = None
        """Once its code has waited."""
        self._answers: tuple[Answer, ...] = ()
        """For the calls that code waits for."""
        self._part = 1
        self._told = Usage()
        """What earlier answers have counted."""
        self._used = Usage()
        self._begun = self._place
        """Where this answer has begun."""

    @property
    def _place(self) -> tuple[int, dict[str, str], str | None, Usage, Usage]:
        """How far the run has been told."""
        return self._turn, dict(self._ids), self._open, self._told, self._used

    @property
    def message(self) -> dict[str, Any]:
        """All of it."""
        return self._writing.message

    async def events(self) -> AsyncGenerator[Event, None]:
        """The message as it comes. Raises what `Chat.events` raises.

        A container that it has made ends with it if it does not get as far as to name it: nobody could use it.
        """
        try:
            async with contextlib.aclosing(self._events()) as events:
                async for event in events:
                    yield event
        finally:
            if not self._is_named and (session_id := self._chat.session_id) is not None:
                work = self._node.background(self._retire(session_id), f"retire {session_id}")
                await asyncio.shield(work)

    async def _retire(self, session_id: str) -> None:
        with contextlib.suppress(SandboxError):  # it has ended meanwhile
            await self._node.retire_session(self._owner, session_id)

    async def _events(self) -> AsyncGenerator[Event, None]:
        if self._parking is None:
            async with contextlib.aclosing(self._all(self._chat.events())) as events:
                async for event in events:
                    yield event
            return
        last: list[Event] = []
        using = self._parking.run(self._chat) if self._running is None else self._parking.using(self._running)
        async with using as running:
            try:
                if self._answers:
                    await running.answer(self._answers)
                async with contextlib.aclosing(self._all(running.read())) as events:
                    async for event in events:
                        yield event
                if not running.ended and self._chat.session_id is not None:
                    last = await self._suspended()
                    # Before the answer ends: whoever has it may send the next request at once.
                    self._park(running)
            except (asyncio.CancelledError, GeneratorExit):
                # The first answer can be had by the same request, over again; this one only from here.
                if self._answers:
                    self._park(running)
                raise
        for event in last:
            yield event

    def _park(self, running: Running) -> None:
        session_id = self._chat.session_id
        assert self._parking is not None
        assert session_id is not None, "code waits in a session"
        self._parking.park(self._owner.id, session_id, running, self)

    async def _all(self, happening: AsyncGenerator[happened.Event, None]) -> AsyncGenerator[Event, None]:
        for event in self._writing.begin():
            yield event
        async with contextlib.aclosing(happening) as items:
            async for item in items:
                async for event in self._written(item):
                    yield event

    async def _suspended(self) -> list[Event]:
        """The end of an answer after which code waits."""
        usage, self._told = self._used - self._told, self._used
        return list(self._writing.end("tool_use", usage, await self._container()))

    def go_on(self, asked: Asked, running: Running, results: Sequence[Result]) -> None:
        """With the results of the calls that code waits for, in an answer of its own; or with those of the last answer,
        which was cut off, to have it again. Raises `InvalidRequest`.
        """
        if self._repeats(results):
            running.rewind()
            self._turn, ids, self._open, self._told, self._used = self._begun
            self._ids = dict(ids)
        else:
            self._answers = self._answered(running, results)
            self._part += 1
            self._begun = self._place
            running.forget()
        self._running = running
        self.stream = asked.stream
        # The id of a message is of 32 digits; the answers of one run have the same but for their number.
        self._writing = Writing(f"msg_{self._run[:-4]}{self._part:04x}", asked.request.model)
        self._words = _Words(self._writing, asked, hidden=self._chat.fenced)

    def _repeats(self, results: Sequence[Result]) -> bool:
        given = [(result.call_id, result.text, result.failed) for result in results]
        return sorted(given) == sorted((_inner_id(each.call_id), each.text, each.failed) for each in self._answers)

    def _answered(self, running: Running, results: Sequence[Result]) -> tuple[Answer, ...]:
        waiting = {_inner_id(called.id): called.id for called in running.waits_for}
        given = {result.call_id: result for result in results}
        if missing := waiting.keys() - given.keys():
            raise InvalidRequest(
                f"messages: code waits for the result of {sorted(missing)[0]}, too; send them together"
            )
        if others := given.keys() - waiting.keys():
            raise InvalidRequest(f"messages: no code waits for the result of {sorted(others)[0][:80]}")
        if long := [result.call_id for result in results if len(result.text) > MAX_ANSWER]:
            raise InvalidRequest(f"messages: the result of {long[0]} is too long; {MAX_ANSWER:,} characters at most")
        return tuple(Answer(waiting[name], given[name].text, given[name].failed) for name in waiting)

    async def _written(self, item: happened.Event) -> AsyncGenerator[Event, None]:
        match item:
            case happened.Said():
                written = self._words.say(item.text)
            case happened.Replied():
                self._begin_turn(item)
                written = self._words.turn(item.reply)
            case happened.Running():
                written = self._call(item.call, item.code)
            case happened.Wants():
                written = self._wants(item)
            case happened.Ran():
                name = _NAMES[item.call.name]
                late = self._late_is_result and name == PYTHON
                content = results.content(name, item.execution, late_is_result=late)
                await self._capture.into(content, name, item.execution)
                written = self._result(item.call, content)
            case happened.Unusable() if item.call.name in _NAMES:
                written = self._unusable(item)
            case happened.Finished():
                container = await self._container()
                written = self._end(item, container)
            case _:
                return
        for event in written:
            yield event

    def _wants(self, item: happened.Wants) -> Iterator[Event]:
        by = self._id(item.call, hosted=True)
        for called in item.calls:
            given = dict(called.arguments)
            yield from self._writing.call(_inner_id(called.id), called.name, given, hosted=False, by=by)

    def _begin_turn(self, replied: happened.Replied) -> None:
        self._used += replied.reply.usage
        self._turn = replied.turn
        self._ids = {}

    def _id(self, call: ToolCall, *, hosted: bool) -> str:
        """Ours, by which a later request puts the calls of a turn together again."""
        return self._ids.setdefault(call.id, call_id(self._run, self._turn, len(self._ids), hosted=hosted))

    def _call(self, call: ToolCall, code: str) -> Iterator[Event]:
        name = _NAMES[call.name]
        given = {"code": code} if name == PYTHON else _object(call.arguments)
        self._open = call.id
        return self._writing.call(self._id(call, hosted=True), name, given, hosted=True)

    def _result(self, call: ToolCall, content: Mapping[str, Any]) -> Iterator[Event]:
        self._open = None
        return self._writing.result(self._id(call, hosted=True), _NAMES[call.name], content)

    def _unusable(self, item: happened.Unusable) -> Iterator[Event]:
        if self._open != item.call.id:
            named = self._id(item.call, hosted=True)
            yield from self._writing.call(named, _NAMES[item.call.name], _object(item.call.arguments), hosted=True)
        if item.error is None:
            code = "invalid_tool_input"
        else:
            code = "too_many_requests" if isinstance(item.error, RateLimited) else "unavailable"
        yield from self._result(item.call, results.failure(_NAMES[item.call.name], code, item.told))

    def _end(self, finished: happened.Finished, container: Mapping[str, Any] | None) -> Iterator[Event]:
        yield from self._words.rest(finished)
        if finished.why is Ending.CALLS:
            for call in finished.answer.calls:
                if call.name in self._chat.functions:
                    named = self._id(call, hosted=False)
                    yield from self._writing.call(named, call.name, _object(call.arguments), hosted=False)
        stop = _STOPS.get(finished.why, "end_turn")
        yield from self._writing.end(stop, finished.spent.usage - self._told, container)

    async def _container(self) -> dict[str, Any] | None:
        """Where code has run, or can run next time, and until when."""
        session_id = self._chat.session_id or self._session_id
        if session_id is None:
            return None
        container = described(await self._node.session(self._owner, session_id))
        self._is_named = True
        return container


class _Words:
    """What the caller sees of what the model says.

    Thinking is in a reply and not among the words that come before it, so where there may be some, or where nobody
    watches, a turn is written when it is over, in its own order. Programs in fences are not for reading at all.
    """

    def __init__(self, writing: Writing, asked: Asked, *, hidden: bool) -> None:
        thinking = asked.request.anthropic.get("thinking")
        thinks = isinstance(thinking, Mapping) and thinking.get("type") != "disabled"
        self._writing = writing
        self._hidden = hidden
        self._waits = thinks or not asked.stream
        self._waiting: list[str] = []

    def say(self, text: str) -> Iterator[Event]:
        if self._hidden or self._waits:
            self._waiting.append(text)
        else:
            yield from self._writing.text(text)

    def turn(self, reply: Reply) -> Iterator[Event]:
        """The turn is over."""
        self._waiting.clear()
        self._writing.stopped_at = reply.stopped_at
        for part in reply.message.parts:
            if isinstance(part, Text) and self._waits and not self._hidden:
                yield from self._writing.text(part.text)
                yield from self._writing.pause()
            elif isinstance(part, Opaque) and part.dialect == "anthropic":
                yield from self._writing.thought(part.value)
        yield from self._writing.pause()

    def rest(self, finished: happened.Finished) -> Iterator[Event]:
        """What has not been written yet: our own words, and of a model with fences its answer."""
        if self._hidden:
            yield from self._writing.text(finished.answer.text)
        else:
            yield from self._writing.text("".join(self._waiting))
        yield from self._writing.pause()


def _inner_id(call_id: str) -> str:
    """Of a call that code has made, in the caller's words."""
    return f"toolu_{call_id.removeprefix('cal_')}"


def _object(arguments: str) -> dict[str, Any]:
    """A call's arguments as an object, whatever the model wrote."""
    try:
        read = encodable(json.loads(arguments or "{}", strict=False), finite=True)
    except (ValueError, RecursionError):
        read = None
    return read if isinstance(read, dict) else {"invalid": arguments}
