"""From what happens in a run to its trace, and what a trace can become."""

import json
from typing import Any

import nbformat

from sandbox.execution import Artifact, Called, Error, Execution, Status
from sandbox.loop.attempt import Attempt
from sandbox.loop.budget import Spent
from sandbox.loop.events import Ending, Event, Finished, Ran, Repair, Replied, Unusable, Wants
from sandbox.loop.messages import Image, Message, Opaque, Request, Text, ToolCall, ToolResult, Usage
from sandbox.store import TraceRow
from sandbox.traces import Recorder, Secrets, parts, to_lines, to_notebook, to_otlp
from tests.loop.models import a_call, runs, says

QUESTION = Message("user", (Text("How much is it? My key is sk-abcdefghijklmnop1234"), Image("image/png", "aGk=")))
PNG = "iVBORw0KGgo="


def execution(status: Status = Status.OK, **fields: Any) -> Execution:
    return Execution("exe_1", "ses_1", status, duration_ms=20.0, **fields)


def ran(outcome: Execution, code: str = "print(6 * 7)") -> Ran:
    return Ran(a_call(code), code, outcome, (Text("told"),))


FAILED = execution(Status.ERROR, error=Error("KeyError", "'a'", "Traceback\nKeyError: 'a'"))
DONE = execution(
    stdout="42\n",
    stderr="careful\n",
    results=({"text/plain": "42"}, {"image/png": PNG, "text/plain": "<Figure>"}),
    artifacts=(Artifact("out.csv", 3, "text/csv", "created"),),
)


def recorded(*events: Event) -> TraceRow:
    clock = iter(range(1000, 2000))
    recorder = Recorder(Request("m", (QUESTION,)), "me", Secrets(), clock=lambda: float(next(clock)))
    for event in events:
        recorder.add(event)
    return recorder.row()


def a_whole_run() -> TraceRow:
    answer = says("It is 42.")
    said = (runs("print(6 * 7)").message, Message("tool", (ToolResult("call_1", (Text("told"),)),)), answer.message)
    return recorded(
        Attempt("scripted", "m", "busy", "too many requests"),
        Replied(1, runs("1 / 0"), 0.5),
        ran(FAILED, "1 / 0"),
        Replied(2, runs("print(6 * 7)"), 0.5),
        ran(DONE),
        Repair("KeyError", 1, True, Usage(10, 5), 1.0),
        Unusable(ToolCall("call_9", "run_python", "{"), "not JSON"),
        Replied(3, answer, 0.5),
        Finished(Ending.ANSWERED, answer.message, said, Spent(3, 2, 1), "scripted-1"),
    )


def test_a_trace_has_all_that_happened_in_order_and_what_it_cost() -> None:
    trace = a_whole_run()
    kinds = [record["kind"] for record in trace.records]
    assert kinds == [
        "message", "attempt", "turn", "execution", "turn", "execution", "repair", "unusable", "turn", "end",
    ]  # fmt: skip
    assert (trace.ending, trace.turns, trace.executions, trace.failures) == ("answered", 3, 2, 2)
    assert (trace.input_tokens, trace.output_tokens, trace.session_id) == (30, 15, "ses_1")
    assert trace.cost is not None
    json.dumps(trace.records)


def test_secrets_are_not_in_it() -> None:
    trace = a_whole_run()
    assert "sk-abc" not in json.dumps([trace.prompt, *trace.records])
    assert trace.prompt == "How much is it? My key is [secret]"


def test_arguments_of_a_call_stay_json_without_their_secrets() -> None:
    code = 'password = "s3cr3t-pass-word"\nlogin("password=hunter2222")'
    (record,) = [each for each in recorded(Replied(1, runs(code), 0.1)).records if each["kind"] == "turn"]
    told = json.dumps(record)
    assert "s3cr3t" not in told
    assert "hunter2222" not in told
    assert "login(" in json.loads(record["calls"][0]["arguments"])["code"]


def test_a_run_that_nobody_waited_for_was_cancelled_and_one_that_failed_says_why() -> None:
    assert recorded(Replied(1, says("hm"), 0.1)).ending == "cancelled"
    recorder = Recorder(Request("m", (QUESTION,)), "me", Secrets())
    recorder.fail(ValueError("the server is away"))
    trace = recorder.row()
    assert trace.ending == "failed"
    assert trace.records[-1]["detail"] == "the server is away"


