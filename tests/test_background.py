"""Work that goes on without whoever began it."""

import asyncio
import logging

import pytest

from sandbox.background import Background


async def test_work_goes_on_when_whoever_waits_for_it_is_cancelled() -> None:
    background, go_on, done = Background(), asyncio.Event(), list[str]()

    async def work() -> None:
        await go_on.wait()
        done.append("work")

    waiting = asyncio.ensure_future(asyncio.shield(background.begin(work(), "work")))
    await asyncio.wait((waiting,), timeout=0)
    waiting.cancel()
    go_on.set()
    await background.settle()
    assert done == ["work"]
    assert len(background) == 0
    assert waiting.cancelled()


async def test_what_begins_meanwhile_is_waited_for_and_cancelled_as_well() -> None:
    background, go_on, done = Background(), asyncio.Event(), list[str]()

    async def first() -> None:
        try:
            await asyncio.sleep(0)
            done.append("first")
        finally:
            background.begin(second(), "second")

    async def second() -> None:
        await go_on.wait()
        done.append("second")

    background.begin(first(), "first")
    go_on.set()
    await background.settle()
    assert done == ["first", "second"]
    go_on.clear()
    background.begin(first(), "first")
    await asyncio.sleep(0)
    await background.aclose()
    assert done == ["first", "second"]
    assert len(background) == 0


async def test_a_failure_that_nobody_waits_for_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    background = Background()

    async def fail() -> None:
        raise ValueError("by itself")

    with caplog.at_level(logging.ERROR, "sandbox"):
        background.spawn(fail(), "what fails")
        await background.settle()
        await asyncio.sleep(0)
    assert "what fails" in caplog.text
    assert "by itself" in caplog.text
    with pytest.raises(ValueError, match="by itself"):
        await background.begin(fail(), "what fails")
