"""Responses on the wire: what is read, what is written, and both against what the vendor was recorded to send."""

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from sandbox.errors import InvalidField
from sandbox.execution import Error, Execution, Status
from sandbox.loop import openai_responses
from sandbox.loop.messages import Image, Message, Text, ToolCall, ToolResult, Usage
from sandbox.loop.openai_responses import ContainerFile, Event, Writing

LEAST = 110
"""Recorded streams that can be told again."""
KNOWN = {"message", "function_call", "code_interpreter_call", "reasoning"}
OPTIONAL = {"obfuscation", "phase", "logprobs", "namespace", "name"}
"""Keys that came and went over the years; `logprobs` and the `name` of a finished call are always written here."""


def asked(**more: Any) -> openai_responses.Asked:
    return openai_responses.read({"model": "m", "input": "hi"} | more)


def writing(*, outputs: bool = True, **more: Any) -> Writing:
    return Writing(openai_responses.response(asked(**more), f"resp_{'0' * 32}", 1.5), outputs=outputs)


def execution(**more: Any) -> Execution:
    return Execution("exe_1", "ses_1", **({"status": Status.OK} | more))


# What is written.


def test_the_worked_example_is_written_to_the_letter() -> None:
    write = writing(tools=[{"type": "code_interpreter", "container": {"type": "auto"}}])
    file = ContainerFile("cntr_1", "cfile_1", "a.csv")
    citation = {
        "type": "container_file_citation",
        "container_id": "cntr_1",
        "file_id": "cfile_1",
        "filename": "a.csv",
        "start_index": 5,
        "end_index": 28,
    }
    text = "[hi](sandbox:/mnt/data/a.csv)"
    events = [
        *write.begin(),
        *write.run("print(1)", "cntr_1"),
        *write.ran("completed", [{"type": "logs", "logs": "1\n"}]),
        *write.say(text),
        *write.said(list(openai_responses.links(text, [file]))),
        *write.end("completed", Usage(1, 2), 2.5),
    ]
    code, message = (openai_responses_id(kind, at) for at, kind in enumerate(("ci", "msg")))
    call = {"id": code, "type": "code_interpreter_call", "status": "in_progress", "code": "", "container_id": "cntr_1"}
    done = {**call, "status": "completed", "code": "print(1)", "outputs": [{"type": "logs", "logs": "1\n"}]}
    part = {"type": "output_text", "text": text, "annotations": [citation], "logprobs": []}
    of_code: dict[str, Any] = {"output_index": 0, "item_id": code}
    of_text: dict[str, Any] = {"output_index": 1, "content_index": 0, "item_id": message}
    begun = {"id": message, "type": "message", "status": "in_progress", "role": "assistant", "content": []}
    assert [without_head(event) for event in events[2:-1]] == [
        {"output_index": 0, "item": {**call, "outputs": []}},
        of_code,
        {**of_code, "delta": "print(1)"},
        {**of_code, "code": "print(1)"},
        of_code,
        of_code,
        {"output_index": 0, "item": done},
        {"output_index": 1, "item": begun},
        {**of_text, "part": {"type": "output_text", "text": "", "annotations": [], "logprobs": []}},
        {**of_text, "delta": text, "logprobs": []},
        {**of_text, "annotation_index": 0, "annotation": citation},
        {**of_text, "text": text, "logprobs": []},
        {**of_text, "part": part},
        {"output_index": 1, "item": {**begun, "status": "completed", "content": [part]}},
    ]
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "code_interpreter_call.in_progress",
        "code_interpreter_call_code.delta",
        "code_interpreter_call_code.done",
        "code_interpreter_call.interpreting",
        "code_interpreter_call.completed",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.annotation.added",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(17))
    first, last = events[0]["response"], events[-1]["response"]
    assert (first["status"], first["output"], first["usage"]) == ("in_progress", [], None)
    assert (last["status"], last["completed_at"], len(last["output"])) == ("completed", 2, 2)
    assert last["usage"] == {
        "input_tokens": 1,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 3,
    }


def openai_responses_id(prefix: str, at: int) -> str:
    return f"{prefix}_{'0' * 32}{at:04x}"


def without_head(event: Event) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name not in ("type", "sequence_number")}


def test_a_response_has_the_keys_that_are_always_there() -> None:
    keys = (
        "id object created_at status background error incomplete_details instructions max_output_tokens model output "
        "parallel_tool_calls previous_response_id store temperature text tool_choice tools top_p truncation usage user "
        "metadata"
    )
    assert set(keys.split()) <= writing().response.keys()


def test_outputs_are_null_for_whoever_has_not_asked_for_them() -> None:
    write = writing(outputs=False)
    events = [*write.run("1", "cntr_1"), *write.ran("completed", [{"type": "logs", "logs": "1"}])]
    assert [event["item"]["outputs"] for event in events if "item" in event] == [None, None]
    ended = list(write.end("completed", None, 1.0))
    assert ended[-1]["response"]["output"][0]["outputs"] is None
    assert write.response["output"][0]["outputs"] == [{"type": "logs", "logs": "1"}]


