"""Chat completions: the unmodified SDK on one side, a scripted model's server on the other, real sandboxes between."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from sandbox.store import Store
from tests.api.conftest import NewDataDir, add_key
from tests.api.served import WAIT_SECONDS, Served, logged, serving
from tests.upstreams import Asked, Breaks, Call, Fails, Raw, Says, Scripted, Silent, busy, runs

INTERPRETER: Any = {"type": "code_interpreter"}
WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
QUESTION: Any = [{"role": "user", "content": "How much is it?"}]


@pytest.fixture(scope="module")
async def upstream() -> AsyncIterator[Scripted]:
    async with Scripted("openai", models=("scripted", "other")) as upstream:
        yield upstream


@pytest.fixture(scope="module")
async def chatting(new_data_dir: NewDataDir, nothing_left: None, upstream: Scripted) -> AsyncIterator[Served]:
    """A server whose model is scripted."""
    table = {"scripted": {"url": upstream.url, "attempts": 1, "breaker_failures": 1000}}
    models = {"small": {"routes": ["scripted/small"], "fenced": True}}
    async with serving(new_data_dir(), pool_size=2, upstreams=json.dumps(table), models=json.dumps(models)) as served:
        yield served


@pytest.fixture
async def sdk(chatting: Served, upstream: Scripted) -> AsyncIterator[openai.AsyncOpenAI]:
    upstream.asked.clear()
    async with openai.AsyncOpenAI(base_url=f"{chatting.url}/v1", api_key="any", max_retries=0) as sdk:
        yield sdk


async def ask(sdk: openai.AsyncOpenAI, **more: Any) -> ChatCompletion:
    given: dict[str, Any] = {"model": "scripted", "messages": QUESTION, "tools": [INTERPRETER]} | more
    answer: ChatCompletion = await sdk.chat.completions.create(**given)
    return answer


async def stream(sdk: openai.AsyncOpenAI, **more: Any) -> list[ChatCompletionChunk]:
    given: dict[str, Any] = {"model": "scripted", "messages": QUESTION, "tools": [INTERPRETER], "stream": True} | more
    return [chunk async for chunk in await sdk.chat.completions.create(**given)]


def words(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def ran(answer: ChatCompletion) -> dict[str, Any]:
    """The field that OpenAI's own answers do not have."""
    sandbox: dict[str, Any] = (answer.model_extra or {})["sandbox"]
    return sandbox


