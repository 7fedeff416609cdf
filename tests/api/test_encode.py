"""Answers as JSON: the same bytes whether written at once or in turns."""

import asyncio
import json
import math
from typing import Any

import pytest

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
    assert await encode.to_json_in_turns(value) == encode.to_json(value)


async def test_an_execution_with_many_files_is_the_json_that_it_was() -> None:
    told = encode.execution(MANY, 0.0)
    answer = await encode.execution_answer(told)
    assert answer.body == encode.to_json(told)
    assert len(json.loads(bytes(answer.body))["artifacts"]) == 1001
    assert answer.headers["content-type"] == "application/json"


async def test_whoever_else_has_a_request_need_not_wait_until_many_files_are_written() -> None:
    others = list[str]()
    writing = asyncio.create_task(encode.to_json_in_turns(encode.execution(MANY, 0.0)))
    asyncio.get_running_loop().call_soon(lambda: asyncio.get_running_loop().call_soon(others.append, "served"))
    writing.add_done_callback(lambda _: others.append("written"))
    await writing
    await asyncio.sleep(0)
    assert others == ["served", "written"]
