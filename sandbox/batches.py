"""Long lists, worked off a batch at a time: whoever else has a request is served between two, and not behind all."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
BATCH = 100
"""Items to which nothing slow is done take well under a millisecond; a request may have to wait for several batches."""
_BUSY_S = 0.004
"""Of processor time, after which the loop's thread rests, if it has done little else meanwhile."""
_REST_S = 0.001


class _Busyness:
    """Of the loop's thread.

    A thread that wants the interpreter asks for it when nobody has let go of it for a while. A loop that moves
    megabytes lets go of it at each system call, for microseconds: too short for who has to be woken first, and enough
    to make it wait anew. So the store's writer, for whom everybody waits, might stand still for tens of milliseconds.
    """

    def __init__(self) -> None:
        self._used = self._began = self._rests_until = 0.0

    def wants_rest(self) -> bool:
        """Whether it has done little else lately. All are told alike: it is no rest when one of them works on."""
        now = time.monotonic()
        used, passed = time.thread_time() - self._used, now - self._began
        if not 0 <= used < _BUSY_S:  # more, or it is another thread, which begins anew
            self._used += used
            self._began = now
            if used > 0 and passed < 2 * used:
                self._rests_until = now + _REST_S
        return now < self._rests_until


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