async def until(client: httpx.AsyncClient, *gauges: str) -> None:
    """Wait until the server's metrics say so."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            lines = (await client.get("/metrics")).text.splitlines()
            if set(gauges) <= set(lines):
                return


def told(asked: Asked) -> str:
    """What the model was told last."""
    return str(asked.body["messages"][-1]["content"])


async def test_the_models_code_runs_and_the_caller_sees_one_answer(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(runs("print(6 * 7)"), Says("It is 42."))
    answer = await ask(sdk)
    assert answer.choices[0].message.content == "It is 42."
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "scripted"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (20, 10)
    assert "42" in told(upstream.asked[1])
    ours = upstream.asked[0].body["tools"][0]["function"]
    assert ours["name"] == "run_python"


async def test_while_models_are_asked_sandboxes_are_started_for_what_they_may_say(
    sdk: openai.AsyncOpenAI, upstream: Scripted, chatting: Served
) -> None:
    async with httpx.AsyncClient(base_url=chatting.url) as client:
        await until(client, "sandbox_pool_warm 2.0")
        upstream.then(*[Silent()] * 4)
        asking = [asyncio.create_task(ask(sdk)) for _ in range(3)]
        asking.append(asyncio.create_task(ask(sdk, tools=[])))
        await until(client, "sandbox_pool_warm 3.0", "sandbox_sessions 0.0", "sandbox_pool_rested 1.0")
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await until(client, "sandbox_pool_warm 2.0")


async def test_what_ran_is_in_the_field_sandbox(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(runs("print(1)\n1 / 0"), runs("2 + 2"), Says("4"))
    sandbox = ran(await ask(sdk))
    failed, done = sandbox["executions"]
    assert (failed["status"], failed["stdout"], failed["error"]["name"]) == ("error", "1\n", "ZeroDivisionError")
    assert (done["status"], done["results"], done["error"]) == ("ok", [{"text/plain": "4"}], None)
    assert (sandbox["ending"], sandbox["turns"], sandbox["failures"]) == ("answered", 3, 1)
    assert sandbox["trace_id"].startswith("trc_")


async def test_files_that_were_made_can_be_downloaded_afterwards(
    sdk: openai.AsyncOpenAI, upstream: Scripted, chatting: Served
) -> None:
    upstream.then(runs("open('/mnt/data/out.txt', 'w').write('hello')"), Says("done"))
    sandbox = ran(await ask(sdk))
    async with chatting.client() as client:
        path = f"/v1/sessions/{sandbox['session_id']}"
        assert (await client.get(f"{path}/files/out.txt")).text == "hello"
        assert (await client.get(path)).json()["status"] == "closed"


async def test_a_question_that_needs_no_code_opens_no_session(
    sdk: openai.AsyncOpenAI, upstream: Scripted, chatting: Served
) -> None:
    upstream.then(Says("Hello!"))
    answer = await ask(sdk)
    assert ran(answer)["session_id"] is None


async def test_a_stream_has_the_words_what_ran_and_the_end(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(runs("print(6 * 7)", text="Let me see."), Says("It is 42."))
    chunks = await stream(sdk, stream_options={"include_usage": True})
    assert words(chunks) == "Let me see.\n\nIt is 42."
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    told_of = [chunk.model_extra["sandbox"] for chunk in chunks if chunk.model_extra]
    assert told_of[0]["execution"]["stdout"] == "42\n"
    assert told_of[-1]["ending"] == "answered"
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 30


async def test_the_sdks_own_accumulator_takes_the_stream(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(runs("print(1)"), Says("It is 1."))
    given: dict[str, Any] = {"model": "scripted", "messages": QUESTION, "tools": [INTERPRETER]}
    async with sdk.chat.completions.stream(**given) as events:
        final = await events.get_final_completion()
    assert final.choices[0].message.content == "It is 1."


async def test_functions_of_the_callers_go_back_to_it_and_the_run_goes_on_in_the_same_session(
    sdk: openai.AsyncOpenAI, upstream: Scripted
) -> None:
    upstream.then(
        runs("x = 40"),
        Says("", (Call("run_python", {"code": "x += 1"}), Call("weather", {"city": "Bonn"}))),
        runs("print(x + 1)"),
        Says("It is 42 in Bonn."),
    )
    first = await ask(sdk, tools=[INTERPRETER, WEATHER])
    assert first.choices[0].finish_reason == "tool_calls"
    calls = first.choices[0].message.tool_calls
    assert calls is not None
    (call,) = calls
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"city": "Bonn"}
    messages = [
        *QUESTION,
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    second = await ask(sdk, tools=[INTERPRETER, WEATHER], messages=messages)
    assert second.choices[0].message.content == "It is 42 in Bonn."
    roles = [message["role"] for message in upstream.asked[2].body["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant", "tool", "tool"]
    assert ran(second)["executions"][0]["stdout"] == "42\n"
    assert ran(second)["session_id"] == ran(first)["session_id"]


def goes_on(first: ChatCompletion, answer: str = "sunny") -> list[Any]:
    """The messages of the request after one that ended with a call of the caller's function."""
    message = first.choices[0].message
    assert message.tool_calls is not None
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": answer}
    return [*QUESTION, message.model_dump(exclude_none=True), result]


WANTS_WEATHER = Says("", (Call("run_python", {"code": "x = 'password=hunter2222'"}), Call("weather", {"city": "Bonn"})))


async def test_a_run_that_fails_while_it_goes_on_keeps_the_variables_for_the_next_try(
    sdk: openai.AsyncOpenAI, upstream: Scripted
) -> None:
    upstream.then(WANTS_WEATHER, Fails(500), runs("print(x)"), Says("done"))
    first = await ask(sdk, tools=[INTERPRETER, WEATHER])
    with pytest.raises(openai.InternalServerError):
        await ask(sdk, tools=[INTERPRETER, WEATHER], messages=goes_on(first))
    again = await ask(sdk, tools=[INTERPRETER, WEATHER], messages=goes_on(first))
    assert ran(again)["executions"][0]["stdout"] == "password=hunter2222\n"
    # The model sees its own words as they were, although a trace would not have them.
    assert "hunter2222" in upstream.asked[-2].body["messages"][1]["tool_calls"][0]["function"]["arguments"]


