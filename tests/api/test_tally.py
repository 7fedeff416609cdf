"""How many values a body has, of which a parser would make as many objects."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from sandbox.api import app, vendors
from sandbox.api.tally import MOST, Tally
from sandbox.errors import TooLarge
from sandbox.loop.messages import MOST_MESSAGES
from tests.api.served import Served
from tests.fuzzing import bounded

VALUES = st.recursive(
    st.none() | st.integers() | st.text('ab,[{"\\\n'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('a,[{"\\'), inner, max_size=4),
)


def values_in(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(values_in, inner))


def containers_in(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + sum(map(containers_in, inner))


@bounded(300)
@given(value=VALUES, step=st.integers(1, 9), ascii_only=st.booleans())
def test_what_strings_hold_does_not_count_wherever_pieces_end(value: Any, step: int, ascii_only: bool) -> None:
    body, tally = json.dumps(value, ensure_ascii=ascii_only).encode(), Tally()
    for at in range(0, len(body), step):
        tally.add(body[at : at + step])
    # A comma and an opening bracket each: an empty container counts twice, the first value in one not at all.
    assert values_in(value) <= tally._values <= values_in(value) + containers_in(value)


@pytest.mark.parametrize(
    "body", [b"[", b"{},", b'"a",', b'"a"', b'{"a":', b"0,"], ids=["deep", "objects", "texts", "no", "keys", "n"]
)
def test_more_values_than_there_may_be_are_refused_wherever_pieces_end(body: bytes) -> None:
    with pytest.raises(TooLarge):
        Tally().add(body * (2 * MOST + 2))


@pytest.mark.parametrize("text", [b"a,[{", rb"\",", rb"\\", rb"\u005c\n,"])
def test_a_long_text_is_one_value_and_counted_in_no_time(text: bytes) -> None:
    tally = Tally()
    for piece in (b'{"code": "', *[text * 10_000] * 50, b'", "then": 1}'):
        tally.add(piece)
    assert tally._values == 3


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
async def test_nothing_is_counted_in_another_encoding(served: Served, encoding: str) -> None:
    body = ('{"code": "\u2200", "functions": [' + "{}," * MOST + "{}]}").encode(encoding)
    async with served.client() as client:
        answer = await client.post("/v1/run", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, "UTF-8" in answer.text) == (400, True)


@pytest.mark.attack("B23")
async def test_a_body_of_nothing_but_brackets_is_refused_before_it_is_parsed(served: Served) -> None:
    paths = ("/v1/run", "/v1/responses", "/v1/chat/completions", "/v1/messages", "/v1/threads", "/mcp")
    body = b'{"input": [' + b"{}," * MOST + b"{}]}"
    async with served.client() as client:
        for path in paths:
            answer = await client.post(path, content=body, headers={"content-type": "application/json"})
            assert answer.status_code == 413, path
            assert "values of JSON" in answer.text


async def test_no_conversation_is_too_long_to_be_read_at_once(served: Served) -> None:
    said = [{"role": "user", "content": "a"}] * (MOST_MESSAGES + 1)
    async with served.client() as client:
        for path, field in (("chat/completions", "messages"), ("responses", "input"), ("messages", "messages")):
            answer = await client.post(f"/v1/{path}", json={"model": "m", "max_tokens": 9, field: said})
            assert answer.status_code == 400, path
            assert "5,000" in answer.text or "5000" in answer.text


def test_no_list_in_a_body_is_without_a_bound() -> None:
    routers = [*app._ROUTERS, *vendors._ROUTERS]
    unbounded = [
        f"{route.path}: {place}"
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute) and route.body_field is not None
        for place in without_bound(TypeAdapter[Any](route.body_field.field_info.annotation or Any).json_schema())
    ]
    assert unbounded == []


def without_bound(schema: Any, place: str = "") -> Iterator[str]:
    """Where lists are that may be of any length."""
    if isinstance(schema, dict):
        if schema.get("type") == "array" and "maxItems" not in schema:
            yield place
        for name, inner in schema.items():
            yield from without_bound(inner, f"{place}/{name}")
    elif isinstance(schema, list):
        for inner in schema:
            yield from without_bound(inner, place)
