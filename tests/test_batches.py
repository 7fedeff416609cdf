"""Long lists a batch at a time: nothing is left out, and others have their turn."""

import asyncio
import selectors
import time

import pytest

from sandbox.batches import batches, in_turns


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 250])
def test_batches_are_the_items_in_order(count: int) -> None:
    parts = list(batches(range(count)))
    assert [item for part in parts for item in part] == list(range(count))
    assert all(0 < len(part) <= 100 for part in parts)


async def test_others_have_their_turn_between_two_batches() -> None:
    order = list[str]()
    asyncio.get_running_loop().call_soon(order.append, "somebody else")
    async for batch in in_turns(["first", "second"]):
        order.append(batch)
    assert order == ["first", "somebody else", "second"]


async def test_a_single_batch_waits_for_nobody() -> None:
    order = list[str]()
    asyncio.get_running_loop().call_soon(order.append, "somebody else")
    async for batch in in_turns(["only"]):
        order.append(batch)
    assert order == ["only"]


def rests_in(parts: list[float], *, at_once: int = 1) -> int:
    """How often the loop's thread waits while parts are worked off that take so many seconds each, by so many."""
    rests = 0

    class Selector(selectors.DefaultSelector):
        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            nonlocal rests
            rests += timeout is not None and timeout > 0
            return super().select(timeout)

    async def work() -> None:
        async for seconds in in_turns(parts):
            end = time.thread_time() + seconds
            while time.thread_time() < end:
                pass

    async def all_of_them() -> None:
        await asyncio.gather(*(work() for _ in range(at_once)))

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(Selector())) as runner:
        runner.run(all_of_them())
    return rests


@pytest.mark.parametrize("at_once", [1, 3])
def test_threads_have_their_turn_when_it_takes_long(at_once: int) -> None:
    assert rests_in([0.0001] * 1000, at_once=at_once) >= 5


def test_what_takes_a_moment_waits_for_them_once_at_most() -> None:
    assert rests_in([0.0] * 100) <= 1  # for what others did before