async def test_variables_that_went_with_their_session_are_told_to_be_lost(
    sdk: openai.AsyncOpenAI, upstream: Scripted, chatting: Served
) -> None:
    upstream.then(WANTS_WEATHER, runs("print(x)"), Says("gone"))
    first = await ask(sdk, tools=[INTERPRETER, WEATHER])
    async with chatting.client() as client:
        await client.delete(f"/v1/sessions/{ran(first)['session_id']}")
    await ask(sdk, tools=[INTERPRETER, WEATHER], messages=goes_on(first))
    assert "lost" in told(upstream.asked[2])


async def test_a_session_of_the_callers_stays_open_when_a_run_goes_on_in_it(
    sdk: openai.AsyncOpenAI, upstream: Scripted, chatting: Served
) -> None:
    async with chatting.client() as client:
        session = (await client.post("/v1/sessions", json={})).json()["id"]
        upstream.then(WANTS_WEATHER, runs("print(x)"), Says("done"))
        first = await ask(sdk, tools=[INTERPRETER | {"session_id": session}, WEATHER])
        second = await ask(sdk, tools=[INTERPRETER, WEATHER], messages=goes_on(first))
        assert ran(second)["session_id"] == session
        assert (await client.get(f"/v1/sessions/{session}")).json()["status"] == "active"
        await client.delete(f"/v1/sessions/{session}")


@pytest.mark.parametrize(
    "other", [{"type": "custom", "custom": {"name": "x"}}, {"type": "function", "function": {"name": "run_python"}}]
)
async def test_what_cannot_stand_beside_the_interpreter_is_refused(sdk: openai.AsyncOpenAI, other: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="tools"):
        await ask(sdk, tools=[INTERPRETER, other])


async def test_a_server_that_is_told_to_stop_lets_a_chat_end(new_data_dir: NewDataDir) -> None:
    async with Scripted("openai", runs("print(6 * 7)"), Says("It is 42.", delay=1.0)) as upstream:
        tables = json.dumps({"scripted": {"url": upstream.url}})
        async with serving(new_data_dir(), upstreams=tables) as served, served.client() as client:
            body = {"model": "scripted", "messages": QUESTION, "tools": [INTERPRETER]}
            asking = asyncio.create_task(client.post("/v1/chat/completions", json=body))
            async with asyncio.timeout(WAIT_SECONDS):
                while len(upstream.asked) < 2:
                    await client.get("/health/live")
            served.signal(signal.SIGTERM)
            assert (await asking).json()["choices"][0]["message"]["content"] == "It is 42."
            assert await served.ended() == 0


async def test_a_chat_that_a_stopping_server_cannot_wait_for_is_told_so(new_data_dir: NewDataDir) -> None:
    async with Scripted("openai", Silent()) as upstream:
        tables = json.dumps({"scripted": {"url": upstream.url}})
        async with serving(new_data_dir(), upstreams=tables, drain_timeout_s=0.1) as served, served.client() as client:
            body = {"model": "scripted", "messages": QUESTION}
            asking = asyncio.create_task(client.post("/v1/chat/completions", json=body))
            async with asyncio.timeout(WAIT_SECONDS):
                while not upstream.asked:
                    await client.get("/health/live")
            served.signal(signal.SIGTERM)
            answer = await asking
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
            assert int(answer.headers["retry-after"]) > 0
            assert await served.ended() == 0


async def test_a_session_of_the_callers_is_used_and_stays_open(
    sdk: openai.AsyncOpenAI, upstream: Scripted, chatting: Served
) -> None:
    async with chatting.client() as client:
        session = (await client.post("/v1/sessions", json={})).json()["id"]
        await client.put(f"/v1/sessions/{session}/files/in.csv", content=b"a\n1\n")
        upstream.then(runs("print(open('in.csv').read())"), Says("done"))
        answer = await ask(sdk, tools=[INTERPRETER | {"session_id": session}])
        assert "in.csv" in upstream.asked[0].body["tools"][0]["function"]["description"]
        assert ran(answer)["executions"][0]["stdout"] == "a\n1\n\n"
        assert (await client.get(f"/v1/sessions/{session}")).json()["status"] == "active"
        await client.delete(f"/v1/sessions/{session}")


