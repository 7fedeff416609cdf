"""Admission: never over budget, fair turns, bounded queues, and nothing left of those who give up."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.admission import MIB, Admission, Promise, available_mb, memory_of_machine
from sandbox.errors import Draining, InvalidLimits, QueueFull

BUDGET, WAITING, WAITING_PER_OWNER = 1000, 8, 4


def small(max_wait_s: float = 600.0) -> Admission:
    return Admission(BUDGET, waiting=WAITING, waiting_per_owner=WAITING_PER_OWNER, max_wait_s=max_wait_s)


async def settle() -> None:
    """Let every task run until all of them wait."""
    for _ in range(5):
        await asyncio.sleep(0)


async def queue_up(admission: Admission, owner: str, memory_mb: int) -> asyncio.Task[Promise]:
    task = asyncio.create_task(admission.admit(owner, memory_mb))
    await settle()
    assert not task.done()
    return task


async def release(task: asyncio.Task[Promise]) -> None:
    """Its turn must have come by now; take it and give it back."""
    await settle()
    assert task.done()
    task.result().release()


def refused_at_once(admission: Admission, owner: str) -> QueueFull:
    """Without an await: a refusal never yields to the loop."""
    with pytest.raises(QueueFull) as refusal:
        admission.admit(owner, 100).send(None)
    return refusal.value


async def test_what_fits_is_promised_at_once_and_given_back_at_the_end() -> None:
    admission = small()
    with await admission.admit("a", 600), await admission.admit("b", 400):
        assert admission.promised_mb == 1000
    assert admission.promised_mb == 0


async def test_releasing_twice_is_releasing_once() -> None:
    admission = small()
    first, second = await admission.admit("a", 600), await admission.admit("a", 400)
    first.release()
    first.release()
    assert admission.promised_mb == 400
    second.release()
    assert admission.promised_mb == 0


async def test_what_could_never_fit_is_invalid_and_says_what_there_is() -> None:
    with pytest.raises(InvalidLimits, match="1000 MiB"):
        await small().admit("a", 1001)


async def test_owners_take_turns_however_many_requests_one_of_them_has() -> None:
    admission = small()
    held = await admission.admit("greedy", BUDGET)
    turns: list[str] = []

    async def work(owner: str) -> None:
        with await admission.admit(owner, BUDGET):
            turns.append(owner)

    tasks = [asyncio.create_task(work(owner)) for owner in ("greedy", "greedy", "greedy", "modest", "other")]
    await settle()
    held.release()
    await asyncio.gather(*tasks)
    assert turns == ["greedy", "modest", "other", "greedy", "greedy"]


async def test_a_small_request_does_not_overtake_a_large_one_that_is_next() -> None:
    admission = small()
    held, half = await admission.admit("a", 500), await admission.admit("a", 400)
    large = await queue_up(admission, "large", 1000)
    late = await queue_up(admission, "small", 100)  # there are 100 MiB free
    half.release()
    await settle()
    assert not large.done()
    assert not late.done()
    held.release()
    await release(large)
    await release(late)
    assert admission.promised_mb == 0


async def test_when_the_large_one_gives_up_those_behind_it_come_in() -> None:
    admission = small()
    with await admission.admit("a", 900):
        large = await queue_up(admission, "large", 1000)
        late = await queue_up(admission, "small", 100)
        large.cancel()
        await release(late)
        assert admission.waiting == 0


async def test_a_turn_that_comes_together_with_the_cancellation_is_not_lost() -> None:
    admission = small()
    held = await admission.admit("a", BUDGET)
    cancelled, behind = await queue_up(admission, "b", BUDGET), await queue_up(admission, "c", BUDGET)
    held.release()  # grants b its turn, which its task has not seen yet
    cancelled.cancel()
    await release(behind)
    assert cancelled.cancelled()
    assert (admission.promised_mb, admission.waiting) == (0, 0)


async def test_a_cancelled_request_is_passed_over_before_it_has_noticed() -> None:
    admission = small()
    held = await admission.admit("a", BUDGET)
    cancelled, behind = await queue_up(admission, "b", BUDGET), await queue_up(admission, "b", BUDGET)
    cancelled.cancel()
    held.release()
    await release(behind)
    assert (admission.promised_mb, admission.waiting) == (0, 0)


@pytest.mark.attack("H15")
async def test_a_full_queue_of_one_owner_refuses_at_once_and_leaves_room_for_others() -> None:
    admission = small()
    held = await admission.admit("a", BUDGET)
    tasks = [await queue_up(admission, "a", 100) for _ in range(WAITING_PER_OWNER)]
    refusal = refused_at_once(admission, "a")
    assert "of this key" in str(refusal)
    assert refusal.retry_after >= 1
    tasks.append(await queue_up(admission, "b", 100))
    held.release()
    for task in tasks:
        await release(task)


async def test_that_all_queues_are_full_can_be_seen_before_one_more_asks() -> None:
    admission = small()
    promise = await admission.admit("a", BUDGET)
    waiting = [await queue_up(admission, owner, 100) for owner in "abcdefgh"[: WAITING - 1]]
    assert admission.retry_after is None
    waiting.append(await queue_up(admission, "z", 100))
    assert admission.retry_after == refused_at_once(admission, "new").retry_after
    promise.release()
    for each in waiting:
        await release(each)
    assert admission.retry_after is None


@pytest.mark.attack("H15")
async def test_a_thousand_at_once_are_refused_without_one_step_of_the_loop() -> None:
    admission = small()
    held = await admission.admit("a", BUDGET)
    tasks = [await queue_up(admission, f"owner {number}", 100) for number in range(WAITING)]
    for number in range(1000):
        refused_at_once(admission, f"new owner {number}")
    assert admission.waiting == WAITING
    held.release()
    for task in tasks:
        await release(task)


async def test_who_waits_for_too_long_is_refused_and_those_behind_move_up() -> None:
    admission = small(max_wait_s=0.01)
    with await admission.admit("a", 900):
        waited = asyncio.create_task(admission.admit("large", 1000))
        behind = asyncio.create_task(admission.admit("small", 100))
        with pytest.raises(QueueFull, match="900 of 1000 MiB"):
            await waited
        await release(behind)
        assert admission.waiting == 0


async def test_draining_refuses_who_waits_and_who_comes_and_keeps_what_was_promised() -> None:
    admission = small()
    held = await admission.admit("a", BUDGET)
    waits = await queue_up(admission, "b", 100)
    admission.drain()
    with pytest.raises(Draining):
        await waits
    with pytest.raises(Draining) as refusal:
        await admission.admit("c", 100)
    assert refusal.value.retry_after > 0
    assert (admission.promised_mb, admission.waiting) == (BUDGET, 0)
    held.release()
    assert admission.promised_mb == 0


async def test_work_that_has_begun_is_admitted_during_a_drain_and_not_after_it() -> None:
    admission = small()
    held = await admission.admit("a", BUDGET)
    begun = asyncio.ensure_future(admission.admit("b", BUDGET, lambda: True))
    new = await queue_up(admission, "c", 100)
    admission.drain()
    with pytest.raises(Draining):
        await new
    assert (begun.done(), admission.waiting) == (False, 1)
    held.release()
    held = await begun
    waits = asyncio.ensure_future(admission.admit("b", BUDGET, lambda: True))
    await asyncio.sleep(0)
    admission.close()
    for refused in (waits, admission.admit("b", 1, lambda: True)):
        with pytest.raises(Draining):
            await refused
    held.release()
    assert (admission.promised_mb, admission.waiting) == (0, 0)


@dataclass
class Model:
    """Admission as a person would do it on paper: slow, with lists, and nothing asynchronous."""

    turns: list[str] = field(default_factory=list)
    queues: dict[str, list[int]] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    admitted: set[int] = field(default_factory=set)

    @property
    def promised(self) -> int:
        return sum(self.sizes[number] for number in self.admitted)

    def arrive(self, number: int, owner: str, memory_mb: int) -> str:
        self.sizes[number] = memory_mb
        if not self.turns and self.promised + memory_mb <= BUDGET:
            self.admitted.add(number)
            return "admitted"
        if len(self.queues.get(owner, ())) >= WAITING_PER_OWNER or sum(map(len, self.queues.values())) >= WAITING:
            return "refused"
        if owner not in self.turns:
            self.turns.append(owner)
        self.queues.setdefault(owner, []).append(number)
        return "waiting"

    def release(self, number: int) -> None:
        self.admitted.discard(number)
        self.serve()

    def cancel(self, number: int) -> None:
        for owner, queue in list(self.queues.items()):
            if number in queue:
                queue.remove(number)
                self._leave_if_empty(owner)
        self.serve()

    def serve(self) -> None:
        while self.turns:
            owner = self.turns[0]
            number = self.queues[owner][0]
            if self.promised + self.sizes[number] > BUDGET:
                return
            self.admitted.add(self.queues[owner].pop(0))
            self.turns.append(self.turns.pop(0))
            self._leave_if_empty(owner)

    def _leave_if_empty(self, owner: str) -> None:
        if not self.queues[owner]:
            del self.queues[owner]
            self.turns.remove(owner)


arrivals = st.tuples(st.just("arrive"), st.sampled_from("abc"), st.integers(1, BUDGET))
departures = st.tuples(st.sampled_from(["release", "cancel"]), st.integers(0, 30))


@settings(deadline=None)
@given(st.lists(arrivals | departures, max_size=60))
async def test_any_history_gives_what_paper_and_pencil_give(
    history: list[tuple[str, str, int] | tuple[str, int]],
) -> None:
    admission, model = small(), Model()
    tasks: list[asyncio.Task[Promise]] = []
    for step in history:
        if len(step) == 3:
            outcome = model.arrive(len(tasks), step[1], step[2])
            tasks.append(asyncio.create_task(admission.admit(step[1], step[2])))
            await settle()
            assert tasks[-1].done() == (outcome != "waiting")
            assert (outcome == "refused") == (tasks[-1].done() and tasks[-1].exception() is not None)
        elif step[1] < len(tasks) and step[0] == "release" and step[1] in model.admitted:
            tasks[step[1]].result().release()
            model.release(step[1])
        elif step[1] < len(tasks) and step[0] == "cancel" and tasks[step[1]].cancel():
            model.cancel(step[1])
        await settle()
        assert admission.promised_mb == model.promised <= BUDGET
        assert admission.waiting == sum(map(len, model.queues.values())) <= WAITING
        assert model.admitted <= set(having(tasks))
    # Nobody starves: when those who have it give it back, everybody who waits gets it.
    while model.admitted:
        number = min(model.admitted)
        tasks[number].result().release()
        model.release(number)
        await settle()
    assert all(task.done() for task in tasks)
    assert (admission.promised_mb, admission.waiting) == (0, 0)


def having(tasks: list[asyncio.Task[Promise]]) -> Iterator[int]:
    for number, task in enumerate(tasks):
        if task.done() and not task.cancelled() and task.exception() is None:
            yield number


class Machine:
    """Files that look like another machine's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/meminfo", "MemTotal: 16777216 kB\nMemFree: 1 kB\nMemAvailable: 8388608 kB\n")
        self.write("proc/self/cgroup", "")
        self.write("proc/self/mountinfo", "")

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def limit_v2(self, group: str, limit: str, used_mb: int, cache_mb: int = 0) -> None:
        self.write(f"sys/fs/cgroup{group}/memory.max", f"{limit}\n")
        self.write(f"sys/fs/cgroup{group}/memory.current", f"{used_mb * MIB}\n")
        self.write(f"sys/fs/cgroup{group}/memory.stat", f"anon 1\ninactive_file {cache_mb * MIB}\n")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_cgroup_limits_the_memory_is_the_machines(machine: Machine) -> None:
    assert (memory_of_machine(machine.root), available_mb(machine.root)) == (16384, 8192)


