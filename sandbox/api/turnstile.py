"""How many runs may be inside at a time: refused at the door, a thousand requests too many cost little.

Whoever is refused here would be refused by the node anyway, but only after its body was read, parsed and checked.
"""

import asyncio
import json
from collections import deque
from collections.abc import Callable

from sandbox.api.problems import MEDIA_TYPE

URL = b"/v1/run"
_RETRY_S = 1
_PATIENCE_S = 0.1
"""For how long refusals go first, at most."""
_BODY = json.dumps(
    {
        "type": "urn:sandbox:problem:queue_full",
        "title": "Queue full",
        "status": 503,
        "detail": f"as many requests as may wait for a sandbox wait already; try again in {_RETRY_S} s",
        "code": "queue_full",
    }
).encode()
REFUSAL = (
    f"HTTP/1.1 503 Service Unavailable\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(_BODY)}\r\n"
    f"retry-after: {_RETRY_S}\r\ncache-control: no-store\r\nx-content-type-options: nosniff\r\n\r\n"
).encode() + _BODY
"""The whole answer, ready to be sent: a thousand of them are due at once."""


class Turnstile:
    """Counts the requests to `URL` from the end of their head to the end of their answer."""

    def __init__(self, most: int, refused: Callable[[], None]) -> None:
        """most: as many as could at best have a sandbox or wait for one. refused: called for each that is refused."""
        self._most = most
        self._inside = 0
        self._refused = refused
        self._turns: deque[asyncio.Future[None]] = deque()
        self._going = False
        self._until = 0.0
        self._refusals = 0
        self._refusals_seen = 0

    def enter(self) -> bool:
        """Whether there is room; then `leave` has to be called at the end."""
        if self._inside >= self._most:
            self._refused()
            self._refusals += 1
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