def test_what_was_open_at_the_end_is_incomplete() -> None:
    write = writing()
    events = [*write.say("half a"), *write.run("while True: pass", "cntr_1"), *write.end("cancelled", None, 1.0)]
    assert [event["item"]["status"] for event in events if event["type"] == "response.output_item.done"] == [
        "incomplete",
        "incomplete",
    ]
    assert events[-1]["type"] == "response.output_item.done"  # there is no event for a cancelled response
    assert write.response["status"] == "cancelled"


def test_an_items_id_leads_to_its_place() -> None:
    write = writing()
    list(write.say("a"))
    list(write.call(ToolCall("call_1", "weather", "")))
    places = [openai_responses.place(item["id"]) for item in write.response["output"]]
    assert places == [(f"resp_{'0' * 32}", 0), (f"resp_{'0' * 32}", 1)]
    assert [openai_responses.place(other) for other in ("msg_1", "cntr_" + "0" * 36, "", "ci_" + "x" * 36)] == [
        None
    ] * 4
    assert openai_responses.place(f"msg_{'0' * 32}-001") is None  # Python would count from the end


# What an execution put out.


def test_logs_are_what_a_notebook_shows_as_text() -> None:
    ran = execution(stdout="out", stderr="err\n", results=({"text/plain": "(1, 2)", "text/html": "<b>"},))
    assert openai_responses.outputs(ran) == [{"type": "logs", "logs": "out\nerr\n(1, 2)"}]


def test_a_figure_is_an_image_and_nothing_else() -> None:
    ran = execution(results=({"text/plain": "<Figure>", "image/png": "aGk=\n"}, {"image/jpeg": "aGk="}))
    assert openai_responses.outputs(ran) == [
        {"type": "image", "url": "data:image/png;base64,aGk="},
        {"type": "image", "url": "data:image/jpeg;base64,aGk="},
    ]


def test_how_it_ended_is_in_the_logs() -> None:
    raised = execution(status=Status.ERROR, stdout="a\n", error=Error("ValueError", "no", "Traceback: no"))
    assert openai_responses.outputs(raised) == [{"type": "logs", "logs": "a\nTraceback: no"}]
    died = execution(status=Status.TIMEOUT, reason="stopped after 30 s")
    assert openai_responses.outputs(died) == [{"type": "logs", "logs": "timeout: stopped after 30 s"}]
    assert [openai_responses.status(each) for each in (execution(), raised, died)] == [
        "completed",
        "completed",
        "failed",
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[a](sandbox:/mnt/data/a.csv)", ["a.csv"]),
        ("sandbox:/mnt/data/a.csv.", ["a.csv"]),
        ("[a](sandbox:/mnt/data/a.csv.gz) [b](sandbox:/mnt/data/a.csv-old)", []),
        ("[a](sandbox:/mnt/data/two%20words.txt) ![](sandbox:/mnt/data/two words.txt)", ["two words.txt"] * 2),
        ("[a](sandbox:/mnt/data/deep/b(1).png)", ["b(1).png"]),
        ("/mnt/data/a.csv and sandbox:/mnt/data/", []),
        ("[a](sandbox:/mnt/data/a.csv)" * 200, ["a.csv"] * 100),
    ],
)
def test_links_to_files_that_are_there_become_citations(text: str, found: Sequence[str]) -> None:
    paths = ("a.csv", "two words.txt", "deep/b(1).png")
    files = [ContainerFile("cntr_1", f"cfile_{path}", path) for path in paths]
    cited = list(openai_responses.links(text, files))
    assert [citation["filename"] for citation in cited] == found
    for citation in cited:
        assert text[citation["start_index"] : citation["end_index"]].startswith("sandbox:/mnt/data/")


# What is read.


def messages(*items: Any) -> tuple[Message, ...]:
    return openai_responses.messages(asked(input=list(items)).items, {})


def test_items_become_the_messages_that_they_were() -> None:
    call = {
        "type": "code_interpreter_call",
        "id": "ci_1",
        "container_id": "cntr_1",
        "status": "completed",
        "code": "print(1)",
        "outputs": [{"type": "logs", "logs": "1\n"}, {"type": "image", "url": "data:image/png;base64,aGk="}],
    }
    function = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city":"Rome"}'}
    assert messages(
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "How?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Wait.", "annotations": []}]},
        call,
        function,
        {**function, "call_id": "call_2"},
        {"type": "function_call_output", "call_id": "call_1", "output": "warm"},
        {"type": "function_call_output", "call_id": "call_2", "output": "cold"},
    )[1:] == (
        Message("user", (Text("How?"),)),
        Message("assistant", (Text("Wait."), ToolCall("ci_1", "run_python", '{"code": "print(1)"}'))),
        Message("tool", (ToolResult("ci_1", (Text("1\n"), Image("image/png", "aGk="))),)),
        Message(
            "assistant",
            (
                ToolCall("call_1", "weather", '{"city":"Rome"}'),
                ToolCall("call_2", "weather", '{"city":"Rome"}'),
            ),
        ),
        Message("tool", (ToolResult("call_1", (Text("warm"),)), ToolResult("call_2", (Text("cold"),)))),
    )


