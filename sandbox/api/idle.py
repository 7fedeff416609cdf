"""Connections on which nothing is asked: when there are too many, one of them gives up its place."""

import itertools
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
_ASKED = 16


class Idle(Generic[T]):
    """Those that wait for a request's head, in two rows: nobody knows who the silent ones are."""

    def __init__(self) -> None:
        self._silent: dict[T, None] = {}
        self._known: dict[T, None] = {}

    def add(self, connection: T, *, silent: bool) -> None:
        """It waits from now on. silent: it has never asked for anything."""
        (self._silent if silent else self._known)[connection] = None

    def discard(self, connection: T) -> None:
        """It does not, any more."""
        self._silent.pop(connection, None)
        self._known.pop(connection, None)

    def take(self, is_free: Callable[[T], bool]) -> T | None:
        """Which one to close: of the silent ones the first, then of the others who has waited longest.

        is_free: whether closing it would end it at once. Of each row a few are asked.
        """
        for row in (self._silent, self._known):
            for connection in itertools.islice(row, _ASKED):
                if is_free(connection):
                    del row[connection]
                    return connection
        return None
