"""Objects of other APIs: whose they are, in which order, what goes with what."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandbox.errors import InvalidRequest, ObjectMissing
from sandbox.keys import KeyLimits, Owner
from sandbox.objects import Objects, new_id
from sandbox.store import Store

ANN = Owner("key_ann", KeyLimits())
BOB = Owner("key_bob", KeyLimits())


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store.open(f"sqlite:///{tmp_path}/sandbox.db") as store:
        yield store


@pytest.fixture
def objects(store: Store) -> Objects:
    return Objects(store, "node", 1)


async def test_an_object_is_what_it_was_last_changed_to(objects: Objects) -> None:
    row = await objects.add(ANN, "thread", {"a": 1}, object_id=new_id("thread_"))
    await objects.change(row, {"a": [2, None]})
    assert (await objects.get(ANN, "thread", row.id)).body == {"a": [2, None]}


async def test_what_is_anothers_or_of_another_kind_does_not_exist(objects: Objects) -> None:
    row = await objects.add(ANN, "thread", {}, object_id="thread_1")
    for owner, kind in ((BOB, "thread"), (ANN, "run")):
        with pytest.raises(ObjectMissing):
            await objects.get(owner, kind, row.id)
        with pytest.raises(ObjectMissing):
            await objects.remove(owner, kind, row.id)
    assert (await objects.page(BOB, "thread", limit=10)).items == ()


async def test_what_has_expired_or_was_removed_does_not_exist(objects: Objects) -> None:
    old = await objects.add(ANN, "response", {}, object_id="resp_1", lifetime_s=-1)
    gone = await objects.add(ANN, "response", {}, object_id="resp_2")
    await objects.remove(ANN, "response", gone.id)
    for row in (old, gone):
        with pytest.raises(ObjectMissing):
            await objects.get(ANN, "response", row.id)
    with pytest.raises(ObjectMissing):
        await objects.change(gone, {})


async def test_parts_are_listed_under_what_they_are_part_of_and_go_with_it(objects: Objects) -> None:
    await objects.add(ANN, "thread", {}, object_id="thread_1")
    await objects.add(ANN, "run", {}, object_id="run_1", parent="thread_1")
    await objects.add(ANN, "step", {}, object_id="step_1", parent="run_1")
    await objects.add(ANN, "run", {}, object_id="run_2", parent="thread_2")
    assert [row.id for row in (await objects.page(ANN, "run", parent="thread_1", limit=9)).items] == ["run_1"]
    await objects.remove(ANN, "thread", "thread_1")
    assert (await objects.page(ANN, "run", parent="thread_1", limit=9)).items == ()
    assert (await objects.page(ANN, "step", parent="run_1", limit=9)).items == ()
    assert (await objects.get(ANN, "run", "run_2")).id == "run_2"


async def test_what_has_expired_goes_with_its_parts_and_what_is_used_again_stays(
    objects: Objects, store: Store
) -> None:
    for number in (1, 2):
        await objects.add(ANN, "thread", {}, object_id=f"thread_{number}", lifetime_s=-1)
        await objects.add(ANN, "run", {}, object_id=f"run_{number}", parent=f"thread_{number}")
        await objects.add(ANN, "step", {}, object_id=f"step_{number}", parent=f"run_{number}")
    await objects.prolong(BOB, ["thread_1", "thread_2"], 60)
    await objects.prolong(ANN, ["thread_2"], 60)
    assert await store.purge_objects(time.time()) == 1
    for kind, parent in (("run", "thread_1"), ("step", "run_1")):
        assert (await objects.page(ANN, kind, parent=parent, limit=9)).items == ()
    assert (await objects.get(ANN, "thread", "thread_2")).id == "thread_2"
    assert (await objects.get(ANN, "step", "step_2")).id == "step_2"


async def test_pages_are_in_the_order_of_making(objects: Objects) -> None:
    for number in range(5):
        await objects.add(ANN, "message", {"number": number}, object_id=new_id("msg_"), parent="thread_1")
    page = await objects.page(ANN, "message", parent="thread_1", limit=3)
    rest = await objects.page(ANN, "message", parent="thread_1", limit=3, after=page.next)
    assert [row.body["number"] for row in (*page.items, *rest.items)] == [4, 3, 2, 1, 0]
    with pytest.raises(InvalidRequest):
        await objects.page(ANN, "message", parent="thread_2", limit=3, after=page.next)


async def test_work_of_a_former_life_is_abandoned(objects: Objects, store: Store) -> None:
    row = await objects.add(ANN, "run", {}, object_id="run_1", live=True)
    assert not objects.is_abandoned(row)
    later = Objects(store, "node", 2)
    assert later.is_abandoned(await later.get(ANN, "run", row.id))
    assert not Objects(store, "another node", 2).is_abandoned(row)
    ended = await later.change(row, {}, live=False)
    assert not later.is_abandoned(ended)