def test_a_run_that_ended_before_its_results_can_be_gone_on_from() -> None:
    said = (
        Message("assistant", (ToolCall("a", "run_python", "{}"), ToolCall("b", "weather", "{}"))),
        Message.of("assistant", "This could not be finished."),
    )
    whole = openai_responses.completed(said, {"weather"})
    assert [message.role for message in whole] == ["assistant", "tool", "assistant"]
    openai_responses.check_answered((*whole, Message("tool", (ToolResult("b", (Text("warm"),)),))))
    with pytest.raises(InvalidField, match="No tool output found for function call b"):
        openai_responses.check_answered(whole)


@pytest.mark.parametrize(
    "given",
    [
        None,
        7,
        [7],
        [{"role": "robot", "content": "hi"}],
        [{"role": "user", "content": 7}],
        [{"role": "user", "content": [{"type": "input_audio"}]}],
        [{"type": "code_interpreter_call", "id": "ci_1"}],
        [{"type": "function_call", "name": "a"}],
        [{"type": "function_call_output", "call_id": "a", "output": [{"text": "no type"}]}],
        [{"type": "compaction", "encrypted_content": "x"}],
        [{"type": {"deep": 1}}],
    ],
)
def test_input_that_is_none_is_refused_by_field(given: Any) -> None:
    with pytest.raises(InvalidField) as refused:
        asked(input=given)
    assert refused.value.field.startswith("input")


@pytest.mark.parametrize("name", ["tools", "tool_choice", "text", "reasoning", "metadata", "include", "store"])
@pytest.mark.parametrize("value", [7, "text", [[]], {"type": []}, [{"type": "function"}]])
def test_no_field_can_break_the_reading(name: str, value: Any) -> None:
    with contextlib.suppress(InvalidField):
        asked(**{name: value})


# Against what was recorded.


@pytest.fixture(scope="module")
def streams(answers: list[tuple[str, str]]) -> list[tuple[str, list[Any]]]:
    bodies = [(name, body) for name, body in answers if "response.created" in body[:300]]
    return [(name, list(recorded(body))) for name, body in bodies]


def recorded(body: str) -> Iterator[Any]:
    for line in body.splitlines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def test_recorded_streams_are_told_again_event_by_event(streams: list[tuple[str, list[Any]]]) -> None:
    count = 0
    for name, events in streams:
        done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        if not done or not {item["type"] for item in done} <= KNOWN or events[-1]["type"] != "response.completed":
            continue
        count += 1
        theirs = list(shapes(event for event in events if not is_reasoning(event, events)))
        ours = list(shapes(again(done, events)))
        assert [kind for kind, _ in ours] == [kind for kind, _ in theirs], name
        for (kind, mine), (_, other) in zip(ours, theirs, strict=True):
            assert mine - OPTIONAL == other - OPTIONAL, (name, kind)
    assert count >= LEAST


def test_recorded_items_and_tools_can_be_sent_again(streams: list[tuple[str, list[Any]]]) -> None:
    for name, events in streams:
        response = events[-1].get("response", {})
        items = [item for item in response.get("output", ()) if item["type"] in KNOWN]
        if items:
            openai_responses.messages(asked(input=items).items, {})
        for tool in response.get("tools", ()):
            if tool["type"] in ("function", "code_interpreter"):
                assert asked(tools=[tool]).functions or asked(tools=[tool]).interpreter, name


def is_reasoning(event: Mapping[str, Any], events: Sequence[Any]) -> bool:
    """Whether it tells of an item of reasoning, which is not told here."""
    added = (each for each in events if each["type"] == "response.output_item.added")
    thought = {each["output_index"] for each in added if each["item"]["type"] == "reasoning"}
    return event.get("output_index") in thought


def again(done: Sequence[Any], events: Sequence[Any]) -> Iterator[Event]:
    """The same events as we write them."""
    write = writing(outputs=False)
    yield from write.begin()
    for item in done:
        match item["type"]:
            case "message":
                (part,) = item["content"]
                yield from write.say(part["text"])
                yield from write.said(part["annotations"])
            case "code_interpreter_call":
                yield from write.run(item["code"], item["container_id"])
                yield from write.ran(item["status"], item["outputs"] or ())
            case "function_call":
                yield from write.call(ToolCall(item["call_id"], item["name"], item["arguments"]))
    yield from write.end("completed", Usage(), 1.0)


def shapes(events: Iterator[Event]) -> Iterator[tuple[str, set[str]]]:
    """Types, those in a row once, with the keys of the event and of what is in it."""
    for kind, some in itertools.groupby(events, key=lambda event: str(event["type"])):
        event = next(some)
        inner = event.get("item") or event.get("part") or {}
        yield kind, set(event) | {f"{name}" for name in inner}


def test_a_program_that_was_over_time_is_not_told_as_one_that_somebody_interrupted() -> None:
    error = Error("KeyboardInterrupt", "", "Traceback …\nKeyboardInterrupt")
    late = execution(status=Status.TIMEOUT, reason="it took 2 s", error=error)
    [logs] = openai_responses.outputs(late)
    assert logs["logs"] == "Traceback …\nKeyboardInterrupt\ntimeout: it took 2 s"
