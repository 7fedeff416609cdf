"""Between a loop and its upstreams: tries, retries, failover, what a caller sees and what is left."""

import asyncio
import contextlib

import pytest

from sandbox.errors import UnknownModel, UpstreamBusy, UpstreamFailed, UpstreamRefused
from sandbox.loop.attempt import Attempt
from sandbox.loop.catalogue import Catalogue, UpstreamPlan
from sandbox.loop.messages import Delta, Reply
from sandbox.loop.models import Listed, Models
from sandbox.loop.prices import Prices
from tests.loop.scripted import (
    BAD,
    DEAD,
    NO_KEY,
    NO_MODEL,
    OVERLOADED,
    Scripted,
    Step,
    Time,
    ask,
    limited,
    models,
    plans,
    said,
    settle,
    tell,
)

A, B = UpstreamPlan("a"), UpstreamPlan("b")


async def test_a_reply_comes_last_after_its_pieces_and_its_attempt() -> None:
    time = Time()
    a = Scripted("a", [1.0, Delta("Hel"), 2.0, Delta("lo"), said("Hello")], time=time)
    told = await tell(models(plans(A), a, time=time), whole=False)
    kinds = [type(item) for item in told.items]
    assert kinds == [Delta, Delta, Attempt, Reply]
    assert (told.text, told.reply.message.text, told.reply.upstream) == ("Hello", "Hello", "a")
    [attempt] = told.attempts
    assert (attempt.outcome, attempt.first_s, attempt.seconds) == ("answered", 1, 3)
    assert attempt.usage == told.reply.usage


async def test_who_does_not_watch_gets_no_pieces() -> None:
    a = Scripted("a", [Delta("Hel"), Delta("lo"), said("Hello")])
    told = await tell(models(plans(A), a), whole=True)
    assert [type(item) for item in told.items] == [Attempt, Reply]


async def test_the_upstream_is_asked_for_the_model_by_its_own_name() -> None:
    a, b = Scripted("a"), Scripted("b")
    await tell(models(plans(A, B), a, b), ask("b/llama"))
    assert (a.asked, [request.model for request in b.asked]) == ([], ["llama"])


async def test_a_failure_is_tried_again_with_growing_random_waits() -> None:
    time = Time()
    a = Scripted("a", [DEAD], [OVERLOADED], [DEAD])
    told = await tell(models(plans(UpstreamPlan("a", attempts=4)), a, time=time))
    assert told.outcomes == ["a failed", "a busy", "a failed", "a answered"]
    assert [attempt.status for attempt in told.attempts] == [None, 529, None, None]
    assert len(time.slept) == 3
    assert all(0 <= slept <= bound for slept, bound in zip(time.slept, (0.5, 1, 2), strict=True))


async def test_the_tries_of_an_upstream_are_counted() -> None:
    a = Scripted("a", *[[DEAD]] * 9)
    told = await tell(models(plans(A), a))
    assert (told.error, told.outcomes, len(a.asked)) == (DEAD, ["a failed"] * 3, 3)


async def test_an_upstream_is_not_asked_sooner_than_it_says() -> None:
    time = Time()
    a = Scripted("a", [limited(7)])
    told = await tell(models(plans(A), a, time=time))
    assert told.outcomes == ["a busy", "a answered"]
    assert 7 <= sum(time.slept) <= 7.5


async def test_a_rest_beyond_the_patience_fails_now_and_says_how_long_it_is() -> None:
    time = Time()
    a = Scripted("a", [limited(60)])
    mine = models(plans(A), a, time=time)
    told = await tell(mine)
    assert isinstance(told.error, UpstreamBusy)
    assert (told.error.retry_after, time.slept, told.outcomes) == (60, [], ["a busy"])
    time.pass_(20)
    again = await tell(mine)
    assert isinstance(again.error, UpstreamBusy)
    assert (again.error.retry_after, again.outcomes, len(a.asked)) == (40, ["a full"], 1)
    time.pass_(40)
    assert (await tell(mine)).outcomes == ["a answered"]


