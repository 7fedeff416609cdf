"""What the stream of a run says, for whoever follows it. In memory: a stream is for those who are there."""

import asyncio
from collections.abc import AsyncGenerator, Iterable

from sandbox.loop.openai_assistants import StreamEvent


class Log:
    """From the beginning of a run, or from the caller's outputs, to the next end."""

    def __init__(self) -> None:
        self.cut_off = False
        """It was closed before it came to an end."""
        self._events: list[StreamEvent] = []
        self._closed = False
        self._changed = asyncio.Event()

    def add(self, events: Iterable[StreamEvent]) -> None:
        """Tell it to those who follow."""
        self._events.extend(events)
        self._wake()

    def close(self, *, cut_off: bool = False) -> None:
        """There will be no more."""
        self._closed, self.cut_off = True, cut_off
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def follow(self) -> AsyncGenerator[StreamEvent, None]:
        """All events from the first on, until it is closed."""
        at = 0
        while True:
            for event in self._events[at:]:
                at += 1
                yield event
            if at < len(self._events):
                continue
            if self._closed:
                return
            await self._changed.wait()
