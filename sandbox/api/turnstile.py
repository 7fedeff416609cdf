"""How many runs may be inside at a time: refused at the door, a thousand requests too many cost little.

Whoever is refused here would be refused by the node anyway, but only after its body was parsed and checked. A request
is inside from the end of its body, so that nobody takes a place who does not come, until its answer begins.

How much memory a request asks for is not known before it is parsed; only that it is the usual when its body does not
even have the word. So more come in than find room. As soon as all queues are full, those that have not had their turn
are refused, too.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from functools import cache

from sandbox.api.refusal import Refusal
from sandbox.errors import QueueFull

URL = b"/v1/run"
_RETRY_S = 1
_QUIET_S = 0.005
"""Since the last refusal, until one of those inside goes on: long enough for a client that is writing a burst to us."""
_PATIENCE_S = 0.25
"""For how long refusals go first, at most."""


def _words(retry_s: int) -> str:
    return f"as many requests as may wait for a sandbox wait already; try again in {retry_s} s"


@cache  # a minute at most is ever told
def _full(retry_s: int) -> Refusal:
    return Refusal(503, "queue_full", _words(retry_s), retry_s)


FULL = _full(_RETRY_S)


def asks_for_the_usual(body: bytes) -> bool:
    """Whether no `memory_mb` can be in this JSON: neither as it is, nor with escapes, nor in UTF-16."""
    return b"memory_mb" not in body and b"\\u" not in body and b"\0" not in body


class Turnstile:
    """Counts the requests to `URL`."""

    def __init__(self, most: int, most_usual: int, retry_after: Callable[[], float | None]) -> None:
        """most: as many as could at best have a sandbox or wait for one; most_usual: of those that ask for the usual
        memory. retry_after: seconds that whoever comes now is told to wait by the node, whatever it asks for; None when
        there may be room.
        """
        self._most = most
        self._most_usual = most_usual
        self._retry_after = retry_after
        self._usual = 0
        self._inside = 0
        self._turns: deque[asyncio.Future[None]] = deque()
        self._going = False
        self._until = 0.0
        self._refused_at = -math.inf

    @property
    def full(self) -> bool:
        """Whether whoever comes now is refused."""
        return self._inside >= self._most

    def refusal(self) -> Refusal | None:
        """For one inside that has its turn, when the node would refuse it; None when that has to be asked."""
        seconds = self._retry_after()
        return None if seconds is None else _full(math.ceil(seconds))

    def refused(self) -> None:
        """Somebody was, because it is full."""
        self._refused_at = asyncio.get_running_loop().time()

    def enter(self, *, usual: bool) -> bool:
        """Whether there is room; then `leave` has to be called at the end. usual: it asks for the usual memory."""
        if self.full or (usual and self._usual >= self._most_usual):
            self.refused()
            return False
        self._inside += 1
        self._usual += usual
        return True

    def leave(self, *, usual: bool) -> None:
        """As it entered."""
        self._inside -= 1
        self._usual -= usual

    async def turn(self) -> None:
        """One of those inside goes on in each round of the loop: between them the others are read, and refused.

        While there are refusals, those inside wait a little longer: a refusal is over in no time, and what a sandbox
        computes meanwhile is taken from who refuses and from who is refused.
        """
        loop = asyncio.get_running_loop()
        if not self._going:
            self._going, self._until = True, loop.time() + _PATIENCE_S
            loop.call_soon(self._next, loop)
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._turns.append(turn)
        await turn

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        quiet = min(self._refused_at + _QUIET_S, self._until)
        if loop.time() < quiet:
            loop.call_at(quiet, self._next, loop)
            return
        while self._turns:
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)
                loop.call_soon(self._next, loop)
                return
        self._going = False


class Passage:
    """One request's way through."""

    def __init__(self, turnstile: Turnstile) -> None:
        self._turnstile = turnstile
        self._usual = False
        self._inside = False
        self._passed = False

    @property
    def inside(self) -> bool:
        """Between the two."""
        return self._inside

    def enter(self, *, usual: bool = False) -> bool:
        """Whether there is room. usual: as far as can be told, it asks for the usual memory."""
        self._passed, self._usual = True, usual
        self._inside = self._turnstile.enter(usual=usual)
        return self._inside

    async def enter_late(self) -> None:
        """Its body is here, which did not come with its head. Once is enough. Raises `QueueFull`."""
        if self._passed:
            return
        if not self.enter():
            raise QueueFull(_words(_RETRY_S), _RETRY_S)
        await self._turnstile.turn()

    def leave(self) -> None:
        """Its answer begins, or it is over. Twice is once."""
        if self._inside:
            self._inside = False
            self._turnstile.leave(usual=self._usual)
