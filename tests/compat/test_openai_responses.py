"""OpenAI's Responses: programs as users have written them, with the unmodified SDK and real sandboxes."""

import asyncio
import base64
import json
import signal
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest
from openai.types.responses import Response

from sandbox import reclaim
from sandbox.image import Image
from sandbox.keys import LOCAL
from sandbox.loop.messages import MOST_MESSAGES
from sandbox.node import Node
from sandbox.responses.earlier import LIFETIME_S
from tests.api.conftest import NewDataDir, add_key
from tests.api.local import whole_app
from tests.api.served import WAIT_SECONDS, Served, serving
from tests.compat.environments import Environments
from tests.test_node import opened
from tests.upstreams import Asked, Breaks, Call, Fails, Says, Scripted, Silent, busy, fenced, runs

AUTO: Any = {"type": "code_interpreter", "container": {"type": "auto"}}
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "Of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
OUTPUTS: Any = ["code_interpreter_call.outputs"]
CSV = b"region,amount\nnorth,3\nsouth,4\n"


@pytest.fixture
async def sdk(hosted: Served, upstream: Scripted) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{hosted.url}/v1", api_key="any", max_retries=0) as sdk:
        yield sdk


async def ask(sdk: openai.AsyncOpenAI, **more: Any) -> Response:
    given: dict[str, Any] = {"model": "scripted", "input": "How much is it?", "tools": [AUTO]} | more
    response: Response = await sdk.responses.create(**given)
    return response


async def stream(sdk: openai.AsyncOpenAI, **more: Any) -> list[Any]:
    given: dict[str, Any] = {"model": "scripted", "input": "How much is it?", "tools": [AUTO], "stream": True} | more
    return [event async for event in await sdk.responses.create(**given)]


async def ended(sdk: openai.AsyncOpenAI, response: Response) -> Response:
    """Poll, as programs do."""
    async with asyncio.timeout(WAIT_SECONDS):
        while response.status in ("queued", "in_progress"):
            response = await sdk.responses.retrieve(response.id)
    return response


async def reached(sdk: openai.AsyncOpenAI, upstream: Scripted, count: int = 1) -> None:
    """Wait until the model was asked so often."""
    async with asyncio.timeout(WAIT_SECONDS):
        while len(upstream.asked) < count:
            await sdk.models.list()


def ran(response: Response) -> list[Any]:
    return [item for item in response.output if item.type == "code_interpreter_call"]


def logs(response: Response) -> str:
    return "".join(output.logs for item in ran(response) for output in item.outputs if output.type == "logs")


def citations(response: Response) -> list[Any]:
    message: Any = response.output[-1]
    return list(message.content[0].annotations)


def said(asked: Asked) -> list[tuple[str, Any]]:
    """What the model got, as roles and contents."""
    return [(message["role"], message["content"]) for message in asked.body["messages"]]


def functions(asked: Asked) -> list[str]:
    return [tool["function"]["name"] for tool in asked.body.get("tools", ())]


# Code, and what comes of it.


