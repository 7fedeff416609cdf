"""What a reply costs, and when nobody knows."""

import pytest
from genai_prices.data_snapshot import get_snapshot

from sandbox.loop.messages import Usage
from sandbox.loop.prices import Prices, cost

OPENAI, ANTHROPIC = "https://api.openai.com/v1", "https://api.anthropic.com"
USAGE = Usage(input_tokens=1000, output_tokens=100)


@pytest.mark.parametrize(
    ("model", "address", "dollars"),
    [
        ("gpt-4o-mini", OPENAI, 0.00021),
        ("gpt-4o-mini-2024-07-18", OPENAI, 0.00021),
        ("claude-sonnet-4-5", ANTHROPIC, 0.0045),
        ("claude-sonnet-4-5-20250929", ANTHROPIC, 0.0045),
    ],
)
def test_published_prices_are_known_by_model_and_address(model: str, address: str, dollars: float) -> None:
    assert cost(USAGE, model, address) == pytest.approx(dollars)


@pytest.mark.parametrize(
    ("model", "address"),
    [("gpt-nonsense", OPENAI), ("llama", "http://127.0.0.1:8080/v1"), ("gpt-4o-mini", "http://127.0.0.1:8080/v1")],
)
def test_an_unknown_price_is_not_zero_and_not_a_namesakes(model: str, address: str) -> None:
    assert cost(USAGE, model, address) is None


def test_cached_tokens_have_prices_of_their_own() -> None:
    cached = Usage(input_tokens=1000, output_tokens=100, cache_read_tokens=900)
    assert (cost(cached, "claude-sonnet-4-5", ANTHROPIC) or 0) < (cost(USAGE, "claude-sonnet-4-5", ANTHROPIC) or 0)


def test_usage_that_does_not_add_up_has_no_price() -> None:
    assert cost(Usage(10, 1, cache_read_tokens=900), "claude-sonnet-4-5", ANTHROPIC) is None


def test_an_override_comes_before_what_is_published() -> None:
    assert cost(USAGE, "gpt-4o-mini", OPENAI, Prices(input=1, output=10)) == pytest.approx(0.002)
    assert cost(USAGE, "llama", "http://127.0.0.1:8080/v1", Prices(0, 0)) == 0


def test_an_override_prices_cached_tokens_as_input_unless_it_says_otherwise() -> None:
    cached = Usage(input_tokens=1000, output_tokens=0, cache_read_tokens=400, cache_write_tokens=100)
    assert cost(cached, "m", "", Prices(10, 0)) == pytest.approx(0.01)
    assert cost(cached, "m", "", Prices(10, 0, cache_read=1, cache_write=20)) == pytest.approx(0.0074)


def test_names_that_a_client_makes_up_are_not_remembered() -> None:
    def remembered() -> int:
        known = get_snapshot()
        return len(known._provider_misses) + len(known._provider_cache) + len(known._lookup_cache)

    local = "http://127.0.0.1:8080/v1"
    assert cost(USAGE, "llama", local) is None
    before = remembered()
    for number in range(50):
        assert cost(USAGE, f"llama-{number}", local) is None
    assert remembered() == before
