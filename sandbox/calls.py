"""Functions of the caller's that a program waits for, from outside: calls come in, answers go out.

What comes in is hostile: init lets through what the program may call, in number and size, and that is looked at again.
An answer that does not come in time is given here, so that every call gets one and time that stands still goes on.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sandbox.background import Background
from sandbox.errors import TooLarge
from sandbox.execution import Answer, Called, Calls, Functions
from sandbox.guest.deadline import Deadline
from sandbox.guest.frames import MAX_WAITING, BadFrame, arguments_of

MAX_ANSWER = 1 << 20
"""Characters of one answer."""
_TOGETHER = 1 << 18
"""Characters of answers from which on a frame takes no more. As JSON a character has twelve bytes at most."""

_How = Literal["ok", "failed", "late"]
_Told = tuple[int, _How, str]
"""Call, how it went, text; as in `Frame.ANSWER`."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    number: int
    """As the sandbox knows the call."""
    timer: asyncio.TimerHandle


class RemoteCalls:
    """Those of one execution. send: answers to its init. deadline: the execution's, which stands still meanwhile."""

    def __init__(
        self, functions: Functions, deadline: Deadline, send: Callable[[Sequence[_Told]], Awaitable[None]]
    ) -> None:
        self._functions = functions
        self._deadline = deadline
        self._send = send
        self._waiting: dict[str, _Waiting] = {}
        self._late = Background()

    def on_wants(self, calls: list[Any]) -> Calls:
        """The program waits for these. Raises `BadFrame`, `TypeError`, `ValueError` for what it could not have said."""
        called = []
        for number, name, arguments in calls:
            if type(number) is not int or not isinstance(name, str) or not isinstance(arguments, str):
                raise BadFrame("a call that is none")
            if name not in self._functions.parameters or len(self._waiting) >= MAX_WAITING:
                raise BadFrame("a call of what cannot be called")
            call = Called(f"cal_{uuid.uuid4().hex}", name, arguments_of(arguments))
            timer = asyncio.get_running_loop().call_later(self._functions.answer_within_s, self._give_up, call)
            self._waiting[call.id] = _Waiting(number, timer)
            called.append(call)
        self._deadline.stop(time.monotonic())
        return Calls(tuple(called))

    async def answer(self, answers: Sequence[Answer]) -> int:
        """What calls have come to; the program goes on. How many of them it was waiting for: the rest is ignored.

        Answers given together let a program that goes on calling call together, too. Raises `TooLarge`, and then none
        was given.
        """
        for answer in answers:
            if len(answer.text) > MAX_ANSWER:
                raise TooLarge(f"the answer is {len(answer.text):,} characters long; {MAX_ANSWER:,} at most")
        return await self._tell([(each.call_id, "failed" if each.failed else "ok", each.text) for each in answers])

    async def _tell(self, answers: Sequence[tuple[str, _How, str]]) -> int:
        now = time.monotonic()
        known: list[_Told] = []
        for call_id, how, text in answers:
            if (waiting := self._waiting.pop(call_id, None)) is not None:
                waiting.timer.cancel()
                known.append((waiting.number, how, text))
                if how == "late":
                    self._deadline.give_up(now)
                elif not self._waiting:
                    self._deadline.go_on(now)
        # Whoever is cut off while it sends has answered all the same.
        await asyncio.shield(self._late.spawn(self._send_all(known), "answers"))
        return len(known)

    async def _send_all(self, answers: Sequence[_Told]) -> None:
        with contextlib.suppress(ConnectionError):  # the kernel's reader will say so
            for together in _parcels(answers):
                await self._send(together)

    def _give_up(self, call: Called) -> None:
        words = f"{call.name} was not answered within {self._functions.answer_within_s:g} s"
        self._late.spawn(self._tell([(call.id, "late", words)]), f"late {call.id}")

    def end(self) -> None:
        """Nobody waits any more."""
        for waiting in self._waiting.values():
            waiting.timer.cancel()
        self._waiting.clear()


def _parcels(answers: Sequence[_Told]) -> Iterator[list[_Told]]:
    """As few as fit into frames."""
    together: list[_Told] = []
    size = 0
    for answer in answers:
        together.append(answer)
        size += len(answer[2])
        if size >= _TOGETHER:
            yield together
            together, size = [], 0
    if together:
        yield together
