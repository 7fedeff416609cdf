"""The end of a run's time, for what comes piece by piece."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import TypeVar

T = TypeVar("T")


class Late(Exception):
    """The run's seconds are over."""


async def until(items: AsyncGenerator[T, None], deadline: float | None) -> AsyncGenerator[T, None]:
    """The items, until the deadline by the monotonic clock. Raises `Late`."""
    async with contextlib.aclosing(items):
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            try:
                async with asyncio.timeout(left) as bound:
                    item = await anext(items)
            except StopAsyncIteration:
                return
            except TimeoutError:
                if bound.expired():
                    raise Late from None
                raise
            yield item