def test_the_tightest_limit_above_us_counts_in_version_2(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "0::/slice/service\n")
    machine.write("proc/self/mountinfo", "30 1 0:26 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n")
    machine.limit_v2("/slice", str(2048 * MIB), used_mb=1000, cache_mb=500)
    machine.limit_v2("/slice/service", "max", used_mb=900)
    assert (memory_of_machine(machine.root), available_mb(machine.root)) == (2048, 1548)


def test_a_container_whose_group_is_mounted_as_the_top_counts_its_own_limit(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "4:memory:/docker/f00\n0::/\n")
    machine.write("proc/self/mountinfo", "35 31 0:32 /docker/f00 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n")
    machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", str(1024 * MIB))
    machine.write("sys/fs/cgroup/memory/memory.usage_in_bytes", str(1100 * MIB))
    machine.write("sys/fs/cgroup/memory/memory.stat", f"inactive_file 0\ntotal_inactive_file {50 * MIB}\n")
    assert (memory_of_machine(machine.root), available_mb(machine.root)) == (1024, 0)


def test_a_group_outside_of_our_namespace_does_not_confuse_us(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "0::/../elsewhere\n")
    machine.write("proc/self/mountinfo", "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    machine.limit_v2("", str(4096 * MIB), used_mb=0)
    assert memory_of_machine(machine.root) == 4096


def test_this_machine_has_memory_and_not_more_available_than_it_has() -> None:
    assert 0 < available_mb() <= memory_of_machine()
