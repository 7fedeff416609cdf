"""Quota: what one owner may have, and what it is told when it has it all."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.errors import RateLimited
from sandbox.keys import LOCAL, KeyLimits, Owner
from sandbox.quota import WINDOW_S, Quota, Standing


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 5000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def quota(clock: Clock) -> Quota:
    return Quota(clock)


def owner(
    name: str = "a",
    *,
    sessions: int | None = None,
    running: int | None = None,
    per_minute: int | None = None,
    stored_bytes: int | None = None,
) -> Owner:
    return Owner(name, KeyLimits(sessions, running, per_minute, stored_bytes))


def test_sessions_are_counted_per_owner_and_freed_once(quota: Quota) -> None:
    one, other = owner(sessions=1), owner("b", sessions=1)
    slot = quota.take_session(one)
    quota.take_session(other)
    with pytest.raises(RateLimited, match="1 open sessions are allowed") as refusal:
        quota.take_session(one)
    assert (refusal.value.name, refusal.value.limit, refusal.value.remaining) == ("sessions", 1, 0)
    assert slot.release()
    assert not slot.release()
    quota.take_session(one)
    with pytest.raises(RateLimited):
        quota.take_session(one)


def test_sessions_of_a_former_life_count_whatever_the_limit_says_now(quota: Quota) -> None:
    slots = [quota.restore_session("a") for _ in range(3)]
    assert quota.snapshot(owner(sessions=2)) == (Standing("sessions", 2, 0, None),)
    for slot in slots[:2]:
        slot.release()
    assert quota.snapshot(owner(sessions=2)) == (Standing("sessions", 2, 1, None),)


def test_running_executions_are_counted_until_they_end(quota: Quota) -> None:
    one = owner(running=2)
    with quota.take_execution(one), quota.take_execution(one):
        with pytest.raises(RateLimited) as refusal:
            quota.take_execution(one)
        assert refusal.value.name == "running"
        assert refusal.value.retry_after > 0
    assert quota.snapshot(one) == (Standing("running", 2, 2, None),)


def test_executions_per_minute_come_back_evenly(quota: Quota, clock: Clock) -> None:
    one = owner(per_minute=6)
    for left in range(5, -1, -1):
        quota.take_execution(one)
        assert quota.snapshot(one)[0].remaining == left
    with pytest.raises(RateLimited) as refusal:
        quota.take_execution(one)
    assert refusal.value.name == "per_minute"
    assert refusal.value.retry_after == pytest.approx(10)
    assert refusal.value.reset == pytest.approx(WINDOW_S)
    clock.now += refusal.value.retry_after
    quota.take_execution(one)
    with pytest.raises(RateLimited):
        quota.take_execution(one)


def test_a_refused_execution_costs_nothing(quota: Quota) -> None:
    one = owner(running=1, per_minute=3)
    slot = quota.take_execution(one)
    for _ in range(10):
        with pytest.raises(RateLimited):
            quota.take_execution(one)
    slot.release()
    assert [standing.remaining for standing in quota.snapshot(one)] == [1, 2]


def test_an_execution_that_never_ran_gives_its_place_in_the_minute_back(quota: Quota) -> None:
    one = owner(per_minute=3)
    quota.take_execution(one).release(unused=True)
    assert quota.snapshot(one)[0].remaining == 3
    quota.take_execution(one).release()
    assert quota.snapshot(one)[0].remaining == 2


def test_a_limit_of_nothing_allows_nothing(quota: Quota) -> None:
    with pytest.raises(RateLimited) as refusal:
        quota.take_execution(owner(per_minute=0))
    assert refusal.value.retry_after == WINDOW_S
    assert quota.snapshot(owner(per_minute=0))[0].remaining == 0


def test_without_limits_everything_goes_and_nothing_is_kept(quota: Quota) -> None:
    for _ in range(100):
        quota.take_session(LOCAL).release()
        quota.take_execution(LOCAL).release()
    with quota.storing(LOCAL, 0) as room:
        room.take(1 << 40)
    assert quota.snapshot(LOCAL) == ()


def test_memory_is_bounded_by_the_owners_of_the_last_minute(quota: Quota, clock: Clock) -> None:
    for number in range(50_000):
        quota.take_execution(owner(f"owner {number}", per_minute=60)).release()
        clock.now += 0.1  # a bucket is full again after one second: ten owners are not at any time
        assert quota.remembered <= 1025
    with quota.storing(owner(stored_bytes=5), 0):
        pass
    assert quota.remembered <= 1025


@settings(deadline=None)
@given(st.integers(1, 90), st.lists(st.floats(0, 30), max_size=60))
def test_no_minute_sees_twice_the_limit_and_a_retry_as_told_succeeds(per_minute: int, pauses: list[float]) -> None:
    clock = Clock()
    quota, one, taken = Quota(clock), owner(per_minute=per_minute), list[float]()
    for pause in pauses:
        clock.now += pause
        for _ in range(40):
            before = quota.snapshot(one)[0]
            assert 0 <= before.remaining <= per_minute
            try:
                quota.take_execution(one).release()
            except RateLimited as refusal:
                assert before.remaining == 0
                clock.now += refusal.retry_after
                quota.take_execution(one).release()
                taken.append(clock.now)
                break
            assert before.remaining > 0
            taken.append(clock.now)
    for start in taken:
        assert sum(start <= at < start + WINDOW_S for at in taken) <= 2 * per_minute


def test_stored_bytes_are_refused_piece_by_piece_and_given_back_when_not_kept(quota: Quota) -> None:
    one = owner(stored_bytes=100)
    with quota.storing(one, stored=50) as room:
        room.take(30)
        with pytest.raises(RateLimited, match="100 stored bytes are") as refusal:
            room.take(30)
        assert (refusal.value.name, refusal.value.remaining) == ("stored_bytes", 20)
    with quota.storing(one, stored=50) as room:
        room.take(50)


def test_uploads_that_overlap_cannot_pass_the_limit_together(quota: Quota) -> None:
    one = owner(stored_bytes=100)
    with quota.storing(one, stored=0) as second:
        with quota.storing(one, stored=0) as first:
            first.take(60)
            first.keep()
        with pytest.raises(RateLimited):
            second.take(60)
        second.take(40)
    with quota.storing(one, stored=10) as later, pytest.raises(RateLimited):  # the database says what there is now
        later.take(91)


def test_an_upload_that_ends_while_another_looks_up_what_is_stored_counts(quota: Quota) -> None:
    one, stored = owner(stored_bytes=100), 0
    with quota.storing(one) as first:
        first.begin(stored)
        first.take(60)
        with quota.storing(one) as second:
            looked_up = stored  # on its way from the database, while the first one's row is written
            first.keep()
            second.begin(looked_up)
            with pytest.raises(RateLimited):
                second.take(60)


def test_an_upload_that_fails_makes_room_for_one_that_goes_on(quota: Quota) -> None:
    one = owner(stored_bytes=100)
    with quota.storing(one, stored=0) as goes_on:
        with quota.storing(one, stored=0) as fails:
            fails.take(100)
        goes_on.take(100)
