"""Work that goes on without whoever began it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from sandbox import logs

_logger = logs.logger(__name__)

T = TypeVar("T")


class Background:
    """The tasks of one owner, who waits for them at its end. The loop itself would forget them while they wait."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def begin(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run it to its end, also when whoever waits for it, behind a shield, is cancelled."""
        return self.keep(asyncio.create_task(work, name=name))

    def spawn(self, work: Coroutine[Any, Any, object], name: str) -> asyncio.Task[Any]:
        """As `begin`, for what nobody waits for: the log says if it fails."""
        task = self.begin(work, name)
        task.add_done_callback(_report)
        return task

    def keep(self, task: asyncio.Task[T]) -> asyncio.Task[T]:
        """A task that somebody has made is one of these, too."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def settle(self) -> None:
        """Until the last one has ended, however; those that begin meanwhile are waited for, too."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def aclose(self) -> None:
        """As `settle`, but they are cancelled."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)


def _report(task: asyncio.Task[object]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _logger.error("task_failed", task=task.get_name(), exc_info=error)
