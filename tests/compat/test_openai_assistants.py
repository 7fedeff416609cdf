"""OpenAI's Assistants as programs use them: the unmodified SDK, a scripted model, real sandboxes."""

import asyncio
import base64
import json
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from sandbox.assistants.messages import Messages
from sandbox.assistants.threads import UNUSED_S, Threads
from sandbox.errors import InvalidField, ObjectMissing
from sandbox.keys import LOCAL
from tests.api.conftest import NewDataDir, add_key
from tests.api.served import WAIT_SECONDS, Served, serving
from tests.compat.asking import of, refused
from tests.compat.assistants import INTERPRETER, PNG, WEATHER, answer, ask, assistant, steps, told, upload
from tests.compat.environments import Environments
from tests.test_node import opened
from tests.upstreams import Breaks, Call, Says, Scripted, Silent, runs

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")

DEEP: Any = json.loads('{"x":' * 300 + "1" + "}" * 300)
CHART = """
import matplotlib.pyplot as plt, pandas as pd
table = pd.read_csv("/mnt/data/sales.csv")
plt.bar(table.region, table.amount)
plt.show()
table.groupby("region").amount.sum().to_csv("/mnt/data/totals.csv")
table.amount.sum()
"""


@pytest.fixture
async def sdk(hosted: Served, upstream: Scripted) -> AsyncIterator[openai.AsyncOpenAI]:
    async with of(hosted, "any") as sdk:
        yield sdk


@pytest.fixture
async def client(hosted: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with hosted.client() as client:
        yield client


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
    upstream.then(runs("x = 1"), Says("Done."), runs("print(open('sales.csv').read())"), runs("x"), Says("3"))
    run = await ask(sdk, thread={"messages": [{"role": "user", "content": "Look!", "attachments": attached}]})
    sessions = (await client.get("/v1/sessions")).json()["data"]
    (session,) = [each for each in sessions if each["metadata"].get("thread_id") == run.thread_id]
    await client.delete(f"/v1/sessions/{session['id']}")
    second = await sdk.beta.threads.runs.create_and_poll(thread_id=run.thread_id, assistant_id=run.assistant_id)
    (call,) = (await steps(sdk, second))[0].step_details.tool_calls
    assert call.code_interpreter.outputs[0].logs == "3\n"
    assert "all variables and imports are lost" in told(upstream.asked[-1])


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


async def test_the_model_sees_the_newest_pictures_that_are_small_enough_together(
    sdk: openai.AsyncOpenAI, client: httpx.AsyncClient, upstream: Scripted
) -> None:
    upstream.then(Says("Two dots."))
    large = [await upload(client, name, PNG + bytes(17 << 20)) for name in ("old.png", "new.png")]
    shown = [*large, await upload(client, "dot.png", PNG)]
    messages: Any = [
        {"role": "user", "content": [{"type": "image_file", "image_file": {"file_id": file_id}}]} for file_id in shown
    ]
    run = await ask(sdk, assistant={"tools": []}, thread={"messages": messages})
    assert run.status == "completed"
    told_of = [message["content"][0]["image_url"]["url"] for message in upstream.asked[0].body["messages"]]
    assert [len(url) > 1 << 20 for url in told_of] == [True, False]


async def test_a_thread_has_a_bounded_number_of_files(tmp_path: Path) -> None:
    async with opened(tmp_path, pool_size=0) as node:
        threads = Threads(node)
        thread = await threads.create(LOCAL, {})
        await threads.attach(LOCAL, thread.id, [f"file-{number}" for number in range(500)])
        with pytest.raises(InvalidField, match="may have 500 files"):
            await threads.attach(LOCAL, thread.id, ["file-500"])


# Objects and lists.


async def test_a_thread_is_kept_for_as_long_as_it_is_used_and_a_while(tmp_path: Path) -> None:
    async with opened(tmp_path, pool_size=0) as node:
        threads = Threads(node)
        messages = Messages(node, threads)
        thread = await threads.create(LOCAL, {})
        await node.objects.prolong(LOCAL, [thread.id], 60)
        await messages.add(LOCAL, thread, await messages.checked(LOCAL, {"role": "user", "content": "Still there?"}))
        await node.store.purge_objects(time.time() + UNUSED_S - 60)
        assert (await threads.row(LOCAL, thread.id)).id == thread.id
        await node.store.purge_objects(time.time() + UNUSED_S + 60)
        with pytest.raises(ObjectMissing):
            await threads.row(LOCAL, thread.id)


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


async def test_a_thread_can_be_made_of_nothing(client: httpx.AsyncClient) -> None:
    made = await client.post("/v1/threads", content=b"", headers={"content-type": "application/json"})
    thread = made.json()
    assert thread.keys() == {"id", "object", "created_at", "metadata", "tool_resources"}
    assert (thread["object"], thread["metadata"], thread["tool_resources"]) == ("thread", {}, {})


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
    refused(await client.get(path, params={"after": "msg_none"}), 400)


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
        ("/v1/threads", {"messages": [{"role": "user", "content": "x" * 256_001}]}, "messages[0].content"),
        ("/v1/threads", {"messages": [{"role": "user", "content": "x"}] * 1001}, "messages"),
        (
            "/v1/threads",
            {"messages": [{"role": "user", "content": "x", "attachments": [{"file_id": "file-1"}] * 21}]},
            "messages.0.attachments",
        ),
        ("/v1/assistants", {"model": "scripted", "tools": [{"type": "x" * (1 << 20)}]}, "tools"),
        ("/v1/assistants", {"model": "scripted", "tools": [{"type": "code_interpreter", "x": DEEP}]}, "tools"),
    ],
)
async def test_what_is_not_here_is_refused_with_the_field(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], param: str
) -> None:
    error = refused(await client.post(path, json=body), 400)
    assert (error["type"], error["param"]) == ("invalid_request_error", param), error


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
    refused(await client.post("/v1/vector_stores", json={}), 404)


