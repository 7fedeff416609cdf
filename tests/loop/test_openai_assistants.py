"""Assistants on the wire, without a server: what a model is asked, and what is said of what it does."""

from collections.abc import Iterable
from typing import Any

import pytest

from sandbox.execution import Error, Execution, Result, Status, Stream
from sandbox.loop import openai_assistants as wire
from sandbox.loop.messages import Image, Message, Request, Text, ToolCall, Usage
from sandbox.loop.openai_assistants import Cited, Link, StreamEvent, Writing

ASSISTANT = wire.assistant({"model": "m", "tools": [{"type": "code_interpreter"}]}, id="asst_1", now=1)
SAMPLE = "see [x](sandbox:/mnt/data/a.csv)"


def run(**asked: Any) -> dict[str, Any]:
    return wire.run(asked, ASSISTANT, id="run_1", thread_id="thread_1", now=1, expires_at=601)


def writing() -> Writing:
    made: dict[str, int] = {}

    def new_id(prefix: str) -> str:
        made[prefix] = made.get(prefix, 0) + 1
        return f"{prefix}{made[prefix]}"

    return Writing(run(), new_id, lambda: 2)


def names(events: Iterable[StreamEvent]) -> list[str]:
    return [event.name.removeprefix("thread.") for event in events]


def asked(*messages: dict[str, Any], said: Any = None, paths: Any = None, **fields: Any) -> Request:
    return wire.request(run(**fields), messages, said=said or {}, paths=paths or {}, pictures={})


