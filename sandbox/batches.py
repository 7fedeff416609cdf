"""Long lists, worked off a batch at a time: whoever else has a request is served between two, and not behind all."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
BATCH = 100
"""Items to which nothing slow is done take well under a millisecond; a request may have to wait for several batches."""


_BUSY_S = 0.004
_REST_S = 0.001


class _Busyness:
    """Of the loop's thread. What it lets go of for microseconds only, at each message it sends, no other thread gets:
    whoever waits for the interpreter is woken by that, finds it taken again, and has not waited long enough to ask for
    it. So the store's writer, for whom everybody waits, may stand still for tens of milliseconds.
    """

    def __init__(self) -> None:
        self._used = self._began = 0.0

    def wants_rest(self) -> bool:
        """Whether it has done little else lately."""
        used, passed = time.thread_time() - self._used, time.monotonic() - self._began
        if 0 <= used < _BUSY_S:  # else it is another thread, which begins anew
            return False
        self._used += used
        self._began += passed
        return used >= 0 and passed < 2 * used


_busyness = _Busyness()


def batches(items: Sequence[T], size: int = BATCH) -> Iterator[Sequence[T]]:
    """The items in order, `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


async def in_turns(parts: Iterable[T]) -> AsyncIterator[T]:
    """Each of them, and others' turn between two: tasks', and when that is not enough threads'. What is short, a single
    one, waits for nobody.
    """
    for number, part in enumerate(parts):
        if number:
            await asyncio.sleep(_REST_S if _busyness.wants_rest() else 0)
        yield part
