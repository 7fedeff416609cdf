"""Anthropic's Messages from the server's side: requests of programs, answers as the vendor's recorded ones."""

import base64
import contextlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import InvalidRequest
from sandbox.execution import Error, Execution, Status
from sandbox.loop import anthropic_messages
from sandbox.loop.anthropic_messages import results
from sandbox.loop.anthropic_messages.asked import Asked, asked, named
from sandbox.loop.anthropic_messages.programs import MIME, editor
from sandbox.loop.anthropic_messages.results import BASH, EDITOR, PYTHON
from sandbox.loop.anthropic_messages.said import Given, Stored, call_id
from sandbox.loop.anthropic_messages.tools import VERSIONS
from sandbox.loop.anthropic_messages.writing import Event, Writing
from sandbox.loop.interpreter import Facts
from sandbox.loop.messages import Image, Opaque, Text, ToolResult, Usage
from sandbox.loop.tool import Unusable
from tests.loop import recordings
from tests.needs import missing

RUN = "0" * 32
FACTS = Facts("3.11", {"numpy": "2"}, 512, 256, 30.0)


def read(messages: list[Any], found: Given | None = None, api: str = "2026-10-21", **more: Any) -> Asked:
    return asked({"model": "m", "max_tokens": 10, "messages": messages} | more, found or Given(), api)


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def called(turn: int, number: int, name: str = BASH, **given: Any) -> dict[str, Any]:
    hosted = name in (PYTHON, BASH, EDITOR)
    kind = "server_tool_use" if hosted else "tool_use"
    return {"type": kind, "id": call_id(RUN, turn, number, hosted=hosted), "name": name, "input": given}


def answered(call: Mapping[str, Any], stdout: str = "", code: int = 0) -> dict[str, Any]:
    content = {"type": "bash_code_execution_result", "stdout": stdout, "stderr": "", "return_code": code, "content": []}
    return {"type": f"{call['name']}_tool_result", "tool_use_id": call["id"], "content": content}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def shape(request: Asked) -> list[tuple[str, list[str]]]:
    """Roles, and what is in each message."""
    return [(message.role, [type(part).__name__ for part in message.parts]) for message in request.request.messages]


# What is asked.


def test_a_message_of_the_assistants_becomes_the_turns_that_made_it() -> None:
    first, second, third = called(1, 0), called(1, 1), called(2, 0)
    said = assistant(
        text("a"), first, answered(first), second, answered(second), third, answered(third, "x", 2), text("b")
    )
    request = read([user(text("q")), said, user(text("r"))])
    assert shape(request) == [
        ("user", ["Text"]),
        ("assistant", ["Text", "ToolCall", "ToolCall"]),
        ("tool", ["ToolResult", "ToolResult"]),
        ("assistant", ["ToolCall"]),
        ("tool", ["ToolResult"]),
        ("assistant", ["Text"]),
        ("user", ["Text"]),
    ]
    (failed,) = request.request.messages[4].parts
    assert isinstance(failed, ToolResult)
    assert failed.failed
    assert failed.parts == (Text("return_code: 2\nstdout:\nx"),)


