"""Messages with code execution: the unmodified SDK, a scripted model's server, real sandboxes between."""

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest

from sandbox.keys import KeyLimits
from tests.api.conftest import NewDataDir, add_key
from tests.api.served import Served, serving
from tests.compat.environments import Environments
from tests.upstreams import Asked, Call, Fails, Raw, Says, Scripted, busy, fenced

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


@pytest.fixture(autouse=True)
def _nothing_is_left_to_say(upstream: Scripted) -> None:
    """What a test that failed has not heard is not for the next."""
    upstream._scenes.clear()


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


async def test_variables_stay_in_the_container_and_its_id_may_come_as_text_or_in_an_object(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    upstream.then(python("x = 40"), Says("ok"), python("x += 1"), Says("ok"), python("print(x + 1)"), Says("42"))
    first = await ask(sdk)
    second = await ask(sdk, container=first.container.id)
    third = await ask(sdk, container={"id": first.container.id})
    assert first.container.id == second.container.id == third.container.id
    assert first.container.expires_at < third.container.expires_at
    assert result(third).stdout == "42\n"


async def test_a_question_that_needs_no_code_has_no_container(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    upstream.then(Says("Hello!"))
    answer = await ask(sdk)
    assert (answer.container, kinds(answer)) == (None, ["text"])


async def test_a_python_exception_is_a_result_with_a_traceback(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    upstream.then(python("print(1)\n1 / 0"), Says("It failed."))
    got = result(await ask(sdk))
    assert (got.type, got.stdout, got.return_code) == ("code_execution_result", "1\n", 1)
    assert "ZeroDivisionError" in got.stderr


async def test_the_value_of_the_last_expression_is_below_what_is_printed(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    upstream.then(python("print(1)\n2 + 2"), Says("4"))
    assert result(await ask(sdk)).stdout == "1\n4\n"


async def test_bash_has_streams_a_status_and_an_empty_directory_for_its_files(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    script = 'pwd; ls -A "$OUTPUT_DIR" | wc -l; echo "a \'b\' é" >&2; echo hi > "$OUTPUT_DIR/out.txt"; exit 3'
    upstream.then(bash(script), Says("done"))
    answer = await ask(sdk, tools=[BASH])
    got = result(answer)
    assert (got.type, got.stdout, got.stderr) == ("bash_code_execution_result", "/mnt/data\n0\n", "a 'b' é\n")
    assert got.return_code == 3
    (made,) = got.content
    assert made.type == "bash_code_execution_output"
    file = await sdk.files.retrieve_metadata(made.file_id)
    assert (file.filename, file.mime_type, file.size_bytes, file.downloadable) == ("out.txt", "text/plain", 3, True)
    assert (await (await sdk.files.download(made.file_id)).read()) == b"hi\n"
    assert answer.content[0].input == {"command": script}


async def test_of_bash_only_regular_files_at_the_top_of_its_directory_are_captured(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    script = (
        'cd "$OUTPUT_DIR"; echo 1 > "a b<ü>.txt"; mkdir sub; echo 2 > sub/deep.txt; ln -s /etc/passwd link; '
        "echo 3 > /mnt/data/beside.txt"
    )
    upstream.then(bash(script), Says("done"), bash("cat beside.txt; ls outputs"), Says("done"))
    first = await ask(sdk)
    files = [await sdk.files.retrieve_metadata(each.file_id) for each in result(first).content]
    assert [file.filename for file in files] == ["a b<ü>.txt"]
    second = await ask(sdk, container=first.container.id)
    assert result(second).stdout.startswith("3\n")
    assert result(second).content == []


async def test_bash_leaves_nothing_behind_and_no_names_among_the_users(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    names = "print(sorted(name for name in globals() if not name.startswith('_')))"
    upstream.then(
        python(names),
        bash("kill -9 $$"),
        editor(command="create", path="n.txt", file_text="x"),
        python(names + "\nimport os; print(os.listdir('/mnt/data'), 'OUTPUT_DIR' in os.environ)"),
        Says("done"),
    )
    answer = await ask(sdk)
    before, killed, _, after = [block.content for block in answer.content if block.type.endswith("_tool_result")]
    assert killed.return_code == 128 + 9
    assert after.stdout == before.stdout + "['n.txt'] False\n"


async def test_the_editor_makes_shows_and_changes_files_of_any_name(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    path = 'notes/it\'s "ü" {x} \\n.txt'
    upstream.then(
        editor(command="create", path=path, file_text="one\ntwo\nthree\n"),
        editor(command="view", path=f"/mnt/data/{path}", view_range=[2, 3]),
        editor(command="str_replace", path=path, old_str="two", new_str="2\n2b"),
        editor(command="create", path=path, file_text="again"),
        editor(command="view", path=path),
        Says("done"),
    )
    answer = await ask(sdk, tools=[BASH])
    made, seen, changed, again, last = [
        block.content for block in answer.content if block.type == "text_editor_code_execution_tool_result"
    ]
    assert (made.type, made.is_file_update) == ("text_editor_code_execution_create_result", False)
    assert (seen.type, seen.file_type) == ("text_editor_code_execution_view_result", "text")
    assert (seen.content, seen.start_line, seen.num_lines, seen.total_lines) == ("two\nthree\n", 2, 2, 3)
    assert changed.type == "text_editor_code_execution_str_replace_result"
    assert changed.lines == ["-two", "+2", "+2b"]
    assert (changed.old_start, changed.old_lines, changed.new_start, changed.new_lines) == (2, 1, 2, 2)
    assert again.is_file_update
    assert last.content == "again"


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"command": "view", "path": "nowhere.txt"}, "file_not_found"),
        ({"command": "str_replace", "path": "nowhere.txt", "old_str": "a", "new_str": "b"}, "file_not_found"),
        ({"command": "str_replace", "path": "/etc/passwd", "old_str": "no such words", "new_str": "b"}, None),
        ({"command": "create", "path": "/proc/nothing/x", "file_text": "x"}, None),
        ({"command": "create", "path": "a.txt"}, None),
        ({"command": "delete", "path": "a.txt"}, None),
        ({"command": "view", "path": "a\0b"}, None),
        ({"command": "view", "path": "/etc/passwd", "view_range": [900, 901]}, None),
    ],
)
async def test_what_the_editor_cannot_do_is_an_error_block(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted, asked: Any, code: str | None
) -> None:
    upstream.then(editor(**asked), Says("done"))
    got = result(await ask(sdk))
    assert got.type == "text_editor_code_execution_tool_result_error"
    assert got.error_code == (code or got.error_code)
    assert got.error_code in ("file_not_found", "invalid_tool_input")
    assert got.error_message
    assert got.error_message in str(upstream.asked[-1].body["messages"][-1])


async def test_files_and_figures_that_python_makes_can_be_downloaded(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    code = (
        "import matplotlib.pyplot as plt, os\nplt.plot([1, 2]); plt.show()\n"
        "open('sales.csv', 'w').write('a,b\\n1,2\\n')\nos.mkdir('d'); open('d/inner.txt', 'w').write('x')"
    )
    upstream.then(python(code), Says("Here."))
    got = result(await ask(sdk))
    files = {}
    for each in got.content:
        assert each.type == "code_execution_output"
        name = (await sdk.files.retrieve_metadata(each.file_id)).filename
        files[name] = await (await sdk.files.download(each.file_id)).read()
    assert files.keys() == {"sales.csv", "figure-1.png"}
    assert files["sales.csv"] == b"a,b\n1,2\n"
    assert files["figure-1.png"].startswith(b"\x89PNG")


async def test_a_file_of_an_impossible_name_costs_nothing_but_itself(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    code = "for name in ('a\\\\b', 'c\\nd', b'\\xff', 'z.csv'): open(name, 'w').write('x')"
    upstream.then(python(code), Says("Here."))
    got = result(await ask(sdk))
    names = [(await sdk.files.retrieve_metadata(each.file_id)).filename for each in got.content]
    assert (got.return_code, names) == (0, ["z.csv"])
    assert "Not all files could be kept" in got.stderr


async def test_an_uploaded_file_lies_in_the_container_and_the_model_is_told_where(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    kept = await sdk.files.upload(file=("sales.csv", b"a,b\n1,2\n", "text/csv"))
    first: Any = {"role": "user", "content": [{"type": "container_upload", "file_id": kept.id}]}
    upstream.then(python("print(open('sales.csv').read())\nopen('sales.csv', 'w').write('mine')"), Says("Seen."))
    answer = await ask(sdk, messages=[first])
    assert result(answer).stdout.startswith("a,b\n1,2\n")
    assert "/mnt/data/sales.csv" in str(upstream.asked[0].body["messages"])
    # It is in all further requests, too, and must not undo what was done to it.
    upstream.then(bash("cat sales.csv"), Says("Seen."))
    history = [first, {"role": "assistant", "content": answer.content}, QUESTION[0]]
    again = await ask(sdk, messages=history, container=answer.container.id)
    assert result(again).stdout == "mine"
    # A new one does come, also when the container is there already.
    other = await sdk.files.upload(file=("sales.csv", b"new", "text/csv"))
    newest = {"role": "user", "content": [{"type": "container_upload", "file_id": other.id}]}
    upstream.then(bash("cat sales.csv sales-2.csv"), Says("Seen."))
    third = await ask(sdk, messages=[*history[:2], newest], container=answer.container.id)
    assert result(third).stdout == "minenew"


async def test_an_image_of_the_files_api_is_shown_to_the_model(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    image = await sdk.files.upload(file=("dot.png", b"\x89PNG\r\n\x1a\n", "image/png"))
    text = await sdk.files.upload(file=("notes.txt", b"remember", "text/plain"))
    content = [
        {"type": "image", "source": {"type": "file", "file_id": image.id}},
        {"type": "document", "source": {"type": "file", "file_id": text.id}, "title": "Notes"},
        {"type": "text", "text": "What is it?"},
    ]
    upstream.then(Says("A dot."))
    await ask(sdk, messages=[{"role": "user", "content": content}])
    shown = upstream.asked[0].body["messages"][-1]["content"]
    assert shown[0]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert shown[1]["text"] == "Notes\nremember"


async def test_a_cell_that_takes_too_long_is_a_result_with_the_newest_tool_and_else_an_error(
    new_data_dir: NewDataDir, upstream: Scripted
) -> None:
    upstreams = json.dumps({"scripted": {"url": upstream.url}})
    async with (
        serving(new_data_dir(), upstreams=upstreams, timeout_s=1) as served,
        anthropic.AsyncAnthropic(base_url=served.url, api_key="any") as sdk,
    ):
        slow = "while True: pass"
        upstream.then(*(scene for _ in range(2) for scene in (python(slow), Says("Too slow."))))
        got = result(await ask(sdk))
        assert got.return_code != 0
        assert "detection timeout" in got.stderr
        got = result(await ask(sdk, tools=[PYTHON]))
        assert (got.type, got.error_code) == ("code_execution_tool_result_error", "execution_time_exceeded")
        upstream.then(bash("sleep 100 & sleep 100"), bash("pgrep sleep || echo none"), Says("Too slow."))
        late, after = [
            block.content for block in (await ask(sdk)).content if block.type == "bash_code_execution_tool_result"
        ]
        assert (late.type, late.error_code) == ("bash_code_execution_tool_result_error", "execution_time_exceeded")
        assert after.stdout == "none\n"


async def test_arguments_that_make_no_sense_are_an_error_block_and_the_model_is_told(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    upstream.then(Says("", (Call("bash_code_execution", '{"cmd": 1}'),)), bash("echo ok"), Says("done"))
    answer = await ask(sdk, tools=[BASH])
    assert kinds(answer) == [
        *("server_tool_use", "bash_code_execution_tool_result"),
        *("server_tool_use", "bash_code_execution_tool_result", "text"),
    ]
    assert answer.content[1].content.error_code == "invalid_tool_input"
    assert answer.content[3].content.stdout == "ok\n"


async def test_each_version_of_the_tool_offers_its_own_sub_tools(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    offered = {}
    for version in ("20250522", "20250825", "20260120", "20260521"):
        upstream.then(Says("ok"))
        tool: Any = {"type": f"code_execution_{version}", "name": "code_execution"}
        await ask(sdk, tools=[tool])
        offered[version] = [each["function"]["name"] for each in upstream.asked[-1].body["tools"]]
    two = ["bash_code_execution", "text_editor_code_execution"]
    three = ["code_execution", *two]
    assert offered == {"20250522": ["code_execution"], "20250825": two, "20260120": three, "20260521": three}


async def test_a_model_without_tool_calls_runs_its_fenced_programs(
    new_data_dir: NewDataDir, upstream: Scripted
) -> None:
    upstreams = json.dumps({"scripted": {"url": upstream.url}})
    models = json.dumps({"small": {"routes": ["scripted/small"], "fenced": True}})
    async with (
        serving(new_data_dir(), upstreams=upstreams, models=models) as served,
        anthropic.AsyncAnthropic(base_url=served.url, api_key="any") as sdk,
    ):
        for tool in (REPL, BASH):
            upstream.then(fenced("print(6 * 7)"), Says("It is 42."))
            async with sdk.messages.stream(model="small", max_tokens=100, messages=QUESTION, tools=[tool]) as stream:
                answer: Any = await stream.get_final_message()
            assert kinds(answer) == ["server_tool_use", "code_execution_tool_result", "text"]
            assert (result(answer).stdout, answer.content[-1].text) == ("42\n", "It is 42.")


# What was said before.


async def test_a_conversation_goes_on_with_the_content_as_it_came(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    upstream.then(python("print(6 * 7)", "Let me see."), Says("It is 42."), Says("Yes."))
    first = await ask(sdk)
    messages = [*QUESTION, {"role": "assistant", "content": first.content}, {"role": "user", "content": "Sure?"}]
    await ask(sdk, messages=messages, container=first.container.id)
    said = upstream.asked[-1].body["messages"]
    assert [message["role"] for message in said] == ["user", "assistant", "tool", "assistant", "user"]
    assert said[1]["content"] == "Let me see."
    assert said[1]["tool_calls"][0]["id"] == said[2]["tool_call_id"] == first.content[1].id
    assert "42" in said[2]["content"]
    assert said[3]["content"] == "It is 42."


async def test_turns_that_are_used_up_pause_and_the_same_request_goes_on(
    new_data_dir: NewDataDir, upstream: Scripted
) -> None:
    upstreams = json.dumps({"scripted": {"url": upstream.url}})
    async with (
        serving(new_data_dir(), upstreams=upstreams, loop_turns=2) as served,
        anthropic.AsyncAnthropic(base_url=served.url, api_key="any") as sdk,
    ):
        upstream.then(python("x = 1"), python("x += 1"), python("print(x)"), Says("2"))
        paused = await ask(sdk)
        assert paused.stop_reason == "pause_turn"
        messages = [*QUESTION, {"role": "assistant", "content": paused.content}]
        answer = await ask(sdk, messages=messages, container=paused.container.id)
        assert (answer.stop_reason, result(answer).stdout) == ("end_turn", "2\n")
        roles = [message["role"] for message in upstream.asked[2].body["messages"]]
        assert roles == ["user", "assistant", "tool", "assistant", "tool"]


async def test_tools_of_the_callers_go_back_to_it_with_what_has_run_already(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    both = (Call("weather", {"city": "Bonn"}), Call("code_execution", {"code": "x = 41; print(x)"}))
    upstream.then(Says("Both.", both), python("print(x + 1)"), Says("It is 42 in Bonn."))
    first = await ask(sdk, tools=[REPL, WEATHER])
    assert kinds(first) == ["text", "server_tool_use", "code_execution_tool_result", "tool_use"]
    assert first.stop_reason == "tool_use"
    call = first.content[-1]
    assert (call.name, call.input, call.id[:6]) == ("weather", {"city": "Bonn"}, "toolu_")
    answered = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]}
    messages = [*QUESTION, {"role": "assistant", "content": first.content}, answered]
    second = await ask(sdk, messages=messages, tools=[REPL, WEATHER], container=first.container.id)
    assert result(second).stdout == "42\n"
    said = upstream.asked[1].body["messages"]
    assert [message["role"] for message in said] == ["user", "assistant", "tool", "tool"]
    assert [call["function"]["name"] for call in said[1]["tool_calls"]] == ["code_execution", "weather"]
    assert [message["content"] for message in said[2:]][1] == "sunny"


async def test_choices_limits_and_words_of_the_system_reach_the_model(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    upstream.then(Says("ok"), Says("ok"), Says("ok"))
    await ask(
        sdk,
        system="Be brief.",
        stop_sequences=["END"],
        metadata={"user_id": "u"},
        tools=[REPL, WEATHER],
        tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
    )
    body = upstream.asked[0].body
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["stop"], body["user"], body["max_tokens"]) == (["END"], "u", 1000)
    assert body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert body["parallel_tool_calls"] is False
    await ask(sdk, tool_choice={"type": "any"})
    assert upstream.asked[1].body["tool_choice"] == "required"
    # The tool's own name is no function's where it is bash and an editor.
    await ask(sdk, tools=[BASH], tool_choice={"type": "tool", "name": "code_execution"})
    assert upstream.asked[2].body["tool_choice"] == "required"


async def test_without_the_tool_a_request_is_answered_by_the_model_alone(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    upstream.then(Says("Hello!"), Says("", (Call("weather", {"city": "Bonn"}),)))
    answer = await ask(sdk, tools=[])
    assert (answer.content[0].text, answer.stop_reason, answer.container) == ("Hello!", "end_turn", None)
    assert "tools" not in upstream.asked[0].body
    answer = await ask(sdk, tools=[WEATHER])
    assert (answer.stop_reason, answer.content[0].input) == ("tool_use", {"city": "Bonn"})


async def test_an_answer_that_is_too_long_and_one_that_is_held_back_say_so(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    upstream.then(Says("It is", finish="length"), Says("It", finish="content_filter"))
    assert (await ask(sdk)).stop_reason == "max_tokens"
    assert (await ask(sdk)).stop_reason == "refusal"


# Streams.


async def test_the_sdks_accumulator_makes_the_same_message_of_the_stream(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    script = 'echo 1; echo 2 > "$OUTPUT_DIR/two.txt"'
    upstream.then(bash(script, "Let me see."), Says("It is 1."))
    given: Any = {"model": "scripted", "max_tokens": 100, "messages": QUESTION, "tools": [BASH]}
    async with sdk.messages.stream(**given) as stream:
        words = [text async for text in stream.text_stream]
        final: Any = await stream.get_final_message()
    assert "".join(words) == "Let me see.It is 1."
    assert kinds(final) == ["text", "server_tool_use", "bash_code_execution_tool_result", "text"]
    assert final.content[1].input == {"command": script}
    assert result(final).stdout == "1\n"
    assert await (await sdk.files.download(result(final).content[0].file_id)).read() == b"2\n"
    assert final.container.id.startswith("container_")
    assert (final.stop_reason, final.usage.input_tokens, final.usage.output_tokens) == ("end_turn", 20, 10)


async def events(served: Served, **more: Any) -> list[tuple[str, dict[str, Any]]]:
    """A stream as it comes over the wire: the events' names and data."""
    body = {"model": "scripted", "max_tokens": 100, "messages": QUESTION, "tools": [BASH], "stream": True} | more
    async with served.client(**{"anthropic-version": "2023-06-01"}) as client:
        response = await client.post("/v1/messages", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in response.text.split("\n\n"):
        if block.strip(":\n"):
            name, data = block.split("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


async def test_the_events_come_in_the_vendors_order(hosted: Served, upstream: Scripted) -> None:
    upstream.then(Says("ok", (Call("bash_code_execution", {"command": "echo 1"}),), piece=99), Says("done", piece=99))
    found = await events(hosted)
    assert all(data["type"] == name for name, data in found)
    told = [{name: value for name, value in data.items() if name != "type"} for _, data in found]
    called = told[5]["content_block"]["id"]
    assert [name for name, _ in found] == [
        "message_start",
        *("content_block_start", "ping", "content_block_delta", "content_block_stop"),
        *("content_block_start", "content_block_delta", "content_block_delta", "content_block_stop"),
        *("content_block_start", "content_block_stop"),
        *("content_block_start", "content_block_delta", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    message = told[0]["message"]
    assert (message["content"], message["stop_reason"], message["role"]) == ([], None, "assistant")
    assert {"input_tokens", "output_tokens", "cache_creation", "service_tier"} <= message["usage"].keys()
    direct = {"type": "direct"}
    assert told[1:12] == [
        {"index": 0, "content_block": {"type": "text", "text": ""}},
        {},
        {"index": 0, "delta": {"type": "text_delta", "text": "ok"}},
        {"index": 0},
        {
            "index": 1,
            "content_block": {
                "type": "server_tool_use",
                "id": called,
                "name": "bash_code_execution",
                "input": {},
                "caller": direct,
            },
        },
        {"index": 1, "delta": {"type": "input_json_delta", "partial_json": ""}},
        {"index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"command": "echo 1"}'}},
        {"index": 1},
        {
            "index": 2,
            "content_block": {
                "type": "bash_code_execution_tool_result",
                "tool_use_id": called,
                "content": {
                    "type": "bash_code_execution_result",
                    "stdout": "1\n",
                    "stderr": "",
                    "return_code": 0,
                    "content": [],
                },
            },
        },
        {"index": 2},
        {"index": 3, "content_block": {"type": "text", "text": ""}},
    ]
    end = told[-2]
    assert (end["delta"]["stop_reason"], end["delta"]["stop_sequence"]) == ("end_turn", None)
    assert end["delta"]["container"].keys() == {"id", "expires_at"}
    assert end["usage"]["server_tool_use"] == {
        "web_search_requests": 0,
        "web_fetch_requests": 0,
        "code_execution_requests": 1,
    }
    assert (end["usage"]["input_tokens"], end["usage"]["output_tokens"]) == (20, 10)


async def test_a_failure_in_the_middle_of_a_stream_is_its_last_event(hosted: Served, upstream: Scripted) -> None:
    upstream.then(bash("echo 1", "Let me see."), Fails(500))
    name, data = (await events(hosted))[-1]
    assert (name, data["type"], data["error"]["type"]) == ("error", "error", "api_error")


async def test_a_container_that_no_answer_names_ends_with_its_request(
    new_data_dir: NewDataDir, upstream: Scripted
) -> None:
    """Else each request that fails, and each that an SDK then tries again, would leave one behind."""
    directory = new_data_dir()
    key = await add_key(directory, "one", KeyLimits(sessions=1))
    upstreams = json.dumps({"scripted": {"url": upstream.url, "attempts": 1}})
    async with (
        serving(directory, upstreams=upstreams) as served,
        anthropic.AsyncAnthropic(base_url=served.url, api_key=key, max_retries=0) as sdk,
    ):
        upstream.then(bash("echo 0"), Fails(400))
        with pytest.raises(anthropic.APIStatusError):
            await ask(sdk)
        upstream.then(bash("echo 1"), Fails(400))
        stream = await ask(sdk, stream=True)
        with pytest.raises(anthropic.APIStatusError):
            [event async for event in stream]
        upstream.then(bash("echo 2"), Says("ok"))
        answer = await ask(sdk)
        assert result(answer).stdout == "2\n"
        upstream.then(bash("echo 3"), Fails(400))
        with pytest.raises(anthropic.APIStatusError):
            await ask(sdk, container=answer.container.id)
        upstream.then(bash("echo 4"), Says("ok"))
        assert result(await ask(sdk, container=answer.container.id)).stdout == "4\n"


# Who may, and what is refused.


async def test_what_one_key_has_made_does_not_exist_for_another(new_data_dir: NewDataDir, upstream: Scripted) -> None:
    directory = new_data_dir()
    one, other = await add_key(directory, "one"), await add_key(directory, "other")
    upstreams = json.dumps({"scripted": {"url": upstream.url}})
    async with (
        serving(directory, upstreams=upstreams) as served,
        anthropic.AsyncAnthropic(base_url=served.url, api_key=one, max_retries=0) as mine,
        anthropic.AsyncAnthropic(base_url=served.url, api_key=other, max_retries=0) as theirs,
        anthropic.AsyncAnthropic(base_url=served.url, api_key="wrong", max_retries=0) as nobody,
    ):
        upstream.then(bash('echo 1 > "$OUTPUT_DIR/x"'), Says("ok"))
        answer = await ask(mine)
        file_id = result(answer).content[0].file_id
        upload = {"role": "user", "content": [{"type": "container_upload", "file_id": file_id}]}
        for refused in (
            ask(theirs, container=answer.container.id),
            ask(theirs, messages=[upload]),
            theirs.files.retrieve_metadata(file_id),
            theirs.files.download(file_id),
            theirs.files.delete(file_id),
        ):
            with pytest.raises(anthropic.NotFoundError) as missing:
                await refused
            body: Any = missing.value.body
            assert (body["type"], body["error"]["type"]) == ("error", "not_found_error")
        assert [file.id async for file in theirs.files.list()] == []
        assert [file.id async for file in mine.files.list()] == [file_id]
        with pytest.raises(anthropic.AuthenticationError):
            await ask(nobody)
        # Programs for old SDKs send their key otherwise.
        async with served.client(**{"x-api-key": one, "anthropic-version": "2023-06-01"}) as client:
            assert (await client.get(f"/v1/files/{file_id}")).status_code == 200


async def test_a_container_that_nobody_knows_and_one_that_is_over_are_refused_clearly(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted, hosted: Served
) -> None:
    with pytest.raises(anthropic.NotFoundError, match="leave it out"):
        await ask(sdk, container="container_" + "0" * 32)
    with pytest.raises(anthropic.NotFoundError, match="leave it out"):
        await ask(sdk, container="cntr_1")
    upstream.then(bash("true"), Says("ok"))
    answer = await ask(sdk)
    async with hosted.client() as client:
        await client.delete(f"/v1/sessions/ses_{answer.container.id.removeprefix('container_')}")
        native = (await client.post("/v1/sessions", json={})).json()["id"]
    with pytest.raises(anthropic.BadRequestError, match="expired"):
        await ask(sdk, container=answer.container.id)
    # A session that is not Anthropic's is no container.
    with pytest.raises(anthropic.NotFoundError):
        await ask(sdk, container=native.replace("ses_", "container_"))


CALLED_BY_CODE: Any = WEATHER | {"allowed_callers": ["code_execution_20260120"]}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"tools": [{"type": "web_search_20260209", "name": "web_search"}]}, "tools.0.type"),
        ({"tools": [REPL, BASH]}, "tools.1"),
        ({"tools": [REPL | {"name": "other"}]}, "tools.0.name"),
        ({"tools": [REPL, WEATHER | {"name": "bash_code_execution"}]}, "tools"),
        ({"tools": [BASH, CALLED_BY_CODE]}, "tools: weather is to be called by code"),
        ({"tools": [{"name": "x"}]}, "tools.0.input_schema"),
        ({"container": {"skills": [{"type": "anthropic", "skill_id": "pptx"}]}}, "container.skills"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"extra_body": {"temperature": 0.5}}, "temperature"),
        ({"extra_body": {"mcp_servers": [{"url": "https://example.org"}]}}, "mcp_servers"),
        ({"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "url"}}]}]}, "messages"),
    ],
)
async def test_what_is_not_offered_is_refused_with_the_name_of_the_field(
    sdk: anthropic.AsyncAnthropic, given: dict[str, Any], field: str
) -> None:
    with pytest.raises(anthropic.BadRequestError) as refused:
        await ask(sdk, **given)
    body: Any = refused.value.body
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["message"].startswith(field)
    assert body["request_id"] == refused.value.request_id


async def test_an_upload_without_the_tool_is_refused(sdk: anthropic.AsyncAnthropic) -> None:
    kept = await sdk.files.upload(file=("a.txt", b"x"))
    upload = {"role": "user", "content": [{"type": "container_upload", "file_id": kept.id}]}
    with pytest.raises(anthropic.BadRequestError, match="code execution tool"):
        await ask(sdk, messages=[upload], tools=[])


async def test_the_first_version_of_the_api_takes_a_temperature_and_the_query_of_betas(
    hosted: Served, upstream: Scripted
) -> None:
    upstream.then(Says("ok"), Says("ok"))
    body = {"model": "scripted", "max_tokens": 10, "messages": QUESTION, "temperature": 0.5, "top_p": 0.5, "top_k": 3}
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "code-execution-2025-05-22,something-else"}
    async with hosted.client(**headers) as client:
        response = await client.post("/v1/messages?beta=true", json=body)
        assert response.status_code == 200, response.text
        assert response.headers["request-id"]
    assert (upstream.asked[0].body["temperature"], upstream.asked[0].body["top_p"]) == (0.5, 0.5)
    async with hosted.client(**{"anthropic-version": "2026-10-21"}) as client:
        response = await client.post("/v1/messages", json=body)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("scene", "status", "kind"),
    [
        (busy(1), 429, "rate_limit_error"),
        (busy(1, status=529), 529, "overloaded_error"),
        (Fails(400, "the prompt is too long"), 400, "invalid_request_error"),
        (Fails(500), 502, "api_error"),
    ],
)
async def test_what_the_models_server_refuses_comes_in_the_vendors_envelope(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted, scene: Any, status: int, kind: str
) -> None:
    for stream in (False, True):
        upstream.then(scene)
        with pytest.raises(anthropic.APIStatusError) as failed:
            await ask(sdk, stream=stream)
        body: Any = failed.value.body
        assert (failed.value.status_code, body["error"]["type"]) == (status, kind)


async def test_what_a_keys_limits_do_not_allow_is_told_in_the_result(
    new_data_dir: NewDataDir, upstream: Scripted
) -> None:
    directory = new_data_dir()
    small = await add_key(directory, "small", KeyLimits(sessions=1))
    full = await add_key(directory, "full", KeyLimits(stored_bytes=150))
    upstreams = json.dumps({"scripted": {"url": upstream.url}})
    async with (
        serving(directory, upstreams=upstreams) as served,
        anthropic.AsyncAnthropic(base_url=served.url, api_key=small, max_retries=0) as sdk,
        anthropic.AsyncAnthropic(base_url=served.url, api_key=full, max_retries=0) as other,
    ):
        upstream.then(bash("echo 1"), Says("ok"), bash("echo 2"), Says("There is no sandbox."))
        assert result(await ask(sdk)).stdout == "1\n"
        got = result(await ask(sdk))
        assert (got.type, got.error_code) == ("bash_code_execution_tool_result_error", "too_many_requests")
        # In the container a file counts once, and as one that is kept once more.
        upstream.then(bash('echo 1; head -c 100 /dev/zero > "$OUTPUT_DIR/x"'), Says("ok"))
        got = result(await ask(other))
        assert (got.stdout, got.return_code, got.content) == ("1\n", 0, [])
        assert "could be kept" in got.stderr


async def test_tokens_are_counted_by_rule_of_thumb(sdk: anthropic.AsyncAnthropic) -> None:
    given: Any = {"model": "scripted", "messages": [{"role": "user", "content": "word " * 400}]}
    plain = await sdk.messages.count_tokens(**given)
    assert 300 < plain.input_tokens < 700
    assert (await sdk.messages.count_tokens(**given, tools=[REPL])).input_tokens > plain.input_tokens


async def test_models_are_listed_in_the_vendors_shape(sdk: anthropic.AsyncAnthropic) -> None:
    found = [model.id async for model in sdk.models.list()]
    assert "other" in found
    assert (await sdk.models.retrieve("other")).display_name == "other"
    with pytest.raises(anthropic.NotFoundError):
        await sdk.models.retrieve("none")


@pytest.mark.parametrize("path", ["/v1/messages/batches", "/v1/skills", "/v1/agents"])
async def test_what_is_not_there_is_not_found_in_the_vendors_words(hosted: Served, path: str) -> None:
    async with hosted.client(**{"anthropic-version": "2026-10-21"}) as client:
        response = await client.post(path, json={})
    assert (response.status_code, response.json()["error"]["type"]) == (404, "not_found_error")


# An upstream that speaks the same dialect.


@pytest.fixture(scope="module")
async def claude() -> AsyncIterator[Scripted]:
    async with Scripted("anthropic", models=("claude",)) as upstream:
        yield upstream


@pytest.fixture(scope="module")
async def same(new_data_dir: NewDataDir, claude: Scripted) -> AsyncIterator[anthropic.AsyncAnthropic]:
    table = {"claude": {"dialect": "anthropic", "url": claude.url, "attempts": 1}}
    async with (
        serving(new_data_dir(), upstreams=json.dumps(table)) as served,
        anthropic.AsyncAnthropic(base_url=served.url, api_key="any", max_retries=0) as sdk,
    ):
        yield sdk


async def test_the_model_may_be_anthropics_own(same: anthropic.AsyncAnthropic, claude: Scripted) -> None:
    claude.asked.clear()
    claude.then(bash("echo 1", "Let me see."), Says("It is 1."), Says("Yes."))
    cached: Any = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    first = await ask(same, model="claude", system=cached, thinking=thinking, max_tokens=2000)
    assert kinds(first) == ["text", "server_tool_use", "bash_code_execution_tool_result", "text"]
    asked = claude.asked[0].body
    assert asked["thinking"] == thinking
    assert asked["system"][0]["cache_control"] == {"type": "ephemeral"}
    messages = [*QUESTION, {"role": "assistant", "content": first.content}, {"role": "user", "content": "Sure?"}]
    await ask(same, model="claude", messages=messages, container=first.container.id)
    said = claude.asked[2].body["messages"]
    assert [message["role"] for message in said] == ["user", "assistant", "user", "assistant", "user"]
    assert [block["type"] for block in said[1]["content"]] == ["text", "tool_use"]
    assert said[2]["content"][0]["tool_use_id"] == said[1]["content"][1]["id"]


async def test_an_answer_that_a_stop_sequence_has_ended_says_which(
    same: anthropic.AsyncAnthropic, claude: Scripted
) -> None:
    message: dict[str, Any] = {"id": "m", "type": "message", "role": "assistant", "model": "m"}
    message |= {"content": [{"type": "text", "text": "one "}], "usage": {"input_tokens": 1, "output_tokens": 1}}
    message |= {"stop_reason": "stop_sequence", "stop_sequence": "END"}
    claude.then(Raw(json.dumps(message).encode(), "application/json"))
    answer = await ask(same, model="claude", stop_sequences=["END"])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "END")


def thinks(asked: Asked) -> Raw:
    """An answer with signed thinking, in one piece or as a stream."""
    thought = {"type": "thinking", "thinking": "2+2", "signature": "sig"}
    text = {"type": "text", "text": "4"}
    message: dict[str, Any] = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": []}
    message |= {"stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}
    if not asked.body.get("stream"):
        return Raw(
            json.dumps(message | {"content": [thought, text], "stop_reason": "end_turn"}).encode(), "application/json"
        )
    found: list[dict[str, Any]] = [{"type": "message_start", "message": message}]
    for index, block in enumerate((thought, text)):
        found.append({"type": "content_block_start", "index": index, "content_block": block})
        found.append({"type": "content_block_stop", "index": index})
    usage = {"output_tokens": 1}
    found.append({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage})
    found.append({"type": "message_stop"})
    lines = "".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in found)
    return Raw(lines.encode(), "text/event-stream")


@pytest.mark.parametrize("stream", [False, True])
async def test_thinking_comes_before_the_words_and_goes_back_as_it_was(
    same: anthropic.AsyncAnthropic, claude: Scripted, stream: bool
) -> None:
    claude._scenes.clear()
    claude.then(thinks)
    given: Any = {
        "model": "claude",
        "max_tokens": 2000,
        "messages": QUESTION,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }
    if stream:
        async with same.messages.stream(**given) as running:
            answer: Any = await running.get_final_message()
    else:
        answer = await same.messages.create(**given)
    assert kinds(answer) == ["thinking", "text"]
    assert (answer.content[0].thinking, answer.content[0].signature) == ("2+2", "sig")
    messages = [*QUESTION, {"role": "assistant", "content": answer.content}, QUESTION[0]]
    await same.messages.create(**given | {"messages": messages})
    assert claude.asked[-1].body["messages"][1]["content"][0]["signature"] == "sig"


# Programs as users wrote them, with SDKs of several ages.


@pytest.mark.parametrize("requirement", ["", "anthropic==0.79.0", "anthropic==1.2.0"])
async def test_a_users_program_runs_with_sdks_old_and_new(
    hosted: Served, upstream: Scripted, environments: Environments, requirement: str
) -> None:
    upstream.then(
        bash('head -1 sales.csv; echo drawn > "$OUTPUT_DIR/chart.txt"', "I look at it."),
        Says("It has two columns."),
        bash("ls sales.csv"),
        Says("It is still there."),
    )
    env = {"ANTHROPIC_BASE_URL": hosted.url, "ANTHROPIC_API_KEY": "any"}
    printed = await environments.run("anthropic_code", *filter(None, [requirement]), env=env)
    assert printed.splitlines() == [
        "uploaded sales.csv",
        "I look at it.",
        "stdout: region,sales",
        "made chart.txt: drawn",
        "It has two columns.",
        "same container: True",
        "streamed: It is still there.",
        "deleted",
    ]


async def test_a_runner_that_would_keep_the_conversation_here_is_told_to_send_it(
    sdk: anthropic.AsyncAnthropic, upstream: Scripted
) -> None:
    @anthropic.beta_async_tool
    async def weather(city: str) -> str:
        """Of a city.

        Args:
            city: Its name.
        """
        return f"rain in {city}"

    upstream.then(Says("", (Call("weather", {"city": "Oslo"}),)), Says("It rains."))
    tools: Any = [weather, BASH]
    runner = sdk.beta.messages.tool_runner(model="scripted", max_tokens=999, tools=tools, messages=QUESTION)
    said = [message async for message in runner]
    assert said[-1].content[0].text == "It rains."  # type: ignore[union-attr]
    asked = upstream.asked[-1].body
    assert [message["role"] for message in asked["messages"][-3:]] == ["user", "assistant", "tool"]
    assert {tool["function"]["name"] for tool in asked["tools"]} > {"weather"}
    with pytest.raises(anthropic.BadRequestError, match="thread: conversations are not kept here"):
        await ask(sdk, extra_body={"thread": {"type": "continue", "previous_message_id": "msg_none"}})
