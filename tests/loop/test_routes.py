"""Which upstream is asked first: by order, by price, by speed."""

import pytest

from sandbox.loop.catalogue import Catalogue, ModelPlan, Route, UpstreamPlan
from sandbox.loop.messages import Function, Image, Message, Text, ToolCall, ToolResult
from sandbox.loop.models import Models
from sandbox.loop.prices import Prices
from sandbox.loop.routes import expected
from tests.loop.scripted import DEAD, NO_MODEL, OVERLOADED, Scripted, Time, ask, models, plans, said, tell

A, B, C = UpstreamPlan("a"), UpstreamPlan("b"), UpstreamPlan("c")


async def asked(mine: Models, times: int = 1) -> list[str]:
    """Who answered."""
    return [(await tell(mine)).reply.upstream for _ in range(times)]


async def test_first_takes_the_routes_in_their_order() -> None:
    assert await asked(models(plans(B, A), Scripted("a"), Scripted("b")), 3) == ["b"] * 3


async def test_pinned_takes_no_other_route() -> None:
    a, b = Scripted("a", *[[OVERLOADED]] * 3), Scripted("b")
    told = await tell(models(plans(A, B, policy="pinned"), a, b))
    assert (told.error, b.asked) == (OVERLOADED, [])


async def test_cheapest_takes_the_one_whose_expected_tokens_cost_least() -> None:
    upstreams = (
        UpstreamPlan("a", prices=Prices(input=1, output=100)),
        UpstreamPlan("b", prices=Prices(input=10, output=1)),
        UpstreamPlan("c"),
    )
    mine = models(plans(*upstreams, policy="cheapest"), *(Scripted(name) for name in "abc"))
    assert (await tell(mine, ask(text="short"))).reply.upstream == "b"
    assert (await tell(mine, ask(text="long" * 10_000))).reply.upstream == "a"


async def test_what_has_no_known_price_comes_last_for_it_may_be_dear() -> None:
    dear = UpstreamPlan("b", prices=Prices(1000, 1000))
    assert await asked(models(plans(A, dear, policy="cheapest"), Scripted("a"), Scripted("b"))) == ["b"]


async def test_cheapest_knows_what_vendors_publish() -> None:
    openai = UpstreamPlan("openai")
    routes = (Route("openai", "gpt-4o"), Route("openai", "gpt-4o-mini"))
    upstream = Scripted("openai")
    mine = models(Catalogue({"openai": openai}, {"m": ModelPlan("m", routes, "cheapest")}), upstream)
    told = await tell(mine)
    assert [request.model for request in upstream.asked] == ["gpt-4o-mini"]
    assert told.reply.cost is not None
    assert 0 < told.reply.cost < 0.01


async def test_fastest_tries_the_unknown_then_takes_the_one_with_the_lowest_median() -> None:
    time = Time()
    a = Scripted("a", [1.0, said("a")], [9.0, said("a")], [1.0, said("a")], time=time)
    b = Scripted("b", [3.0, said("b")], time=time)
    mine = models(plans(B, A, policy="fastest"), a, b, time=time)
    assert await asked(mine, 4) == ["b", "a", "a", "a"]


async def test_fastest_looks_again_at_what_was_slow_long_ago() -> None:
    time = Time()
    a, b = Scripted("a", [5.0, said("a")], time=time), Scripted("b", time=time)
    mine = models(plans(A, B, policy="fastest"), a, b, time=time)
    assert await asked(mine, 3) == ["a", "b", "b"]
    time.pass_(601)
    assert await asked(mine, 1) == ["a"]


@pytest.mark.parametrize("error", [NO_MODEL, DEAD])
async def test_fastest_does_not_begin_every_time_with_what_never_answers(error: Exception) -> None:
    a, b = Scripted("a", *[[error]] * 9), Scripted("b")
    mine = models(plans(UpstreamPlan("a", attempts=1), B, policy="fastest"), a, b)
    assert await asked(mine, 4) == ["b"] * 4
    assert len(a.asked) == 1


def test_the_expected_tokens_are_of_all_that_is_sent() -> None:
    words = Message("user", (Text("word" * 100),))
    assert expected(ask(text="word" * 100)).input_tokens == 100
    call = Message("assistant", (ToolCall("1", "f", "word" * 50),))
    result = Message("tool", (ToolResult("1", (Text("word" * 20), Image("image/png", "AAAA"))),))
    function = Function("name", "word" * 9, {})
    request = ask(functions=(function,))
    tokens = expected(request.__class__("m", (words, call, result), (function,)))
    assert 1180 <= tokens.input_tokens <= 1182
    assert (expected(ask(max_tokens=7)).output_tokens, expected(ask(max_tokens=10**6)).output_tokens) == (7, 512)
