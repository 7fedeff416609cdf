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

    def on_prepared(self, image: str, renewed: bool) -> None:
        """Something has become known of it; renewed: from now on sandboxes begin with more, or elsewhere in memory."""
        self._current[image] += renewed
        self._next.set()
        self._next = asyncio.Event()

    async def news(self, image: str, since: int) -> None:
        """Until the current one is another than `since`, or something else has become known."""
        if self._current[image] == since:
            await self._next.wait()
