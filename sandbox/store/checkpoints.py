"""What makes SQLite's commits last, done beside the writes instead of in them.

What is committed stands in a log, and is safe from a power cut once that is on the disk. A checkpoint brings it from
there into the database, after which the log can begin anew. SQLite left to itself takes checkpoints within some commit
or other, which then takes as long as the disk; and the commit that begins the log anew waits for the disk in any case.
So the log goes to the disk often, and checkpoints are rare.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sqlalchemy import Engine

from sandbox import logs
from sandbox.store.database import LOG_BYTES
from sandbox.store.writer import Writer

_SYNC_EVERY_S = 1.0
"""While there is something new. About as much as a power cut can take back."""
_CHECKPOINT_EVERY_S = 30.0
"""Or sooner, when the log has become long."""
_AGAIN_S = 0.05
"""After a checkpoint that left something, and twice that after the next. Only when nothing is left the log begins anew;
while it never is, it grows until the writer waits for a checkpoint of its own.
"""

_logger = logs.logger(__name__)


@contextlib.asynccontextmanager
async def taken(engine: Engine, threads: ThreadPoolExecutor, writer: Writer) -> AsyncIterator[None]:
    """Within the block what is committed is soon on the disk, by one of these threads, if the database is SQLite."""
    if engine.dialect.name != "sqlite":
        yield
        return
    task = asyncio.create_task(_Log(engine, threads, writer).keep(), name="checkpoints")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


class _Log:
    """SQLite's, of one database."""

    def __init__(self, engine: Engine, threads: ThreadPoolExecutor, writer: Writer) -> None:
        self._engine = engine
        self._path = Path(f"{Path(engine.url.database or '').resolve()}-wal")  # beside what a link leads to
        self._threads = threads
        self._writer = writer
        self._synced = self._moved = 0
        """Which commits are on the disk, and which of them in the database, too."""
        self._next_checkpoint = 0.0
        self._failed = False

    async def keep(self) -> None:
        """For ever."""
        loop = asyncio.get_running_loop()
        self._next_checkpoint = loop.time() + _CHECKPOINT_EVERY_S
        again = _SYNC_EVERY_S
        while True:
            await asyncio.sleep(again)
            try:
                if self._writer.commits != self._synced:  # also when a reader holds up checkpoints
                    await self._sync()
                if self._writer.commits != self._moved and self._wants_checkpoint(loop.time()):
                    is_left = await self._checkpoint()
                    again = min(_SYNC_EVERY_S, 2 * again if again < _SYNC_EVERY_S else _AGAIN_S)
                    if not is_left:
                        self._next_checkpoint, again = loop.time() + _CHECKPOINT_EVERY_S, _SYNC_EVERY_S
            except Exception as error:
                if not self._failed:
                    _logger.warning("checkpoint_failed", why=str(error))
                self._failed, again = True, _SYNC_EVERY_S
            else:
                self._failed = False

    def _wants_checkpoint(self, now: float) -> bool:
        # Whenever it begins anew it is cut to that length.
        return now >= self._next_checkpoint or self._length() > LOG_BYTES

    def _length(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:  # nothing was written yet
            return 0

    async def _sync(self) -> None:
        commits = self._writer.commits
        await asyncio.get_running_loop().run_in_executor(self._threads, _sync, self._path)
        self._synced = commits

    async def _checkpoint(self) -> bool:
        """Whether something is left, or has come meanwhile."""
        commits = self._writer.commits
        if await asyncio.get_running_loop().run_in_executor(self._threads, _checkpoint, self._engine):
            self._moved = commits
        return self._moved != self._writer.commits


def _sync(log: Path) -> None:
    # Unlike the database this is a file on which SQLite has no locks that closing it would drop.
    with contextlib.suppress(FileNotFoundError), open(log, "rb") as file:
        os.fdatasync(file.fileno())


def _checkpoint(engine: Engine) -> bool:
    """Whether all is in the database now that was committed before: a reader may hold up what is newer than it sees."""
    with engine.connect() as connection:
        busy, in_log, moved = connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").one()
    return not busy and in_log == moved