async def test_what_belongs_to_another_key_does_not_exist(new_data_dir: NewDataDir, upstream: Scripted) -> None:
    table = {"scripted": {"url": upstream.url, "attempts": 1}}
    async with serving(new_data_dir(), upstreams=json.dumps(table)) as served:
        ours, theirs = await add_key(served.data_dir, "ours"), await add_key(served.data_dir, "theirs")
        upstream.then(runs("print(1)"), Says("Ours."))
        async with of(served, ours) as sdk:
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


async def test_no_more_than_a_hundred_runs_of_a_key_go_on(new_data_dir: NewDataDir) -> None:
    async with Scripted("openai", lambda asked: Silent()) as upstream:
        table = json.dumps({"scripted": {"url": upstream.url}})
        async with serving(new_data_dir(), upstreams=table) as served, of(served, "any") as sdk:
            made = await assistant(sdk)
            asked = (sdk.beta.threads.create_and_run(assistant_id=made.id) for _ in range(110))
            came = await asyncio.gather(*asked, return_exceptions=True)
            going = [run for run in came if not isinstance(run, BaseException)]
            assert len(going) == 100
            with pytest.raises(openai.InternalServerError, match="100 runs of this key"):
                await sdk.beta.threads.create_and_run(assistant_id=made.id)
            await asyncio.gather(*(sdk.beta.threads.delete(run.thread_id) for run in going))
            run = await sdk.beta.threads.create_and_run(assistant_id=made.id)  # there is room again
            await sdk.beta.threads.delete(run.thread_id)


async def test_everything_survives_a_restart_and_a_run_that_it_cut_off_has_failed(
    new_data_dir: NewDataDir, upstream: Scripted
) -> None:
    directory = new_data_dir()
    table = json.dumps({"scripted": {"url": upstream.url, "attempts": 1}})
    async with serving(directory, upstreams=table) as served, of(served, "any") as sdk:
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
    async with serving(directory, upstreams=table) as served, of(served, "any") as sdk:
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
        async with of(served, "any") as sdk:
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