async def test_code_runs_and_the_answer_comes_back(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(runs("print(6 * 7)"), Says("It is 42."))
    response = await ask(sdk, instructions="Be brief.", metadata={"a": "b"})
    assert response.output_text == "It is 42."
    assert (response.status, response.error, response.incomplete_details) == ("completed", None, None)
    assert response.id.startswith("resp_")
    assert response.metadata == {"a": "b"}
    (call,) = ran(response)
    assert (call.code, call.status, call.outputs) == ("print(6 * 7)", "completed", None)
    assert call.container_id.startswith("cntr_")
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (20, 10, 30)
    assert said(upstream.asked[0]) == [("system", "Be brief."), ("user", "How much is it?")]
    assert "42" in said(upstream.asked[1])[-1][1]


async def test_outputs_are_told_to_those_who_ask_for_them(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(runs("print('hello')\n(1, 2)"), Says("done"))
    response = await ask(sdk, include=OUTPUTS)
    assert logs(response) == "hello\n(1, 2)"
    assert ran(await sdk.responses.retrieve(response.id))[0].outputs is None
    assert logs(await sdk.responses.retrieve(response.id, include=OUTPUTS)) == "hello\n(1, 2)"


async def test_code_without_output_has_an_empty_list_of_outputs(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(runs("x = 1"), Says("done"))
    assert ran(await ask(sdk, include=OUTPUTS))[0].outputs == []


async def test_code_that_raised_has_completed_and_its_traceback_is_in_the_logs(
    sdk: openai.AsyncOpenAI, upstream: Scripted
) -> None:
    upstream.then(runs("print('first')\n1 / 0"), runs("print('better')"), Says("done"))
    failed, repaired = ran(await ask(sdk, include=OUTPUTS))
    assert (failed.status, repaired.status) == ("completed", "completed")
    assert failed.outputs[0].logs.startswith("first\n")
    assert "ZeroDivisionError: division by zero" in failed.outputs[0].logs


async def test_code_whose_kernel_died_has_failed(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(runs("import os\nos._exit(3)"), Says("It died."))
    (call,) = ran(await ask(sdk, include=OUTPUTS))
    assert call.status == "failed"
    assert "killed" in call.outputs[0].logs


async def test_a_call_without_code_is_between_us_and_the_model(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(Says("", (Call("run_python", "{}"),)), runs("print(1)"), Says("done"))
    assert [item.type for item in (await ask(sdk)).output] == ["code_interpreter_call", "message"]


async def test_no_more_code_runs_than_max_tool_calls(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(runs("print(1)", "print(2)"), Says("done"))
    response = await ask(sdk, max_tool_calls=1)
    assert [call.code for call in ran(response)] == ["print(1)"]
    assert response.max_tool_calls == 1


async def test_what_the_model_says_before_its_code_is_a_message_of_its_own(
    sdk: openai.AsyncOpenAI, upstream: Scripted
) -> None:
    upstream.then(runs("print(1)", text="Let me see."), Says("It is 1."))
    response = await ask(sdk)
    assert [item.type for item in response.output] == ["message", "code_interpreter_call", "message"]
    assert response.output_text == "Let me see.It is 1."


# Files that come out.


async def test_a_linked_file_is_cited_where_its_link_stands(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(
        runs("open('sales 2026.csv', 'w').write('a,b')\nopen('sales', 'w').write('no')"),
        Says("Größe 🎉: [here](sandbox:/mnt/data/sales 2026.csv), not [there](sandbox:/mnt/data/none.csv)."),
    )
    response = await ask(sdk)
    (citation,) = citations(response)
    assert response.output_text[citation.start_index : citation.end_index] == "sandbox:/mnt/data/sales 2026.csv"
    assert (citation.type, citation.filename) == ("container_file_citation", "sales 2026.csv")
    content = await sdk.containers.files.content.retrieve(citation.file_id, container_id=citation.container_id)
    assert content.content == b"a,b"
    function = upstream.asked[0].body["tools"][0]["function"]
    assert "](sandbox:/mnt/data/" in function["description"]  # models do not know this by themselves


async def test_a_displayed_figure_is_cited_and_can_be_fetched(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    draw = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
    upstream.then(runs(draw, draw), Says("Two charts."))
    response = await ask(sdk, include=OUTPUTS)
    url = ran(response)[0].outputs[0].url
    assert url.startswith("data:image/png;base64,")
    first, second = citations(response)
    assert (first.start_index, first.end_index, first.filename) == (0, 0, f"{first.file_id}.png")
    assert first.file_id != second.file_id
    content = await sdk.containers.files.content.retrieve(first.file_id, container_id=first.container_id)
    assert content.content == base64.b64decode(url.partition(",")[2])
    listed = [file async for file in await sdk.containers.files.list(first.container_id)]
    assert {file.id: file.source for file in listed} == {first.file_id: "assistant", second.file_id: "assistant"}


# Containers.


async def test_a_container_is_made_only_when_code_runs(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    before = {container.id async for container in await sdk.containers.list()}
    upstream.then(Says("Hello."), runs("print(1)"), Says("done"))
    await ask(sdk)
    assert {container.id async for container in await sdk.containers.list()} == before
    response = await ask(sdk)
    after = {container.id async for container in await sdk.containers.list()}
    assert after - before == {ran(response)[0].container_id}
    container = await sdk.containers.retrieve(ran(response)[0].container_id)
    assert (container.status, container.memory_limit) == ("running", "1g")
    assert container.expires_after is not None
    assert container.expires_after.minutes == 20


async def test_a_container_can_be_named_and_gets_the_files_of_the_request(
    sdk: openai.AsyncOpenAI, upstream: Scripted
) -> None:
    container = await sdk.containers.create(name="mine")
    file = await sdk.files.create(file=("sales.csv", CSV), purpose="user_data")
    upstream.then(runs("print(open('/mnt/data/sales.csv').read())\nx = 5"), Says("done"), runs("print(x)"), Says("ok"))
    tool: Any = {"type": "code_interpreter", "container": container.id}
    asked: Any = [{"role": "user", "content": [{"type": "input_file", "file_id": file.id}]}]
    response = await ask(sdk, tools=[tool], input=asked, include=OUTPUTS)
    assert ran(response)[0].container_id == container.id
    assert logs(response) == CSV.decode() + "\n"
    assert said(upstream.asked[0]) == [("user", "[The file is in /mnt/data/sales.csv.]")]
    response = await ask(sdk, tools=[tool], input=asked, include=OUTPUTS)  # the same file again is the same file
    assert logs(response) == "5\n"
    assert [item.path async for item in await sdk.containers.files.list(container.id)] == ["/mnt/data/sales.csv"]


async def test_a_container_that_does_not_exist_is_told(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    missing = f"cntr_{'0' * 32}"
    with pytest.raises(openai.NotFoundError, match=f"Container with id '{missing}' not found."):
        await ask(sdk, tools=[{"type": "code_interpreter", "container": missing}])


async def test_the_tier_of_memory_can_be_chosen(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(runs("print(1)"), Says("done"))
    tool: Any = {"type": "code_interpreter", "container": {"type": "auto", "memory_limit": "1g"}}
    response = await ask(sdk, tools=[tool])
    assert (await sdk.containers.retrieve(ran(response)[0].container_id)).memory_limit == "1g"
    assert "1024 MB of memory" in upstream.asked[0].body["tools"][0]["function"]["description"]
    tool["container"]["memory_limit"] = "3g"
    with pytest.raises(openai.BadRequestError) as refused:
        await ask(sdk, tools=[tool])
    assert refused.value.param == "tools[0].container.memory_limit"


# Files that come in.


async def test_files_are_mounted_however_they_are_given(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    listed = await sdk.files.create(file=("listed.csv", CSV), purpose="assistants")
    named = await sdk.files.create(file=("sales.csv", CSV), purpose="user_data")
    twin = await sdk.files.create(file=("sales.csv", b"other"), purpose="user_data")
    given = base64.b64encode(b"given").decode()
    upstream.then(runs("import os\nprint(sorted(os.listdir('/mnt/data')))"), Says("done"))
    response = await ask(
        sdk,
        include=OUTPUTS,
        tools=[{"type": "code_interpreter", "container": {"type": "auto", "file_ids": [listed.id]}}],
        input=[
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "Add these."},
                    {"type": "input_file", "file_id": named.id},
                    {"type": "input_file", "file_id": twin.id},
                    {"type": "input_file", "filename": "a.txt", "file_data": f"data:text/plain;base64,{given}"},
                ],
            }
        ],
    )
    for name in ("listed.csv", "sales.csv", "sales-2.csv", "a.txt"):
        assert f"'{name}'" in logs(response)
        assert name in upstream.asked[0].body["tools"][0]["function"]["description"]
    assert "[The file is in /mnt/data/sales-2.csv.]" in json.dumps(said(upstream.asked[0]))


async def test_an_image_is_shown_and_mounted(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    png = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
    )
    image = await sdk.files.create(file=("dot.png", png), purpose="vision")
    upstream.then(runs("from PIL import Image\nprint(Image.open('dot.png').size)"), Says("A dot."))
    parts: Any = [{"type": "input_image", "file_id": image.id, "detail": "auto"}]
    response = await ask(sdk, include=OUTPUTS, input=[{"role": "user", "content": parts}])
    assert logs(response) == "(1, 1)\n"
    shown = upstream.asked[0].body["messages"][0]["content"]
    assert shown[0] == {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(png).decode()}"},
    }


async def test_without_the_tool_the_model_itself_gets_the_files(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    file = await sdk.files.create(file=("sales.csv", CSV), purpose="user_data")
    upstream.then(Says("I see."))
    pdf = base64.b64encode(b"%PDF-1.4\xff").decode()
    parts: Any = [
        {"type": "input_file", "file_id": file.id},
        {"type": "input_file", "filename": "a.pdf", "file_data": pdf},
        {"type": "input_image", "image_url": "https://example.org/a.png", "detail": "low"},
    ]
    response = await ask(sdk, tools=[], input=[{"role": "user", "content": parts}])
    assert response.output_text == "I see."
    text, document, image = upstream.asked[0].body["messages"][0]["content"]
    assert text == {"type": "text", "text": f"[The file sales.csv:]\n{CSV.decode()}"}
    assert document["file"] == {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{pdf}"}
    assert image["image_url"] == {"url": "https://example.org/a.png", "detail": "low"}


async def test_a_request_brings_a_bounded_number_of_files(sdk: openai.AsyncOpenAI) -> None:
    parts: Any = [
        {"type": "input_file", "filename": "a.txt", "file_data": base64.b64encode(b"%d" % number).decode()}
        for number in range(501)
    ]
    with pytest.raises(openai.BadRequestError, match="may bring 500 files"):
        await ask(sdk, input=[{"role": "user", "content": parts}])


async def test_files_for_the_model_are_bounded_together_and_each_time_they_are_named(sdk: openai.AsyncOpenAI) -> None:
    file = await sdk.files.create(file=("a.png", bytes(20 << 20)), purpose="vision")
    parts: Any = [{"type": "input_image", "file_id": file.id, "detail": "auto"}] * 2
    with pytest.raises(openai.BadRequestError, match="may have 32 MiB together") as error:
        await ask(sdk, tools=[], input=[{"role": "user", "content": parts}])
    assert error.value.param == "input[0].content[1]"


# Going on.


async def test_a_chain_has_as_many_items_as_a_request_may_have(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(Says("Yes."))
    said: Any = [{"role": "user", "content": "a"}] * MOST_MESSAGES
    first = await sdk.responses.create(model="scripted", input=said)
    with pytest.raises(openai.BadRequestError, match="5,000 items"):
        await sdk.responses.create(model="scripted", input="b", previous_response_id=first.id)


async def test_a_chain_goes_on_in_the_same_container(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(runs("x = 41"), Says("Kept."), Says("Indeed."), runs("print(x + 1)"), Says("It is 42."))
    first = await ask(sdk, instructions="Be brief.", input="Keep 41.")
    second = await ask(sdk, input="Sure?", previous_response_id=first.id)
    third = await ask(sdk, input="Add 1.", previous_response_id=second.id, include=OUTPUTS)
    assert logs(third) == "42\n"
    assert ran(third)[0].container_id == ran(first)[0].container_id
    assert third.previous_response_id == second.id
    got = said(upstream.asked[3])
    assert [role for role, _ in got] == ["user", "assistant", "tool", "assistant", "user", "assistant", "user"]
    assert got[-1] == ("user", "Add 1.")
    assert got[2][1].startswith("ok")  # what the model was told then


async def test_a_chain_whose_container_is_gone_gets_a_new_one_with_its_files(
    sdk: openai.AsyncOpenAI, upstream: Scripted
) -> None:
    file = await sdk.files.create(file=("sales.csv", CSV), purpose="user_data")
    upstream.then(runs("x = 1"), Says("Kept."), runs("print(open('sales.csv').read())\nx"), Says("Gone."))
    parts: Any = [{"type": "input_file", "file_id": file.id}]
    first = await ask(sdk, input=[{"role": "user", "content": parts}])
    await sdk.containers.delete(ran(first)[0].container_id)
    second = await ask(sdk, previous_response_id=first.id, include=OUTPUTS)
    assert ran(second)[0].container_id != ran(first)[0].container_id
    assert logs(second).startswith(CSV.decode())
    assert "NameError" in logs(second)


async def test_a_chain_outlives_its_container_and_an_expired_one_cannot_be_named(
    root: None, python_image: Image, nothing_left: None, tmp_path: Path
) -> None:
    scenes = (runs("x = 1"), Says("Kept."), runs("print('new')"), Says("Gone."))
    async with Scripted("openai", *scenes) as upstream:
        table = {"scripted": {"url": upstream.url, "attempts": 1}}
        async with opened(tmp_path, pool_size=0, upstreams=table) as node, local(node) as sdk:
            first = await ask(sdk)
        async with opened(tmp_path, pool_size=0, upstreams=table) as node, local(node) as sdk:  # where it sleeps
            await node.sweep(time.time() + 20 * 60 + 1)
            named: Any = {"type": "code_interpreter", "container": ran(first)[0].container_id}
            with pytest.raises(openai.BadRequestError, match="Container is expired") as refused:
                await ask(sdk, tools=[named])
            assert refused.value.code == "container_expired"
            second = await ask(sdk, previous_response_id=first.id)
            assert second.output_text == "Gone."
            assert ran(second)[0].container_id != ran(first)[0].container_id


async def test_idle_containers_make_room_for_the_next(
    root: None, python_image: Image, nothing_left: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reclaim, "_OWN_S", 0.0)
    scenes = [scene for number in range(4) for scene in (runs(f"x = {number}"), Says("Kept."))]
    async with Scripted("openai", *scenes, runs("print(x)"), Says("Gone.")) as upstream:
        table = {"scripted": {"url": upstream.url, "attempts": 1}}
        little: Any = {"pool_size": 0, "memory_mb": 192, "memory_budget_mb": 384}
        async with opened(tmp_path, upstreams=table, **little) as node, local(node) as sdk:
            first, *others = [await ask(sdk) for _ in range(4)]
            assert len({ran(response)[0].container_id for response in (first, *others)}) == 4
            again = await ask(sdk, previous_response_id=first.id, include=OUTPUTS)
            assert ran(again)[0].container_id == ran(first)[0].container_id
            assert "NameError" in logs(again)
            told = said(upstream.asked[-1])[-1][1]
            assert "All variables and imports are lost; the files in /mnt/data are still there." in told


def local(node: Node) -> openai.AsyncOpenAI:
    """A client of a node in this process."""
    transport = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=whole_app(node)))
    return openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="any", http_client=transport, max_retries=0)


async def test_an_unknown_response_cannot_be_gone_on_from(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        await ask(sdk, previous_response_id="resp_none")
    assert (refused.value.param, refused.value.code) == ("previous_response_id", "previous_response_not_found")


async def test_a_chain_stays_for_as_long_as_it_is_gone_on_from_and_says_which_response_it_lacks(
    root: None, python_image: Image, tmp_path: Path
) -> None:
    async with Scripted("openai", models=("scripted",)) as upstream:
        upstream.then(*[Says("Hello.")] * 4)
        table = {"scripted": {"url": upstream.url, "attempts": 1}}
        async with opened(tmp_path, pool_size=0, upstreams=table) as node, local(node) as sdk:
            first = await ask(sdk, tools=[])
            second = await ask(sdk, tools=[], previous_response_id=first.id)
            unused = await ask(sdk, tools=[])
            await node.objects.prolong(LOCAL, [first.id, second.id, unused.id], 60)
            third = await ask(sdk, tools=[], previous_response_id=second.id)
            await node.store.purge_objects(time.time() + LIFETIME_S - 60)
            for response in (first, second, third):
                assert (await sdk.responses.retrieve(response.id)).id == response.id
            with pytest.raises(openai.NotFoundError):
                await sdk.responses.retrieve(unused.id)
            await sdk.responses.delete(first.id)
            with pytest.raises(openai.NotFoundError, match=f"'{first.id}', which response '{second.id}' goes on from"):
                await ask(sdk, tools=[], previous_response_id=third.id)


async def test_a_response_that_is_not_stored_is_gone(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(Says("Hello."))
    response = await ask(sdk, store=False)
    with pytest.raises(openai.NotFoundError):
        await sdk.responses.retrieve(response.id)


@pytest.mark.parametrize("store", [True, False])
async def test_items_that_are_sent_again_mean_what_they_meant(
    sdk: openai.AsyncOpenAI, upstream: Scripted, store: bool
) -> None:
    upstream.then(runs("x = 41\nprint('kept')", text="Wait."), Says("Kept."), runs("print(x + 1)"), Says("It is 42."))
    first = await ask(sdk, store=store)
    again: Any = [{"role": "user", "content": "Keep 41."}, *(item.model_dump() for item in first.output)]
    again.append({"role": "user", "content": "Add 1."})
    second = await ask(sdk, store=store, input=again, include=OUTPUTS)
    assert logs(second) == "42\n"
    assert ran(second)[0].container_id == ran(first)[0].container_id
    got = said(upstream.asked[2])
    # The item does not say what came of the code, but it is known here.
    assert [role for role, _ in got] == ["user", "assistant", "tool", "assistant", "user"]
    assert (got[1][1], got[2][1], got[3][1]) == ("Wait.", "kept\n", "Kept.")


async def test_an_item_can_be_named_by_its_id(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(Says("Hello."), Says("Again."))
    first = await ask(sdk)
    await ask(sdk, input=[{"type": "item_reference", "id": first.output[0].id}, {"role": "user", "content": "Again."}])
    assert said(upstream.asked[1]) == [("assistant", "Hello."), ("user", "Again.")]
    with pytest.raises(openai.BadRequestError, match="Item with id 'msg_none' not found"):
        await ask(sdk, input=[{"type": "item_reference", "id": "msg_none"}])


async def test_items_that_are_named_by_their_ids_are_bounded_together(
    sdk: openai.AsyncOpenAI, upstream: Scripted
) -> None:
    upstream.then(Says("x" * (4 << 20), piece=1 << 20))
    first = await ask(sdk, tools=[])
    with pytest.raises(openai.BadRequestError, match="more than 64 MiB together"):
        await ask(sdk, tools=[], input=[{"type": "item_reference", "id": first.output[0].id}] * 17)


# Functions of the program's own.


async def test_functions_and_code_in_one_answer(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    both = Says("", (Call("run_python", {"code": "x = 20\nprint(x)"}), Call("weather", {"city": "Rome"}, "call_w")))
    upstream.then(both, runs("print(x + 2)"), Says("It is 22."))
    first = await ask(sdk, tools=[AUTO, WEATHER])
    code, call = list[Any](first.output)
    assert (code.type, call.type) == ("code_interpreter_call", "function_call")
    assert (call.name, call.call_id, json.loads(call.arguments)) == ("weather", "call_w", {"city": "Rome"})
    assert call.id is not None
    assert call.id.startswith("fc_")
    assert functions(upstream.asked[0]) == ["run_python", "weather"]
    with pytest.raises(openai.BadRequestError, match="No tool output found for function call call_w"):
        await ask(sdk, tools=[AUTO, WEATHER], previous_response_id=first.id)
    output: Any = {"type": "function_call_output", "call_id": "call_w", "output": "2 degrees more"}
    second = await ask(sdk, tools=[AUTO, WEATHER], input=[output], previous_response_id=first.id, include=OUTPUTS)
    assert logs(second) == "22\n"
    told = {message.get("tool_call_id"): message["content"] for message in upstream.asked[1].body["messages"]}
    assert told["call_w"] == "2 degrees more"


async def test_a_function_is_answered_without_anything_stored(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(Says("", (Call("weather", {"city": "Rome"}, "call_w"),)), Says("Warm."))
    first = await ask(sdk, tools=[WEATHER], store=False)
    output = {"type": "function_call_output", "call_id": "call_w", "output": [{"type": "input_text", "text": "25"}]}
    again: Any = [{"role": "user", "content": "How is it?"}, *(item.model_dump() for item in first.output), output]
    assert (await ask(sdk, tools=[WEATHER], store=False, input=again)).output_text == "Warm."
    assert [role for role, _ in said(upstream.asked[1])] == ["user", "assistant", "tool"]
    with pytest.raises(openai.BadRequestError, match="No tool call found for function call output with call_id call_w"):
        await ask(sdk, tools=[WEATHER], input=[output])


@pytest.mark.parametrize(
    ("choice", "sent", "offered"),
    [
        ("auto", "auto", ["run_python", "weather"]),
        ("none", "none", ["run_python", "weather"]),
        ("required", "required", ["run_python", "weather"]),
        ({"type": "code_interpreter"}, "run_python", ["run_python", "weather"]),
        ({"type": "function", "name": "weather"}, "weather", ["run_python", "weather"]),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]},
            "required",
            ["weather"],
        ),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "code_interpreter"}]},
            "auto",
            ["run_python"],
        ),
    ],
)
async def test_the_choice_of_tools_is_the_callers(
    sdk: openai.AsyncOpenAI, upstream: Scripted, choice: Any, sent: str, offered: list[str]
) -> None:
    upstream.then(Says("done"))
    await ask(sdk, tools=[AUTO, WEATHER], tool_choice=choice)
    told = upstream.asked[0].body["tool_choice"]
    assert (told if isinstance(told, str) else told["function"]["name"]) == sent
    assert functions(upstream.asked[0]) == offered


async def test_how_the_model_is_to_answer_goes_on_to_it(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(Says('{"a": 1}'))
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    response = await ask(
        sdk,
        max_output_tokens=100,
        temperature=0.5,
        top_p=0.9,
        parallel_tool_calls=False,
        reasoning={"effort": "low"},
        text={"format": {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}},
    )
    body = upstream.asked[0].body
    assert (body["max_tokens"], body["temperature"], body["top_p"]) == (100, 0.5, 0.9)
    assert (body["parallel_tool_calls"], body["reasoning_effort"]) == (False, "low")
    assert body["response_format"]["json_schema"] == {"name": "answer", "schema": schema, "strict": True}
    assert "store" not in body
    assert (response.temperature, response.top_p, response.max_output_tokens) == (0.5, 0.9, 100)
    assert response.text is not None
    assert response.text.format is not None
    assert response.text.format.type == "json_schema"


async def test_an_answer_that_was_cut_off_is_incomplete(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(Says("It is", finish="length"), Says("It", finish="content_filter"))
    response = await ask(sdk, max_output_tokens=16)
    assert (response.status, response.output_text) == ("incomplete", "It is")
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    events = await stream(sdk)
    assert (events[-1].type, events[-1].response.incomplete_details.reason) == (
        "response.incomplete",
        "content_filter",
    )


# Streams.

CODE = [
    "response.output_item.added",
    "response.code_interpreter_call.in_progress",
    "response.code_interpreter_call_code.delta",
    "response.code_interpreter_call_code.done",
    "response.code_interpreter_call.interpreting",
    "response.code_interpreter_call.completed",
    "response.output_item.done",
]


async def test_events_come_in_the_vendors_order(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(runs("open('a.csv', 'w').write('a')"), Says("[a](sandbox:/mnt/data/a.csv)", piece=100))
    events = await stream(sdk, include=OUTPUTS)
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        *CODE,
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.annotation.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[2].item.container_id.startswith("cntr_")
    assert (events[2].item.code, events[2].item.outputs) == ("", [])
    stored = await sdk.responses.retrieve(events[-1].response.id, include=OUTPUTS)
    assert stored.to_dict() == events[-1].response.to_dict()


async def test_the_sdks_accumulator_takes_the_stream(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    both = (Call("run_python", {"code": "print(2)"}), Call("weather", {"city": "Rome"}, "call_w"))
    upstream.then(runs("print(1)", text="Wait."), Says("Now.", both))
    async with sdk.responses.stream(model="scripted", input="Go.", tools=[AUTO, WEATHER]) as streaming:
        kinds = [event.type async for event in streaming]
        final = await streaming.get_final_response()
    assert [item.type for item in final.output] == [
        "message",
        "code_interpreter_call",
        "message",
        "code_interpreter_call",
        "function_call",
    ]
    assert kinds[-5:] == [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert final.output_text == "Wait.Now."


async def test_what_goes_wrong_with_the_model_is_told(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(busy(), Fails(400, "no such thing", "bad_thing"), runs("print(1)"), Breaks("cut"))
    with pytest.raises(openai.RateLimitError):
        await ask(sdk)
    with pytest.raises(openai.BadRequestError, match="no such thing"):
        await ask(sdk)
    events = await stream(sdk)
    assert [event.type for event in events][:2] == ["response.created", "response.in_progress"]
    assert events[-2].item.status == "incomplete"  # the message that broke off
    failed = events[-1].response
    assert (events[-1].type, failed.status, failed.error.code) == ("response.failed", "failed", "server_error")
    assert (await sdk.responses.retrieve(failed.id)).status == "failed"


@pytest.mark.parametrize(
    ("scene", "code"),
    [(busy(), "rate_limit_exceeded"), (Fails(400, "no"), "invalid_prompt"), (Fails(), "server_error")],
)
async def test_a_response_that_failed_says_why(
    sdk: openai.AsyncOpenAI, upstream: Scripted, scene: Fails, code: str
) -> None:
    upstream.then(scene)
    error = (await stream(sdk))[-1].response.error
    assert error.code == code
    assert error.message


async def test_a_request_that_cannot_be_is_an_error_of_http_also_when_a_stream_is_wanted(
    sdk: openai.AsyncOpenAI, upstream: Scripted
) -> None:
    with pytest.raises(openai.NotFoundError):
        await stream(sdk, tools=[{"type": "code_interpreter", "container": f"cntr_{'0' * 32}"}])


async def test_who_leaves_a_stream_cancels_the_response(
    hosted: Served, sdk: openai.AsyncOpenAI, upstream: Scripted
) -> None:
    upstream.then(runs("import time\nprint('begun')\ntime.sleep(1000)"))
    streaming: Any = await sdk.responses.create(model="scripted", input="Wait.", tools=[AUTO], stream=True)
    async for event in streaming:
        if event.type == "response.created":
            response_id = event.response.id
        if event.type == "response.code_interpreter_call.interpreting":
            break
    await streaming.close()
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                response = await sdk.responses.retrieve(response_id)
            except openai.NotFoundError:
                continue
            break
    assert response.status == "cancelled"
    assert ran(response)[0].status == "incomplete"
    # Its container is there and free again.
    upstream.then(runs("print('alive')"), Says("done"))
    tool: Any = {"type": "code_interpreter", "container": ran(response)[0].container_id}
    assert logs(await ask(sdk, tools=[tool], include=OUTPUTS)) == "alive\n"


# In the background.


async def test_a_response_in_the_background_is_polled(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(runs("print(6 * 7)"), Says("It is 42."))
    response = await ask(sdk, background=True)
    assert (response.status, response.background, response.output) == ("queued", True, [])
    response = await ended(sdk, response)
    assert (response.status, response.output_text) == ("completed", "It is 42.")
    assert logs(await sdk.responses.retrieve(response.id, include=OUTPUTS)) == "42\n"
    assert (await sdk.responses.cancel(response.id)).status == "completed"


async def test_a_stream_from_the_background_can_be_taken_up_again(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(runs("print(1)"), Says("It is 1."))
    given: Any = {"model": "scripted", "input": "Go.", "tools": [AUTO], "background": True, "stream": True}
    first: list[Any] = []
    streaming: Any = await sdk.responses.create(**given)
    async for event in streaming:
        first.append(event)
        if event.type == "response.in_progress":
            break
    await streaming.close()  # the response goes on
    assert [event.type for event in first] == ["response.created", "response.queued", "response.in_progress"]
    response_id = first[0].response.id
    rest = [event async for event in await sdk.responses.retrieve(response_id, stream=True, starting_after=2)]
    assert [event.sequence_number for event in rest] == list(range(3, 3 + len(rest)))
    assert rest[-1].type == "response.completed"
    again = [event async for event in await sdk.responses.retrieve(response_id, stream=True)]
    assert [event.to_dict() for event in again] == [event.to_dict() for event in first + rest]


async def test_a_response_in_the_background_can_be_cancelled(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(Silent())
    response = await ask(sdk, background=True)
    await reached(sdk, upstream)
    with pytest.raises(openai.BadRequestError, match="is not finished"):
        await ask(sdk, previous_response_id=response.id)
    cancelled = await sdk.responses.cancel(response.id)
    assert cancelled.status == "cancelled"
    assert (await sdk.responses.cancel(response.id)).status == "cancelled"
    assert (await sdk.responses.retrieve(response.id)).status == "cancelled"
    kinds = [event.type async for event in await sdk.responses.retrieve(response.id, stream=True)]
    assert kinds == ["response.created", "response.queued", "response.in_progress"]


async def test_a_cancellation_in_the_moment_of_the_end_loses_nothing(
    sdk: openai.AsyncOpenAI, upstream: Scripted
) -> None:
    given: Any = {"model": "scripted", "input": "Go.", "background": True, "stream": True}
    for turns in range(40):
        upstream.then(Says("Done."))
        events: list[Any] = []
        async for event in await sdk.responses.create(**given):
            events.append(event)
            if event.type == "response.output_text.delta":
                response_id = events[0].response.id
                for _ in range(turns):
                    await asyncio.sleep(0)
                status = (await sdk.responses.cancel(response_id)).status
        assert (await sdk.responses.retrieve(response_id)).status == status
        assert (events[-1].type == "response.completed") == (status == "completed")


async def test_whoever_cancels_twice_at_once_does_not_cut_off_the_end(
    sdk: openai.AsyncOpenAI, upstream: Scripted
) -> None:
    upstream.then(runs("import time\nwhile True:\n    time.sleep(1)"))
    background: Any = {"model": "scripted", "input": "Go.", "tools": [AUTO], "background": True, "stream": True}
    events: list[Any] = []
    async for event in await sdk.responses.create(**background):
        events.append(event)
        if event.type == "response.code_interpreter_call.interpreting":
            response_id = events[0].response.id
            cancelled = await asyncio.gather(*(sdk.responses.cancel(response_id) for _ in range(5)))
            assert [response.status for response in cancelled] == ["cancelled"] * 5
    assert events[-1].type == "response.output_item.done"
    assert events[-1].item.status == "incomplete"


async def test_no_more_than_a_hundred_responses_wait_in_the_background(new_data_dir: NewDataDir) -> None:
    async with Scripted("openai", lambda asked: Silent()) as upstream:
        table = json.dumps({"scripted": {"url": upstream.url}})
        async with (
            serving(new_data_dir(), upstreams=table) as served,
            openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0) as sdk,
        ):
            asked = await asyncio.gather(*(ask(sdk, background=True) for _ in range(110)), return_exceptions=True)
            waiting = [each for each in asked if isinstance(each, Response)]
            assert len(waiting) == 100
            with pytest.raises(openai.InternalServerError, match="100 responses of this key"):
                await ask(sdk, background=True)
            cancelled = await asyncio.gather(*(sdk.responses.cancel(response.id) for response in waiting))
            assert {response.status for response in cancelled} == {"cancelled"}
            response = await ask(sdk, background=True)  # there is room again
            assert (await sdk.responses.cancel(response.id)).status == "cancelled"


async def test_one_that_is_waited_for_cannot_be_cancelled_or_streamed_again(
    sdk: openai.AsyncOpenAI, upstream: Scripted
) -> None:
    upstream.then(Says("Hello."))
    response = await ask(sdk)
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
        await sdk.responses.cancel(response.id)
    with pytest.raises(openai.BadRequestError, match="background"):
        await sdk.responses.retrieve(response.id, stream=True)


async def test_a_failure_in_the_background_is_kept(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(Fails())
    response = await ended(sdk, await ask(sdk, background=True))
    assert response.status == "failed"
    assert response.error is not None
    assert response.error.code == "server_error"


async def test_what_a_stop_of_the_server_cuts_off_has_failed(new_data_dir: NewDataDir) -> None:
    async with Scripted("openai", Silent(), Silent()) as upstream:
        data_dir, table = new_data_dir(), json.dumps({"scripted": {"url": upstream.url}})
        stopped, killed = "", ""
        async with serving(data_dir, upstreams=table, drain_timeout_s=0.1) as served:
            async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any") as sdk:
                stopped = (await ask(sdk, background=True)).id
            served.signal(signal.SIGTERM)
            assert await served.ended() == 0
        async with serving(data_dir, upstreams=table) as served:
            async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any") as sdk:
                assert (await sdk.responses.retrieve(stopped)).status == "failed"
                events = [event async for event in await sdk.responses.retrieve(stopped, stream=True)]
                assert events[-1].type == "response.failed"
                killed = (await ask(sdk, background=True)).id
            served.signal(signal.SIGKILL)
            await served.ended()
        async with (
            serving(data_dir, upstreams=table) as served,
            openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any") as sdk,
        ):
            response = await sdk.responses.retrieve(killed)
            assert response.status == "failed"
            assert response.error is not None
            events = [event async for event in await sdk.responses.retrieve(killed, stream=True)]
            assert [event.type for event in events] == ["response.created", "response.failed"]
            # Whoever had more of it than is known now hears of its end all the same.
            for seen in (0, 1, 12):
                again = await sdk.responses.retrieve(killed, stream=True, starting_after=seen)
                assert [(event.type, event.sequence_number) async for event in again] == [("response.failed", seen + 1)]


# What is kept.


async def test_the_input_of_a_response_can_be_read_page_by_page(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(Says("Hello."))
    response = await ask(sdk, input=[{"role": "user", "content": word} for word in ("one", "two", "three")])
    newest = [item async for item in sdk.responses.input_items.list(response.id, limit=2)]
    oldest: list[Any] = [item async for item in sdk.responses.input_items.list(response.id, limit=2, order="asc")]
    assert [item.content[0].text for item in oldest] == ["one", "two", "three"]
    assert [item.id for item in newest] == [item.id for item in reversed(oldest)]
    assert (oldest[0].type, oldest[0].role, oldest[0].status) == ("message", "user", "completed")
    with pytest.raises(openai.BadRequestError):
        await sdk.responses.input_items.list(response.id, after="msg_none")


async def test_a_deleted_response_is_gone(sdk: openai.AsyncOpenAI, upstream: Scripted) -> None:
    upstream.then(Says("Hello."), Silent())
    responses = (await ask(sdk), await ask(sdk, background=True))
    await reached(sdk, upstream, 2)
    for response in responses:
        await sdk.responses.delete(response.id)
        with pytest.raises(openai.NotFoundError):
            await sdk.responses.retrieve(response.id)
        with pytest.raises(openai.NotFoundError):
            await sdk.responses.delete(response.id)


async def test_another_key_sees_nothing_of_it(new_data_dir: NewDataDir) -> None:
    async with Scripted("openai", runs("print(1)"), Says("done"), Silent(), Says("hm")) as upstream:
        data_dir = new_data_dir()
        async with serving(data_dir, upstreams=json.dumps({"scripted": {"url": upstream.url}})) as served:
            mine, theirs = [
                openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=await add_key(data_dir, name), max_retries=0)
                for name in ("mine", "theirs")
            ]
            async with mine, theirs:
                file = await mine.files.create(file=("a.csv", CSV), purpose="user_data")
                response = await ask(mine)
                running = await ask(mine, background=True)
                await reached(mine, upstream, 3)
                for known in (response.id, running.id):
                    for refused in (
                        theirs.responses.retrieve(known),
                        theirs.responses.retrieve(known, stream=True),
                        theirs.responses.cancel(known),
                        theirs.responses.delete(known),
                        theirs.responses.input_items.list(known),
                        ask(theirs, previous_response_id=known),
                    ):
                        with pytest.raises(openai.NotFoundError):
                            await refused
                container: Any = {"type": "code_interpreter", "container": ran(response)[0].container_id}
                with pytest.raises(openai.NotFoundError):
                    await ask(theirs, tools=[container])
                parts: Any = [{"type": "input_file", "file_id": file.id}]
                with pytest.raises(openai.NotFoundError):
                    await ask(theirs, input=[{"role": "user", "content": parts}])
                # An item is the sender's own words; what is known of the code is not looked up for others.
                item: Any = {**ran(response)[0].model_dump()}
                await ask(theirs, input=[item, {"role": "user", "content": "And?"}])
                assert said(upstream.asked[-1])[1][1] == "What it put out is not known any more."
                await mine.responses.cancel(running.id)


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("tools[0].type", {"tools": [{"type": "web_search"}]}),
        ("tools[0].type", {"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}),
        ("tools[0].type", {"tools": [{"type": "mcp", "server_label": "a", "server_url": "https://a.org"}]}),
        ("tools[0].type", {"tools": [{"type": "computer_use_preview"}]}),
        ("tools[0].type", {"tools": [{"type": "image_generation"}]}),
        ("tools[0].type", {"tools": [{"type": "shell"}]}),
        ("tools[0].container", {"tools": [{"type": "code_interpreter"}]}),
        (
            "tools[0].container.network_policy",
            {
                "tools": [
                    {
                        "type": "code_interpreter",
                        "container": {
                            "type": "auto",
                            "network_policy": {"type": "allowlist", "allowed_domains": ["a.org"]},
                        },
                    }
                ]
            },
        ),
        ("tools", {"tools": [AUTO, {**WEATHER, "name": "run_python"}]}),
        ("tool_choice.type", {"tool_choice": {"type": "web_search"}}),
        ("tool_choice", {"tools": [WEATHER], "tool_choice": {"type": "code_interpreter"}}),
        ("tool_choice.name", {"tool_choice": {"type": "function", "name": "none"}}),
        ("conversation", {"conversation": "conv_1"}),
        ("prompt", {"prompt": {"id": "pmpt_1"}}),
        ("background", {"background": True, "store": False}),
        ("input", {"input": []}),
        ("input[0].type", {"input": [{"type": "shell_call", "call_id": "a"}]}),
        (
            "input[0].content[0].file_url",
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "https://a.org/b.pdf"}]}]},
        ),
        ("text.format.type", {"text": {"format": {"type": "grammar"}}}),
        ("max_output_tokens", {"max_output_tokens": 0}),
        ("metadata", {"metadata": {"a": "b" * 513}}),
    ],
)
async def test_what_is_not_offered_is_refused_by_name(
    sdk: openai.AsyncOpenAI, upstream: Scripted, field: str, given: Mapping[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await ask(sdk, **given)
    assert refused.value.param == field
    assert not upstream.asked


async def test_tokens_are_not_counted_and_conversations_not_compacted(hosted: Served) -> None:
    async with hosted.client() as client:
        for what in ("input_tokens", "compact"):
            answer: httpx.Response = await client.post(f"/v1/responses/{what}", json={"model": "m", "input": "hi"})
            assert answer.status_code == 404
            assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_models_without_tool_calls_can_run_code_too(new_data_dir: NewDataDir) -> None:
    models = json.dumps({"small": {"routes": ["scripted/small"], "fenced": True}})
    async with Scripted("openai", fenced("print(6 * 7)"), Says("It is 42.")) as upstream:
        table = json.dumps({"scripted": {"url": upstream.url}})
        async with (
            serving(new_data_dir(), upstreams=table, models=models) as served,
            openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any") as sdk,
        ):
            events = await stream(sdk, model="small")
    response = events[-1].response
    assert [item.type for item in response.output] == ["code_interpreter_call", "message"]
    assert response.output_text == "It is 42."


# The program that everybody has written.


@pytest.mark.parametrize("requirement", ["", "openai==1.109.1", "openai==2.0.0"])
async def test_the_classic_program_runs_with_sdks_of_all_ages(
    hosted: Served, upstream: Scripted, environments: Environments, requirement: str
) -> None:
    chart = (
        "import pandas as pd, matplotlib.pyplot as plt\n"
        "sales = pd.read_csv('/mnt/data/sales.csv')\n"
        "sales.plot.bar(x='region', y='amount')\n"
        "plt.savefig('/mnt/data/chart.png')\nplt.close()\nprint(sales.amount.sum())"
    )
    answer = Says("South leads: [chart](sandbox:/mnt/data/chart.png)")
    upstream.then(runs(chart), answer, runs("print(int(sales.amount.max()))"), Says("4, in the south."))
    env = {"OPENAI_BASE_URL": f"{hosted.url}/v1", "OPENAI_API_KEY": "any", "MODEL": "scripted"}
    printed = await environments.run("openai_responses", *((requirement,) if requirement else ()), env=env)
    assert printed.splitlines()[-3:] == ["7", "chart.png is a PNG", "4, in the south."]
