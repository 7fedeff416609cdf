"""Second opinions: recorded, never answered, never in the way."""

import asyncio
import random

import pytest

from sandbox.loop.attempt import Attempt
from sandbox.loop.catalogue import Catalogue, ModelPlan, Route, Shadow, UpstreamPlan
from sandbox.loop.models import Models, Shadowed
from sandbox.loop.prices import Prices
from tests.loop.scripted import DEAD, Scripted, Time, ask, limited, models, said, settle, tell


def shadowed(share: float = 1.0, usd: float = 1.0, **plan: object) -> Catalogue:
    """A model `m` at `a`, with second opinions of `s`."""
    model = ModelPlan("m", (Route("a", "m"),), shadow=Shadow(Route("s", "other"), share, usd))
    return Catalogue({"a": UpstreamPlan("a"), "s": UpstreamPlan("s", **plan)}, {"m": model})  # type: ignore[arg-type]


@pytest.fixture
def seen() -> list[Shadowed]:
    return []


@pytest.fixture
def attempts() -> list[Attempt]:
    return []


def opened(catalogue: Catalogue, seen: list[Shadowed], *upstreams: Scripted, **options: object) -> Models:
    return models(catalogue, *upstreams, on_shadow=seen.append, **options)  # type: ignore[arg-type]


async def test_both_replies_are_recorded_and_the_first_is_answered(seen: list[Shadowed]) -> None:
    s = Scripted("s", [said("second")])
    mine = opened(shadowed(), seen, Scripted("a", [said("first")]), s)
    told = await tell(mine)
    assert (told.reply.message.text, told.outcomes) == ("first", ["a answered"])
    await settle()
    [one] = seen
    assert one.shadow is not None
    assert (one.reply, one.shadow.message.text, one.attempt.shadow) == (told.reply, "second", True)
    assert (one.request, s.asked[0].model) == (ask(), "other")


async def test_only_a_share_of_requests_has_one(seen: list[Shadowed]) -> None:
    mine = opened(shadowed(0.25), seen, Scripted("a"), Scripted("s"), chance=random.Random(7))
    for _ in range(400):
        await tell(mine)
        await settle()
    chance = random.Random(7)
    assert len(seen) == sum(chance.random() < 0.25 for _ in range(400))
    assert 70 <= len(seen) <= 130


async def test_none_is_asked_for_when_there_is_no_share_or_no_answer(seen: list[Shadowed]) -> None:
    s = Scripted("s")
    await tell(opened(shadowed(0.0), seen, Scripted("a"), s))
    await tell(opened(shadowed(), seen, Scripted("a", *[[DEAD]] * 3), s))
    await settle()
    assert (seen, s.asked) == ([], [])


@pytest.mark.parametrize("error", [DEAD, limited(60), RuntimeError("a bug")])
async def test_its_failure_is_nobodys(error: Exception, seen: list[Shadowed], attempts: list[Attempt]) -> None:
    s = Scripted("s", *[[error]] * 9)
    mine = opened(shadowed(breaker_failures=1), seen, Scripted("a"), s, on_attempt=attempts.append)
    for _ in range(3):
        assert (await tell(mine)).error is None
        await settle()
    assert mine.states() == {"a": "closed", "s": "closed"}
    assert all(one.shadow is None for one in seen)
    assert [attempt.upstream for attempt in attempts if not attempt.shadow] == ["a"] * 3


async def test_one_that_hangs_is_in_nobodys_way_and_ends_with_everything(seen: list[Shadowed]) -> None:
    s = Scripted("s", *[[asyncio.Event()] for _ in range(50)])
    mine = opened(shadowed(concurrency=99), seen, Scripted("a"), s)
    for _ in range(50):
        assert (await tell(mine)).outcomes == ["a answered"]
        await settle()
    assert s.in_flight == 8, "there are at most so many at a time"
    await mine.aclose()
    assert (s.in_flight, seen) == (0, [])


async def test_one_that_finds_no_slot_is_left_out(seen: list[Shadowed]) -> None:
    s = Scripted("s", [asyncio.Event()])
    mine = opened(shadowed(concurrency=1), seen, Scripted("a"), s)
    for _ in range(2):
        await tell(mine)
        await settle()
    assert [one.attempt.outcome for one in seen] == ["full"]
    await mine.aclose()


async def test_its_money_is_its_own_and_has_an_end(seen: list[Shadowed]) -> None:
    catalogue = shadowed(usd=0.03, prices=Prices(input=1000, output=1000))
    mine = opened(catalogue, seen, Scripted("a"), Scripted("s"))
    for _ in range(9):
        assert (await tell(mine)).reply.cost is None
        await settle()
    assert [one.shadow.cost for one in seen if one.shadow] == [pytest.approx(0.015)] * 2


async def test_a_recorder_that_fails_does_no_harm() -> None:
    def fails(_: Shadowed) -> None:
        raise OSError("disk full")

    mine = models(shadowed(), Scripted("a"), Scripted("s"), on_shadow=fails, time=Time())
    assert (await tell(mine)).error is None
    await settle()
    assert (await tell(mine)).error is None
