"""Requests that are open, by owner: who leaves answers unread, or streams for ever, must not keep others out."""

from collections import Counter

from sandbox.errors import Overloaded

MOST = 4096
"""Of one owner; half of the connections that there may be, so that others and health checks get in."""
_RETRY_S = 5.0


class Guests:
    """For use from one event loop."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    def come(self, owner: str) -> None:
        """One more, until `go`. Raises `Overloaded`."""
        if self._open[owner] >= MOST:
            raise Overloaded(f"this key has {MOST:,} requests open; end some, or try again", _RETRY_S)
        self._open[owner] += 1

    def go(self, owner: str) -> None:
        """It is over."""
        self._open[owner] -= 1
        if not self._open[owner]:
            del self._open[owner]
