"""Connections on which nothing is asked: when there are too many, one of them gives up its place."""

import itertools
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
_ASKED = 16


class Idle(Generic[T]):
    """In two rows, of which the first goes first: those that have never asked for anything, or have their last answer
    and only go on sending. The others wait for their next request.
    """

    def __init__(self) -> None:
        self._spare: dict[T, None] = {}
        self._known: dict[T, None] = {}

    def add(self, connection: T, *, spare: bool) -> None:
        """It is idle from now on. spare: it belongs into the first row."""
        self.discard(connection)
        (self._spare if spare else self._known)[connection] = None

    def discard(self, connection: T) -> None:
        """It is not, any more."""
        self._spare.pop(connection, None)
        self._known.pop(connection, None)

    def take(self, is_free: Callable[[T], bool]) -> T | None:
        """Which one to close: of the spare ones who has been it longest, then of the others.

        is_free: whether closing it would end it at once. Of each row a few are asked.
        """
        for row in (self._spare, self._known):
            for connection in itertools.islice(row, _ASKED):
                if is_free(connection):
                    del row[connection]
                    return connection
        return None
