"""What happens in one execution, in order, for any number of readers who may come late or come back.

An event's id is a cursor: how much of stdout, stderr, results, error and artifacts a reader has once it has the
event. So a reader that was cut off says the last id it saw and gets exactly the rest, whether the execution is still
running, has ended, or ended before the server was started again and its log is made anew from its row.
"""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sandbox.batches import batches, in_turns
from sandbox.errors import InvalidRequest
from sandbox.execution import Calls, Execution, Output, Result, Stream

EventName = Literal["started", "stdout", "stderr", "result", "error", "calls", "artifact", "done"]
_COUNTERS = {"result": "results", "error": "errors", "artifact": "artifacts"}
"""Where a cursor counts an event, if not under its own name."""
_SHORT = 4096
"""Characters of a text to which more may be added, for a program that prints a letter at a time."""
_READ: Mapping[str, Any] = {"calls": Calls(())}
"""Of calls that somebody has."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """How much a reader has: characters of text, numbers of the rest."""

    stdout: int = 0
    stderr: int = 0
    results: int = 0
    errors: int = 0
    artifacts: int = 0
    done: int = 0

    def __str__(self) -> str:
        return ".".join(str(part) for part in dataclasses.astuple(self))

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Raises `InvalidRequest` for what was never an event's id."""
        parts = text.split(".")
        # Digits in number are bounded, because int() of many takes long.
        if len(parts) != 6 or not all(part.isascii() and part.isdigit() and len(part) < 12 for part in parts):
            raise InvalidRequest(f"{text[:80]!r} is not the id of an event; send the last id that was received")
        return cls(*(int(part) for part in parts))


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    name: EventName
    data: Mapping[str, Any]
    before: Cursor
    after: Cursor

    @property
    def id(self) -> str:
        """What a reader says to get all that comes after it."""
        return str(self.after)


class EventLog:
    """The events of one execution: written by one, read by any number."""

    def __init__(self, execution_id: str, session_id: str, created_at: float) -> None:
        """created_at: seconds since the epoch."""
        self.execution_id = execution_id
        self.session_id = session_id
        self.created_at = created_at
        self._at = Cursor()
        self._events: list[Event] = []
        self._read = 0
        """How many of them somebody has read."""
        self._news = asyncio.Event()
        self._outcome: asyncio.Future[Execution] = asyncio.get_running_loop().create_future()

    @classmethod
    def of(cls, execution: Execution, created_at: float) -> "EventLog":
        """The log of an execution that has ended."""
        log = cls(execution.id, execution.session_id, created_at)
        log.start()
        for name, text in (("stdout", execution.stdout), ("stderr", execution.stderr)):
            if text:
                log.add(Stream("stdout" if name == "stdout" else "stderr", text))
        for data in execution.results:
            log.add(Result(data))
        if execution.error is not None:
            log.add(execution.error)
        log.end(execution)
        return log

    def start(self) -> None:
        """The execution was accepted and can be found by its id. Comes first, however often it is said."""
        if not self._events:
            self._append("started", {"id": self.execution_id, "session_id": self.session_id})

    def add(self, output: Output) -> None:
        """An output came."""
        if isinstance(output, Stream):
            moved: dict[str, int] = {output.name: getattr(self._at, output.name) + len(output.text)}
            if not self._goes_on(output, moved):
                self._append(output.name, {"text": output.text}, **moved)
        elif isinstance(output, Result):
            data = {"data": output.data, "execution_count": output.execution_count}
            self._append("result", data, results=self._at.results + 1)
        else:
            self._append("error", dataclasses.asdict(output), errors=self._at.errors + 1)

    def _goes_on(self, output: Stream, moved: dict[str, int]) -> bool:
        """Whether the last event has become this one's, too: nobody has read it, and it is short."""
        last = self._events[-1] if len(self._events) > self._read else None
        if last is None or last.name != output.name or len(last.data["text"]) >= _SHORT:
            return False
        self._at = dataclasses.replace(self._at, **moved)
        self._events[-1] = dataclasses.replace(last, data={"text": last.data["text"] + output.text}, after=self._at)
        return True

    def call(self, calls: Calls) -> None:
        """Functions of whoever had it executed are wanted."""
        self._append("calls", {"calls": calls})

    def end(self, execution: Execution) -> None:
        """The execution has ended and its row is written."""
        self._append("done", {"execution": execution}, artifacts=len(execution.artifacts), done=1)
        if not self._outcome.done():
            self._outcome.set_result(execution)

    def fail(self, error: BaseException) -> None:
        """We failed, and there will be no end: every reader is told."""
        if not self._outcome.done():
            self._outcome.set_exception(error)
            self._outcome.exception()  # marked as seen: there may be no reader
        self._tell()

    async def result(self) -> Execution:
        """Wait for the end. Raises what `fail` was told."""
        return await asyncio.shield(self._outcome)

    async def follow(self, last_id: str | None = None, *, calls: bool = False) -> AsyncGenerator[Event, None]:
        """The events after the one of that id, until the end. Raises `InvalidRequest`, and what `fail` was told.

        calls: those that the program makes, too. They are for whoever had it executed and answers them, and are not
        counted by cursors. What was read is not kept: a program whose calls are answered may make any number of them.
        """
        seen = None if last_id is None else Cursor.parse(last_id)
        number = 0
        while True:
            while number < len(self._events):
                self._read = max(self._read, number + 1)
                async for whole in _unfolded(self._events[number]):
                    event = whole if seen is None else _rest(whole, seen)
                    if event is None or (event.name == "calls" and not calls):
                        continue
                    if event.name == "calls":
                        self._events[number] = dataclasses.replace(event, data=_READ)
                    yield event
                number += 1
            if self._outcome.done():
                self._outcome.result()
                return
            await self._news.wait()

    def _append(self, name: EventName, data: Mapping[str, Any], **moved: int) -> None:
        before, self._at = self._at, dataclasses.replace(self._at, **moved)
        self._events.append(Event(name, data, before, self._at))
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


async def _unfolded(event: Event) -> AsyncIterator[Event]:
    """The event; if it is the end, those of the artifacts first. They are made for who reads them: there may be
    thousands, and most only want the end.
    """
    if event.name == "done":
        at = event.before
        async for some in in_turns(batches(event.data["execution"].artifacts)):
            for artifact in some:
                before, at = at, dataclasses.replace(at, artifacts=at.artifacts + 1)
                yield Event("artifact", artifact.told(), before, at)
    yield event


def _rest(event: Event, seen: Cursor) -> Event | None:
    """What of the event a reader lacks who has as much as `seen` says."""
    if event.name in ("started", "calls"):
        return None
    counter = _COUNTERS.get(event.name, event.name)
    has, holds = getattr(seen, counter), getattr(event.after, counter)
    if has >= holds:
        return None
    # The order of a log made anew may differ: its ids have to go on from what this reader has.
    after = Cursor(*map(max, dataclasses.astuple(seen), dataclasses.astuple(event.after)))
    data = event.data
    if event.name in ("stdout", "stderr"):
        data = {"text": data["text"][max(0, has - getattr(event.before, counter)) :]}
    return dataclasses.replace(event, data=data, after=after)
