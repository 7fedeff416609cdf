"""One thread and one connection through which everything is written, in groups.

A commit costs more than what it commits, and SQLite has one writer at a time anyway. So all writes that wait are done
in one transaction, in the order in which they were asked for; those that come meanwhile are the next group. If one
fails, the group is rolled back and each is done in a transaction of its own, so that only the guilty one fails.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from sandbox.errors import Unready
from sandbox.store.database import explained

T = TypeVar("T")
_GROUP = 256
"""Writes in one transaction at most, so that the first does not wait for too many others."""


@dataclass(slots=True, eq=False)
class _Write:
    work: Callable[[Connection], Any]
    future: asyncio.Future[Any]
    long: bool
    result: Any = None
    error: Exception | None = None


class _Halted(Exception):
    """No transaction can be had, or nobody knows how one ended: no write is to blame, and none is to be redone."""


class Writer:
    """For one event loop. `aclose` when done: it does what was asked for before."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._begin = "BEGIN IMMEDIATE" if engine.dialect.name == "sqlite" else "BEGIN"
        self._connection: Connection | None = None
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Write | None] = SimpleQueue()
        self._closed = False
        self.commits = 0
        """Transactions so far."""
        self._thread = threading.Thread(target=self._run, name="sandbox-store-writer", daemon=True)
        self._thread.start()

    async def write(self, work: Callable[[Connection], T], *, long: bool = False) -> T:
        """Call `work` in the writer's thread, in a transaction; its result once that is committed.

        long: what waits behind it is not done in the same transaction. `work` may be called again after a rollback. A
        caller that is cancelled no longer waits, but its write is done.
        Raises what `work` raises, then with nothing written, and `Unready` when the database fails.
        """
        if self._closed:
            raise Unready("the store is closed; nothing more is written")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.put(_Write(work, future, long))
        return cast(T, await future)

    async def aclose(self) -> None:
        """Do what has been asked for, then end."""
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        closing = False
        while not closing:
            group: list[_Write] = []
            closing = self._gather(group)
            self._settle(group)
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits any more
                self._loop.call_soon_threadsafe(_deliver, group)
        self._disconnect()

    def _gather(self, group: list[_Write]) -> bool:
        """Wait for a write; take all that are there. True when it was the last."""
        write = self._queue.get()
        while write is not None:
            group.append(write)
            if write.long or len(group) == _GROUP:
                return False
            try:
                write = self._queue.get_nowait()
            except Empty:
                return False
        return True

    def _settle(self, group: list[_Write]) -> None:
        """Give each write of the group a result or an error."""
        error = self._attempt(group)
        if error is not None and len(group) > 1 and not isinstance(error, _Halted):
            for index, write in enumerate(group):
                error = self._attempt([write])
                if isinstance(error, _Halted):  # the others would only wait for the same in vain
                    group = group[index:]
                    break
                write.error = error
            else:
                return
        for write in group:
            write.error = error

    def _attempt(self, group: list[_Write]) -> Exception | None:
        """All in one transaction, or none; then what went wrong."""
        if not group:
            return None
        committing = False
        try:
            connection = self._enter()
            for write in group:
                write.result = write.work(connection)
            committing = True
            connection.exec_driver_sql("COMMIT")
            self.commits += 1
        except _Halted as error:
            return error
        except Exception as error:
            self._roll_back()
            if committing and isinstance(error, DBAPIError) and error.connection_invalidated:
                return _Halted(f"the database went away in a commit, which may have been done: {error.orig}")
            return error
        return None

    def _enter(self) -> Connection:
        """A connection in a transaction. One that was cut since its last use is replaced, and with it the pool's."""
        for is_last in (False, True):
            try:
                if self._connection is None:
                    self._connection = self._engine.connect()
                self._connection.exec_driver_sql(self._begin)
                return self._connection
            except DBAPIError as error:
                self._disconnect()
                if is_last or not error.connection_invalidated:
                    raise _Halted(str(explained(error))) from error
        raise AssertionError("not reached")

    def _roll_back(self) -> None:
        try:
            if self._connection is not None:
                self._connection.exec_driver_sql("ROLLBACK")
        except Exception:  # SQLite may have rolled back itself, or the server is gone
            self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):  # what it was worth is known already
                connection.invalidate()
                connection.close()


def _deliver(group: list[_Write]) -> None:
    for write in group:
        if write.future.done():  # the caller was cancelled
            continue
        if write.error is None:
            write.future.set_result(write.result)
        else:
            write.future.set_exception(_told(write.error))


def _told(error: Exception) -> Exception:
    if isinstance(error, _Halted):
        return Unready(str(error))  # one for each caller: a traceback grows where it is raised
    if not isinstance(error, DBAPIError):
        return error
    told = explained(error)
    if told is not error:
        told.__cause__ = error
    return told
