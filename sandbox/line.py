"""The executions of one session, in the order in which they were accepted."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from sandbox.execution import Status


class Line:
    """Whose turn it is, and who is not to run any more when it comes. For use from one event loop."""

    def __init__(self) -> None:
        self.length = 0
        """Executions that run or wait, with those of which it is not decided yet whether they are accepted."""
        self._accepted: dict[str, None] = {}
        self._turn = asyncio.Lock()
        self._next: str | None = None
        """Whose turn it is, although its sandbox may not be there yet."""
        self._running: str | None = None
        self._fates: dict[str, Status] = {}

    def come(self) -> None:
        """One more, which either is accepted or goes again."""
        self.length += 1

    def accept(self, execution_id: str) -> None:
        """One that came."""
        self._accepted[execution_id] = None

    def go(self, execution_id: str = "") -> None:
        """One that came is over; without an id it never was accepted."""
        self.length -= 1
        self._accepted.pop(execution_id, None)
        self._fates.pop(execution_id, None)

    @contextlib.asynccontextmanager
    async def turn(self, execution_id: str) -> AsyncIterator[None]:
        """Within the block it is this one's."""
        async with self._turn:
            self._next = execution_id
            try:
                yield
            finally:
                self._next = None

    @contextlib.contextmanager
    def at_work(self, execution_id: str) -> Iterator[None]:
        """Within the block its code is its sandbox's."""
        self._running = execution_id
        try:
            yield
        finally:
            self._running = None

    def fate(self, execution_id: str) -> Status | None:
        """How it has to end without having run, if it was taken back."""
        return self._fates.get(execution_id)

    def withdraw(self, execution_id: str) -> bool:
        """Take it back if it waits. Whether it runs instead, so that its sandbox has to be told."""
        if execution_id in self._accepted and execution_id != self._running:
            self._fates[execution_id] = Status.CANCELLED
        return execution_id == self._running

    def take_back(self) -> bool:
        """Take back who comes next, if nobody runs. Whether there was anybody.

        One that was accepted a moment ago may not have its turn yet.
        """
        coming = self._next or next(iter(self._accepted), None)
        if self._running is not None or coming is None:
            return False
        self._fates[coming] = Status.INTERRUPTED
        return True