async def test_a_rest_beyond_the_patience_is_no_rest_where_there_is_another_route() -> None:
    time = Time()
    a, b = Scripted("a", [limited(60)]), Scripted("b")
    mine = models(plans(A, B), a, b, time=time)
    assert (await tell(mine)).outcomes == ["a busy", "b answered"]
    assert (await tell(mine)).outcomes == ["a full", "b answered"]
    assert time.slept == []


@pytest.mark.parametrize("error", [NO_KEY, NO_MODEL])
async def test_a_refusal_of_the_key_or_the_model_is_for_another_upstream(error: UpstreamRefused) -> None:
    a, b = Scripted("a", [error]), Scripted("b")
    told = await tell(models(plans(A, B), a, b))
    assert told.outcomes == ["a refused", "b answered"]
    assert (await tell(models(plans(A), Scripted("a", [error])))).error is error


async def test_a_refused_request_is_refused_once() -> None:
    a, b = Scripted("a", [BAD]), Scripted("b")
    told = await tell(models(plans(A, B), a, b))
    assert (told.error, told.outcomes, b.asked) == (BAD, ["a refused"], [])


async def test_the_next_route_is_taken_when_the_tries_are_used_up() -> None:
    a, b = Scripted("a", *[[DEAD]] * 3), Scripted("b")
    told = await tell(models(plans(A, B), a, b))
    assert told.outcomes == ["a failed"] * 3 + ["b answered"]
    assert told.reply.upstream == "b"


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        (limited(60), NO_KEY, limited),
        (DEAD, NO_MODEL, DEAD),
        (NO_KEY, NO_MODEL, NO_MODEL),
        (DEAD, limited(50), limited),
    ],
)
async def test_when_all_routes_fail_the_error_is_what_can_be_acted_on(
    first: Exception, second: Exception, what: object
) -> None:
    told = await tell(models(plans(A, B), Scripted("a", *[[first]] * 3), Scripted("b", *[[second]] * 3)))
    if what is limited:
        assert isinstance(told.error, UpstreamBusy)
        assert told.error.retry_after in (50, 60)
    else:
        assert told.error is what


async def test_what_was_shown_is_not_taken_back() -> None:
    cut: list[Step] = [Delta("Hel"), DEAD]
    a, b = Scripted("a", cut), Scripted("b")
    told = await tell(models(plans(A, B), a, b), whole=False)
    assert (told.text, told.error, told.outcomes) == ("Hel", DEAD, ["a failed"])
    assert (len(a.asked), b.asked) == (1, [])


async def test_what_nobody_saw_is_asked_again() -> None:
    cut: list[Step] = [Delta("Hel"), DEAD]
    a, b = Scripted("a", *[cut] * 3), Scripted("b")
    told = await tell(models(plans(A, B), a, b), whole=True)
    assert told.outcomes == ["a failed"] * 3 + ["b answered"]


async def test_a_failure_before_the_first_piece_is_tried_again_though_somebody_watches() -> None:
    a = Scripted("a", [DEAD], [Delta(), DEAD], [Delta("Hello"), said("Hello")])
    told = await tell(models(plans(A), a), whole=False)
    assert (told.text, told.outcomes) == ("Hello", ["a failed", "a failed", "a answered"])


async def test_a_chunk_that_was_passed_through_was_shown() -> None:
    a = Scripted("a", [Delta(raw={"choices": []}), DEAD])
    told = await tell(models(plans(A), a), whole=False)
    assert (told.error, len(a.asked)) == (DEAD, 1)


async def test_an_answer_without_an_end_is_a_failure() -> None:
    a = Scripted("a", *[[Delta("Hel")]] * 3)
    told = await tell(models(plans(A), a))
    assert isinstance(told.error, UpstreamFailed)
    assert told.outcomes == ["a failed"] * 3


