"""Answers as JSON: the same whether written at once or in turns."""

import asyncio
import dataclasses
import json
import math
from typing import Any

import pytest
from fastapi import Response

from sandbox.api import encode
from sandbox.execution import Artifact, Execution, Status

MANY = Execution(
    "exe_1",
    "ses_1",
    Status.OK,
    stdout="é\ud800",
    results=({"application/json": {"deep": [1, math.nan]}},),
    artifacts=tuple(Artifact(f"é{number}.csv", number, "text/csv", "created") for number in range(1001)),
    removed=tuple(f"{number}" for number in range(200)),
)


@pytest.mark.parametrize("value", [{}, {"a": []}, {"a": [1] * 100}, {"a": [1] * 101, "b": ({},) * 250, "c": "é"}])
async def test_what_is_written_in_turns_is_what_is_written_at_once(value: dict[str, Any]) -> None:
    assert b"".join(await encode.to_pieces(value)) == encode.to_json(value)


async def test_long_results_are_sent_as_they_were_made_and_short_ones_in_one() -> None:
    pages = tuple({"text/html": letter * (1 << 20)} for letter in "abc")
    long = encode.execution(dataclasses.replace(MANY, results=pages), 0.0)
    assert sum(len(piece) > 1 << 20 for piece in await encode.to_pieces(long)) == 3
    few = dataclasses.replace(MANY, results=({"text/plain": "1"}, {"text/plain": "2"}), artifacts=())
    assert len(await encode.to_pieces(encode.execution(few, 0.0))) == 1
    assert await _sent(await encode.execution_answer(long)) == encode.to_json(long)


async def _sent(response: Response) -> bytes:
    """The body that goes out, of which the headers tell the truth."""
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    await response({"type": "http", "method": "GET", "headers": []}, _nothing, send)
    start, *rest = messages
    body = b"".join(message["body"] for message in rest)
    assert dict(start["headers"])[b"content-length"] == str(len(body)).encode()
    assert [message["more_body"] for message in rest] == [True] * (len(rest) - 1) + [False]
    return body


async def _nothing() -> Any:
    raise AssertionError("nothing is received")


async def test_an_execution_with_many_files_is_the_json_that_it_was() -> None:
    told = encode.execution(MANY, 0.0)
    answer = await encode.execution_answer(told)
    body = await _sent(answer)
    assert body == encode.to_json(told)
    assert len(json.loads(body)["artifacts"]) == 1001
    assert answer.headers["content-type"] == "application/json"


async def test_whoever_else_has_a_request_need_not_wait_until_many_files_are_written() -> None:
    others = list[str]()
    writing = asyncio.create_task(encode.to_pieces(encode.execution(MANY, 0.0)))
    asyncio.get_running_loop().call_soon(lambda: asyncio.get_running_loop().call_soon(others.append, "served"))
    writing.add_done_callback(lambda _: others.append("written"))
    await writing
    await asyncio.sleep(0)
    assert others == ["served", "written"]
