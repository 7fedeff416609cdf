"""Runs of OpenAI's Assistants: their streams, the caller's functions, what the model is told, how they end."""

import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from sandbox.api.openai.runs import events
from sandbox.assistants import Log
from sandbox.image import Image
from sandbox.keys import LOCAL
from sandbox.store import Store
from tests.api.conftest import NewDataDir
from tests.api.served import Served, serving
from tests.compat.asking import of
from tests.compat.assistants import INTERPRETER, PLOT, PNG, WEATHER, answer, ask, assistant, frames, steps
from tests.compat.test_openai_responses import local
from tests.test_durable import refusing
from tests.test_node import opened
from tests.upstreams import Breaks, Call, Fails, Says, Scene, Scripted, busy, fenced, runs

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")


@pytest.fixture
async def sdk(hosted: Served, upstream: Scripted) -> AsyncIterator[openai.AsyncOpenAI]:
    async with of(hosted, "any") as sdk:
        yield sdk


@pytest.fixture
async def client(hosted: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with hosted.client() as client:
        yield client


# Streams.


async def test_a_stream_says_everything_in_the_vendors_order(client: httpx.AsyncClient, upstream: Scripted) -> None:
    upstream.then(
        runs(f"print(1)\n{PLOT}\n_ = open('/mnt/data/a.csv', 'w').write('a')"),
        Says("see [x](sandbox:/mnt/data/a.csv)", piece=4),
    )
    made = (await client.post("/v1/assistants", json={"model": "scripted", "tools": [INTERPRETER]})).json()
    thread_id = (await client.post("/v1/threads", json={})).json()["id"]
    asked = {"assistant_id": made["id"], "stream": True}
    events = frames((await client.post(f"/v1/threads/{thread_id}/runs", json=asked)).content)
    names = [name for name, _ in events]
    merged = [name for at, name in enumerate(names) if not (name.endswith("delta") and names[at - 1] == name)]
    assert merged == [
        "thread.run.created",
        "thread.run.queued",
        "thread.run.in_progress",
        "thread.run.step.created",
        "thread.run.step.in_progress",
        "thread.run.step.delta",
        "thread.run.step.completed",
        "thread.run.step.created",
        "thread.run.step.in_progress",
        "thread.message.created",
        "thread.message.in_progress",
        "thread.message.delta",
        "thread.message.completed",
        "thread.run.step.completed",
        "thread.run.completed",
        "done",
    ]
    calls = [data["delta"]["step_details"]["tool_calls"] for name, data in events if name == "thread.run.step.delta"]
    assert all(data["object"] == "thread.run.step.delta" for name, data in events if name == "thread.run.step.delta")
    call_id = calls[0][0]["id"]
    begun = {"index": 0, "id": call_id, "type": "code_interpreter"}
    assert calls[0] == [begun | {"code_interpreter": {"input": "", "outputs": []}}]
    assert [call.keys() for (call,) in calls[1:]] == 3 * [{"index", "type", "code_interpreter"}]
    assert [list(call["code_interpreter"]) for (call,) in calls[1:]] == [["input"], ["outputs"], ["outputs"]]
    assert calls[2][0]["code_interpreter"]["outputs"] == [{"index": 0, "type": "logs", "logs": "1\n"}]
    ((picture,),) = [call["code_interpreter"]["outputs"] for (call,) in calls[3:4]]
    figure = picture["image"]["file_id"]
    assert picture == {"index": 1, "type": "image", "image": {"file_id": figure}}
    done = next(data for name, data in events if name == "thread.run.step.completed")
    assert done["step_details"]["tool_calls"][0]["code_interpreter"]["outputs"] == [
        {"type": "logs", "logs": "1\n"},
        {"type": "image", "image": {"file_id": figure}},
    ]
    created = next(data for name, data in events if name == "thread.message.created")
    assert (created["content"], created["status"]) == ([], "in_progress")
    parts = [part for name, data in events if name == "thread.message.delta" for part in data["delta"]["content"]]
    assert parts[0] == {"index": 0, "type": "image_file", "image_file": {"file_id": figure}}
    assert parts[1] == {"index": 1, "type": "text", "text": {"value": "see ", "annotations": []}}
    assert all(part["text"].keys() == {"value"} for part in parts[2:-1])
    (given,) = parts[-1]["text"]["annotations"]
    link = {
        "type": "file_path",
        "text": "sandbox:/mnt/data/a.csv",
        "start_index": 8,
        "end_index": 31,
        "file_path": {"file_id": given["file_path"]["file_id"]},
    }
    assert parts[-1] == {"index": 1, "type": "text", "text": {"annotations": [{"index": 0} | link]}}
    message = next(data for name, data in events if name == "thread.message.completed")
    assert message["content"] == [
        {"type": "image_file", "image_file": {"file_id": figure}},
        {"type": "text", "text": {"value": "see [x](sandbox:/mnt/data/a.csv)", "annotations": [link]}},
    ]
    run = next(data for name, data in events if name == "thread.run.completed")
    path = f"/v1/threads/{thread_id}"
    assert (await client.get(f"{path}/runs/{run['id']}")).json() == run
    assert (await client.get(f"{path}/messages/{message['id']}")).json() == message
    assert (await client.get(f"{path}/runs/{run['id']}/steps/{done['id']}")).json() == done
    assert (await client.get(f"/v1/files/{figure}/content")).content.startswith(PNG)


async def test_an_event_handler_hears_of_every_piece(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    heard: list[Any] = []

    class Handler(openai.AsyncAssistantEventHandler):
        async def on_text_created(self, text: Any) -> None:
            heard.append("text")

        async def on_text_done(self, text: Any) -> None:
            heard.append(text.value)

        async def on_tool_call_created(self, tool_call: Any) -> None:
            heard.append(tool_call.type)

        async def on_image_file_done(self, image_file: Any) -> None:
            heard.append("figure")

    upstream.then(runs(PLOT), Says("There."))
    made = await assistant(sdk)
    async with sdk.beta.threads.create_and_run_stream(assistant_id=made.id, event_handler=Handler()) as stream:
        await stream.until_done()
        run = stream.current_run
        (said,) = await stream.get_final_messages()
    assert heard == ["code_interpreter", "text", "figure", "There."]
    assert run is not None
    assert run.status == "completed"
    assert [part.type for part in said.content] == ["image_file", "text"]


async def test_a_stream_that_makes_the_thread_begins_with_it(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(Says("Hello."))
    made = await assistant(sdk)
    stream = await sdk.beta.threads.create_and_run(assistant_id=made.id, stream=True)
    events = [event async for event in stream]
    assert [event.event for event in events[:3]] == ["thread.created", "thread.run.created", "thread.run.queued"]
    assert events[-1].event == "thread.run.completed"


async def test_who_leaves_a_stream_does_not_end_the_run(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(runs("import time; time.sleep(0.3)"), Says("Done."))
    made = await assistant(sdk)
    thread = await sdk.beta.threads.create()
    stream = await sdk.beta.threads.runs.create(thread.id, assistant_id=made.id, stream=True)
    async for event in stream:
        if event.event == "thread.run.step.created":
            break
    await stream.close()
    run = (await sdk.beta.threads.runs.list(thread.id)).data[0]
    run = await sdk.beta.threads.runs.poll(run.id, thread_id=thread.id)
    assert run.status == "completed"
    assert (await answer(sdk, run)).content[0].text.value == "Done."


# Functions.


async def test_functions_are_the_callers_and_the_run_goes_on_with_what_they_give(
    sdk: openai.AsyncOpenAI, upstream: Scripted
) -> None:
    upstream.then(
        runs("x = 6"),
        Says("I have to ask.", calls=(Call("weather", {"city": "Bonn"}), Call("weather", {"city": "Kiel"}))),
        runs("print(x * 7)"),
        Says("Both are fine."),
    )
    run = await ask(sdk, assistant={"tools": [INTERPRETER, WEATHER]})
    assert run.status == "requires_action"
    calls = run.required_action.submit_tool_outputs.tool_calls
    assert [json.loads(call.function.arguments)["city"] for call in calls] == ["Bonn", "Kiel"]
    waiting = (await steps(sdk, run))[-1]
    assert (waiting.status, waiting.step_details.tool_calls[0].function.output) == ("in_progress", None)
    run = await sdk.beta.threads.runs.submit_tool_outputs_and_poll(
        run_id=run.id,
        thread_id=run.thread_id,
        tool_outputs=[{"tool_call_id": call.id, "output": f"{at} degrees"} for at, call in enumerate(calls)],
    )
    assert run.status == "completed"
    assert run.required_action is None
    assert run.usage is not None
    assert run.usage.total_tokens == 60
    done = await steps(sdk, run)
    assert [step.type for step in done] == [
        "tool_calls",
        "message_creation",
        "tool_calls",
        "tool_calls",
        "message_creation",
    ]
    assert [call.function.output for call in done[2].step_details.tool_calls] == ["0 degrees", "1 degrees"]
    assert done[3].step_details.tool_calls[0].code_interpreter.outputs[0].logs == "42\n"
    results = [each for each in upstream.asked[2].body["messages"] if each["role"] == "tool"]
    assert [each["content"] for each in results][-2:] == ["0 degrees", "1 degrees"]
    assert all(step.status == "completed" and step.usage for step in done)


async def test_outputs_can_be_given_for_a_stream(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(
        Says(calls=(Call("weather", {"city": "Bonn"}), Call("run_python", {"code": "print(1)"}))), Says("Fine.")
    )
    made = await assistant(sdk, tools=[INTERPRETER, WEATHER])
    thread = await sdk.beta.threads.create()
    async with sdk.beta.threads.runs.stream(thread_id=thread.id, assistant_id=made.id) as stream:
        names = [event.event async for event in stream]
        run = stream.current_run
    assert names[-1] == "thread.run.requires_action"
    assert run is not None
    assert run.required_action is not None
    (call,) = run.required_action.submit_tool_outputs.tool_calls
    async with sdk.beta.threads.runs.submit_tool_outputs_stream(
        run_id=run.id, thread_id=thread.id, tool_outputs=[{"tool_call_id": call.id, "output": "sunny"}]
    ) as stream:
        events = [event async for event in stream]
    assert [event.event for event in events[:3]] == [
        "thread.run.step.completed",
        "thread.run.queued",
        "thread.run.in_progress",
    ]
    assert events[-1].event == "thread.run.completed"
    (calls, _) = await steps(sdk, run)
    kinds = {each.type for each in calls.step_details.tool_calls}
    assert kinds == {"code_interpreter", "function"}


async def test_outputs_must_be_those_that_are_wanted(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(Says(calls=(Call("weather", {}),)))
    run = await ask(sdk, assistant={"tools": [WEATHER]})
    with pytest.raises(openai.BadRequestError, match="tool_outputs"):
        await sdk.beta.threads.runs.submit_tool_outputs(
            run.id, thread_id=run.thread_id, tool_outputs=[{"tool_call_id": "call_of_nobody", "output": ""}]
        )
    await sdk.beta.threads.runs.cancel(run.id, thread_id=run.thread_id)
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        await sdk.beta.threads.runs.submit_tool_outputs(run.id, thread_id=run.thread_id, tool_outputs=[])


async def test_a_run_that_waits_too_long_expires(sdk: openai.AsyncOpenAI, upstream: Scripted, hosted: Served) -> None:
    upstream.then(Says(calls=(Call("weather", {}),)))
    run = await ask(sdk, assistant={"tools": [WEATHER]})
    assert run.expires_at - run.created_at == 600
    async with Store.open(f"sqlite:///{hosted.data_dir}/sandbox.db") as store:
        row = await store.object(LOCAL.id, "run", run.id)
        assert row is not None
        past = {**row.body, "run": {**row.body["run"], "expires_at": run.created_at - 1}}
        await store.change_object(dataclasses.replace(row, body=past))
    run = await sdk.beta.threads.runs.retrieve(run.id, thread_id=run.thread_id)
    assert (run.status, run.required_action) == ("expired", None)
    assert [step.status for step in await steps(sdk, run)] == ["expired"]


# What a program puts out.


async def test_steps_have_whatever_the_program_put_out(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    code = "import sys\nprint('out')\nprint('err', file=sys.stderr)\n6 * 7"
    upstream.then(runs(code), runs("print('before', end='')\n1 / 0"), Says("It failed."))
    first, second, _ = await steps(sdk, await ask(sdk))
    (call,) = first.step_details.tool_calls
    assert call.code_interpreter.input == code
    (logs,) = call.code_interpreter.outputs
    assert sorted(logs.logs.splitlines()) == ["42", "err", "out"]
    assert logs.logs.endswith("\n42") or logs.logs.endswith("42")
    (logs,) = second.step_details.tool_calls[0].code_interpreter.outputs
    assert logs.logs.startswith("before\n")
    assert "ZeroDivisionError: division by zero" in logs.logs
    assert second.status == "completed"


async def test_an_assistant_without_tools_only_answers(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(runs("print(1)"), Says("Hello."))
    run = await ask(sdk, assistant={"tools": [], "instructions": None})
    assert run.status == "completed"
    assert [step.type for step in await steps(sdk, run)] == ["message_creation"]
    assert "tools" not in upstream.asked[0].body
    assert [each["role"] for each in upstream.asked[0].body["messages"]] == ["user"]


async def test_of_a_model_that_writes_programs_in_fences_only_the_answer_is_shown(
    new_data_dir: NewDataDir, upstream: Scripted
) -> None:
    table = json.dumps({"scripted": {"url": upstream.url, "attempts": 1}})
    models = json.dumps({"small": {"routes": ["scripted/small"], "fenced": True}})
    async with serving(new_data_dir(), upstreams=table, models=models) as served, of(served, "any") as sdk:
        upstream.then(fenced("print(6 * 7)"), Says("It is 42."))
        run = await ask(sdk, assistant={"model": "small"})
        calls, message = await steps(sdk, run)
        assert calls.step_details.tool_calls[0].code_interpreter.outputs[0].logs == "42\n"
        assert message.step_details.message_creation.message_id == (await answer(sdk, run)).id
        assert (await answer(sdk, run)).content[0].text.value == "It is 42."


# What the model is asked.


async def test_fields_of_assistant_and_run_go_to_the_model(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(Says("{}"))
    made = await assistant(sdk, instructions="Be kind.", temperature=0.5, tools=[INTERPRETER, WEATHER])
    thread = await sdk.beta.threads.create(messages=[{"role": "user", "content": "One."}])
    schema: Any = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
    run = await sdk.beta.threads.runs.create_and_poll(
        thread_id=thread.id,
        assistant_id=made.id,
        model="other",
        additional_instructions="Be brief.",
        additional_messages=[{"role": "assistant", "content": "Two."}, {"role": "user", "content": "Three."}],
        top_p=0.9,
        max_completion_tokens=500,
        response_format=schema,
        tool_choice={"type": "code_interpreter"},
        parallel_tool_calls=False,
        metadata={"a": "b"},
    )
    assert run.status == "completed", run
    body = upstream.asked[0].body
    assert body["model"] == "other"
    system, *rest = body["messages"]
    assert system["content"].startswith("Be kind.\n\nBe brief.\n\n")
    assert [(each["role"], each["content"]) for each in rest] == [
        ("user", "One."),
        ("assistant", "Two."),
        ("user", "Three."),
    ]
    assert (body["temperature"], body["top_p"], body["max_completion_tokens"]) == (0.5, 0.9, 500)
    assert body["response_format"] == schema
    assert body["tool_choice"] == {"type": "function", "function": {"name": "run_python"}}
    assert body["parallel_tool_calls"] is False
    assert [each["function"]["name"] for each in body["tools"]] == ["run_python", "weather"]
    assert (run.instructions, run.model, run.metadata) == ("Be kind.\n\nBe brief.", "other", {"a": "b"})
    listed = await sdk.beta.threads.messages.list(thread.id, order="asc")
    assert [each.role for each in listed.data] == ["user", "assistant", "user", "assistant"]


async def test_a_later_run_knows_what_code_has_run(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(runs("x = 1"), Says("It is set."), Says("x is 1."))
    run = await ask(sdk)
    await sdk.beta.threads.messages.create(run.thread_id, role="user", content="What is x?")
    await sdk.beta.threads.runs.create_and_poll(thread_id=run.thread_id, assistant_id=run.assistant_id)
    assert [each["role"] for each in upstream.asked[-1].body["messages"]] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
        "user",
    ]


async def test_what_was_deleted_or_lies_before_the_last_messages_is_not_told(
    sdk: openai.AsyncOpenAI, upstream: Scripted
) -> None:
    upstream.then(runs("x = 1"), Says("It is set."), Says("I do not know."), Says("No."))
    run = await ask(sdk)
    await sdk.beta.threads.messages.delete((await answer(sdk, run)).id, thread_id=run.thread_id)
    await sdk.beta.threads.messages.create(run.thread_id, role="user", content="What is x?")
    await sdk.beta.threads.runs.create_and_poll(thread_id=run.thread_id, assistant_id=run.assistant_id)
    assert [each["role"] for each in upstream.asked[-1].body["messages"]] == ["system", "user", "user"]
    await sdk.beta.threads.runs.create_and_poll(
        thread_id=run.thread_id,
        assistant_id=run.assistant_id,
        truncation_strategy={"type": "last_messages", "last_messages": 1},
    )
    assert [each["content"] for each in upstream.asked[-1].body["messages"]][1:] == ["I do not know."]


# Ends.


@pytest.mark.parametrize(
    ("scene", "code"),
    [(Fails(500), "server_error"), (busy(), "rate_limit_exceeded"), (Fails(400, "Too long."), "invalid_prompt")],
)
async def test_a_run_fails_with_its_upstream(
    sdk: openai.AsyncOpenAI, upstream: Scripted, scene: Scene, code: str
) -> None:
    upstream.then(runs("1"), scene)
    run = await ask(sdk)
    assert (run.status, run.last_error.code) == ("failed", code)
    assert run.failed_at
    assert run.usage.total_tokens == 15
    assert run.last_error.message


async def test_a_stream_of_a_run_that_fails_says_so(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(Breaks("cut", Says("This is never said to its end.", piece=4), after=4))
    made = await assistant(sdk)
    thread = await sdk.beta.threads.create()
    stream = await sdk.beta.threads.runs.create(thread.id, assistant_id=made.id, stream=True)
    names = [event.event async for event in stream]
    assert names[-3:] == ["thread.message.incomplete", "thread.run.step.failed", "thread.run.failed"]
    message = (await sdk.beta.threads.messages.list(thread.id)).data[0]
    assert (message.status, message.incomplete_details.reason) == ("incomplete", "run_failed")  # type: ignore[union-attr]
    assert "This is never said".startswith(message.content[0].text.value)  # type: ignore[union-attr]


async def test_a_run_is_incomplete_when_it_may_write_no_more(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(Says("It is 4", finish="length"))
    run = await ask(sdk, max_completion_tokens=256)
    assert (run.status, run.incomplete_details.reason) == ("incomplete", "max_completion_tokens")
    message = await answer(sdk, run)
    assert (message.status, message.incomplete_details.reason) == ("incomplete", "max_tokens")
    assert message.content[0].text.value == "It is 4"


async def test_an_answer_that_was_held_back_is_incomplete(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(Says("It is", finish="content_filter"))
    run = await ask(sdk)
    message = await answer(sdk, run)
    assert run.status == "completed"
    assert (message.status, message.incomplete_details.reason) == ("incomplete", "content_filter")


async def test_a_stream_that_is_cut_off_ends_with_an_error() -> None:
    log = Log()
    log.close(cut_off=True)
    (name, error), done = frames(b"".join([piece async for piece in events(log)]))
    assert (name, error["error"]["type"]) == ("error", "server_error")
    assert done == ("done", "[DONE]")


async def test_a_run_is_incomplete_when_it_may_read_no_more(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(Says(calls=(Call("run_python", {"code": "1"}),), usage=(300, 5)))
    run = await ask(sdk, max_prompt_tokens=256)
    assert (run.status, run.incomplete_details.reason) == ("incomplete", "max_prompt_tokens")
    assert [step.status for step in await steps(sdk, run)] == ["completed"]


async def test_a_run_that_goes_on_can_be_cancelled(
    sdk: openai.AsyncOpenAI, client: httpx.AsyncClient, upstream: Scripted
) -> None:
    upstream.then(runs("print('begun', flush=True)\nwhile True: pass"))
    made = await assistant(sdk)
    thread = await sdk.beta.threads.create()
    stream = await sdk.beta.threads.runs.create(thread.id, assistant_id=made.id, stream=True)
    names = []
    async for event in stream:
        names.append(event.event)
        if event.event == "thread.run.step.delta" and '"logs":"begun' in event.model_dump_json():
            run = (await sdk.beta.threads.runs.list(thread.id)).data[0]
            assert (await client.get(f"/v1/threads/{thread.id}/runs/{run.id}")).headers["openai-poll-after-ms"]
            run = await sdk.beta.threads.runs.cancel(run.id, thread_id=thread.id)
            assert run.status == "cancelling"
    assert names[-3:] == ["thread.run.cancelling", "thread.run.step.cancelled", "thread.run.cancelled"]
    run = await sdk.beta.threads.runs.retrieve(run.id, thread_id=thread.id)
    assert run.status == "cancelled"
    assert run.cancelled_at
    (step,) = await steps(sdk, run)
    assert step.status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        await sdk.beta.threads.runs.cancel(run.id, thread_id=thread.id)


async def test_a_message_can_be_deleted_but_not_changed_while_it_is_written(
    sdk: openai.AsyncOpenAI, upstream: Scripted
) -> None:
    upstream.then(Says("word " * 4000, piece=1))
    made = await assistant(sdk)
    thread = await sdk.beta.threads.create()
    names = []
    async for event in await sdk.beta.threads.runs.create(thread.id, assistant_id=made.id, stream=True):
        names.append(event.event)
        if event.event == "thread.message.created":
            with pytest.raises(openai.BadRequestError, match="still being written"):
                await sdk.beta.threads.messages.update(event.data.id, thread_id=thread.id, metadata={"a": "b"})
            await sdk.beta.threads.messages.delete(event.data.id, thread_id=thread.id)
    assert names[-2:] == ["thread.run.step.completed", "thread.run.completed"]
    assert (await sdk.beta.threads.messages.list(thread.id)).data == []
    (run,) = (await sdk.beta.threads.runs.list(thread.id)).data
    assert run.status == "completed"
    (step,) = await steps(sdk, run)
    assert step.status == "completed"


async def test_programs_can_draw_any_number_of_pictures_and_a_hundred_of_a_run_are_kept(
    sdk: openai.AsyncOpenAI, upstream: Scripted
) -> None:
    draw = "from IPython.display import Image, display\nfor _ in range(60):\n    "
    upstream.then(*2 * [runs(f"{draw}display(Image(data={PNG!r}, format='png'))")], Says("Done."))
    before = {file.id async for file in sdk.files.list(purpose="assistants_output")}
    run = await ask(sdk)
    assert run.status == "completed"
    after = {file.id async for file in sdk.files.list(purpose="assistants_output")}
    assert len(after - before) == 100


async def test_a_thread_is_locked_while_a_run_is_active(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(Says(calls=(Call("weather", {}),)))
    run = await ask(sdk, assistant={"tools": [WEATHER]})
    with pytest.raises(openai.BadRequestError, match=run.id):
        await sdk.beta.threads.messages.create(run.thread_id, role="user", content="Well?")
    with pytest.raises(openai.BadRequestError, match=run.id):
        await sdk.beta.threads.runs.create(run.thread_id, assistant_id=run.assistant_id)
    assert (await sdk.beta.threads.runs.cancel(run.id, thread_id=run.thread_id)).status == "cancelling"
    assert (await sdk.beta.threads.runs.retrieve(run.id, thread_id=run.thread_id)).status == "cancelled"
    await sdk.beta.threads.messages.create(run.thread_id, role="user", content="Well?")


async def test_a_thread_can_be_deleted_while_it_works(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(runs("while True: pass"))
    made = await assistant(sdk)
    thread = await sdk.beta.threads.create()
    stream = await sdk.beta.threads.runs.create(thread.id, assistant_id=made.id, stream=True)
    async for event in stream:
        if event.event == "thread.run.step.delta":
            run = event.data
            break
    await stream.close()
    deleted = await sdk.beta.threads.delete(thread.id)
    assert (deleted.object, deleted.deleted) == ("thread.deleted", True)
    with pytest.raises(openai.NotFoundError):
        await sdk.beta.threads.runs.list(thread.id)
    with pytest.raises(openai.NotFoundError):
        await sdk.beta.threads.runs.steps.retrieve(run.id, thread_id=thread.id, run_id="run_none")


async def test_an_end_that_cannot_be_stored_is_told_as_cut_off(root: None, python_image: Image, tmp_path: Path) -> None:
    async with Scripted("openai", models=("scripted",)) as upstream:
        upstream.then(Says("Hello."))
        table = {"scripted": {"url": upstream.url, "attempts": 1}}
        async with opened(tmp_path, pool_size=0, upstreams=table) as node, local(node) as sdk:
            made = await sdk.beta.assistants.create(model="scripted")
            thread = await sdk.beta.threads.create(messages=[{"role": "user", "content": "Hello?"}])
            names = []
            with refusing(node, """UPDATE ON objects WHEN new.kind = 'run' AND new.body LIKE '%"completed"%'"""):
                stream = await sdk.beta.threads.runs.create(thread.id, assistant_id=made.id, stream=True)
                with pytest.raises(openai.APIError, match="could not see this run to its end"):  # noqa: PT012
                    async for event in stream:
                        names.append(event.event)
            assert "thread.message.completed" in names
            assert "thread.run.completed" not in names
