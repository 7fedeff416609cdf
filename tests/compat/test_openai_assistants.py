"""OpenAI's Assistants as programs use them: the unmodified SDK, a scripted model, real sandboxes."""

import asyncio
import base64
import dataclasses
import json
import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from sandbox.keys import LOCAL
from sandbox.store import Store
from tests.api.conftest import NewDataDir, add_key
from tests.api.served import WAIT_SECONDS, Served, serving
from tests.compat.environments import Environments
from tests.upstreams import Asked, Breaks, Call, Fails, Says, Scene, Scripted, Silent, busy, runs

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")

INTERPRETER: Any = {"type": "code_interpreter"}
WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
CHART = """
import matplotlib.pyplot as plt, pandas as pd
table = pd.read_csv("/mnt/data/sales.csv")
plt.bar(table.region, table.amount)
plt.show()
table.groupby("region").amount.sum().to_csv("/mnt/data/totals.csv")
table.amount.sum()
"""
CHART_OF_NOTHING = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
ASSISTANT = {"model": "scripted", "tools": [INTERPRETER]}
PNG = b"\x89PNG\r\n\x1a\n"


def at(served: Served, key: str = "any") -> openai.AsyncOpenAI:
    """The SDK, repointed."""
    return openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0)


@pytest.fixture
async def sdk(hosted: Served, upstream: Scripted) -> AsyncIterator[openai.AsyncOpenAI]:
    async with at(hosted) as sdk:
        yield sdk