def test_calls_of_the_callers_tools_stay_in_their_turn() -> None:
    ours, theirs = called(1, 0), called(1, 1, "weather", city="Bonn")
    result = {"type": "tool_result", "tool_use_id": theirs["id"], "content": [text("sunny")]}
    request = read([user(text("q")), assistant(ours, answered(ours), theirs), user(result, text("and?"))])
    assert shape(request)[1:] == [
        ("assistant", ["ToolCall", "ToolCall"]),
        ("tool", ["ToolResult"]),
        ("tool", ["ToolResult"]),
        ("user", ["Text"]),
    ]
    turns = anthropic_messages.body(request.request)["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]


def test_a_call_without_a_result_was_not_run() -> None:
    request = read([user(text("q")), assistant(text("a"), called(1, 0))])
    (result,) = request.request.messages[-1].parts
    assert isinstance(result, ToolResult)
    assert result.failed


def test_thinking_stays_with_its_turn() -> None:
    thought = {"type": "thinking", "thinking": "2+2", "signature": "s"}
    call = called(1, 0)
    request = read([user(text("q")), assistant(thought, call, answered(call), thought, text("4"))])
    assert shape(request)[1:] == [
        ("assistant", ["Opaque", "ToolCall"]),
        ("tool", ["ToolResult"]),
        ("assistant", ["Opaque", "Text"]),
    ]


def test_files_are_shown_as_each_upstream_can_see_them() -> None:
    stored = {
        "file_png": Stored("dot.png", "image/png", "AAAA"),
        "file_txt": Stored("a.txt", "text/plain", base64.b64encode(b"words").decode()),
        "file_pdf": Stored("a.pdf", "application/pdf", "JVBE"),
    }
    blocks = [
        {"type": kind, "source": {"type": "file", "file_id": file_id}}
        for kind, file_id in (("image", "file_png"), ("document", "file_txt"), ("document", "file_pdf"))
    ]
    body = {"messages": [user(*blocks, {"type": "container_upload", "file_id": "file_csv"})]}
    assert named(body).contents == stored.keys()
    assert named(body).uploads == ("file_csv",)
    found = Given({"file_csv": "sales.csv"}, stored)
    (message,) = read(body["messages"], found).request.messages
    assert message.parts[:2] == (Image("image/png", "AAAA"), Text("a.txt\nwords"))
    theirs, others, where = message.parts[2:]
    assert isinstance(theirs, Opaque)
    assert isinstance(others, Opaque)
    assert theirs.value["source"] == {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}
    assert others.value["file"]["filename"] == "a.pdf"
    assert where == Text("The user has put a file into the sandbox: /mnt/data/sales.csv")


def test_files_of_requests_before_are_not_new() -> None:
    upload = {"type": "container_upload", "file_id": "file_1"}
    again = {"type": "container_upload", "file_id": "file_2"}
    assert named({"messages": [user(upload)]}).new == {"file_1"}
    assert named({"messages": [user(upload), assistant(text("a")), user(again)]}).new == {"file_2"}
    assert named({"messages": [user(upload), assistant(text("a"))]}).new == frozenset()


def test_files_are_found_wherever_they_are_named() -> None:
    image = {"type": "image", "source": {"type": "file", "file_id": "file_1"}}
    upload = {"type": "container_upload", "file_id": "file_2"}
    document = {"type": "document", "source": {"type": "content", "content": [image, upload]}}
    outer = {"type": "document", "source": {"type": "content", "content": [document]}}
    result = {"type": "tool_result", "tool_use_id": "x", "content": [outer]}
    for block in (document, outer, result):
        found = named({"messages": [user(block)]})
        assert found.uploads == ("file_2",)
        assert found.contents == {"file_1"}


def test_more_files_than_could_be_looked_up_are_refused() -> None:
    uploads = [{"type": "container_upload", "file_id": f"file_{n}"} for n in range(501)]
    with pytest.raises(InvalidRequest, match="files"):
        named({"messages": [user(*uploads)]})


def test_the_newest_version_of_the_api_takes_less() -> None:
    document = {"type": "document", "source": {"type": "text", "data": "x"}}
    cited = text("x") | {"citations": [{"type": "char_location"}]}
    newer: list[tuple[Any, dict[str, Any]]] = [
        (text("q"), {"temperature": 1}),
        (text("q"), {"top_k": 1}),
        (cited, {}),
    ]
    for block, more in newer:
        assert read([user(block)], api="2023-06-01", **more).request.messages
        with pytest.raises(InvalidRequest):
            read([user(block)], **more)
    with pytest.raises(InvalidRequest, match="document"):
        read([user(text("q")), assistant(document)])


def test_fields_of_the_dialect_reach_upstreams_that_speak_it_and_no_others() -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    words = text("Be brief.") | {"cache_control": {"type": "ephemeral"}}
    request = read([user(text("q"))], Given(caching=True), system=[words], thinking=thinking).request
    body = anthropic_messages.body(request)
    assert (body["thinking"], body["system"]) == (thinking, [words])
    assert read([user(text("q"))], system=[words]).request.messages[0].parts == (Text("Be brief."),)


def test_results_of_a_search_and_the_form_of_an_answer_are_for_every_upstream() -> None:
    found = {"type": "search_result", "title": "T", "source": "https://example.org", "content": [text("words")]}
    form = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    request = read([user(found)], output_config=form).request
    assert request.messages[0].parts == (Text("T\nhttps://example.org\nwords"),)
    assert request.extra["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert anthropic_messages.body(request)["output_config"] == form


def test_both_forms_of_a_container_and_each_type_of_the_tool_are_read() -> None:
    for version in VERSIONS:
        tools = [{"type": version, "name": "code_execution", "cache_control": None, "strict": True}]
        found = read([user(text("q"))], tools=tools, container={"id": "container_1"})
        assert (found.version, found.container) == (VERSIONS[version], "container_1")
    assert read([user(text("q"))], container="container_1").container == "container_1"


def test_what_no_upstream_could_be_sent_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(200):
        deep = {"properties": deep}
    for more in ({"tools": [{"name": "x", "input_schema": deep}]}, {"output_config": deep}, {"system": [deep]}):
        with pytest.raises(InvalidRequest, match="nested"):
            read([user(text("q"))], **more)
    for more in ({"tools": [{"name": "x", "input_schema": {"maximum": 1e999}}]}, {"thinking": {"n": float("nan")}}):
        with pytest.raises(InvalidRequest, match="infinite"):
            read([user(text("q"))], **more)
    request = read([user(text("\ud83d"))], stop_sequences=["\ud83d"]).request
    assert (request.messages[0].text, request.stop) == ("\ufffd", ("\ufffd",))


@pytest.mark.parametrize("more", [{"tools": [{"type": ["custom"]}]}, {"tool_choice": {"type": ["auto"]}}])
def test_a_type_that_is_no_text_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="type"):
        read([user(text("q"))], **more)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["type", "text", "id", "source", "x"]), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["messages", "tools", "system", "tool_choice", "container"]), json_values))