async def test_each_program_has_the_callers_timeout(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(runs("import time\ntime.sleep(600)"), Says("too slow"))
    answer = await ask(sdk, tools=[INTERPRETER | {"timeout_ms": 300}])
    assert ran(answer)["executions"][0]["status"] == "timeout"


@pytest.mark.parametrize(
    "tool",
    [
        {"timeout_ms": -1},
        {"timeout_ms": "1"},
        {"session_id": 1},
        {"timeout_ms": 1e12},
        {"timeout": 1},
        {"container": {}},
    ],
)
async def test_a_tool_that_makes_no_sense_is_refused(sdk: openai.AsyncOpenAI, tool: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError):
        await ask(sdk, tools=[INTERPRETER | tool])


async def test_a_model_without_tool_calls_answers_with_fences_that_the_caller_does_not_see(
    sdk: openai.AsyncOpenAI, upstream: Scripted
) -> None:
    upstream.then(Says("Sure.\n```python\nprint(6 * 7)\n```"), Says("It is 42."))
    chunks = await stream(sdk, model="small")
    assert words(chunks) == "It is 42."
    assert "tools" not in upstream.asked[0].body


# Without the tool.


async def test_without_the_tool_a_request_goes_on_as_it_is(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(Says("Hello!"), Says("", (Call("weather", {"city": "Bonn"}),)))
    answer = await ask(sdk, tools=openai.omit, seed=7, metadata={"a": "b"}, temperature=0.5)
    assert answer.choices[0].message.content == "Hello!"
    assert answer.model_extra == {}
    body = upstream.asked[0].body
    assert (body["seed"], body["metadata"], body["temperature"]) == (7, {"a": "b"}, 0.5)
    called = await ask(sdk, tools=[WEATHER])
    assert called.choices[0].finish_reason == "tool_calls"


async def test_without_the_tool_a_stream_is_the_upstreams_own(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(Says("one two three"))
    chunks = await stream(sdk, tools=openai.omit)
    assert words(chunks) == "one two three"
    assert {chunk.model for chunk in chunks} == {"scripted"}


async def test_chunks_that_are_not_quite_openais_are_joined_by_the_sdk_all_the_same(
    sdk: openai.AsyncOpenAI, upstream: Scripted
) -> None:
    deltas = [
        {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "weather", "arguments": '{"city":'}}]},
        {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "weather", "arguments": '"Bonn"}'}}]},
        {"role": "assistant", "tool_calls": [{"id": "b", "function": {"name": "weather", "arguments": "{}"}}]},
    ]
    chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    said = "".join(f"data: {json.dumps({'id': '1', 'system_fingerprint': 'fp_1', **chunk})}\n\n" for chunk in chunks)
    odd = Raw((said + "data: [DONE]\n\n").encode(), "text/event-stream")
    upstream.then(odd, odd, odd)
    asked: dict[str, Any] = {"model": "scripted", "messages": QUESTION, "tools": [WEATHER]}
    async with sdk.chat.completions.stream(**asked) as events:
        async for _ in events:
            pass
        streamed = await events.get_final_completion()
    for answer in (streamed, await ask(sdk, tools=[WEATHER]), await ask(sdk, tools=[WEATHER], logprobs=True)):
        [choice] = answer.choices
        calls: Any = choice.message.tool_calls
        called = [(each.id, each.function.name, each.function.arguments) for each in calls]
        assert called == [("a", "weather", '{"city":"Bonn"}'), ("b", "weather", "{}")]
        assert (choice.message.role, choice.finish_reason) == ("assistant", "tool_calls")
        assert answer.system_fingerprint == "fp_1"


