"""The end of a run's time."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

T = TypeVar("T")


class Late(Exception):
    """The run's seconds are over."""


@contextlib.asynccontextmanager
async def timeout_at(deadline: float | None) -> AsyncIterator[None]:
    """Ends the block at the deadline by the monotonic clock; None is never. Raises `Late`."""
    left = None if deadline is None else deadline - time.monotonic()
    try:
        async with asyncio.timeout(left) as bound:
            yield
    except TimeoutError:
        if bound.expired():
            raise Late from None
        raise


async def until(items: AsyncGenerator[T, None], deadline: float | None) -> AsyncGenerator[T, None]:
    """The items, until the deadline by the monotonic clock. Raises `Late`."""
    async with contextlib.aclosing(items):
        while True:
            try:
                async with timeout_at(deadline):
                    item = await anext(items)
            except StopAsyncIteration:
                return
            yield item
