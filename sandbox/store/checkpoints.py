"""SQLite's checkpoints, taken beside the writes instead of in them.

What is committed stands in a log, and is safe from a power cut once a checkpoint has brought the log to the disk. Left
to itself SQLite does that within some commit or other, which then takes as long as the disk.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from sandbox.store.writer import Writer

EVERY_S = 1.0
"""About as much as a power cut can take back."""


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
    seen = 0
    while True:
        await asyncio.sleep(EVERY_S)
        if (commits := writer.commits) != seen:
            seen = commits
            with contextlib.suppress(DBAPIError):  # of a disk that is full or broken the next commit tells
                await asyncio.get_running_loop().run_in_executor(threads, _checkpoint, engine)


def _checkpoint(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")