async def test_a_refusal_comes_back_as_one(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    chunk = {"id": "1", "choices": [{"index": 0, "delta": {"refusal": "I will not."}, "finish_reason": "stop"}]}
    upstream.then(Raw(f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode(), "text/event-stream"))
    [choice] = (await ask(sdk, tools=openai.omit)).choices
    assert (choice.message.content, choice.message.refusal) == (None, "I will not.")
    assert choice.finish_reason == "stop"


async def test_half_a_character_of_the_callers_and_of_the_models_is_replaced(
    chatting: Served, upstream: Scripted
) -> None:
    upstream.asked.clear()
    upstream.then(Says("a\ud83db"))
    question = {"model": "scripted", "messages": [{"role": "user", "content": "\ud83d"}]}
    async with chatting.client() as client:
        sent = {"content-type": "application/json"}
        answer = await client.post("/v1/chat/completions", content=json.dumps(question), headers=sent)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "a\ufffdb"
    assert told(upstream.asked[0]) == "\ufffd"


async def test_models_are_listed_and_found(sdk: openai.AsyncOpenAI) -> None:
    names = {model.id async for model in sdk.models.list()}
    assert {"small", "scripted", "other"} <= names
    assert (await sdk.models.retrieve("small")).id == "small"
    with pytest.raises(openai.NotFoundError) as refused:
        await sdk.models.retrieve("nothing")
    assert refused.value.code == "model_not_found"


# What goes wrong.


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("scene", "error"),
    [
        (Fails(400, "bad temperature"), openai.BadRequestError),
        (busy(retry_after=7), openai.RateLimitError),
        (Fails(500), openai.InternalServerError),
        (Breaks("cut", after=0), openai.InternalServerError),
    ],
)
async def test_an_upstream_that_fails_is_one_clean_error(
    sdk: openai.AsyncOpenAI, upstream: Scripted, scene: Any, error: type[openai.APIStatusError], streaming: bool
) -> None:
    upstream.then(scene)
    with pytest.raises(error) as failed:
        await (stream(sdk) if streaming else ask(sdk))
    assert isinstance(failed.value.body, dict)
    assert failed.value.body["message"]
    assert failed.value.response.headers["x-request-id"]
    if error is openai.RateLimitError:
        assert int(failed.value.response.headers["retry-after"]) in range(1, 8)


async def test_an_upstream_that_breaks_off_after_words_is_one_clean_error_in_the_stream(
    sdk: openai.AsyncOpenAI, upstream: Scripted
) -> None:
    upstream.then(Breaks("cut", Says("one two three four five six"), after=3))
    seen: list[ChatCompletionChunk] = []

    async def read() -> None:
        given: dict[str, Any] = {"model": "scripted", "messages": QUESTION, "tools": [INTERPRETER], "stream": True}
        async for chunk in await sdk.chat.completions.create(**given):
            seen.append(chunk)

    with pytest.raises(openai.APIError) as failed:
        await read()
    assert "scripted" in failed.value.message
    assert words(seen)


async def test_a_model_that_its_server_does_not_have_is_refused_in_the_servers_words(
    sdk: openai.AsyncOpenAI, upstream: Scripted
) -> None:
    upstream.then(Fails(404, "There is no model nobody/has.", "model_not_found"))
    with pytest.raises(openai.NotFoundError, match="There is no model nobody/has") as refused:
        await ask(sdk, model="nobody/has")
    assert refused.value.code == "model_not_found"
    assert isinstance(refused.value.body, dict)
    assert set(refused.value.body) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"model": "scripted"},
        {"model": "scripted", "messages": []},
        {"model": 1, "messages": QUESTION},
        *(
            {"model": "scripted", "messages": QUESTION, "tools": [{"type": "code_interpreter", "timeout_ms": wrong}]}
            for wrong in (10**400, "1", True, 0)
        ),
    ],
)
async def test_what_is_no_request_is_refused_in_the_familys_words(chatting: Served, body: dict[str, Any]) -> None:
    async with chatting.client() as client:
        answer = await client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_a_client_that_leaves_ends_the_run_and_its_session(
    chatting: Served, upstream: Scripted, sdk: openai.AsyncOpenAI
) -> None:
    upstream.then(runs("import time\ntime.sleep(600)"))
    body = {"model": "scripted", "messages": QUESTION, "tools": [INTERPRETER]}
    async with chatting.client() as client:
        asking = asyncio.create_task(client.post("/v1/chat/completions", json=body))
        await until(client, "sandbox_executions_running 1.0")
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(client, "sandbox_executions_running 0.0", "sandbox_sessions 0.0")


