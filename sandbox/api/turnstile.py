"""How many runs may be inside at a time: refused at the door, a thousand requests too many cost little.

Whoever is refused here would be refused by the node anyway, but only after its body was parsed and checked. A request
is inside from the end of its body, so that nobody takes a place who does not come, until its answer begins.
"""

import asyncio
from collections import deque

from sandbox.api.refusal import Refusal
from sandbox.errors import QueueFull

URL = b"/v1/run"
_RETRY_S = 1
_PATIENCE_S = 0.25
"""For how long refusals go first, at most."""
_WORDS = f"as many requests as may wait for a sandbox wait already; try again in {_RETRY_S} s"
FULL = Refusal(503, "queue_full", _WORDS, _RETRY_S)


class Turnstile:
    """Counts the requests to `URL`."""

    def __init__(self, most: int) -> None:
        """most: as many as could at best have a sandbox or wait for one."""
        self._most = most
        self._inside = 0
        self._turns: deque[asyncio.Future[None]] = deque()
        self._going = False
        self._until = 0.0
        self._refusals = 0
        self._refusals_seen = 0

    @property
    def full(self) -> bool:
        """Whether whoever comes now is refused."""
        return self._inside >= self._most

    def refused(self) -> None:
        """Somebody was, because it is full."""
        self._refusals += 1

    def enter(self) -> bool:
        """Whether there is room; then `leave` has to be called at the end."""
        if self.full:
            self.refused()
            return False
        self._inside += 1
        return True

    def leave(self) -> None:
        self._inside -= 1

    async def turn(self) -> None:
        """One of those inside goes on in each round of the loop: between them the others are read, and refused.

        While rounds bring refusals, those inside wait a little longer, because a refusal is over in no time.
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
        if self._refusals != self._refusals_seen and loop.time() < self._until:
            self._refusals_seen = self._refusals
            loop.call_soon(self._next, loop)
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

    def __init__(self, turnstile: Turnstile, *, inside: bool) -> None:
        """inside: it has entered already."""
        self._turnstile = turnstile
        self._inside = inside
        self._passed = inside

    async def enter(self) -> None:
        """Its body is here. Once is enough. Raises `QueueFull`."""
        if self._passed:
            return
        self._passed = True
        if not self._turnstile.enter():
            raise QueueFull(_WORDS, _RETRY_S)
        self._inside = True
        await self._turnstile.turn()

    def leave(self) -> None:
        """Its answer begins, or it is over. Twice is once."""
        if self._inside:
            self._inside = False
            self._turnstile.leave()
