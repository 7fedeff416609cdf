"""An asynchronous generator that runs in one task of its own, so that its reader can look without waiting for ever.

What it holds (a model's connection, a program that runs) is given up when the reader leaves, in the task that took it.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

T = TypeVar("T")
_AHEAD = 64
"""Items that may wait for the reader; then the generator waits."""


@dataclass(frozen=True, slots=True)
class _End:
    error: Exception | None


class Pump(Generic[T]):
    """Use `running`."""

    def __init__(self) -> None:
        self._items: asyncio.Queue[T | _End] = asyncio.Queue(_AHEAD)
        self._first: list[T | _End] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, items: AsyncGenerator[T, None]) -> AsyncIterator[Self]:
        """Run it until its end or that of the block."""
        pump = cls()
        task = asyncio.create_task(pump._run(items))
        try:
            yield pump
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def begun(self, seconds: float) -> None:
        """Wait until there is something to read, or the time is over. Raises what the generator has raised first."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                self._first.append(await self._items.get())
        for first in self._first:
            if isinstance(first, _End) and first.error is not None:
                raise first.error

    async def read(self) -> AsyncIterator[T]:
        """All items. Raises what the generator raises."""
        while True:
            item = self._first.pop() if self._first else await self._items.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item

    async def _run(self, items: AsyncGenerator[T, None]) -> None:
        error = None
        try:
            async with contextlib.aclosing(items):
                async for item in items:
                    await self._items.put(item)
        except Exception as raised:
            error = raised
        await self._items.put(_End(error))
