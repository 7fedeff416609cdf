"""Long lists a batch at a time: nothing is left out, and others have their turn."""

import asyncio

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
