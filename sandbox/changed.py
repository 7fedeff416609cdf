"""Something has changed, and whoever waits for a condition looks again."""

import asyncio
from collections.abc import Callable


class Changed:
    """For use from one event loop: a condition that is true when it was looked at holds until the next `await`."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Everybody who waits looks again."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait_for(self, true: Callable[[], bool]) -> None:
        """Return as soon as it is true; at once if it is."""
        while not true():
            await self._event.wait()
