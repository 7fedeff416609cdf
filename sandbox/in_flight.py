"""Executions on their way: what was accepted and what becomes of it, until its end can be read from the store."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from sandbox import logs
from sandbox.events import EventLog
from sandbox.execution import Execution, Functions
from sandbox.store import Store
from sandbox.store.rows import Claim

_UNWRITTEN = 256
"""Ends that wait for the database at most; those beyond it are written by the next start of the server."""

_logger = logs.logger(__name__)


@dataclass(frozen=True, slots=True)
class Accepted:
    """An execution of which its caller has been told, or will be in a moment."""

    code: str
    timeout: float
    functions: Functions | None
    log: EventLog
    claimed: bool
    """Whether it came with an Idempotency-Key, and so may not be the first one with it."""
    written: "asyncio.Future[Claim | None]"
    """Done once its row is written: None. Or, without a row, the `Claim` of who was first with its Idempotency-Key."""
    done: Callable[[Execution | None], None]
    """Told once how it ended, None when that is not known; never, if somebody else was first with its key."""

    @property
    def id(self) -> str:
        """The execution's."""
        return self.log.execution_id

    @property
    def has_no_row(self) -> bool:
        """Whether it could not be written down."""
        return self.written.done() and (self.written.cancelled() or self.written.exception() is not None)

    def start_once_written(self) -> None:
        """Tell of its start at once, not with the first output; but whichever comes first."""
        self.written.add_done_callback(lambda _: None if self.has_no_row or self.written.result() else self.log.start())

    async def start(self) -> None:
        """Tell of its start now. Nobody may see anything of an execution that cannot be found, so its row comes first.

        Raises what kept it from being written.
        """
        await self.written
        self.log.start()


class InFlight:
    """Executions whose end is not written yet: their logs, and the ends that a failing database did not take."""

    def __init__(self, store: Store) -> None:
        self.logs: dict[str, EventLog] = {}
        """By execution id, until the end can be read from the store."""
        self._store = store
        self._unwritten: dict[str, tuple[Execution, float]] = {}

    async def end(self, execution: Execution) -> None:
        """Write how it ended, now or with a later `retry`. Raises `Unready` when it is not now."""
        await self._end(execution, time.time())

    async def _end(self, execution: Execution, ended_at: float) -> None:
        try:
            await self._store.end_execution(execution, ended_at)
        except Exception:
            self._unwritten[execution.id] = execution, ended_at
            if len(self._unwritten) > _UNWRITTEN:
                self.forget(next(iter(self._unwritten)))
            raise
        self.forget(execution.id)

    def waits(self, execution_id: str) -> bool:
        """Whether its end is known and waits to be written."""
        return execution_id in self._unwritten

    async def retry(self) -> None:
        """Write what could not be written before. Raises nothing: what still cannot waits for the next time."""
        ends = [self._end(execution, ended_at) for execution, ended_at in self._unwritten.values()]
        failures = [failure for failure in await asyncio.gather(*ends, return_exceptions=True) if failure is not None]
        if failures:
            _logger.warning("ends_not_written", count=len(failures), why=str(failures[0]))

    def forget(self, execution_id: str) -> None:
        """It never was, all that is known of it is in the store, or the next start of the server is to end it."""
        self._unwritten.pop(execution_id, None)
        self.logs.pop(execution_id, None)
