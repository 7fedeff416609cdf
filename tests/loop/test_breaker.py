"""The circuit breaker: when it opens, what it lets through, how it closes."""

import pytest

from sandbox.loop.breaker import Breaker
from tests.loop.scripted import Time


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def breaker(time: Time) -> Breaker:
    return Breaker(time.clock, failures=3, rest_s=30, window=6)


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        number = breaker.enter()
        assert number is not None
        breaker.failed(number)


def succeed(breaker: Breaker) -> None:
    number = breaker.enter()
    assert number is not None
    breaker.succeeded(number)


def test_it_opens_on_failures_in_a_row(breaker: Breaker) -> None:
    fail(breaker, 2)
    succeed(breaker)
    fail(breaker, 2)
    assert breaker.state == "closed"
    fail(breaker)
    assert (breaker.state, breaker.enter(), breaker.wait) == ("open", None, 30)


def test_it_opens_when_half_of_the_last_tries_failed(breaker: Breaker) -> None:
    for _ in range(2):
        succeed(breaker)
        fail(breaker)
    succeed(breaker)
    states = [breaker.state]
    fail(breaker)
    assert [*states, breaker.state] == ["closed", "open"]


def test_after_its_rest_one_try_goes_through_and_decides(breaker: Breaker, time: Time) -> None:
    fail(breaker, 3)
    time.pass_(29)
    assert (breaker.state, breaker.wait) == ("open", 1)
    time.pass_(1)
    assert (breaker.state, breaker.wait) == ("half_open", 0)
    probe = breaker.enter()
    assert probe is not None
    assert breaker.enter() is None
    assert breaker.wait > 0
    breaker.failed(probe)
    assert (breaker.state, breaker.wait) == ("open", 30)
    time.pass_(30)
    succeed(breaker)
    assert breaker.state == "closed"
    fail(breaker, 2)
    assert breaker.state == "closed"


def test_a_probe_that_is_left_makes_room_for_another(breaker: Breaker, time: Time) -> None:
    fail(breaker, 3)
    time.pass_(30)
    probe = breaker.enter()
    assert probe is not None
    breaker.abandoned(probe)
    succeed(breaker)
    assert breaker.state == "closed"


def test_tries_that_began_before_it_opened_decide_nothing(breaker: Breaker, time: Time) -> None:
    early = [breaker.enter() for _ in range(3)]
    fail(breaker, 3)
    time.pass_(30)
    assert breaker.enter() is not None
    for number, end in zip(early, (breaker.succeeded, breaker.failed, breaker.abandoned), strict=True):
        assert number is not None
        end(number)
    assert (breaker.state, breaker.enter()) == ("half_open", None)