def test_whatever_comes_is_read_or_refused(body: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidRequest):
        found = named(body)
        paths = dict.fromkeys(found.uploads, "x")
        contents = {file_id: Stored("x", "text/plain", "") for file_id in found.contents}
        asked({"model": "m", "max_tokens": 1} | body, Given(paths, contents), "2023-06-01")


@given(st.lists(st.dictionaries(st.sampled_from(["type", "text", "id", "name", "content", "tool_use_id", "caller"]),
                                json_values | st.sampled_from(["text", "tool_use", "tool_result", "server_tool_use",
                                                               "bash_code_execution_tool_result"]))))  # fmt: skip
def test_whatever_blocks_there_are_are_read_or_refused(blocks: list[Any]) -> None:
    for role in ("user", "assistant"):
        with contextlib.suppress(InvalidRequest):
            read([{"role": role, "content": blocks}])


# What came of calls.


def test_how_an_execution_ended_is_how_its_block_says() -> None:
    raised = Error("ValueError", "x", "Traceback: ValueError: x")

    def block(name: str, status: Status, late: bool = False, **more: Any) -> dict[str, Any]:
        execution = Execution("e", "s", status, stdout="out", stderr="err", **more)
        return results.content(name, execution, late_is_result=late)

    assert block(PYTHON, Status.OK)["return_code"] == 0
    assert block(PYTHON, Status.ERROR, error=raised)["return_code"] == 1
    assert block(PYTHON, Status.ERROR, error=raised)["stderr"] == "errTraceback: ValueError: x"
    assert block(PYTHON, Status.OOM)["return_code"] == 137
    assert block(PYTHON, Status.KILLED, reason="gone")["stderr"].endswith("Killed: gone")
    assert block(PYTHON, Status.TIMEOUT)["error_code"] == "execution_time_exceeded"
    assert block(PYTHON, Status.TIMEOUT, late=True)["return_code"] == 124
    assert block(PYTHON, Status.CANCELLED)["error_code"] == "unavailable"
    said = ({MIME: {"return_code": 3, "directory": "outputs/x"}},)
    assert block(BASH, Status.OK, results=said)["return_code"] == 3
    assert block(BASH, Status.ERROR, error=raised)["error_code"] == "unavailable"
    assert block(EDITOR, Status.OK)["error_code"] == "unavailable"
    said = ({MIME: {"lines": [], "type": "text"}},)
    assert block(EDITOR, Status.OK, results=said)["type"] == f"{EDITOR}_str_replace_result"


