"""The events of a response that is made in the background: written by one, read by any number."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from sandbox.loop.openai_responses import Event


class Log:
    """An event's `sequence_number` is its place."""

    def __init__(self, events: Sequence[Event] = (), *, over: bool = False) -> None:
        """events: those that there are. over: there will be no more."""
        self.events = list(events)
        self._over = over
        self._news = asyncio.Event()

    def add(self, event: Event) -> None:
        """It has happened."""
        self.events.append(event)
        self._wake()

    def end(self) -> None:
        """Nothing more will happen."""
        self._over = True
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def follow(self, after: int = -1) -> AsyncGenerator[Event, None]:
        """What comes after that number, until the end."""
        at = after + 1
        while True:
            while at < len(self.events):
                yield self.events[at]
                at += 1
            if self._over:
                return
            await self._news.wait()
