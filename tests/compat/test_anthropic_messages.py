"""Messages with code execution: the unmodified SDK, a scripted model's server, real sandboxes between."""

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import pytest

from tests.api.conftest import NewDataDir, add_key
from tests.api.served import Served, serving
from tests.compat.environments import Environments
from tests.upstreams import Asked, Call, Fails, Says, Scripted, busy

PYTHON: Any = {"type": "code_execution_20250522", "name": "code_execution"}
BASH: Any = {"type": "code_execution_20250825", "name": "code_execution"}
REPL: Any = {"type": "code_execution_20260521", "name": "code_execution"}
WEATHER: Any = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
QUESTION: Any = [{"role": "user", "content": "How much is it?"}]


def python(code: str, text: str = "") -> Says:
    return Says(text, (Call("code_execution", {"code": code}),))


def bash(command: str, text: str = "") -> Says:
    return Says(text, (Call("bash_code_execution", {"command": command}),))


def editor(**asked: Any) -> Says:
    return Says("", (Call("text_editor_code_execution", asked),))


@pytest.fixture
async def sdk(hosted: Served) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=hosted.url, api_key="any", max_retries=0) as sdk:
        yield sdk


async def ask(sdk: anthropic.AsyncAnthropic, **more: Any) -> Any:
    given: dict[str, Any] = {"model": "scripted", "max_tokens": 1000, "messages": QUESTION, "tools": [REPL]} | more
    return await sdk.messages.create(**given)


def kinds(message: Any) -> list[str]:
    return [block.type for block in message.content]


def result(message: Any) -> Any:
    """What came of the last call."""
    return [block.content for block in message.content if block.type.endswith("_tool_result")][-1]


async def test_python_runs_and_the_answer_has_the_call_its_result_and_the_words(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    upstream.then(python("import sys\nprint(6 * 7)\nprint('hm', file=sys.stderr)", "Let me see."), Says("It is 42."))
    answer = await ask(sdk, tools=[PYTHON])
    assert kinds(answer) == ["text", "server_tool_use", "code_execution_tool_result", "text"]
    assert answer.content[1].input == {"code": "import sys\nprint(6 * 7)\nprint('hm', file=sys.stderr)"}
    assert answer.content[2].tool_use_id == answer.content[1].id
    got = result(answer)
    assert (got.type, got.stdout, got.stderr, got.return_code) == ("code_execution_result", "42\n", "hm\n", 0)
    assert (answer.stop_reason, answer.container.id[:10]) == ("end_turn", "container_")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (20, 10)
