"""Code that calls tools of the caller's: the unmodified SDK, a scripted model, and real kernels that wait between."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest

from tests.api.conftest import NewDataDir, add_key
from tests.api.served import Served, serving
from tests.upstreams import Call, Says, Scripted

CODE: Any = {"type": "code_execution_20260120", "name": "code_execution"}
WEATHER: Any = {
    "name": "get-weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "allowed_callers": ["code_execution_20260120"],
}
QUESTION: Any = {"role": "user", "content": "Where is it warmer?"}
BOTH = "import asyncio\nprint(await asyncio.gather(*(get_weather(city) for city in ('Oslo', 'Rome'))))"


@pytest.fixture
async def sdk(hosted: Served) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=hosted.url, api_key="any", max_retries=0) as sdk:
        yield sdk


def python(code: str, text: str = "") -> Says:
    return Says(text, (Call("code_execution", {"code": code}),))


async def ask(sdk: anthropic.AsyncAnthropic, *messages: Any, **more: Any) -> Any:
    given: dict[str, Any] = {"model": "scripted", "max_tokens": 1000, "tools": [CODE, WEATHER]} | more
    return await sdk.messages.create(messages=[QUESTION, *messages], **given)


def said(answer: Any) -> Any:
    """As a program keeps it for the next request."""
    return {"role": "assistant", "content": answer.content}


def results(answer: Any, *texts: str, **more: Any) -> Any:
    """For all that the answer calls."""
    called = [block.id for block in answer.content if block.type == "tool_use"]
    return {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": name, "content": text} | more
            for name, text in zip(called, texts, strict=True)
        ],
    }


def kinds(answer: Any) -> list[str]:
    return [block.type for block in answer.content]


async def refused(sdk: anthropic.AsyncAnthropic, *messages: Any, **more: Any) -> str:
    with pytest.raises(anthropic.BadRequestError) as caught:
        await ask(sdk, *messages, **more)
    error: Any = caught.value.body
    assert error["error"]["type"] == "invalid_request_error"
    return str(error["error"]["message"])


async def test_code_waits_for_a_tool_and_goes_on_with_its_result(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    upstream.then(python("print(await get_weather('Oslo'))", "Let me see."), Says("It rains in Oslo."))
    first = await ask(sdk)
    assert kinds(first) == ["text", "server_tool_use", "tool_use"]
    _, code, call = first.content
    assert (call.name, call.input, call.id[:6]) == ("get-weather", {"city": "Oslo"}, "toolu_")
    assert (call.caller.type, call.caller.tool_id) == ("code_execution_20260120", code.id)
    assert first.stop_reason == "tool_use"
    second = await ask(sdk, said(first), results(first, "rain"), container=first.container.id)
    assert kinds(second) == ["code_execution_tool_result", "text"]
    result = second.content[0]
    assert (result.tool_use_id, result.content.stdout, result.content.return_code) == (code.id, "rain\n", 0)
    assert (second.stop_reason, second.content[1].text) == ("end_turn", "It rains in Oslo.")
    assert (second.container.id, second.id == first.id) == (first.container.id, False)
    assert [each.usage.input_tokens for each in (first, second)] == [10, 10]


async def test_calls_made_at_once_come_in_one_answer(sdk: anthropic.AsyncAnthropic, upstream: Scripted) -> None:
    upstream.then(python(BOTH), Says("In Rome."))
    first = await ask(sdk)
    assert kinds(first) == ["server_tool_use", "tool_use", "tool_use"]
    second = await ask(sdk, said(first), results(first, "3", "21"), container=first.container.id)
    assert second.content[0].content.stdout == "['3', '21']\n"


async def test_calls_made_one_after_the_other_come_in_one_answer_each(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    upstream.then(python("a = await get_weather('a')\nb = await get_weather(a)\nprint(a + b)"), Says("Done."))
    history: list[Any] = []
    answer = await ask(sdk)
    code = answer.content[0].id
    for text in ("b", "c"):
        assert kinds(answer)[-1] == "tool_use"
        assert answer.content[-1].caller.tool_id == code
        history += [said(answer), results(answer, text)]
        answer = await ask(sdk, *history, container={"id": answer.container.id})
    assert kinds(answer) == ["code_execution_tool_result", "text"]
    assert answer.content[0].content.stdout == "bc\n"
    assert len(upstream.asked) == 2  # of the model: what code has been told costs no tokens


async def test_a_conversation_with_such_calls_goes_on(sdk: anthropic.AsyncAnthropic, upstream: Scripted) -> None:
    upstream.then(
        python("x = await get_weather('Oslo')\nprint(x)"), Says("Rain."), python("print(x * 2)"), Says("Yes.")
    )
    first = await ask(sdk)
    history = [said(first), results(first, "rain")]
    second = await ask(sdk, *history, container=first.container.id)
    history += [said(second), {"role": "user", "content": "Twice?"}]
    third = await ask(sdk, *history, container=second.container.id)
    assert third.content[1].content.stdout == "rainrain\n"
    told = upstream.asked[2].body["messages"]
    assert [message["role"] for message in told] == ["user", "assistant", "tool", "assistant", "user"]
    assert "rain" in str(told[2]["content"])
    assert "get-weather" not in str(told)


async def test_it_all_streams(sdk: anthropic.AsyncAnthropic, upstream: Scripted) -> None:
    upstream.then(python(BOTH, "Let me see."), Says("In Rome."))
    given: Any = {"model": "scripted", "max_tokens": 1000, "tools": [CODE, WEATHER]}
    async with sdk.messages.stream(messages=[QUESTION], **given) as stream:
        names = [event.type async for event in stream]
        first = await stream.get_final_message()
    assert (names[0], names[-1]) == ("message_start", "message_stop")
    assert kinds(first) == ["text", "server_tool_use", "tool_use", "tool_use"]
    assert first.stop_reason == "tool_use"
    assert first.container is not None
    messages = [QUESTION, said(first), results(first, "3", "21")]
    async with sdk.messages.stream(messages=messages, container=first.container.id, **given) as stream:
        second = await stream.get_final_message()
    assert kinds(second) == ["code_execution_tool_result", "text"]
    assert second.stop_reason == "end_turn"


async def test_a_tool_that_failed_raises_in_the_code(sdk: anthropic.AsyncAnthropic, upstream: Scripted) -> None:
    upstream.then(python("await get_weather('Oslo')"), Says("No luck."))
    first = await ask(sdk)
    second = await ask(sdk, said(first), results(first, "no such city", is_error=True), container=first.container.id)
    assert second.content[0].content.return_code == 1
    assert "CallFailed: no such city" in second.content[0].content.stderr


async def test_a_result_that_comes_too_late_finds_what_came_of_the_code(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    code = "import asyncio\nasync with asyncio.timeout(0.1):\n    await get_weather('Oslo')"
    upstream.then(python(code), Says("Nobody answered."))
    first = await ask(sdk)
    while len(upstream.asked) < 2:  # the run goes on by itself
        await sdk.models.list()
    second = await ask(sdk, said(first), results(first, "rain"), container=first.container.id)
    assert "TimeoutError" in second.content[0].content.stderr
    assert second.content[1].text == "Nobody answered."


async def test_the_model_is_told_how_code_calls_them_and_cannot_itself(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    direct = {**WEATHER, "name": "get_time", "allowed_callers": ["direct", "code_execution_20260521"]}
    upstream.then(Says("", (Call("get_time", {"city": "Oslo"}),)))
    answer = await ask(sdk, tools=[{**CODE, "type": "code_execution_20260521"}, WEATHER, direct])
    assert (answer.content[0].name, answer.content[0].caller.type) == ("get_time", "direct")
    tools = {tool["function"]["name"]: tool["function"]["description"] for tool in upstream.asked[0].body["tools"]}
    assert "get-weather" not in tools
    assert "get_time" in tools
    assert "- await get_weather(city: str): The weather of a city." in tools["code_execution"]
    assert "- await get_time(city: str)" in tools["code_execution"]
    assert "await" not in tools["bash_code_execution"]


async def test_code_that_calls_nothing_runs_as_ever(sdk: anthropic.AsyncAnthropic, upstream: Scripted) -> None:
    upstream.then(python("print(42)"), Says("It is 42."))
    answer = await ask(sdk)
    assert kinds(answer) == ["server_tool_use", "code_execution_tool_result", "text"]
    assert answer.stop_reason == "end_turn"


@pytest.mark.parametrize("streams", [False, True])
async def test_an_answer_that_was_cut_off_can_be_had_again(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted, streams: bool
) -> None:
    code = "print(await get_weather('Oslo'))\nwritten = open('cut.txt', 'w').write('kept once')"
    upstream.then(python(code), Says("It rains.", delay=1.0))
    before = len((await sdk.beta.files.list(limit=100)).data)
    first = await ask(sdk)
    given: Any = {"container": first.container.id, "stream": streams}
    more = [said(first), results(first, "rain")]

    async def answered() -> Any:
        answer = await ask(sdk, *more, **given)
        if streams:
            async for _ in answer:
                pass

    cut = asyncio.create_task(answered())
    while len(upstream.asked) < 2:
        await sdk.models.list()
    cut.cancel()
    await asyncio.wait((cut,))
    again = await ask(sdk, *more, container=first.container.id)
    assert kinds(again) == ["code_execution_tool_result", "text"]
    assert (again.content[0].content.stdout, again.content[1].text) == ("rain\n", "It rains.")
    assert (again.content[0].tool_use_id, again.usage.input_tokens) == (first.content[0].id, 10)
    assert len((await sdk.beta.files.list(limit=100)).data) == before + 1
    assert len(upstream.asked) == 2


async def test_what_does_not_fit_what_code_waits_for_is_refused_and_it_waits_on(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    upstream.then(python(BOTH), Says("In Rome."))
    first = await ask(sdk)
    named = {"container": first.container.id}
    good = results(first, "3", "21")
    one, other = good["content"]
    assert (await refused(sdk, said(first), good)).startswith("container: ")
    text = {"type": "text", "text": "Here."}
    for content in ([text], [*good["content"], text], "Well?"):
        words = await refused(sdk, said(first), {"role": "user", "content": content}, **named)
        assert words.startswith("messages.2: code waits")
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    drawn = {**one, "content": [image]}
    for content, wanted in (
        ([one], f"code waits for the result of {other['tool_use_id']}"),
        ([one, other, {**one, "tool_use_id": "toolu_other"}], "no code waits for the result of toolu_other"),
        ([drawn, other], "messages.2.content.0.content: code gets text alone"),
        ([{**one, "content": "x" * 1_100_000}, other], "is too long"),
    ):
        assert wanted in await refused(sdk, said(first), {"role": "user", "content": content}, **named)
    second = await ask(sdk, said(first), good, **named)
    assert second.content[0].content.stdout == "['3', '21']\n"
    assert "no code waits" in await refused(sdk, said(first), good, **named)


async def test_who_goes_on_without_the_results_gives_the_code_up(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    upstream.then(python("x = 1\nawait get_weather('Oslo')"), python("print(x)"), Says("One."))
    first = await ask(sdk)
    second = await ask(sdk, container=first.container.id)
    assert second.content[1].content.stdout == "1\n"
    assert "no code waits" in await refused(sdk, said(first), results(first, "rain"), container=first.container.id)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"tools": [WEATHER]},
            "tools: get-weather is to be called by code; add a tool of the type code_execution_2026",
        ),
        ({"tools": [{**CODE, "type": "code_execution_20250825"}, WEATHER]}, "tools: get-weather is to be called"),
        ({"tools": [CODE, {**WEATHER, "allowed_callers": []}]}, "tools.1.allowed_callers: a list"),
        (
            {"tools": [CODE, {**WEATHER, "allowed_callers": ["code_execution_20250825"]}]},
            "tools.1.allowed_callers: 'co",
        ),
        ({"tools": [CODE, {**WEATHER, "strict": True}]}, "tools.1.strict: "),
        ({"tools": [CODE, WEATHER, {**WEATHER, "name": "get_weather"}]}, "tools: get-weather and get_weather cannot"),
        ({"tools": [CODE, {**WEATHER, "name": "code_execution"}]}, "tools: 'code_execution' is a name of"),
        ({"tool_choice": {"type": "tool", "name": "get-weather"}}, "tool_choice.name: get-weather is called by code"),
        ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}, "tool_choice.disable_parallel_tool_use"),
    ],
)
async def test_what_cannot_be_called_by_code_is_refused(
    sdk: anthropic.AsyncAnthropic, changes: dict[str, Any], words: str
) -> None:
    assert (await refused(sdk, **changes)).startswith(words)


async def test_nobody_else_can_answer(new_data_dir: NewDataDir, upstream: Scripted) -> None:
    data_dir = new_data_dir()
    mine, theirs = await add_key(data_dir, "mine"), await add_key(data_dir, "theirs")
    table = f'{{"scripted": {{"url": "{upstream.url}"}}}}'
    async with (
        serving(data_dir, upstreams=table) as served,
        anthropic.AsyncAnthropic(base_url=served.url, api_key=mine, max_retries=0) as sdk,
        anthropic.AsyncAnthropic(base_url=served.url, api_key=theirs, max_retries=0) as other,
    ):
        upstream.then(python("print(await get_weather('Oslo'))"), Says("Rain."))
        first = await ask(sdk)
        with pytest.raises(anthropic.NotFoundError):
            await ask(other, said(first), results(first, "sun"), container=first.container.id)
        second = await ask(sdk, said(first), results(first, "rain"), container=first.container.id)
        assert second.content[0].content.stdout == "rain\n"


async def test_a_server_that_stops_while_code_waits_leaves_nothing(
    new_data_dir: NewDataDir, upstream: Scripted
) -> None:
    table = f'{{"scripted": {{"url": "{upstream.url}"}}}}'
    async with (
        serving(new_data_dir(), upstreams=table, drain_timeout_s=1) as served,
        anthropic.AsyncAnthropic(base_url=served.url, api_key="any", max_retries=0) as sdk,
    ):
        upstream.then(python("await get_weather('Oslo')"))
        assert (await ask(sdk)).stop_reason == "tool_use"
