"""Time that a test can hold still."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
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


class Patience:
    """The seconds that one request may wait, over all that it waits for. The time of its tries does not count."""

    def __init__(self, seconds: float, clock: Clock) -> None:
        self.left = seconds
        self._clock = clock

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time of the block."""
        began = self._clock.now()
        try:
            yield
        finally:
            self.left -= self._clock.now() - began

    async def sleep(self, seconds: float) -> None:
        with self.waiting():
            await self._clock.sleep(seconds)