async def test_an_upstream_that_fails_is_left_alone_asked_once_and_trusted_again() -> None:
    time = Time()
    plan = UpstreamPlan("a", attempts=1, breaker_failures=2, breaker_rest_s=30)
    a = Scripted("a", [DEAD], [DEAD])
    mine = models(plans(plan), a, time=time)
    assert mine.states() == {"a": "closed"}
    await tell(mine)
    await tell(mine)
    assert mine.states() == {"a": "open"}
    told = await tell(mine)
    assert isinstance(told.error, UpstreamBusy)
    assert (told.outcomes, told.error.retry_after, len(a.asked)) == (["a open"], 30, 2)
    time.pass_(30)
    assert mine.states() == {"a": "half_open"}
    gate = asyncio.Event()
    a.will([gate, said("back")])
    probe = asyncio.create_task(tell(mine))
    await settle()
    assert (await tell(mine)).outcomes == ["a open"]
    gate.set()
    assert (await probe).outcomes == ["a answered"]
    assert mine.states() == {"a": "closed"}


async def test_a_probe_that_fails_opens_the_breaker_again() -> None:
    time = Time()
    a = Scripted("a", [DEAD], [DEAD])
    mine = models(plans(UpstreamPlan("a", attempts=1, breaker_failures=1)), a, time=time)
    await tell(mine)
    time.pass_(30)
    await tell(mine)
    assert (mine.states(), len(a.asked)) == ({"a": "open"}, 2)


async def test_no_try_is_wasted_on_a_breaker_that_has_just_opened() -> None:
    time = Time()
    a, b = Scripted("a", *[[DEAD]] * 9), Scripted("b")
    mine = models(plans(UpstreamPlan("a", attempts=9, breaker_failures=2), B), a, b, time=time)
    assert (await tell(mine)).outcomes == ["a failed", "a failed", "b answered"]
    assert (await tell(mine)).outcomes == ["a open", "b answered"]


async def test_neither_refusals_nor_leaving_early_open_a_breaker() -> None:
    a = Scripted("a", *[[BAD]] * 5)
    mine = models(plans(UpstreamPlan("a", breaker_failures=2)), a)
    for _ in range(5):
        await tell(mine)
    for _ in range(5):
        a.will([Delta("Hel"), Delta("lo"), said("Hello")])
        async with contextlib.aclosing(mine.stream(ask(), whole=False)) as items:
            await anext(items)
    assert mine.states() == {"a": "closed"}


async def test_an_upstream_is_never_asked_by_more_than_it_has_slots() -> None:
    a = Scripted("a", *[[asyncio.Event()] for _ in range(100)])
    gates = [turn[0] for turn in a._turns]
    for turn in a._turns:
        turn.append(said("x"))
    time = Time(jumps=False)
    mine = models(plans(UpstreamPlan("a", concurrency=7)), a, time=time)
    tasks = [asyncio.create_task(tell(mine)) for _ in range(100)]
    for gate in gates:
        assert isinstance(gate, asyncio.Event)
        await asyncio.sleep(0)
        gate.set()
    told = await asyncio.gather(*tasks)
    assert all(one.outcomes == ["a answered"] for one in told)
    assert (a.most, a.in_flight) == (7, 0)


async def test_whoever_leaves_in_whatever_way_gives_the_slot_back() -> None:
    seen: list[Attempt] = []
    a = Scripted("a")
    time = Time(jumps=False)
    mine = models(plans(UpstreamPlan("a", concurrency=1)), a, time=time, on_attempt=seen.append)
    a.will([Delta("x"), asyncio.Event()])
    async with contextlib.aclosing(mine.stream(ask(), whole=False)) as items:
        await anext(items)
        assert a.in_flight == 1
    assert a.in_flight == 0
    a.will([asyncio.Event()])
    running = asyncio.create_task(tell(mine))
    waiting = [asyncio.create_task(tell(mine)) for _ in range(3)]
    await settle()
    assert a.in_flight == 1
    for task in (*waiting, running):
        task.cancel()
    await asyncio.gather(running, *waiting, return_exceptions=True)
    assert a.in_flight == 0
    assert (await tell(mine)).outcomes == ["a answered"]
    assert [attempt.outcome for attempt in seen] == ["cancelled", "cancelled", "answered"]


