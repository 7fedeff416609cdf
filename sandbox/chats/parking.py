"""Runs that outlive the request that began them, because a program of theirs waits for functions of the caller's.

A `Run` goes on in a task of its own, whoever reads it. When the reader has come to a call, it answers its request with
that and parks the run; the caller's next request takes it, answers the calls and reads on. A caller who does not come
back in time is not waited for: the program sees a `TimeoutError`, the run goes on to its end, and what came of it is
kept for a while. So it is when that next request is cut off: whoever sends it again reads the same from the start.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from sandbox.background import Background
from sandbox.changed import Changed
from sandbox.chats import Chat
from sandbox.execution import Answer, Called
from sandbox.loop.events import Event, Ran, Wants

T = TypeVar("T")
MOST = 256
"""Runs that are parked at a time; beyond them the first of the owner who has the most is ended."""
KEPT_S = 900.0
"""For how long. Each call is given up after `Options.answer_within_s`, which is less."""
_LEAVING_S = 20.0
"""How long who comes waits for who reads: it may be the same caller, cut off, and we have not noticed yet, for which a
stream takes until its next heartbeat.
"""


@dataclass(frozen=True, slots=True)
class _End:
    error: Exception | None


class Run:
    """A chat that goes on by itself. Use `Parking.run`.

    What happens is kept until it is read, and from the first `forget` on until the next one: outputs and answers are
    bounded by themselves.
    """

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.ended = False
        """Everything has been read."""
        self.reader: object = None
        """Who reads it; see `Parking.using`."""
        self._open: dict[str, Called] = {}
        self._before: dict[str, Called] = {}
        """The calls that were open at the start of what is kept."""
        self._kept: list[Event | _End] = []
        self._place = 0
        """How many of these were read."""
        self._repeats = False
        """They stay when they were read."""
        self._happened = Changed()
        self._task = asyncio.create_task(self._go(), name=f"run {chat.trace_id}")

    @property
    def waits_for(self) -> tuple[Called, ...]:
        """Calls that were read and not answered. With any of them there is nothing to read but to answer first."""
        return tuple(self._open.values())

    async def read(self) -> AsyncGenerator[Event, None]:
        """What happens, until the end of the run, or until there is no more before calls are answered.

        May be called again then. Raises what `Chat.events` raises.
        """
        while not self.ended and not (self._open and self._is_all_read()):
            await self._happened.wait_for(lambda: not self._is_all_read())
            item = self._kept[self._place]
            self._place += 1
            if not self._repeats and self._is_all_read():
                self._drop()
            if isinstance(item, _End):
                self.ended = True
                self._open.clear()
                if item.error is not None:
                    raise item.error
                return
            if isinstance(item, Wants):
                self._open |= {called.id: called for called in item.calls}
            elif isinstance(item, Ran):
                self._open.clear()
            yield item

    def _is_all_read(self) -> bool:
        return self._place == len(self._kept)

    def _drop(self) -> None:
        del self._kept[: self._place]
        self._place = 0

    def forget(self) -> None:
        """What has been read has reached the caller, who will not want it again; what comes now may be."""
        self._drop()
        self._repeats = True
        self._before = dict(self._open)

    def rewind(self) -> None:
        """Read again what has happened since `forget`."""
        self._place = 0
        self._open = dict(self._before)
        self.ended = False

    async def answer(self, answers: Sequence[Answer]) -> int:
        """What calls have come to; how many of them the program still waited for. Raises `TooLarge`."""
        count = await self.chat.answer(*answers)
        for answer in answers:
            self._open.pop(answer.call_id, None)
        return count

    async def aclose(self) -> None:
        """End it, if it goes on. May be called twice."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _go(self) -> None:
        error = None
        try:
            async with contextlib.aclosing(self.chat.events()) as events:
                async for event in events:
                    self._keep(event)
        except Exception as raised:
            error = raised
        self._keep(_End(error))

    def _keep(self, item: Event | _End) -> None:
        self._kept.append(item)
        self._happened.notify()


@dataclass(slots=True)
class _Parked(Generic[T]):
    run: Run
    note: T
    expiry: asyncio.TimerHandle


class Parking(Generic[T]):
    """Where runs wait, at most one of a session. T: what else the reader wants to find again. Use it within `open`."""

    def __init__(self, *, most: int = MOST, kept_s: float = KEPT_S) -> None:
        self._most = most
        self._kept_s = kept_s
        self._parked: dict[tuple[str, str], _Parked[T]] = {}
        self._closing = Background()
        self._readers = Counter[str]()
        """Of the runs of sessions."""
        self._left = Changed()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Self]:
        """At the end of the block, everything that is parked is ended."""
        try:
            yield self
        finally:
            for owner, session_id in list(self._parked):
                self._end(owner, session_id)
            await self._closing.settle()

    def __len__(self) -> int:
        return len(self._parked)

    @contextlib.asynccontextmanager
    async def run(self, chat: Chat) -> AsyncIterator[Run]:
        """The chat, begun; see `using`."""
        async with self.using(Run(chat)) as run:
            yield run

    @contextlib.asynccontextmanager
    async def using(self, run: Run) -> AsyncIterator[Run]:
        """Within the block it is the reader's; at its end the run is ended, unless it was parked."""
        # Who has parked it may still be on the way out of the block when the next reader has it.
        reader = run.reader = object()
        session_id = run.chat.session_id or ""
        self._readers[session_id] += 1
        try:
            yield run
        finally:
            self._readers[session_id] -= 1
            if not self._readers[session_id]:
                del self._readers[session_id]
            self._left.notify()
            if run.reader is reader:
                await run.aclose()

    def park(self, owner: str, session_id: str, run: Run, note: T) -> None:
        """Leave it for the caller's next request. owner: a key's id."""
        self._end(owner, session_id)
        run.reader = None
        if len(self._parked) >= self._most:
            owners = Counter(each for each, _ in self._parked)
            owners[owner] += 1
            [(most, _)] = owners.most_common(1)
            self._end(*next((each for each in self._parked if each[0] == most), next(iter(self._parked))))
        expiry = asyncio.get_running_loop().call_later(self._kept_s, self._end, owner, session_id)
        self._parked[owner, session_id] = _Parked(run, note, expiry)

    def take(self, owner: str, session_id: str) -> tuple[Run, T] | None:
        """What was parked for the session; from now on it is the reader's, who has it in a block of `using`."""
        parked = self._parked.pop((owner, session_id), None)
        if parked is None:
            return None
        parked.expiry.cancel()
        return parked.run, parked.note

    async def take_back(self, owner: str, session_id: str) -> tuple[Run, T] | None:
        """The same, of a session that may be about to be parked."""
        key = owner, session_id
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVING_S):
                await self._left.wait_for(lambda: key in self._parked or session_id not in self._readers)
        return self.take(owner, session_id)

    def _end(self, owner: str, session_id: str) -> None:
        if (taken := self.take(owner, session_id)) is not None:
            self._closing.spawn(taken[0].aclose(), f"end of what session {session_id} waited for")
