"""`kill -9` the server at any point and start it again: nothing that was acknowledged is lost, and nothing is left.

`--kills 20` kills it as often as issue 3 promises; by default it is done a few times.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sandbox.client import AsyncClient, AsyncSession, Started
from sandbox.durable import STOPPED
from sandbox.errors import Unreachable
from sandbox.execution import Execution, Status
from tests.host import WAIT_SECONDS, Embedded, children, ended, groups
from tests.server import serving, start

WORKERS = 5
GONE_S = 5.0
"""Sandboxes are gone within a second of the server's death on a machine that is not as busy as this one may be."""


@dataclass
class Acknowledged:
    """What clients were told, and so must find again."""

    executions: dict[str, Execution] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    deleted: dict[str, set[str]] = field(default_factory=dict)
    closing: set[str] = field(default_factory=set)
    """Sessions whose end was asked for; it may have come to that or not."""
    closed: set[str] = field(default_factory=set)
    count: int = 0
    enough: int = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    def one_more(self) -> None:
        self.count += 1
        if self.count >= self.enough:
            self.reached.set()


async def work(client: AsyncClient, told: Acknowledged, chance: random.Random) -> None:
    """Sessions, executions, uploads, deletions and runs, until the server is gone."""
    while True:
        given = {"given": str(chance.random()).encode() * 1000, "as/well": b"two"}
        session = await client.open_session(memory_mb=256, files=given)
        files = told.files[session.id] = dict(given)
        deleted = told.deleted[session.id] = set()
        for number in range(chance.randint(1, 4)):
            made, sent, text = f"made {number}", f"sent/{number}", str(chance.random())
            execution = await session.execute(f"open({made!r}, 'w').write({text!r}); print({text!r})")
            told.executions[execution.id] = execution
            files[made] = text.encode()
            told.one_more()
            await session.upload(sent, text.encode() * 1000)
            files[sent] = text.encode() * 1000
            told.one_more()
            if chance.random() < 0.5:
                del files[made]  # from here on it may be there or not
                await session.remove(made)
                deleted.add(made)
                told.one_more()
        execution = await client.run("print('run')", memory_mb=256)
        told.executions[execution.id] = execution
        told.one_more()
        if chance.random() < 0.5:
            told.closing.add(session.id)
            await session.close()
            told.closed.add(session.id)


@contextlib.asynccontextmanager
async def busy(client: AsyncClient) -> AsyncIterator[tuple[AsyncSession, str]]:
    """A session with a file and an execution that does not end by itself; the execution's id."""
    session = await client.open_session(memory_mb=256)
    await session.upload("kept.txt", b"kept")
    async with contextlib.aclosing(session.stream("x = 1\nwhile True: pass", timeout=600)) as events:
        started = await anext(events)
        assert isinstance(started, Started)
        yield session, started.id


async def check(url: str, told: Acknowledged, interrupted: list[tuple[str, str]]) -> None:
    """Everything that was acknowledged is there, and what was in flight has an end."""
    async with AsyncClient(url) as client:
        for execution in told.executions.values():
            session = await client.attach(execution.session_id)
            assert (await session.execution(execution.id)).execution == execution
        for session_id in told.files:
            await check_session(await client.attach(session_id), told)
        for session_id, execution_id in interrupted:
            session = await client.attach(session_id)
            end = (await session.execution(execution_id)).execution
            assert end is not None
            assert (end.status, end.reason, end.state_lost) == (Status.KILLED, STOPPED, True)
            again = await session.execute("print(open('kept.txt').read(), 'x' in globals())")
            assert (again.stdout, again.state_lost) == ("kept False\n", True)
            await session.close()
        await check_strangers(client, told.files.keys() | {session_id for session_id, _ in interrupted})


async def check_session(session: AsyncSession, told: Acknowledged) -> None:
    info = await session.info()
    if session.id in told.closed:
        assert info.status == "closed"
    elif session.id not in told.closing:
        assert info.status == "active"
    if info.status == "active":
        paths = {file.path for file in await session.files()}
        assert paths >= told.files[session.id].keys()
        assert not paths & told.deleted[session.id]
        for path, data in told.files[session.id].items():
            assert await session.download(path) == data


async def check_strangers(client: AsyncClient, known: set[str]) -> None:
    """Sessions of which no client was told may be open and unused; those of runs have ended with them."""
    async for info in client.sessions():
        if info.status == "active" and info.id not in known:
            session = await client.attach(info.id)
            assert [record.id async for record in session.executions()] == []
            await session.close()


async def kill_early(data_dir: Path, chance: random.Random) -> None:
    """Start a server and kill it somewhere on its way to taking requests, before or while it recovers."""

    def launcher() -> list[int]:
        return children(process.pid)

    def zygote() -> list[int]:
        return [pid for parent in children(process.pid) for pid in children(parent)]

    def database() -> list[Path]:
        return list(data_dir.glob("sandbox.db-wal"))

    far_enough: Callable[[], object] = chance.choice([database, launcher, zygote])
    with start(data_dir) as process:
        async with asyncio.timeout(WAIT_SECONDS):
            while not far_enough():  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        left = [*launcher(), *zygote()]
        process.kill()
        process.wait()
    await ended(*left)


@pytest.mark.attack("D09")
async def test_nothing_acknowledged_is_lost_and_nothing_is_left(
    root: None, python_image: object, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    chance = random.Random()
    told, interrupted = Acknowledged(), list[tuple[str, str]]()
    for _ in range(pytestconfig.getoption("kills")):
        with serving(tmp_path) as server:
            await check(server.url, told, interrupted)
            interrupted.clear()
            async with AsyncClient(server.url, retries=0) as client, busy(client) as (session, execution_id):
                interrupted.append((session.id, execution_id))
                told.count, told.enough = 0, chance.randint(1, 30)
                told.reached.clear()
                workers = [asyncio.create_task(work(client, told, chance)) for _ in range(WORKERS)]
                reached = asyncio.create_task(told.reached.wait())
                await asyncio.wait([*workers, reached], return_when=asyncio.FIRST_COMPLETED)
                host = Embedded.below(server.process.pid)
                instance, stage = host.instance, host.stage
                everything = [host.launcher, *host.zygotes(), *host.contained()]
                killed = time.monotonic()
                server.kill()
                await ended(*everything)
                assert time.monotonic() - killed < GONE_S
                assert groups(instance) == []
                assert not stage.exists()
                reached.cancel()
                ends = await asyncio.gather(*workers, return_exceptions=True)
                assert {type(end) for end in ends} == {Unreachable}, ends
        await kill_early(tmp_path, chance)
    with serving(tmp_path) as server:
        await check(server.url, told, interrupted)
    assert list((tmp_path / "files" / "incoming").iterdir()) == []
