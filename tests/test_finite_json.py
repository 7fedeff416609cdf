"""What programs show, as JSON: quickly where that goes, and the same where it does not."""

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from sandbox import finite_json

HALF = "\ud800"
"""Of a surrogate pair: what makes the quick way impossible."""


def _strictly(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def read(text: bytes) -> Any:
    return json.loads(text, parse_constant=_strictly)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"a": [1, -1.5, 1e22, True, None], "b": {}}, {"a": [1, -1.5, 1e22, True, None], "b": {}}),
        ("é 漢 \0 \u2028 \x1a", "é 漢 \0 \u2028 \x1a"),
        ([math.nan, math.inf, -math.inf, "NaN"], [None, None, None, "NaN"]),
        ((1, (2,)), [1, [2]]),
        ([1 << 64, 10**4000], [1 << 64, 10**4000]),
        ({"deep": [1, math.nan, {"deeper": math.inf}]}, {"deep": [1, None, {"deeper": None}]}),
    ],
)
@pytest.mark.parametrize("quick", [True, False])
def test_a_value_is_told_as_it_is_and_no_number_as_null(value: Any, told: Any, quick: bool) -> None:
    more = {} if quick else {"half": HALF}
    assert read(finite_json.dumps({"it": value, **more}))["it"] == told
    assert read(finite_json.dumps({"it": value, **more}, ascii_only=True)) == {"it": told, **more}


def test_half_a_surrogate_pair_is_kept_in_ascii_and_replaced_in_utf8() -> None:
    assert read(finite_json.dumps([HALF, "é"], ascii_only=True)) == [HALF, "é"]
    assert read(finite_json.dumps([HALF, "é"])) == ["?", "é"]


def test_what_is_nested_as_deeply_as_a_frame_may_be_is_told() -> None:
    nested: Any = math.nan
    for _ in range(800):
        nested = [nested]
    told = read(finite_json.dumps(nested))
    for _ in range(800):
        [told] = told
    assert told is None


@dataclass
class Own:
    """A value of ours."""

    field: int = 1


@pytest.mark.parametrize("more", [[], [HALF]])
@pytest.mark.parametrize("value", [Own(), datetime.now(UTC), {1, 2}, b"bytes"])
def test_what_is_no_json_is_an_error_unless_the_caller_has_words_for_it(value: Any, more: list[str]) -> None:
    with pytest.raises(TypeError):
        finite_json.dumps([value, *more])
    assert read(finite_json.dumps([value, *more], lambda _: "words"))[0] == "words"
