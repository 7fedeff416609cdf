"""Log lines that anybody can cause in any number: so many are written that a disk is not filled by who is refused."""

import time
from collections.abc import Callable

_BURST = 1000
_PER_SECOND = 10.0
LONGEST_PATH = 256
"""Characters of a path that a line has."""


class Lines:
    """Which lines are written: a thousand at once, then ten a second. For one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds."""
        self._clock = clock
        self._room = float(_BURST)
        self._since = clock()
        self._left_out = 0

    def next(self) -> dict[str, int] | None:
        """What the next line has to say besides its own: how many before it were left out. None: it is one of them."""
        now = self._clock()
        self._room = min(_BURST, self._room + (now - self._since) * _PER_SECOND)
        self._since = now
        if self._room < 1:
            self._left_out += 1
            return None
        self._room -= 1
        left_out, self._left_out = self._left_out, 0
        return {"lines_left_out": left_out} if left_out else {}
