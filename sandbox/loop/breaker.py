"""A circuit breaker: an upstream that fails is left alone for a while, then asked once.

Our own, because what could be installed does not do: purgatory reads the wall clock, lets every request through when
it is half open and counts consecutive failures only; pybreaker knows asyncio through Tornado alone; aiobreaker had its
last release in 2021.
"""

from collections import deque
from typing import Literal, get_args

from sandbox.loop.clock import Clock

State = Literal["closed", "open", "half_open"]
"""Everything goes through; nothing does; one try at a time does, which decides."""
STATES: tuple[State, ...] = get_args(State)
_PROBE_S = 1.0
"""What a request is told to wait while another is the one that may try. Nobody knows how long that takes."""


class Breaker:
    """One upstream's. Opens on failures in a row, or when half of the last `window` tries failed.

    Every try that `enter` lets through is ended with `succeeded`, `failed` or `abandoned`, and the number that it got.
    """

    def __init__(self, clock: Clock, *, failures: int, rest_s: float, window: int = 20) -> None:
        """failures: in a row. rest_s: seconds for which it stays open. window: tries."""
        self._clock = clock
        self._failures = failures
        self._rest_s = rest_s
        self._window = window
        self._recent: deque[bool] = deque(maxlen=window)
        self._in_a_row = 0
        self._opened: float | None = None
        self._probing = False
        # Tries that began before it opened or closed say nothing of what is now.
        self._epoch = 0

    @property
    def state(self) -> State:
        """As it is now."""
        if self._opened is None:
            return "closed"
        return "half_open" if self._clock.now() - self._opened >= self._rest_s else "open"

    @property
    def wait(self) -> float:
        """Seconds until a try is let through, as far as is known; 0 when one would be now."""
        if self._opened is None:
            return 0.0
        left = self._opened + self._rest_s - self._clock.now()
        if left > 0:
            return left
        return _PROBE_S if self._probing else 0.0

    def enter(self) -> int | None:
        """The number of a try that may go ahead; None when none may."""
        if self.wait > 0:
            return None
        self._probing = self._opened is not None
        return self._epoch

    def enter_anyway(self) -> int:
        """The number of a try that goes ahead although the breaker is open: its success closes it, and all else says
        nothing new.
        """
        return self._epoch

    def succeeded(self, number: int) -> bool:
        """The upstream is well. Whether that says something of what is now."""
        if number != self._epoch:
            return False
        if self._opened is not None:
            self._turn(None)
        self._in_a_row = 0
        self._recent.append(True)
        return True

    def failed(self, number: int) -> None:
        """The upstream is not."""
        if number != self._epoch:
            return
        self._in_a_row += 1
        self._recent.append(False)
        bad = len(self._recent) == self._window and 2 * self._recent.count(False) >= self._window
        if self._opened is not None or self._in_a_row >= self._failures or bad:
            self._turn(self._clock.now())

    def abandoned(self, number: int) -> None:
        """Nothing was learnt."""
        if number == self._epoch:
            self._probing = False

    def _turn(self, opened: float | None) -> None:
        self._opened = opened
        self._probing = False
        self._in_a_row = 0
        self._recent.clear()
        self._epoch += 1