@given(st.dictionaries(st.text(), json_values), st.sampled_from([BASH, EDITOR, PYTHON]), st.sampled_from(Status))
def test_whatever_comes_out_of_a_sandbox_has_a_block_and_words(said: Any, name: str, status: Status) -> None:
    execution = Execution("e", "s", status, results=({MIME: said},))
    content = results.content(name, execution)
    assert str(content["type"]).startswith(name)
    assert results.told(content)
    json.dumps(content)


# The tools.


def code(name: str, arguments: str, cut_off: bool = False) -> str:
    (hosted,) = [each for each in VERSIONS["code_execution_20260521"].tools if each.name == name]
    return hosted.code(arguments, cut_off)


@given(st.text())
def test_a_cell_is_python_whatever_the_command_is(command: str) -> None:
    try:
        written = code(BASH, json.dumps({"command": command}))
    except Unusable:
        assert not command.strip() or "\0" in command
    else:
        compile(written, "cell", "exec")
        written.encode("ascii")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        (BASH, "{}"),
        (BASH, '{"command": 1}'),
        (BASH, "ls"),
        (BASH, '{"command": "\\ud83d"}'),
        (EDITOR, '{"command": "view"}'),
        (EDITOR, '{"command": "view", "path": "a", "view_range": [1]}'),
        (EDITOR, '{"command": "str_replace", "path": "a"}'),
        (PYTHON, "{}"),
    ],
)
def test_a_call_that_makes_no_sense_is_told_so_in_its_own_name(name: str, arguments: str) -> None:
    with pytest.raises(Unusable) as told:
        code(name, arguments)
    assert "run_python" not in str(told.value)


def test_each_tool_says_what_is_true_of_the_sandbox() -> None:
    for hosted in VERSIONS["code_execution_20260521"].tools:
        function = hosted.function(FACTS, ())
        assert function.name == hosted.name
        assert "/mnt/data" in function.description


# The editor, as it is in the sandbox.


def edit(path: Path, command: str, **more: Any) -> dict[str, Any]:
    return editor.run({"command": command, "path": str(path), **more})


def test_the_editor_keeps_line_ends_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    file.write_bytes(b"one\r\n\xff two\r\nthree")
    assert edit(file, "str_replace", old_str="two\r\n", new_str="2\r\n")["lines"] == ["-? two", "+? 2"]
    assert file.read_bytes() == b"one\r\n\xff 2\r\nthree"


def test_the_editor_lists_directories_and_shows_images_and_parts_of_what_is_long(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "inner.txt").write_text("x")
    (tmp_path / "dot.png").write_bytes(b"\x89PNG")
    (tmp_path / "long.txt").write_text("x" * 99 + "\n" + ("y" * 99 + "\n") * 5000)
    assert edit(tmp_path, "view")["content"].splitlines() == ["d/", "d/inner.txt", "dot.png", "long.txt"]
    assert edit(tmp_path / "dot.png", "view") == {"file_type": "image", "content": "iVBORw=="}
    seen = edit(tmp_path / "long.txt", "view")
    assert (seen["num_lines"], seen["total_lines"]) == (1000, 5001)
    assert edit(tmp_path / "long.txt", "view", view_range=[5001, -1])["content"] == "y" * 99 + "\n"
    assert edit(tmp_path / "long.txt", "view", view_range=[5002, -1])["error_code"] == "invalid_tool_input"