async def test_an_upstream_that_dies_rests_and_recovers_is_told_in_the_trace_and_leaks_no_session(
    new_data_dir: NewDataDir,
) -> None:
    dead = Breaks("cut", Says("This will not come to its end."))
    async with Scripted("openai", runs("print(1)"), dead, Breaks("garbage"), Says("It is 1.")) as upstream:
        data_dir = new_data_dir()
        table = {"scripted": {"url": upstream.url, "attempts": 2, "breaker_failures": 2, "breaker_rest_s": 0.2}}
        async with serving(data_dir, upstreams=json.dumps(table)) as served, served.client() as client:
            body = {"model": "scripted", "messages": QUESTION, "tools": [INTERPRETER]}
            failed = await client.post("/v1/chat/completions", json=body)
            assert failed.status_code == 502
            assert (await client.get("/health")).json()["reasons"]  # which says that its server is away
            upstream.then(Says("It is 1."))
            async with asyncio.timeout(WAIT_SECONDS):
                while (answer := await client.post("/v1/chat/completions", json=body)).status_code != 200:
                    assert answer.status_code in (502, 503)  # its breaker is open
            assert answer.json()["choices"][0]["message"]["content"] == "It is 1."
            await until(client, "sandbox_sessions 0.0", "sandbox_executions_running 0.0")
        async with Store.open(f"sqlite:///{data_dir}/sandbox.db") as store:
            *_, first = (await store.traces(None, limit=100)).items
            trace = await store.trace(None, first.id)
        assert trace is not None
        assert trace.ending == "failed"
        told = [record.get("outcome", record["kind"]) for record in trace.records]
        assert told == ["message", "answered", "turn", "execution", "failed", "failed", "end"]


async def test_a_rate_limit_of_a_minute_is_passed_on_at_once(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(busy(retry_after=60))
    with pytest.raises(openai.RateLimitError) as refused:
        await ask(sdk)
    assert int(refused.value.response.headers["retry-after"]) in range(50, 61)


async def test_keys_are_asked_for_in_the_familys_words_and_never_logged(new_data_dir: NewDataDir) -> None:
    async with Scripted("openai", Says("hi"), key="upstream-secret-1") as upstream:
        table = {"scripted": {"url": upstream.url, "key": "upstream-secret-1"}}
        data_dir = new_data_dir()
        async with serving(data_dir, upstreams=json.dumps(table)) as served:
            key = await add_key(data_dir)
            async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="wrong", max_retries=0) as sdk:
                with pytest.raises(openai.AuthenticationError) as refused:
                    await ask(sdk)
                assert refused.value.code == "invalid_api_key"
            async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0) as sdk:
                assert (await ask(sdk)).choices[0].message.content == "hi"
            assert logged(served)
            assert "upstream-secret-1" not in (data_dir / "log").read_text()


async def test_another_key_does_not_go_on_with_a_run_that_is_not_its_own(new_data_dir: NewDataDir) -> None:
    async with Scripted("openai", Says("", (Call("weather", {}),)), Says("hm")) as upstream:
        data_dir = new_data_dir()
        async with serving(data_dir, upstreams=json.dumps({"scripted": {"url": upstream.url}})) as served:
            mine, theirs = await add_key(data_dir, "mine"), await add_key(data_dir, "theirs")
            body = {"model": "scripted", "messages": QUESTION, "tools": [INTERPRETER, WEATHER]}
            async with served.client(mine) as client:
                message = (await client.post("/v1/chat/completions", json=body)).json()["choices"][0]["message"]
            answer = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "secret"}
            async with served.client(theirs) as client:
                body["messages"] = [*QUESTION, message, answer]
                assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
            # The words are theirs, since they sent them; what stood behind the call's id is not looked up.
            assert upstream.asked[1].body["messages"][-1]["tool_call_id"] == message["tool_calls"][0]["id"]


async def test_no_models_at_all_says_what_to_set(served: Served) -> None:
    async with served.client() as client:
        answer: httpx.Response = await client.post(
            "/v1/chat/completions", json={"model": "gpt", "messages": QUESTION, "tools": [INTERPRETER]}
        )
    assert answer.status_code == 404
    assert "OPENAI_API_KEY" in answer.json()["error"]["message"]
