"""Long lists, worked off a batch at a time: whoever else has a request is served between two, and not behind all."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
BATCH = 100
"""Items to which nothing slow is done take well under a millisecond; a request may have to wait for several batches."""


def batches(items: Sequence[T], size: int = BATCH) -> Iterator[Sequence[T]]:
    """The items in order, `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


async def in_turns(parts: Iterable[T]) -> AsyncIterator[T]:
    """Each of them, and others' turn between two. What is short, a single one, waits for nobody."""
    for number, part in enumerate(parts):
        if number:
            await asyncio.sleep(0)
        yield part