def text(role: str, value: str, **fields: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": {"value": value, "annotations": []}}]
    return wire.message(role, content, id="msg_1", thread_id="thread_1", now=1, **fields)


# Links.


@pytest.mark.parametrize(
    ("said", "paths", "found"),
    [
        (SAMPLE, ["a.csv"], [Link(8, 31, "a.csv")]),
        ("sandbox:/mnt/data/a.csv.", ["a.csv"], [Link(0, 23, "a.csv")]),
        ("sandbox:/mnt/data/a.csv.gz", ["a.csv"], []),
        ("sandbox:/mnt/data/a.csv.gz", ["a.csv", "a.csv.gz"], [Link(0, 26, "a.csv.gz")]),
        ("sandbox:/mnt/data/ab", ["a"], []),
        ("(sandbox:/mnt/data/a (1).csv)", ["a (1).csv"], [Link(1, 28, "a (1).csv")]),
        ("sandbox:/mnt/data/a%20b.csv", ["a b.csv"], [Link(0, 27, "a b.csv")]),
        ("sandbox:/mnt/data/out/a.csv", ["a.csv", "out/a.csv"], [Link(0, 27, "out/a.csv")]),
        ("/mnt/data/a.csv and sandbox:/mnt/data/", ["a.csv"], []),
        ("🎉 sandbox:/mnt/data/a", ["a"], [Link(2, 21, "a")]),
        ("sandbox:/mnt/data/a sandbox:/mnt/data/a", ["a"], [Link(0, 19, "a"), Link(20, 39, "a")]),
    ],
)
def test_links_lead_to_files_that_there_are(said: str, paths: list[str], found: list[Link]) -> None:
    assert list(wire.links(said, paths)) == found


def test_no_more_than_a_hundred_links_lead_to_files() -> None:
    assert len(wire.links("sandbox:/mnt/data/a.csv " * 101, ["a.csv"])) == 100


# What is said of a run.


def test_a_program_and_an_answer_are_two_steps() -> None:
    told = writing()
    call = ToolCall("call_1", "run_python", "{}")
    events = [*told.call(call, "print(1)")]
    events += told.show(Stream("stdout", "1\n"))
    events += told.show(Result({"image/png": "aWs="}), "file-1")
    events += told.ran(Execution("exe_1", "ses_1", Status.OK))
    told.count(Usage(10, 5))
    events += told.end_calls()
    events += told.say("see ")
    events += told.say("[x](sandbox:/mnt/data/a.csv)")
    events += told.end_message([Cited(8, 31, "file-2")])
    assert names(events) == [
        *("run.step.created", "run.step.in_progress", *4 * ["run.step.delta"], "run.step.completed"),
        *("run.step.created", "run.step.in_progress", "message.created", "message.in_progress"),
        *(*4 * ["message.delta"], "message.completed", "run.step.completed"),
    ]
    outputs = [{"type": "logs", "logs": "1\n"}, {"type": "image", "image": {"file_id": "file-1"}}]
    done = events[6].data
    interpreter = {"input": "print(1)", "outputs": outputs}
    assert done["step_details"] == {
        "type": "tool_calls",
        "tool_calls": [{"id": "call_1", "type": "code_interpreter", "code_interpreter": interpreter}],
    }
    assert done["usage"] == {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    assert events[0].data["step_details"] == {"type": "tool_calls", "tool_calls": []}
    assert [part["type"] for part in events[-2].data["content"]] == ["image_file", "text"]


def test_words_before_a_program_are_a_message_of_their_own_and_blanks_are_none() -> None:
    told = writing()
    assert list(told.say("\n\n")) == []
    events = [*told.say(" Let"), *told.say(" me see. ")]
    assert told.text == "Let me see. "
    events += told.end_message()
    events += told.call(ToolCall("call_1", "run_python", "{}"), "1")
    assert names(events)[-5:-2] == ["run.step.completed", "run.step.created", "run.step.in_progress"]
    assert list(told.end_message()) == []


def test_text_of_all_kinds_is_one_log_until_there_is_a_picture() -> None:
    told = writing()
    list(told.call(ToolCall("call_1", "run_python", "{}"), "1"))
    list(told.show(Stream("stdout", "no line end")))
    list(told.show(Result({"text/plain": "42"}, 1)))
    list(told.show(Result({"image/png": "aWs="}), "file-1"))
    list(told.show(Error("ZeroDivisionError", "division by zero", "Traceback …\nZeroDivisionError")))
    list(told.ran(Execution("exe_1", "ses_1", Status.TIMEOUT, "it took too long")))
    (call,) = next(iter(told.end_calls())).data["step_details"]["tool_calls"]
    assert call["code_interpreter"]["outputs"] == [
        {"type": "logs", "logs": "no line end\n42"},
        {"type": "image", "image": {"file_id": "file-1"}},
        {"type": "logs", "logs": "Traceback …\nZeroDivisionError\ntimeout: it took too long"},
    ]


def test_a_program_that_was_over_time_is_not_told_as_one_that_somebody_interrupted() -> None:
    late = Execution("exe_1", "ses_1", Status.TIMEOUT, "it took 2 s", error=Error("KeyboardInterrupt", "", "…"))
    told = writing()
    list(told.call(ToolCall("call_1", "run_python", "{}"), "1"))
    list(told.show(Error("KeyboardInterrupt", "", "Traceback …\nKeyboardInterrupt")))
    list(told.ran(late))
    (call,) = next(iter(told.end_calls())).data["step_details"]["tool_calls"]
    assert call["code_interpreter"]["outputs"] == [
        {"type": "logs", "logs": "Traceback …\nKeyboardInterrupt\ntimeout: it took 2 s"}
    ]


def test_what_is_open_when_a_run_stops_stops_too() -> None:
    told = writing()
    list(told.say("Half"))
    error = {"code": "server_error", "message": "away"}
    message, step = told.stop("failed", error)
    assert (message.name, message.data["incomplete_details"]) == ("thread.message.incomplete", {"reason": "run_failed"})
    assert message.data["content"][0]["text"]["value"] == "Half"
    assert (step.name, step.data["status"], step.data["last_error"]) == ("thread.run.step.failed", "failed", error)
    assert list(told.stop("failed")) == []


def test_functions_wait_in_a_step_until_they_are_answered() -> None:
    told = writing()
    events = list(told.want([ToolCall("call_1", "weather", '{"city": "Bonn"}')]))
    deltas = [event.data["delta"]["step_details"]["tool_calls"][0]["function"] for event in events[2:]]
    assert deltas == [{"name": "weather", "arguments": "", "output": None}, {"arguments": '{"city": "Bonn"}'}]
    waiting = told.waiting()
    assert waiting["status"] == "in_progress"
    done = wire.answered(waiting, {"call_1": "sunny"}, 3)
    (call,) = done.data["step_details"]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Bonn"}', "output": "sunny"}
    assert (done.name, done.data["completed_at"]) == ("thread.run.step.completed", 3)


# What a model is asked.


def test_messages_are_told_as_they_were_written() -> None:
    shown = [{"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}}]
    picture = wire.message("user", shown, id="msg_2", thread_id="thread_1", now=1)
    system, *rest = asked(text("user", "One."), text("assistant", "Two."), picture, instructions="Be kind.").messages
    assert system.role == "system"
    assert system.text.startswith("Be kind.\n\n")
    assert "sandbox:/mnt/data/" in system.text
    assert rest == [
        Message.of("user", "One."),
        Message.of("assistant", "Two."),
        Message("user", (Image(url="https://example.org/a.png", extra={"image_url": {"detail": "low"}}),)),
    ]


def test_a_message_says_which_files_came_with_it() -> None:
    attached = [{"file_id": "file-1", "tools": []}, {"file_id": "file-gone", "tools": []}]
    (_, message) = asked(text("user", "Look!", attachments=attached), paths={"file-1": "a.csv"}).messages
    assert message.parts == (Text("Attached: /mnt/data/a.csv\n\nLook!"),)


def test_what_was_said_in_a_run_takes_the_place_of_its_messages() -> None:
    said = [Message.of("assistant", "Let me see."), Message.of("assistant", "It is 42.")]
    first, second = text("assistant", "Let me see.", run_id="run_0"), text("assistant", "It is 42.", run_id="run_0")
    assert list(asked(text("user", "?"), first, second, said={"run_0": said}).messages[2:]) == said


def test_a_run_without_tools_and_instructions_asks_for_nothing_more() -> None:
    bare = {**run(), "tools": [], "instructions": ""}
    request = wire.request(bare, [text("user", "Hi")], said={}, paths={}, pictures={})
    assert request.messages == (Message.of("user", "Hi"),)
    assert (request.functions, request.tool_choice, dict(request.extra)) == ((), None, {})


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ("auto", None),
        ("none", "none"),
        ("required", "required"),
        ({"type": "code_interpreter"}, "run_python"),
        ({"type": "function", "function": {"name": "weather"}}, "weather"),
    ],
)
def test_a_choice_of_tools_is_the_models(choice: Any, wanted: str | None) -> None:
    assert asked(text("user", "?"), tool_choice=choice).tool_choice == wanted


def test_what_a_run_leaves_out_is_the_assistants() -> None:
    made = run(additional_instructions="Be brief.", model="other")
    assert (made["model"], made["instructions"], made["tools"]) == ("other", "Be brief.", ASSISTANT["tools"])
    assert made["truncation_strategy"] == {"type": "auto", "last_messages": None}
    assert (made["status"], made["parallel_tool_calls"], made["tool_choice"]) == ("queued", True, "auto")