@pytest.fixture
async def client(hosted: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with hosted.client() as client:
        yield client


async def assistant(sdk: openai.AsyncOpenAI, **fields: Any) -> Any:
    return await sdk.beta.assistants.create(**{"model": "scripted", "tools": [INTERPRETER]} | fields)


async def ask(sdk: openai.AsyncOpenAI, question: str = "How much is it?", **fields: Any) -> Any:
    """A new assistant's run of a new thread, until its end."""
    made = await assistant(sdk, **fields.pop("assistant", {}))
    thread: Any = {"messages": [{"role": "user", "content": question}], **fields.pop("thread", {})}
    return await sdk.beta.threads.create_and_run_poll(assistant_id=made.id, thread=thread, **fields)


async def answer(sdk: openai.AsyncOpenAI, run: Any) -> Any:
    """The run's last message."""
    return (await sdk.beta.threads.messages.list(run.thread_id, run_id=run.id)).data[0]


async def steps(sdk: openai.AsyncOpenAI, run: Any) -> list[Any]:
    return [each async for each in sdk.beta.threads.runs.steps.list(run.id, thread_id=run.thread_id, order="asc")]


async def upload(client: httpx.AsyncClient, name: str, content: bytes) -> str:
    """The id of a file for assistants."""
    made = await client.post("/v1/files", data={"purpose": "assistants"}, files={"file": (name, content)})
    assert made.status_code == 200, made.text
    return str(made.json()["id"])


def frames(stream: bytes) -> list[tuple[str, Any]]:
    """Name and data of each event."""
    found = []
    for frame in stream.decode().removesuffix("\n\n").split("\n\n"):
        name, data = frame.split("\n")
        told = data.removeprefix("data: ")
        found.append((name.removeprefix("event: "), told if told == "[DONE]" else json.loads(told)))
    return found


def told(asked: Asked) -> str:
    """What the model was told last."""
    return str(asked.body["messages"][-1]["content"])


# Programs as users wrote them.


@pytest.mark.parametrize(
    "requirements",
    [(), ("openai==1.55.0", "httpx<0.28"), ("openai==1.109.1",), ("openai==2.0.0",)],
    ids=["current", "1.55.0", "1.109.1", "2.0.0"],
)
async def test_the_classic_program_runs_unchanged(
    environments: Environments, hosted: Served, upstream: Scripted, requirements: tuple[str, ...]
) -> None:
    upstream.then(
        runs(CHART, text="Let me look at the table."),
        Says("Here is the chart. The totals: [totals.csv](sandbox:/mnt/data/totals.csv)"),
        runs("print(table.amount.sum())"),
        Says("It is 295."),
    )
    env = {"OPENAI_BASE_URL": f"{hosted.url}/v1", "OPENAI_API_KEY": "any", "MODEL": "scripted"}
    told = json.loads((await environments.run("openai_assistants", *requirements, env=env)).splitlines()[-1])
    assert told["text"].startswith("Here is the chart.")
    assert bytes.fromhex(told["chart"]) == PNG
    assert told["totals"] == "region,amount\neast,95\nnorth,120\nsouth,80\n"
    assert told["steps"] == ["message_creation", "tool_calls", "message_creation"]
    assert told["outputs"] == ["image", "logs"]
    assert told["said"] == "It is 295."
    assert told["code"] == "print(table.amount.sum())"
    assert told["logs"] == "295\n"


async def test_a_run_completes_and_its_message_can_be_read(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(runs("print(6 * 7)"), Says("It is 42."))
    run = await ask(sdk)
    assert run.status == "completed"
    assert (run.usage.prompt_tokens, run.usage.completion_tokens, run.usage.total_tokens) == (20, 10, 30)
    assert run.expires_at is None
    assert run.started_at
    assert run.completed_at
    message = await answer(sdk, run)
    assert (message.role, message.status, message.run_id) == ("assistant", "completed", run.id)
    assert message.content[0].text.value == "It is 42."
    assert "42" in str(upstream.asked[1].body["messages"])


async def test_a_stream_says_everything_in_the_vendors_order(client: httpx.AsyncClient, upstream: Scripted) -> None:
    upstream.then(
        runs(f"print(1)\n{CHART_OF_NOTHING}\n_ = open('/mnt/data/a.csv', 'w').write('a')"),
        Says("see [x](sandbox:/mnt/data/a.csv)", piece=4),
    )
    assistant_id = (await client.post("/v1/assistants", json=ASSISTANT)).json()["id"]
    thread_id = (await client.post("/v1/threads", json={})).json()["id"]
    asked = {"assistant_id": assistant_id, "stream": True}
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

    upstream.then(runs(CHART_OF_NOTHING), Says("There."))
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


# Files.


async def test_files_lie_under_their_own_names_wherever_they_come_from(
    sdk: openai.AsyncOpenAI, client: httpx.AsyncClient, upstream: Scripted
) -> None:
    upstream.then(runs("import os\nprint(sorted(os.listdir('/mnt/data')))"), Says("There they are."))
    of_assistant = await upload(client, "prices.csv", b"1")
    of_thread = await upload(client, "names.csv", b"2")
    first, second = await upload(client, "sales.csv", b"3"), await upload(client, "sales.csv", b"4")
    attached: Any = [{"file_id": each, "tools": [INTERPRETER]} for each in (first, second)]
    run = await ask(
        sdk,
        assistant={"tool_resources": {"code_interpreter": {"file_ids": [of_assistant]}}},
        thread={
            "tool_resources": {"code_interpreter": {"file_ids": [of_thread]}},
            "messages": [{"role": "user", "content": "What is there?", "attachments": attached}],
        },
    )
    assert run.status == "completed"
    (call,) = (await steps(sdk, run))[0].step_details.tool_calls
    listed = call.code_interpreter.outputs[0].logs
    assert listed == "['names.csv', 'prices.csv', 'sales-2.csv', 'sales.csv']\n"
    assert "Attached: /mnt/data/sales.csv, /mnt/data/sales-2.csv" in told(upstream.asked[0])
    thread = await sdk.beta.threads.retrieve(run.thread_id)
    assert thread.tool_resources is not None
    assert thread.tool_resources.code_interpreter is not None
    assert thread.tool_resources.code_interpreter.file_ids == [of_thread, first, second]


async def test_a_thread_has_one_session_that_later_files_come_into(
    sdk: openai.AsyncOpenAI, client: httpx.AsyncClient, upstream: Scripted
) -> None:
    upstream.then(runs("x = 41; open('/mnt/data/b.csv', 'w').write('mine')"), Says("Done."))
    run = await ask(sdk)
    attached: Any = [{"file_id": await upload(client, "b.csv", b"theirs"), "tools": [INTERPRETER]}]
    await sdk.beta.threads.messages.create(run.thread_id, role="user", content="And now?", attachments=attached)
    upstream.then(runs("print(x + 1, open('b.csv').read(), open('b-2.csv').read())"), Says("42"))
    second = await sdk.beta.threads.runs.create_and_poll(thread_id=run.thread_id, assistant_id=run.assistant_id)
    (call,) = (await steps(sdk, second))[0].step_details.tool_calls
    assert call.code_interpreter.outputs[0].logs == "42 mine theirs\n"
    sessions = (await client.get("/v1/sessions")).json()["data"]
    (session,) = [each for each in sessions if each["metadata"].get("thread_id") == run.thread_id]
    assert session["idle_timeout_s"] == 3600
    assert "b-2.csv" in str(upstream.asked[2].body)
    await sdk.beta.threads.delete(run.thread_id)
    assert (await client.get(f"/v1/sessions/{session['id']}")).json()["status"] == "closed"


async def test_a_thread_whose_session_is_over_gets_another_with_its_files(
    sdk: openai.AsyncOpenAI, client: httpx.AsyncClient, upstream: Scripted
) -> None:
    attached: Any = [{"file_id": await upload(client, "sales.csv", b"3"), "tools": [INTERPRETER]}]
    upstream.then(runs("1"), Says("Done."), runs("print(open('sales.csv').read())"), Says("3"))
    run = await ask(sdk, thread={"messages": [{"role": "user", "content": "Look!", "attachments": attached}]})
    sessions = (await client.get("/v1/sessions")).json()["data"]
    (session,) = [each for each in sessions if each["metadata"].get("thread_id") == run.thread_id]
    await client.delete(f"/v1/sessions/{session['id']}")
    second = await sdk.beta.threads.runs.create_and_poll(thread_id=run.thread_id, assistant_id=run.assistant_id)
    (call,) = (await steps(sdk, second))[0].step_details.tool_calls
    assert call.code_interpreter.outputs[0].logs == "3\n"


async def test_a_question_that_needs_no_code_opens_no_session(
    sdk: openai.AsyncOpenAI, client: httpx.AsyncClient, upstream: Scripted
) -> None:
    upstream.then(Says("Hello!"))
    run = await ask(sdk)
    sessions = (await client.get("/v1/sessions")).json()["data"]
    assert run.thread_id not in [each["metadata"].get("thread_id") for each in sessions]


async def test_links_are_counted_in_characters_and_only_to_files_that_there_are(
    sdk: openai.AsyncOpenAI, client: httpx.AsyncClient, upstream: Scripted
) -> None:
    text = "🎉 Bär: [a](sandbox:/mnt/data/my%20file.txt), and sandbox:/mnt/data/my file.txt. [b](sandbox:/mnt/data/no)"
    upstream.then(runs("open('/mnt/data/my file.txt', 'w').write('hello')"), Says(text))
    content = (await answer(sdk, await ask(sdk))).content[0].text
    first, second = content.annotations
    assert (first.text, second.text) == ("sandbox:/mnt/data/my%20file.txt", "sandbox:/mnt/data/my file.txt")
    for each in (first, second):
        assert content.value[each.start_index : each.end_index] == each.text
    assert first.file_path.file_id == second.file_path.file_id
    file = await sdk.files.retrieve(first.file_path.file_id)
    assert (file.filename, file.purpose) == ("my file.txt", "assistants_output")
    assert (await sdk.files.content(file.id)).content == b"hello"


async def test_the_model_sees_the_pictures_that_users_show(
    sdk: openai.AsyncOpenAI, client: httpx.AsyncClient, upstream: Scripted
) -> None:
    upstream.then(Says("A dot."))
    picture = await upload(client, "dot.png", PNG)
    content: Any = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_file", "image_file": {"file_id": picture}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}},
    ]
    run = await ask(sdk, thread={"messages": [{"role": "user", "content": content}]})
    assert run.status == "completed"
    text, shown, linked = upstream.asked[0].body["messages"][-1]["content"]
    assert text["text"] == "What is this?"
    assert shown["image_url"]["url"] == f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert linked["image_url"] == {"url": "https://example.org/a.png", "detail": "low"}
    first = (await sdk.beta.threads.messages.list(run.thread_id, order="asc")).data[0]
    assert [part.type for part in first.content] == ["text", "image_file", "image_url"]


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
        if event.event == "thread.run.step.delta" and "begun" in event.model_dump_json():
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


# Objects and lists.


async def test_an_assistant_is_made_changed_listed_and_deleted(sdk: openai.AsyncOpenAI) -> None:
    made = await assistant(sdk, name="Ann", description="Counts.", metadata={"a": "b"}, top_p=0.5)
    assert (made.object, made.name, made.metadata, made.response_format) == ("assistant", "Ann", {"a": "b"}, "auto")
    changed = await sdk.beta.assistants.update(made.id, name="Bob", tools=[])
    assert (changed.name, changed.description, changed.tools) == ("Bob", "Counts.", [])
    assert await sdk.beta.assistants.retrieve(made.id) == changed
    assert made.id in [each.id async for each in sdk.beta.assistants.list(limit=1)]
    deleted = await sdk.beta.assistants.delete(made.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (made.id, "assistant.deleted", True)
    with pytest.raises(openai.NotFoundError, match=made.id):
        await sdk.beta.assistants.retrieve(made.id)


async def test_metadata_of_threads_messages_and_runs_can_be_changed(
    sdk: openai.AsyncOpenAI, upstream: Scripted
) -> None:
    upstream.then(Says("Yes."))
    run = await ask(sdk)
    given = {"a": "b"}
    assert (await sdk.beta.threads.update(run.thread_id, metadata=given)).metadata == given
    assert (await sdk.beta.threads.retrieve(run.thread_id)).metadata == given
    message = await answer(sdk, run)
    changed = await sdk.beta.threads.messages.update(message.id, thread_id=run.thread_id, metadata=given)
    assert changed == message.model_copy(update={"metadata": given})
    assert await sdk.beta.threads.messages.retrieve(message.id, thread_id=run.thread_id) == changed
    assert (await sdk.beta.threads.runs.update(run.id, thread_id=run.thread_id, metadata=given)).metadata == given
    assert (await sdk.beta.threads.runs.retrieve(run.id, thread_id=run.thread_id)).metadata == given


async def test_lists_are_paged_in_both_orders_and_directions(
    sdk: openai.AsyncOpenAI, client: httpx.AsyncClient
) -> None:
    messages: Any = [{"role": "user", "content": str(number)} for number in range(5)]
    thread = await sdk.beta.threads.create(messages=messages)
    path = f"/v1/threads/{thread.id}/messages"

    async def page(**query: Any) -> tuple[list[str], bool]:
        told = (await client.get(path, params=query)).json()
        ids = [each["id"] for each in told["data"]]
        assert (told["object"], told["first_id"], told["last_id"]) == ("list", ids[0], ids[-1])
        return [each["content"][0]["text"]["value"] for each in told["data"]], told["has_more"]

    ids = {each.content[0].text.value: each.id async for each in sdk.beta.threads.messages.list(thread.id, limit=2)}  # type: ignore[union-attr]
    assert list(ids) == ["4", "3", "2", "1", "0"]
    assert await page(order="asc", limit=2) == (["0", "1"], True)
    assert await page(order="asc", limit=2, after=ids["2"]) == (["3", "4"], False)
    assert await page(limit=2, before=ids["1"]) == (["3", "2"], True)
    assert await page(order="asc", limit=2, before=ids["2"]) == (["0", "1"], False)
    refused = await client.get(path, params={"after": "msg_none"})
    assert refused.status_code == 400


async def test_messages_can_be_listed_by_run(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(Says("One."), Says("Two."))
    first = await ask(sdk)
    second = await sdk.beta.threads.runs.create_and_poll(thread_id=first.thread_id, assistant_id=first.assistant_id)
    for run, said in ((first, "One."), (second, "Two.")):
        listed = await sdk.beta.threads.messages.list(first.thread_id, run_id=run.id)
        assert [each.content[0].text.value for each in listed.data] == [said]  # type: ignore[union-attr]
    assert [each.id async for each in sdk.beta.threads.runs.list(first.thread_id)] == [second.id, first.id]


# What is not there, or not theirs.


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/assistants", {"model": "scripted", "tools": [{"type": "file_search"}]}, "tools[0].type"),
        ("/v1/assistants", {"model": "scripted", "tools": [{"type": "retrieval"}]}, "tools[0].type"),
        ("/v1/assistants", {"model": "scripted", "file_ids": ["file-1"]}, "file_ids"),
        ("/v1/assistants", {"model": "scripted", "metadata": {"a": 1}}, "metadata.a"),
        ("/v1/assistants", {"tools": []}, "model"),
        (
            "/v1/assistants",
            {
                "model": "scripted",
                "tools": [INTERPRETER, {"type": "function", "function": {"name": "run_python"}}],
            },
            "tools[1].function.name",
        ),
        (
            "/v1/threads",
            {"tool_resources": {"file_search": {"vector_store_ids": ["vs_1"]}}},
            "tool_resources.file_search",
        ),
        (
            "/v1/threads",
            {
                "messages": [
                    {
                        "role": "user",
                        "content": "x",
                        "attachments": [{"file_id": "file-1", "tools": [{"type": "file_search"}]}],
                    }
                ]
            },
            "messages[0].attachments[0].tools",
        ),
        ("/v1/threads", {"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ],
)
async def test_what_is_not_here_is_refused_with_the_field(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], param: str
) -> None:
    refused = await client.post(path, json=body)
    error = refused.json()["error"]
    assert (refused.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param), error
    assert error.keys() == {"message", "type", "param", "code"}


async def test_errors_are_the_sdks_own_exceptions(sdk: openai.AsyncOpenAI, client: httpx.AsyncClient) -> None:
    with pytest.raises(openai.NotFoundError, match="assistant asst_none") as caught:
        await sdk.beta.assistants.retrieve("asst_none")
    assert (caught.value.type, caught.value.code) == ("invalid_request_error", "object_missing")
    with pytest.raises(openai.NotFoundError, match="thread_none"):
        await sdk.beta.threads.messages.list("thread_none")
    thread = await sdk.beta.threads.create()
    attached: Any = [{"file_id": "file-none", "tools": [INTERPRETER]}]
    with pytest.raises(openai.NotFoundError, match="file-none"):
        await sdk.beta.threads.messages.create(thread.id, role="user", content="x", attachments=attached)
    made = await assistant(sdk, tools=[])
    with pytest.raises(openai.BadRequestError, match="tool_choice"):
        await sdk.beta.threads.runs.create(thread.id, assistant_id=made.id, tool_choice=INTERPRETER)
    with pytest.raises(openai.NotFoundError):
        await sdk.vector_stores.create(name="none")
    assert (await client.post("/v1/vector_stores", json={})).json()["error"]["type"] == "invalid_request_error"


async def test_what_belongs_to_another_key_does_not_exist(new_data_dir: NewDataDir, upstream: Scripted) -> None:
    table = {"scripted": {"url": upstream.url, "attempts": 1}}
    async with serving(new_data_dir(), upstreams=json.dumps(table)) as served:
        ours, theirs = await add_key(served.data_dir, "ours"), await add_key(served.data_dir, "theirs")
        upstream.then(runs("print(1)"), Says("Ours."))
        async with at(served, ours) as sdk:
            run = await ask(sdk)
            message, (step, _) = await answer(sdk, run), await steps(sdk, run)
        thread = f"/v1/threads/{run.thread_id}"
        async with served.client(theirs) as other, served.client(ours) as owner:
            file = await upload(owner, "a.csv", b"1")
            for path in (
                f"/v1/assistants/{run.assistant_id}",
                thread,
                f"{thread}/messages",
                f"{thread}/messages/{message.id}",
                f"{thread}/runs",
                f"{thread}/runs/{run.id}",
                f"{thread}/runs/{run.id}/steps",
                f"{thread}/runs/{run.id}/steps/{step.id}",
            ):
                assert (await owner.get(path)).status_code == 200, path
                assert (await other.get(path)).status_code == 404, path
            assert (await other.get("/v1/assistants")).json()["data"] == []
            for path in (f"/v1/assistants/{run.assistant_id}", thread, f"{thread}/messages/{message.id}"):
                assert (await other.delete(path)).status_code == 404
                assert (await other.post(path, json={"metadata": {}})).status_code == 404
            assert (await other.post(f"{thread}/runs/{run.id}/cancel")).status_code == 404
            mine = (await other.post("/v1/threads", json={})).json()["id"]
            begun = await other.post(f"/v1/threads/{mine}/runs", json={"assistant_id": run.assistant_id})
            assert begun.status_code == 404
            files = {"tool_resources": {"code_interpreter": {"file_ids": [file]}}}
            assert (await other.post("/v1/threads", json=files)).status_code == 404


async def test_everything_survives_a_restart_and_a_run_that_it_cut_off_has_failed(
    new_data_dir: NewDataDir, upstream: Scripted
) -> None:
    directory = new_data_dir()
    table = json.dumps({"scripted": {"url": upstream.url, "attempts": 1}})
    async with serving(directory, upstreams=table) as served, at(served) as sdk:
        upstream.then(runs("x = 41"), Says("Set."), Says(calls=(Call("weather", {}),)))
        kept = await ask(sdk)
        waiting = await ask(sdk, assistant={"tools": [WEATHER]})
        upstream.then(Breaks("stall", Says("This stays half."), after=3))
        thread = await sdk.beta.threads.create()
        stream = await sdk.beta.threads.runs.create(thread.id, assistant_id=kept.assistant_id, stream=True)
        async for event in stream:
            if event.event == "thread.message.delta":
                break
        served.signal(signal.SIGKILL)
        await served.ended()
        await stream.close()
    async with serving(directory, upstreams=table) as served, at(served) as sdk:
        assert await sdk.beta.threads.runs.retrieve(kept.id, thread_id=kept.thread_id) == kept
        assert (await answer(sdk, kept)).content[0].text.value == "Set."
        cut = (await sdk.beta.threads.runs.list(thread.id)).data[0]
        assert (cut.status, cut.last_error.code) == ("failed", "server_error")  # type: ignore[union-attr]
        assert [step.status for step in await steps(sdk, cut)] == ["failed"]
        assert (await answer(sdk, cut)).status == "incomplete"
        upstream.then(Says("Go on."), Says("Sunny."))
        again = await sdk.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=kept.assistant_id)
        assert again.status == "completed"
        (call,) = waiting.required_action.submit_tool_outputs.tool_calls
        done = await sdk.beta.threads.runs.submit_tool_outputs_and_poll(
            run_id=waiting.id, thread_id=waiting.thread_id, tool_outputs=[{"tool_call_id": call.id, "output": "sun"}]
        )
        assert done.status == "completed"


async def test_a_server_that_stops_waits_for_no_model(new_data_dir: NewDataDir, upstream: Scripted) -> None:
    table = json.dumps({"scripted": {"url": upstream.url, "attempts": 1}})
    directory = new_data_dir()
    async with serving(directory, upstreams=table, drain_timeout_s=0.1) as served:
        async with at(served) as sdk:
            upstream.then(Silent())
            made = await assistant(sdk)
            run = await sdk.beta.threads.create_and_run(assistant_id=made.id)
            async with asyncio.timeout(WAIT_SECONDS):
                while not upstream.asked:
                    run = await sdk.beta.threads.runs.retrieve(run.id, thread_id=run.thread_id)
        served.signal(signal.SIGTERM)
        assert await served.ended() == 0
    async with serving(directory, upstreams=table) as served, served.client() as client:
        told = (await client.get(f"/v1/threads/{run.thread_id}/runs/{run.id}")).json()
        assert (told["status"], told["last_error"]["code"]) == ("failed", "server_error")
