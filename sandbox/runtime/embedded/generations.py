"""Which sandboxes of an image are like those that begin now: they are of the same generation."""

import asyncio
from collections import Counter


class Generations:
    """Counted by image, through the lives of all launchers."""

    def __init__(self) -> None:
        self._current: Counter[str] = Counter()
        self._next = asyncio.Event()

    def current(self, image: str) -> int:
        """Of those that begin now."""
        return self._current[image]

    def begin(self, image: str) -> None:
        """From now on sandboxes begin with more, or elsewhere in memory."""
        self._current[image] += 1
        self._next.set()
        self._next = asyncio.Event()

    async def another(self, image: str, than: int) -> None:
        """Until the current one is another."""
        while self._current[image] == than:
            await self._next.wait()
