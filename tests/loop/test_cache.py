"""Replies from the cache: which requests are equal, and what is kept."""

import dataclasses

import pytest

from sandbox.loop.attempt import Attempt
from sandbox.loop.catalogue import CacheRule, UpstreamPlan
from sandbox.loop.messages import Delta, Finish, Image, Message, Opaque, Reply, Request, Text, Usage
from tests.loop.scripted import DEAD, Scripted, Time, ask, models, plans, said, tell

A = UpstreamPlan("a")
COLD = ask(temperature=0)


async def test_the_very_same_request_is_answered_without_the_upstream_and_costs_nothing() -> None:
    seen: list[Attempt] = []
    a = Scripted()
    mine = models(plans(A), a, cache_entries=9, on_attempt=seen.append)
    first = await tell(mine, COLD)
    again = await tell(mine, COLD)
    assert (first.reply.cached, again.reply.cached, again.reply.cost) == (False, True, 0)
    assert (again.reply.message, again.reply.usage) == (first.reply.message, Usage())
    assert (again.outcomes, len(a.asked)) == (["a cached"], 1)
    assert [attempt.outcome for attempt in seen] == ["answered", "cached"]


async def test_who_watches_sees_the_words_of_a_kept_reply() -> None:
    mine = models(plans(A), Scripted("a", [Delta("He"), Delta("llo"), said("Hello")]), cache_entries=9)
    await tell(mine, COLD)
    told = await tell(mine, COLD, whole=False)
    assert [type(item) for item in told.items] == [Attempt, Delta, Reply]
    assert told.text == "Hello"


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(COLD, max_tokens=9),
        dataclasses.replace(COLD, stop=("x",)),
        dataclasses.replace(COLD, extra={"seed": 7}),
        dataclasses.replace(COLD, messages=(Message("system", COLD.messages[0].parts),)),
        dataclasses.replace(COLD, messages=(Message("user", (Image(data="hello"),)),)),
        dataclasses.replace(COLD, messages=(Message("user", (Opaque("anthropic", {"text": "hello"}),)),)),
        dataclasses.replace(COLD, messages=(*COLD.messages, Message("user", (Text(""),)))),
    ],
    ids=str,
)
async def test_a_request_that_differs_in_anything_is_another(other: Request) -> None:
    a = Scripted()
    mine = models(plans(A), a, cache_entries=9)
    for request in (COLD, other, COLD, other):
        await tell(mine, request)
    assert a.asked == [COLD, other]


async def test_the_order_of_keys_and_a_name_left_out_make_no_difference() -> None:
    a = Scripted()
    mine = models(plans(A), a, cache_entries=9)
    await tell(mine, dataclasses.replace(COLD, extra={"seed": 7, "top_p": 1}))
    await tell(mine, dataclasses.replace(COLD, model="", extra={"top_p": 1, "seed": 7}))
    assert len(a.asked) == 1


@pytest.mark.parametrize(
    ("rule", "temperature", "asked"),
    [
        ("temperature_0", 0, 1),
        ("temperature_0", None, 2),
        ("temperature_0", 0.1, 2),
        ("always", None, 1),
        ("never", 0, 2),
    ],
)
async def test_only_what_the_rule_has_is_kept(rule: CacheRule, temperature: float | None, asked: int) -> None:
    a = Scripted()
    mine = models(plans(A, cache=rule), a, cache_entries=9)
    for _ in range(2):
        await tell(mine, ask(temperature=temperature))
    assert len(a.asked) == asked


async def test_nothing_is_kept_unless_it_is_asked_for() -> None:
    a = Scripted()
    mine = models(plans(A), a)
    await tell(mine, COLD)
    await tell(mine, COLD)
    assert len(a.asked) == 2


@pytest.mark.parametrize(("finish", "asked"), [("length", 2), ("content_filter", 2), ("tool_calls", 1)])
async def test_what_is_incomplete_is_not_kept(finish: Finish, asked: int) -> None:
    a = Scripted("a", *[[dataclasses.replace(said("x"), finish=finish)]] * 2)
    mine = models(plans(A), a, cache_entries=9)
    await tell(mine, COLD)
    await tell(mine, COLD)
    assert len(a.asked) == asked


async def test_failures_and_odd_values_are_not_kept() -> None:
    a = Scripted("a", [DEAD])
    mine = models(plans(UpstreamPlan("a", attempts=1)), a, cache_entries=9)
    await tell(mine, COLD)
    assert (await tell(mine, COLD)).outcomes == ["a answered"]
    odd = dataclasses.replace(COLD, extra={"what": object()})
    await tell(mine, odd)
    assert (await tell(mine, odd)).outcomes == ["a answered"]


@pytest.mark.parametrize("extra", [{"n": 2}, {"logprobs": True}, {"top_logprobs": 3}])
async def test_an_answer_that_is_more_than_a_reply_is_not_kept(extra: dict[str, object]) -> None:
    a = Scripted()
    mine = models(plans(A), a, cache_entries=9)
    for _ in range(2):
        await tell(mine, dataclasses.replace(COLD, extra=extra))
    assert len(a.asked) == 2


async def test_the_least_recently_used_leaves_first_and_each_after_its_time() -> None:
    time, a = Time(), Scripted()
    mine = models(plans(A), a, time=time, cache_entries=2, cache_s=60)
    one, two, three = (ask(text=text, temperature=0) for text in ("1", "2", "3"))
    for request in (one, two, one, three, one):
        await tell(mine, request)
    assert a.asked == [one, two, three]
    time.pass_(61)
    await tell(mine, one)
    assert len(a.asked) == 4
