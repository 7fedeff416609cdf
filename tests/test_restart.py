"""`kill -9` the server at any point and start it again: nothing that was acknowledged is lost, and nothing is left."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sandbox.client import AsyncClient, AsyncSession, Started
from sandbox.durable import STOPPED
from sandbox.errors import Unreachable
from sandbox.execution import Execution, Status
from tests.host import Embedded, ended, groups
from tests.server import serving

WORKERS = 5


@dataclass
class Acknowledged:
    """What clients were told, and so must find again."""

    executions: dict[str, Execution] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    count: int = 0
    enough: int = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    def one_more(self) -> None:
        self.count += 1
        if self.count >= self.enough:
            self.reached.set()


async def work(client: AsyncClient, told: Acknowledged, chance: random.Random) -> None:
    """Sessions, executions, uploads and runs, until the server is gone."""
    while True:
        session = await client.open_session(memory_mb=256)
        files = told.files[session.id] = {}
        for number in range(chance.randint(1, 4)):
            made, sent, text = f"made {number}", f"sent/{number}", str(chance.random())
            execution = await session.execute(f"open({made!r}, 'w').write({text!r}); print({text!r})")
            told.executions[execution.id] = execution
            files[made] = text.encode()
            told.one_more()
            await session.upload(sent, text.encode() * 1000)
            files[sent] = text.encode() * 1000
            told.one_more()
        execution = await client.run("print('run')", memory_mb=256)
        told.executions[execution.id] = execution
        told.one_more()
        if chance.random() < 0.5:
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
        for session_id, files in told.files.items():
            session = await client.attach(session_id)
            if session_id not in told.closed and (await session.info()).status == "active":
                assert {file.path for file in await session.files()} >= files.keys()
                for path, data in files.items():
                    assert await session.download(path) == data
        for session_id, execution_id in interrupted:
            session = await client.attach(session_id)
            end = (await session.execution(execution_id)).execution
            assert end is not None
            assert (end.status, end.reason, end.state_lost) == (Status.KILLED, STOPPED, True)
            again = await session.execute("print(open('kept.txt').read(), 'x' in globals())")
            assert (again.stdout, again.state_lost) == ("kept False\n", True)
            await session.close()


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
                server.kill()
                await ended(*everything)
                assert groups(instance) == []
                assert not stage.exists()
                reached.cancel()
                ends = await asyncio.gather(*workers, return_exceptions=True)
                assert {type(end) for end in ends} == {Unreachable}, ends
    with serving(tmp_path) as server:
        await check(server.url, told, interrupted)
    assert list((tmp_path / "files" / "incoming").iterdir()) == []