def test_messages_come_back_as_they_were() -> None:
    for message in (
        Message("user", (Text("hi"), Image("image/png", "aGk="), Opaque("openai", {"type": "input_audio"}))),
        says("", a_call("print('sk-abcdefghijklmnop1234')")).message,
        Message("tool", (ToolResult("call_1", (Text("1"), Image("image/png", "aGk=")), failed=True),)),
    ):
        assert parts.message_from_json(json.loads(json.dumps(parts.message_to_json(message)))) == message


def test_a_result_that_is_nested_without_end_is_kept_as_text() -> None:
    nested: Any = []
    for _ in range(500):
        nested = [nested]
    (record,) = [
        each
        for each in recorded(ran(execution(results=({"application/json": nested},)))).records
        if "execution" in each
    ]
    assert record["execution"]["results"] == [{"application/json": "[" * 501 + "]" * 501}]


def test_pictures_beyond_what_a_trace_keeps_are_left_out() -> None:
    big = execution(results=tuple({"image/png": "A" * (3 << 20)} for _ in range(4)))
    kept = [bundle["image/png"] for bundle in recorded(ran(big)).records[-1]["execution"]["results"]]
    assert [len(each) for each in kept] == [3 << 20, 3 << 20, 0, 0]


def test_of_very_long_texts_beginning_and_end_are_kept() -> None:
    long = "begins " + "A" * (30 << 20) + " ends"
    messages = (Message.of("user", long), *[Message.of("user", "B" * 2000)] * 5000)
    recorder = Recorder(Request("m", messages), "me", Secrets())
    recorder.add(Replied(1, says("", ToolCall("1", "run_python", json.dumps({"code": long}))), 0.0))
    trace = recorder.row()
    first, text, call = trace.records[0], trace.records[0]["parts"][0]["text"], trace.records[-1]["calls"][0]
    assert first["text"] == text
    assert (text[:7], text[-5:], "characters left out" in text) == ("begins ", " ends", True)
    assert call["arguments"].startswith('{"code": "begins')
    assert len(json.dumps(trace.records)) < 20 << 20


def test_as_lines_the_first_is_the_whole_and_the_others_are_the_records() -> None:
    trace = a_whole_run()
    first, *others = to_lines(trace)
    assert first["kind"] == "trace"
    assert first["id"] == trace.id
    assert others == [dict(record) for record in trace.records]


def test_as_a_notebook_it_is_valid_and_shows_what_ran() -> None:
    notebook = nbformat.reads(json.dumps(to_notebook(a_whole_run())), as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert ["".join(cell.source) for cell in code] == ["1 / 0", "print(6 * 7)"]
    assert [output.output_type for output in code[0].outputs] == ["error"]
    assert [output.output_type for output in code[1].outputs] == ["stream", "stream", "display_data", "display_data"]


def test_as_spans_turns_and_executions_are_below_the_run() -> None:
    trace = a_whole_run()
    document = to_otlp(trace, version="1", content=False)
    spans = document["resourceSpans"][0]["scopeSpans"][0]["spans"]
    root, *below = spans
    assert [span["name"] for span in spans] == [
        "invoke_agent sandbox",
        "chat scripted-1",
        "execute_tool run_python",
        "chat scripted-1",
        "execute_tool run_python",
        "chat scripted-1",
    ]
    assert {span["parentSpanId"] for span in below} == {root["spanId"]}
    assert {span["traceId"] for span in spans} == {root["traceId"]}
    assert all(int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"]) for span in spans)
    assert [span.get("status") for span in below] == [None, {"code": 2}, None, None, None]
    assert "print(6 * 7)" not in json.dumps(document)
    assert "print(6 * 7)" in json.dumps(to_otlp(trace, version="1", content=True))


def test_a_program_that_calls_without_end_does_not_fill_the_trace() -> None:
    wants = Wants(a_call("await f()"), tuple(Called(f"cal_{n}", "f", {}) for n in range(128)))
    kept = [record["calls"] for record in recorded(*[wants] * 50).records if record["kind"] == "wants"]
    assert sum(map(len, kept)) == 1000
