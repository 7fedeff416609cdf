"""Before an upstream is asked: slots, rate limits and the rests that it asks for."""

import asyncio
import contextlib

import pytest

from sandbox.errors import UpstreamBusy, UpstreamFailed
from sandbox.loop.catalogue import UpstreamPlan
from sandbox.loop.clock import Patience
from sandbox.loop.gate import Bucket, Closed, Gate, Pass
from sandbox.loop.messages import Usage
from tests.loop.scripted import DEAD, Time, limited, settle


class Door:
    """A gate, with a request's usual wishes."""

    def __init__(self, time: Time, **plan: int) -> None:
        self.time = time
        self.gate = Gate(UpstreamPlan("a", **plan), time.clock)  # type: ignore[arg-type]

    def passed(
        self, tokens: int = 10, limit_s: float = 10, *, caller: str = "", shadow: bool = False
    ) -> contextlib.AbstractAsyncContextManager[Pass]:
        return self.gate.passed(tokens, Patience(limit_s, self.time.clock), limit_s, caller=caller, shadow=shadow)

    async def pass_(self, tokens: int = 10, limit_s: float = 10, *, caller: str = "", used: int | None = None) -> None:
        async with self.passed(tokens, limit_s, caller=caller) as held:
            held.usage = None if used is None else Usage(used, 0)