def test_the_editor_changes_what_is_there_once_only(tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    file.write_text("a a")
    for old in ("a", "b", ""):
        assert edit(file, "str_replace", old_str=old, new_str="c")["error_code"] == "invalid_tool_input"
    assert file.read_text() == "a a"
    assert edit(tmp_path / "none", "view")["error_code"] == "file_not_found"
    assert edit(tmp_path, "create", file_text="x")["error_code"] == "invalid_tool_input"


# Answers, and those that the vendor has given.


def written(*, container: bool = True) -> tuple[list[Event], dict[str, Any]]:
    """A message as the recorded ones are: words, a call, its result, words."""
    writing = Writing("msg_1", "m")
    events = [*writing.begin(), *writing.text("Let me "), *writing.text("see."), *writing.pause()]
    events += writing.call("srvtoolu_1", BASH, {"command": "ls"}, hosted=True)
    said = ({MIME: {"return_code": 0}},)
    content = results.content(BASH, Execution("e", "s", Status.OK, stdout="1\n", results=said))
    events += writing.result("srvtoolu_1", BASH, content)
    events += writing.text("Done.")
    where = {"id": "container_1", "expires_at": "2026-11-21T00:00:00Z"} if container else None
    events += writing.end("end_turn", Usage(10, 5, 3, 2), where)
    return events, writing.message


def test_the_events_and_the_whole_say_the_same() -> None:
    events, message = written()
    reading = anthropic_messages.Reading()
    for event in events:
        reading.feed(json.loads(json.dumps(event)))
    assert reading.reply() == anthropic_messages.whole(message)
    assert events[0]["message"]["stop_reason"] is None
    assert message["usage"]["input_tokens"] == 5
    assert reading.reply().usage == Usage(10, 5, 3, 2)


def test_an_answer_without_code_names_no_container() -> None:
    events, message = written(container=False)
    assert "container" not in message
    assert "container" not in events[-2]["delta"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """Streams with a call of code execution."""
    directory: Path = tmp_path_factory.mktemp("recordings")
    try:
        recordings.fetch(directory)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        missing("needs source distributions with recordings, which the package index does not give")
    streams = []
    for _, body in recordings.bodies(directory):
        if body.startswith("event: message_start") and "bash_code_execution_tool_result" in body:
            lines = [line for line in body.splitlines() if line.startswith("data: ")]
            streams.append([json.loads(line.removeprefix("data: ")) for line in lines])
    assert streams
    return streams


def order(events: list[dict[str, Any]]) -> Iterator[str]:
    """Kinds of events and blocks, those that repeat once."""
    last = ""
    for event in events:
        block = event.get("content_block") or event.get("delta") or {}
        word = f"{event['type']} {block.get('type', '')}".strip()
        if event["type"] != "ping" and word != last:
            yield word
        last = word if event["type"] != "ping" else last


def fields(events: list[dict[str, Any]], kind: str) -> set[str]:
    """Of all blocks and deltas of a kind, with those of what is in them."""
    found: set[str] = set()
    for event in events:
        for inner in (event.get("content_block"), event.get("delta")):
            if isinstance(inner, dict) and inner.get("type") == kind:
                found |= inner.keys()
                content = inner.get("content")
                found |= {f"content.{name}" for name in content} if isinstance(content, dict) else set()
    return found


def test_a_stream_has_the_order_and_the_fields_of_recorded_ones(recorded: list[list[dict[str, Any]]]) -> None:
    ours, _ = written()
    for theirs in recorded:
        if len([event for event in theirs if event["type"] == "content_block_start"]) == 4:
            assert list(order(ours)) == list(order(theirs))
        for kind in ("text", "text_delta", "server_tool_use", "input_json_delta", "bash_code_execution_tool_result"):
            assert fields(theirs, kind) - {"citations"} <= fields(ours, kind), kind
        start, end = theirs[0]["message"], theirs[-2]
        assert start.keys() - ours[0]["message"].keys() == set()
        assert end["delta"].keys() <= ours[-2]["delta"].keys()
        assert end["usage"].keys() <= ours[-2]["usage"].keys()


def test_a_recorded_answer_can_be_gone_on_with(recorded: list[list[dict[str, Any]]]) -> None:
    for events in recorded:
        reading = anthropic_messages.Reading()
        for event in events:
            reading.feed(event)
        blocks = [
            dict(part.value) if isinstance(part, Opaque) else text(part.text)
            for part in reading.reply().message.parts
            if isinstance(part, Opaque | Text)
        ]
        request = read([user(text("q")), assistant(*blocks), user(text("r"))])
        calls = [call for message in request.request.messages for call in message.calls]
        answers = [part for message in request.request.messages for part in message.parts if type(part) is ToolResult]
        assert [call.id for call in calls] == [answer.call_id for answer in answers]
        assert all(json.loads(call.arguments)["command"] for call in calls)
        roles = [message.role for message in request.request.messages]
        assert roles == ["user", *["assistant", "tool"] * len(calls), "assistant", "user"]