async def test_who_finds_no_slot_in_time_takes_the_next_route() -> None:
    time = Time(jumps=False)
    gate = asyncio.Event()
    a, b = Scripted("a", [gate, said("late")]), Scripted("b")
    mine = models(plans(UpstreamPlan("a", concurrency=1), B), a, b, time=time, patience_s=30)
    first, second = asyncio.create_task(tell(mine)), asyncio.create_task(tell(mine))
    await settle()
    time.pass_(15)  # half of the patience, because there are two routes
    assert (await second).outcomes == ["a full", "b answered"]
    gate.set()
    assert (await first).outcomes == ["a answered"]


async def test_the_patience_of_a_request_is_for_all_its_waits_together() -> None:
    time = Time()
    a = Scripted("a", *[[limited(8)]] * 9)
    told = await tell(models(plans(UpstreamPlan("a", attempts=9)), a, time=time, patience_s=20))
    assert isinstance(told.error, UpstreamBusy)
    assert (told.outcomes, 16 <= sum(time.slept) <= 17) == (["a busy"] * 3, True)


async def test_the_time_of_a_try_is_not_taken_from_the_patience() -> None:
    time = Time()
    a = Scripted("a", [500.0, DEAD], [500.0, DEAD], time=time)
    assert (await tell(models(plans(A), a, time=time))).outcomes == ["a failed", "a failed", "a answered"]


async def test_a_reply_bears_its_cost_where_a_price_is_known() -> None:
    free = UpstreamPlan("a", prices=Prices(0, 0))
    assert (await tell(models(plans(free), Scripted()))).reply.cost == 0
    assert (await tell(models(plans(A), Scripted()))).reply.cost is None
    dear = plans(free, prices=Prices(1, 2))
    told = await tell(models(dear, Scripted("a", [said("x", tokens=(1_000_000, 500_000))])))
    assert (told.reply.cost, told.attempts[0].cost) == (2, 2)


async def test_the_models_are_those_configured_and_those_that_upstreams_have() -> None:
    a, b, c = Scripted("a"), Scripted("b"), Scripted("c", dialect="anthropic")
    a.has, b.has, c.has = ["m", "llama"], DEAD, ["claude-x"]
    catalogue = plans(A, B, UpstreamPlan("c", "anthropic"))
    mine = models(catalogue, a, b, c)
    expected = [Listed("m", "a"), Listed("a/m", "a"), Listed("llama", "a"), Listed("claude-x", "c")]
    assert await mine.list() == expected
    a.has = []
    assert await mine.list() == expected, "for a while the upstreams are not asked again"
    closed = models(Catalogue(catalogue.upstreams, catalogue.models, closed=True), a, b, c)
    assert await closed.list() == [Listed("m", "a")]


async def test_an_upstream_that_hangs_is_left_out_of_the_list() -> None:
    class Hangs(Scripted):
        async def models(self) -> list[str]:
            await asyncio.Event().wait()
            return []

    assert await models(plans(A), Hangs("a")).list() == [Listed("m", "a")]


async def test_an_unknown_model_is_nobodys_failure() -> None:
    told = await tell(models(Catalogue(), Scripted()), ask("gpt-9"))
    assert isinstance(told.error, UnknownModel)
    assert told.items == []


async def test_upstreams_are_connected_when_they_are_needed_and_closed_at_the_end() -> None:
    a, b = Scripted("a"), Scripted("b")
    connected: list[str] = []

    def connect(plan: UpstreamPlan) -> Scripted:
        connected.append(plan.name)
        return {"a": a, "b": b}[plan.name]

    async with contextlib.aclosing(Models(plans(A, B), connect=connect, clock=Time().clock)) as mine:
        assert connected == []
        await tell(mine)
        await tell(mine)
        assert connected == ["a"]
        await mine.warm()
        assert connected == ["a", "b"]
        await mine.warm()
        assert connected == ["a", "b"]
    await mine.aclose()
    assert (a.closed, b.closed) == (1, 1)
