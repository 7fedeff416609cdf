"""Whose sandbox makes room when somebody waits for memory."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandbox import reclaim
from sandbox.config import Settings
from sandbox.errors import QueueFull
from sandbox.execution import Execution, Status
from sandbox.image import Image
from sandbox.keys import LOCAL, KeyLimits, Owner
from sandbox.node import Node

OTHER = Owner("other", KeyLimits())


@pytest.fixture
async def node(
    root: None, python_image: Image, nothing_left: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Node]:
    """With room for two sandboxes, where idleness of its own owner's counts at once."""
    monkeypatch.setattr(reclaim, "_OWN_S", 0.0)
    settings = Settings(
        data_dir=tmp_path,
        images_dir=Settings().images_dir,
        pool_size=0,
        memory_mb=192,
        memory_budget_mb=384,
    )
    async with Node.open(settings) as node:
        yield node


async def execute(node: Node, session_id: str, code: str, owner: Owner = LOCAL) -> Execution:
    return await (await node.execute(owner, session_id, code)).result()


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def refused(node: Node) -> bool:
    """Whether a run finds no memory within two seconds, which is eight looks for some."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(node.admission, "_max_wait_s", 2.0)
        try:
            await (await node.run(LOCAL, "1")).result()
        except QueueFull as error:
            return "no memory became free" in str(error)
    return False


async def has_room(node: Node) -> bool:
    """Whether a run finds memory, however long that takes."""
    return (await (await node.run(LOCAL, "1")).result()).status is Status.OK


async def test_who_waits_gets_the_memory_of_what_was_idle_longest(node: Node) -> None:
    old, new = [(await node.open_session(LOCAL, yields=True)).id for _ in range(2)]
    await execute(node, old, "open('kept', 'w').write('yes'); x = 1")
    await execute(node, new, "x = 2")
    assert (await (await node.run(LOCAL, "print(3)")).result()).stdout == "3\n"
    assert (await execute(node, new, "print(x)")).stdout == "2\n"
    woken = await execute(node, old, "print(open('kept').read()); x")
    assert (woken.stdout, woken.state_lost) == ("yes\n", True)
    assert woken.error is not None
    assert woken.error.name == "NameError"


async def test_what_a_client_has_opened_stays_the_client_s(node: Node) -> None:
    first, second = [(await node.open_session(LOCAL)).id for _ in range(2)]
    await execute(node, first, "x = 1")
    assert await refused(node)
    assert (await execute(node, first, "print(x)")).stdout == "1\n"
    await node.close_session(LOCAL, second)


async def test_somebody_else_s_has_a_minute(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        await node.open_session(OTHER, yields=True)
    assert await refused(node)
    monkeypatch.setattr(reclaim, "_OTHERS_S", 0.0)
    assert await has_room(node)


async def test_what_runs_or_belongs_to_a_run_that_goes_on_keeps_its_sandbox(node: Node) -> None:
    running, used = [(await node.open_session(LOCAL, yields=True)).id for _ in range(2)]
    with node.reclaim.using(used):
        log = await node.execute(LOCAL, running, "import threading; threading.Event().wait()")
        await execute(node, used, "x = 1")
        assert await refused(node)
        await node.interrupt(LOCAL, running)
        assert (await log.result()).status is Status.INTERRUPTED
    assert await has_room(node)


async def test_nobody_goes_for_who_could_not_start_all_the_same(node: Node) -> None:
    kept = (await node.open_session(LOCAL)).id
    idle = (await node.open_session(LOCAL, yields=True)).id
    await execute(node, idle, "x = 1")
    with pytest.raises(QueueFull):
        await node.open_session(LOCAL, memory_mb=384)
    assert (await execute(node, idle, "print(x)")).stdout == "1\n"
    await node.close_session(LOCAL, kept)


async def test_one_that_is_used_or_restarted_while_it_goes_to_sleep_stays_awake(node: Node) -> None:
    row = await node.open_session(LOCAL, yields=True)
    session = await node._held(LOCAL, row.id)
    for use in (lambda: execute(node, row.id, "x = 1"), lambda: node.restart(LOCAL, row.id)):
        using = asyncio.ensure_future(use())
        await asyncio.sleep(0)
        assert not await session.sleep()
        await using
    await execute(node, row.id, "x = 2")
    sleeping = asyncio.ensure_future(session.sleep())
    await asyncio.sleep(0)
    assert session.workspace._lock.locked()  # it is looking for what has to be stored
    assert (await execute(node, row.id, "print(x)")).stdout == "2\n"
    assert not await sleeping


async def test_idle_time_goes_on_while_one_cannot_be_put_to_sleep_and_begins_with_the_last_use(node: Node) -> None:
    row = await node.open_session(LOCAL, yields=True, idle_timeout=600)
    session = await node._held(LOCAL, row.id)
    await execute(node, row.id, r"open(b'/mnt/data/\xff', 'w').close()")
    idle_s = session.idle_s
    assert idle_s is not None
    assert not await session.sleep()
    assert session.idle_s is not None
    assert session.idle_s > idle_s
    await execute(node, row.id, r"import os; os.remove(b'/mnt/data/\xff')")
    used_at = session.row.last_used_at
    await node.put_file(LOCAL, row.id, "late.txt", _one(b"x"))
    assert await session.sleep()
    slept = await node.store.session("local", row.id)
    assert slept is not None
    assert slept.last_used_at > used_at


async def test_what_cannot_be_stored_is_not_given_up(node: Node) -> None:
    first, second = [(await node.open_session(LOCAL, yields=True)).id for _ in range(2)]
    await execute(node, first, r"open(b'/mnt/data/\xff', 'w').write('no name that JSON knows')")
    with contextlib.ExitStack() as stack:
        stack.enter_context(node.reclaim.using(second))
        assert await refused(node)
    listed = await execute(node, first, "import os; print(len(os.listdir(b'/mnt/data')) > 0)")
    assert (listed.stdout, listed.state_lost) == ("True\n", False)
