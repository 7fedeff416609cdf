"""SQLite's checkpoints, taken beside the writes instead of in them.

What is committed stands in a log, and is safe from a power cut once a checkpoint has brought it into the database and
to the disk. Left to itself SQLite does that within some commit or other, which then takes as long as the disk.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import Engine

from sandbox import logs
from sandbox.store.writer import Writer

_EVERY_S = 1.0
"""While there is something new. About as much as a power cut can take back."""
_AGAIN_S = 0.05
"""After one that left something, and twice that after the next. Only when nothing is left the log begins anew; while
it never is, it grows until the writer waits for a checkpoint of its own.
"""

_logger = logs.logger(__name__)


@contextlib.asynccontextmanager
async def taken(engine: Engine, threads: ThreadPoolExecutor, writer: Writer) -> AsyncIterator[None]:
    """Within the block there is one soon after a commit, in one of these threads, if the database is SQLite."""
    if engine.dialect.name != "sqlite":
        yield
        return
    task = asyncio.create_task(_take(engine, threads, writer), name="checkpoints")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def _take(engine: Engine, threads: ThreadPoolExecutor, writer: Writer) -> None:
    done, failed, again = 0, False, _EVERY_S
    while True:
        await asyncio.sleep(again)
        if (commits := writer.commits) == done:
            continue
        try:
            whole = await asyncio.get_running_loop().run_in_executor(threads, _checkpoint, engine)
        except Exception as error:
            if not failed:
                _logger.warning("checkpoint_failed", why=str(error))
            failed, again = True, _EVERY_S
            continue
        failed = False
        if whole:
            done = commits
        is_left = not whole or writer.commits != commits
        again = min(_EVERY_S, 2 * again if again < _EVERY_S else _AGAIN_S) if is_left else _EVERY_S


def _checkpoint(engine: Engine) -> bool:
    """Whether all is in the database now that was committed before: a reader may hold up what is newer than it sees."""
    with engine.connect() as connection:
        busy, in_log, moved = connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").one()
    return not busy and in_log == moved
