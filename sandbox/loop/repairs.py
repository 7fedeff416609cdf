"""Failures in a row, from the first until one execution is ok: what a repair has cost."""

from collections.abc import Callable

from sandbox.loop.events import Repair
from sandbox.loop.messages import Usage


class Streak:
    """The failures since the last execution that was ok. `clock`: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._error_class = ""
        self._failures = 0
        self._since = 0.0
        self._used = Usage()

    @property
    def failures(self) -> int:
        """How many."""
        return self._failures

    def fail(self, error_class: str, used: Usage) -> None:
        """One more. used: by the run so far."""
        if not self._failures:
            self._error_class, self._since, self._used = error_class, self._clock(), used
        self._failures += 1

    def end(self, used: Usage, *, repaired: bool) -> Repair | None:
        """It is over; None when there was none."""
        if not self._failures:
            return None
        seconds, failures, self._failures = self._clock() - self._since, self._failures, 0
        return Repair(self._error_class, failures, repaired, used - self._used, seconds)