async def be_limited(door: Door, told: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(UpstreamBusy):
        async with door.passed():
            await told.wait()
            raise limited(seconds)


def test_a_bucket_gives_a_minutes_worth_at_once_and_then_its_rate() -> None:
    time = Time()
    bucket = Bucket(60, time.clock)
    assert bucket.wait(60) == 0
    bucket.take(60)
    assert bucket.wait(1) == pytest.approx(1)
    time.pass_(30)
    assert bucket.wait(30) == pytest.approx(0)
    time.pass_(3600)
    assert bucket.wait(60) == 0
    assert bucket.wait(1000) == 0, "more than there can ever be is let through when all is there"


async def test_who_waits_for_a_slot_is_told_when_none_is_free_in_time() -> None:
    time = Time(jumps=False)
    door = Door(time, concurrency=1)
    async with door.passed():
        second = asyncio.create_task(door.pass_(limit_s=5))
        await settle()
        time.pass_(4.9)
        await settle()
        assert not second.done()
        time.pass_(0.1)
        with pytest.raises(Closed, match=r"all slots of a were taken for 5\.0 s") as closed:
            await second
    assert closed.value.why == "full"
    await door.pass_(limit_s=0)


async def test_who_waits_for_a_slot_gets_it_when_it_is_free() -> None:
    time = Time(jumps=False)
    door = Door(time, concurrency=1)
    patience = Patience(10, time.clock)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(door.passed())
        second = asyncio.create_task(stack.enter_async_context(door.gate.passed(1, patience, 10)))
        await settle()
        time.pass_(4)
        await settle()
        assert not second.done()
        await stack.aclose()
        await second
        await stack.aclose()
    assert patience.left == 6


async def test_a_wait_that_is_cancelled_takes_no_slot_and_no_rate() -> None:
    time = Time(jumps=False)
    door = Door(time, concurrency=1, requests_per_minute=2)
    async with door.passed():
        waiting = [asyncio.create_task(door.pass_()) for _ in range(5)]
        await settle()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    await door.pass_()
    third = asyncio.create_task(door.pass_(limit_s=60))
    await settle()
    assert time.slept[-1] == pytest.approx(30)
    third.cancel()
    await asyncio.gather(third, return_exceptions=True)
    time.pass_(30)
    await door.pass_(limit_s=0)


async def test_requests_beyond_the_rate_wait_their_turn_or_are_told_how_long_it_would_be() -> None:
    time = Time()
    door = Door(time, requests_per_minute=6)
    for _ in range(6):
        await door.pass_()
    assert time.slept == []
    await door.pass_()
    assert time.slept == [pytest.approx(10)]
    with pytest.raises(Closed, match="rate limit of a has room in 10") as closed:
        await door.pass_(limit_s=9)
    assert closed.value.retry_after == pytest.approx(10)


async def test_tokens_are_counted_as_they_were_in_the_end() -> None:
    time = Time()
    door = Door(time, tokens_per_minute=600)
    await door.pass_(500, used=100)
    await door.pass_(500, used=500)
    assert time.slept == []
    await door.pass_(100, used=700)
    assert time.slept == [pytest.approx(10)]
    await door.pass_(60, limit_s=70)
    assert time.slept[-1] == pytest.approx(66)


async def test_tokens_of_a_request_that_failed_are_given_back() -> None:
    time = Time()
    door = Door(time, tokens_per_minute=600)
    for _ in range(3):
        with pytest.raises(UpstreamBusy):
            async with door.passed(500):
                raise limited(0)
    await door.pass_(500)
    assert time.slept == []


async def test_nobody_asks_while_the_upstream_wants_rest() -> None:
    time = Time()
    door = Door(time)
    with pytest.raises(UpstreamBusy):
        async with door.passed():
            raise limited(60)
    with pytest.raises(Closed, match=r"a asked to be left alone for 60\.0 s more") as closed:
        await door.pass_(limit_s=59)
    assert (closed.value.why, closed.value.retry_after) == ("full", 60)
    await door.pass_(limit_s=61)
    assert time.slept == [60]


async def test_a_rest_that_is_learnt_of_in_line_is_kept() -> None:
    time = Time(jumps=False)
    door = Door(time, concurrency=1)
    told = asyncio.Event()
    first = asyncio.create_task(be_limited(door, told, 20))
    await settle()
    second, third = (asyncio.create_task(door.pass_(limit_s=limit)) for limit in (60, 5))
    await settle()
    told.set()
    await settle()
    assert not second.done()
    time.pass_(20)
    await asyncio.gather(first, second)
    with pytest.raises(Closed):
        await third


async def test_a_rest_of_a_day_is_not_kept() -> None:
    door = Door(Time())
    with pytest.raises(UpstreamBusy):
        async with door.passed():
            raise limited(86_400)
    with pytest.raises(Closed) as closed:
        await door.pass_()
    assert closed.value.retry_after == 300


async def test_being_limited_is_no_fault_and_opens_nothing() -> None:
    door = Door(Time(), breaker_failures=2)
    for _ in range(30):
        with pytest.raises(UpstreamBusy):
            async with door.passed():
                raise limited()
    assert door.gate.breaker.state == "closed"


async def test_a_short_rest_does_not_end_a_long_one() -> None:
    time, told = Time(), asyncio.Event()
    door = Door(time)
    asked = [asyncio.create_task(be_limited(door, told, seconds)) for seconds in (60, 1)]
    await settle()
    told.set()
    await asyncio.gather(*asked)
    with pytest.raises(Closed) as closed:
        await door.pass_()
    assert closed.value.retry_after == 60


async def test_callers_take_turns_at_the_slots() -> None:
    door, order = Door(Time(jumps=False), concurrency=1), list[str]()

    async def come(caller: str) -> None:
        async with door.passed(caller=caller):
            order.append(caller)

    async with door.passed(caller="a"):
        waiting = [asyncio.create_task(come(caller)) for caller in ("a", "a", "a", "b", "c", "b")]
        await settle()
        waiting.pop(1).cancel()
    await asyncio.gather(*waiting)
    assert order == ["a", "b", "c", "a", "b"]
    await door.pass_(caller="d")


async def fail(door: Door, caller: str) -> None:
    with pytest.raises(UpstreamFailed):
        async with door.passed(caller=caller):
            raise UpstreamFailed("it said: a secret of a", status=500)


async def test_nobody_is_shut_out_for_what_somebody_elses_requests_come_to() -> None:
    door = Door(Time(), breaker_failures=2)
    for caller in ("a", "a", "b"):
        await fail(door, caller)
    for caller in ("a", "b"):
        with pytest.raises(Closed, match=r"what failed last: HTTP 500$"):
            await door.pass_(caller=caller)
    async with door.passed(caller="c"):
        with pytest.raises(Closed):
            await door.pass_(caller="c")  # one of theirs at a time
        await fail(door, "d")
    await door.pass_(caller="a")


async def test_what_others_try_while_a_breaker_is_open_makes_its_rest_no_longer() -> None:
    time = Time()
    door = Door(time, breaker_failures=1, breaker_rest_s=30)
    await fail(door, "a")
    time.pass_(29)
    await fail(door, "b")
    assert door.gate.breaker.wait == pytest.approx(1)


async def test_who_stands_in_line_while_others_open_the_breaker_gets_in() -> None:
    door = Door(Time(jumps=False), concurrency=1, breaker_failures=1)
    with contextlib.suppress(UpstreamFailed):
        async with door.passed(caller="a"):
            waiting = asyncio.create_task(door.pass_(caller="b"))
            await settle()
            raise UpstreamFailed("broken", status=500)
    await waiting


async def test_what_began_before_a_breaker_opened_says_nothing_of_whom_it_lets_in() -> None:
    door = Door(Time(), breaker_failures=1)
    async with door.passed(caller="b"):
        await fail(door, "a")
    with pytest.raises(Closed):
        await door.pass_(caller="a")
    await door.pass_(caller="b")


async def test_who_waits_while_a_breaker_opens_gives_its_rate_back_and_is_told_why() -> None:
    time = Time(jumps=False)
    door = Door(time, concurrency=1, requests_per_minute=2, breaker_failures=1)
    with contextlib.suppress(type(DEAD)):
        async with door.passed():
            second = asyncio.create_task(door.pass_())
            await settle()
            raise DEAD
    with pytest.raises(Closed, match=r"of a is open for 30 s more; what failed last: no connection, or"):
        await second
    assert door.gate._requests is not None
    assert door.gate._requests.wait(1) == 0


async def test_an_open_breaker_takes_no_slot_and_no_rate() -> None:
    time = Time()
    door = Door(time, concurrency=1, requests_per_minute=2, breaker_failures=1)
    with pytest.raises(type(DEAD)):
        async with door.passed():
            raise DEAD
    for _ in range(5):
        with pytest.raises(Closed, match="the circuit breaker of a is open") as closed:
            await door.pass_()
        assert (closed.value.why, closed.value.retry_after) == ("open", 30)
    time.pass_(30)
    await door.pass_(limit_s=0)


async def test_a_second_opinion_neither_probes_nor_opens_a_breaker() -> None:
    time = Time()
    door = Door(time, breaker_failures=1)
    with pytest.raises(type(DEAD)):
        async with door.passed(shadow=True):
            raise DEAD
    states = [door.gate.breaker.state]
    with pytest.raises(type(DEAD)):
        async with door.passed():
            raise DEAD
    time.pass_(30)
    with pytest.raises(Closed):
        await door.passed(shadow=True).__aenter__()
    assert [*states, door.gate.breaker.state] == ["closed", "half_open"]
