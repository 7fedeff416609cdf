"""Time that a test can hold still."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """A monotonic clock, and waiting by it. Seconds."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    @contextlib.asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncIterator[None]:
        """As `asyncio.timeout`, by this clock. Raises `TimeoutError`."""
        async with asyncio.timeout(None) as limit:
            timer = asyncio.create_task(self._expire(limit, seconds), name="timeout")
            try:
                yield
            finally:
                timer.cancel()

    async def _expire(self, limit: asyncio.Timeout, seconds: float) -> None:
        await self.sleep(seconds)
        limit.reschedule(asyncio.get_running_loop().time())
