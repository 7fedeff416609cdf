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
"""After one that left something. The log begins anew, and does not grow, after one that left nothing."""

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
    done, failed, pause = 0, False, _EVERY_S
    while True:
        await asyncio.sleep(pause)
        pause = _EVERY_S
        if (commits := writer.commits) == done:
            continue
        try:
            whole = await asyncio.get_running_loop().run_in_executor(threads, _checkpoint, engine)
        except Exception as error:
            if not failed:
                _logger.warning("checkpoint_failed", why=str(error))
            failed = True
            continue
        failed = False
        if whole:
            done = commits
        else:
            pause = _AGAIN_S


def _checkpoint(engine: Engine) -> bool:
    """Whether everything is in the database now: what was committed meanwhile is not, nor what a reader is before."""
    with engine.connect() as connection:
        busy, in_log, moved = connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").one()
    return not busy and in_log == moved
