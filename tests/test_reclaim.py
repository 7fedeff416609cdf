"""Whose sandbox makes room when somebody waits for memory."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandbox import reclaim
from sandbox.config import Settings
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
        max_wait_s=2.0,
    )
    async with Node.open(settings) as node:
        yield node


async def execute(node: Node, session_id: str, code: str, owner: Owner = LOCAL) -> Execution:
    return await (await node.execute(owner, session_id, code)).result()


async def refused(node: Node) -> bool:
    """Whether a run finds no memory, however long it waits."""
    running = asyncio.ensure_future(node.run(LOCAL, "1"))
    await asyncio.wait((running,))
    if running.exception() is None:
        await running.result().result()
        return False
    assert "no memory became free" in str(running.exception())
    return True


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
    assert not await refused(node)


async def test_what_runs_or_belongs_to_a_run_that_goes_on_keeps_its_sandbox(node: Node) -> None:
    running, used = [(await node.open_session(LOCAL, yields=True)).id for _ in range(2)]
    with node.reclaim.using(used):
        log = await node.execute(LOCAL, running, "import threading; threading.Event().wait()")
        await execute(node, used, "x = 1")
        assert await refused(node)
        await node.interrupt(LOCAL, running)
        assert (await log.result()).status is Status.INTERRUPTED
    assert not await refused(node)


async def test_what_cannot_be_stored_is_not_given_up(node: Node) -> None:
    first, second = [(await node.open_session(LOCAL, yields=True)).id for _ in range(2)]
    await execute(node, first, r"open(b'/mnt/data/\xff', 'w').write('no name that JSON knows')")
    with contextlib.ExitStack() as stack:
        stack.enter_context(node.reclaim.using(second))
        assert await refused(node)
    listed = await execute(node, first, "import os; print(len(os.listdir(b'/mnt/data')) > 0)")
    assert (listed.stdout, listed.state_lost) == ("True\n", False)
