"""Anthropic's Messages: requests as the API takes them, replies from whatever events come."""

import itertools
import json
from typing import Any

import pytest
from anthropic.types import Message as TheirMessage
from hypothesis import given
from hypothesis import strategies as st

from sandbox.loop import anthropic_messages
from sandbox.loop.messages import Function, Image, Message, Opaque, Reply, Request, Text, ToolCall, ToolResult, Usage
from sandbox.loop.surrogates import encoded
from tests.loop.replies import calls, cut, requests, words

HELLO = Message("user", (Text("Hello"),))


def start(**usage: int) -> dict[str, Any]:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
    return {"type": "message_start", "message": message | {"usage": {"input_tokens": 10, "output_tokens": 1} | usage}}


def opened(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def added(index: int, kind: str, **delta: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind} | delta}


def ended(reason: str = "end_turn", **usage: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}


def read(*events: dict[str, Any], upstream: str = "") -> Reply:
    reading = anthropic_messages.Reading(upstream)
    for event in events:
        reading.feed(event)
    return reading.reply()


# What is asked.


def test_a_request_says_what_it_was_made_of() -> None:
    request = Request(
        "claude",
        (
            Message("system", (Text("Be brief."),)),
            Message("user", (Text("What is this?"), Image("image/png", "AAAA"), Image(url="https://example.org/a"))),
            Message("assistant", (Text("I look."), ToolCall("toolu_1", "run_python", '{"code": "1"}'))),
            Message("tool", (ToolResult("toolu_1", (Text("1"), Image("image/png", "BBBB"))),)),
        ),
        (Function("run_python", "Runs.", {"properties": {}}),),
        tool_choice="required",
        temperature=1.5,
        stop=("END", " "),
        extra={"seed": 1, "top_p": 0.5, "user": "u", "parallel_tool_calls": False},
    )
    base64 = {"type": "base64", "media_type": "image/png"}
    assert anthropic_messages.body(request) == {
        "model": "claude",
        "max_tokens": anthropic_messages.MAX_TOKENS,
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image", "source": base64 | {"data": "AAAA"}},
                    {"type": "image", "source": {"type": "url", "url": "https://example.org/a"}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "toolu_1", "name": "run_python", "input": {"code": "1"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "toolu_1",
                        "content": [
                            {"type": "text", "text": "1"},
                            {"type": "image", "source": base64 | {"data": "BBBB"}},
                        ],
                    }
                ],
            },
        ],
        "tools": [{"name": "run_python", "description": "Runs.", "input_schema": {"type": "object", "properties": {}}}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "stop_sequences": ["END"],
        "temperature": 1.0,
        "top_p": 0.5,
        "metadata": {"user_id": "u"},
    }


def test_what_several_say_in_a_row_becomes_one_message() -> None:
    messages = (
        Message("assistant", (ToolCall("1", "f", "{}"), ToolCall("2", "f", "{}"))),
        Message("tool", (ToolResult("1", (Text("a"),)),)),
        Message("tool", (ToolResult("2", (), failed=True),)),
        Message("user", (Text("and?"),)),
        Message("user", (Text("   "),)),
    )
    turns = anthropic_messages.body(Request("m", (HELLO, *messages)))["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert turns[2]["content"] == [
        {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "a"}]},
        {"type": "tool_result", "tool_use_id": "2", "is_error": True},
        {"type": "text", "text": "and?"},
    ]


def test_arguments_that_are_no_object_go_as_one() -> None:
    written = ["", '{"x', "[1]", '{"x": 1}', "[" * 100_000, '{"x": "\\ud83d"}']
    called = tuple(ToolCall(str(at), "f", text) for at, text in enumerate(written))
    turns = anthropic_messages.body(Request("m", (HELLO, Message("assistant", called))))["messages"]
    inputs = [block["input"] for block in turns[1]["content"]]
    assert inputs[:4] == [{}, {"invalid": '{"x'}, {"invalid": "[1]"}, {"x": 1}]
    assert inputs[4:] == [{"invalid": "[" * 100_000}, {"x": "\ufffd"}]


def test_ids_of_other_servers_are_made_fit_on_both_sides() -> None:
    messages = (
        HELLO,
        Message("assistant", (ToolCall("a:b.c", "f", "{}"),)),
        Message("tool", (ToolResult("a:b.c", ()),)),
    )
    turns = anthropic_messages.body(Request("m", messages))["messages"]
    assert turns[1]["content"][0]["id"] == turns[2]["content"][0]["tool_use_id"] == "a_b_c"


def test_thinking_goes_back_to_who_thought_it_and_to_no_other() -> None:
    thought = {"type": "thinking", "thinking": "2+2", "signature": "s"}
    reply = read(start(), opened(0, **thought), opened(1, type="text", text="4"), ended(), upstream="claude")
    request = Request("m", (HELLO, reply.message))
    assert anthropic_messages.body(request, upstream="claude")["messages"][1]["content"][0] == thought
    assert [b["type"] for b in anthropic_messages.body(request, upstream="x")["messages"][1]["content"]] == ["text"]


def test_parts_of_openai_alone_stay_away() -> None:
    message = Message("user", (Text("x"), Opaque("openai", {"type": "file"}), Opaque("openai", {"name": "Ann"})))
    assert anthropic_messages.body(Request("m", (message,)))["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "x"}]}
    ]


@given(requests)
def test_every_request_takes_turns_and_has_no_empty_part(request: Request) -> None:
    body = anthropic_messages.body(request)
    roles = [turn["role"] for turn in body["messages"]]
    assert all(first != second for first, second in itertools.pairwise(roles))
    assert not roles or roles[0] == "user"
    assert all(turn["content"] for turn in body["messages"])
    called = [block["id"] for turn in body["messages"] for block in turn["content"] if block["type"] == "tool_use"]
    answered = [b["tool_use_id"] for turn in body["messages"] for b in turn["content"] if b["type"] == "tool_result"]
    assert called == answered
    json.dumps(body)


# What is answered.


def test_a_stream_of_text_and_a_call() -> None:
    reply = read(
        start(cache_read_input_tokens=5, cache_creation_input_tokens=2),
        {"type": "ping"},
        opened(0, type="text", text=""),
        added(0, "text_delta", text="I "),
        added(0, "text_delta", text="run."),
        {"type": "content_block_stop", "index": 0},
        opened(1, type="tool_use", id="toolu_1", name="run_python", input={}),
        added(1, "input_json_delta", partial_json=""),
        added(1, "input_json_delta", partial_json='{"code": '),
        added(1, "input_json_delta", partial_json='"1"}'),
        {"type": "content_block_stop", "index": 1},
        ended("tool_use", output_tokens=50, output_tokens_details={"thinking_tokens": 7}),
        {"type": "message_stop"},
    )
    called = ToolCall("toolu_1", "run_python", '{"code": "1"}')
    message = Message("assistant", (Text("I run."), called))
    assert reply == Reply(message, "tool_calls", Usage(17, 50, 5, 2, 7), "m", "msg_1")


def test_half_a_character_goes_nowhere() -> None:
    body = json.loads(encoded(anthropic_messages.body(Request("m", (Message.of("user", "\ud83d"),)))))
    assert body["messages"][0]["content"][0]["text"] == "\ufffd"
    reading = anthropic_messages.Reading()
    reading.feed(opened(0, type="text", text=""))
    assert reading.feed(added(0, "text_delta", text="\ud83d")).text == "\ufffd"
    assert reading.reply().message.text == "\ufffd"


@pytest.mark.parametrize("written", ["[" * 100_000, '{"x": ' + "[" * 500 + "]" * 500 + "}"])
def test_input_of_an_unknown_block_that_is_nested_too_deeply_is_empty(written: str) -> None:
    reply = read(
        start(),
        opened(0, type="server_tool_use", id="srvtoolu_1", input={}),
        added(0, "input_json_delta", partial_json=written),
        ended(),
    )
    [part] = reply.message.parts
    assert isinstance(part, Opaque)
    assert part.value["input"] == {}


def test_thinking_is_no_text_and_is_kept_with_its_signature() -> None:
    reading = anthropic_messages.Reading("claude")
    events = [
        start(),
        opened(0, type="thinking", thinking="", signature=""),
        added(0, "thinking_delta", thinking="2"),
        added(0, "thinking_delta", thinking="+2"),
        added(0, "signature_delta", signature="sig"),
        opened(1, type="text", text=""),
    ]
    assert [reading.feed(event).text for event in events] == [""] * len(events)
    assert reading.feed(added(1, "text_delta", text="4")).text == "4"
    thought = Opaque("anthropic", {"type": "thinking", "thinking": "2+2", "signature": "sig"}, "claude")
    assert reading.reply().message.parts == (thought, Text("4"))


def test_blocks_that_nobody_knows_are_kept_whole() -> None:
    reply = read(
        start(),
        opened(0, type="server_tool_use", id="srvtoolu_1", name="bash_code_execution", input={}),
        added(0, "input_json_delta", partial_json='{"command": "echo 1"}'),
        opened(1, type="bash_code_execution_tool_result", tool_use_id="srvtoolu_1", content={"stdout": "1\n"}),
        opened(2, type="of_next_year", words="a"),
        added(2, "of_next_year_delta", words="b", number=3),
        ended(),
    )
    values = [part.value for part in reply.message.parts if isinstance(part, Opaque)]
    assert values == [
        {
            "type": "server_tool_use",
            "id": "srvtoolu_1",
            "name": "bash_code_execution",
            "input": {"command": "echo 1"},
        },
        {
            "type": "bash_code_execution_tool_result",
            "tool_use_id": "srvtoolu_1",
            "content": {"stdout": "1\n"},
        },
        {"type": "of_next_year", "words": "ab", "number": 3},
    ]


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("of_next_year", "stop"),
    ],
)
def test_why_it_ended(said: str, meant: str) -> None:
    assert read(start(), opened(0, type="text", text="x"), ended(said)).finish == meant


def test_a_stream_without_a_reason_is_not_finished() -> None:
    reading = anthropic_messages.Reading()
    reading.feed(start())
    reading.feed({"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": None}})
    assert not reading.finished
    reading.feed(ended())
    assert reading.finished


def test_what_is_no_message_is_nonsense() -> None:
    with pytest.raises(ValueError, match="no message"):
        read({"type": "ping"})
    with pytest.raises(ValueError, match="no content"):
        anthropic_messages.whole({"error": "x"})
    with pytest.raises(ValueError, match="JSON object"):
        anthropic_messages.Reading().feed("x")


def test_an_error_is_found() -> None:
    said = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    assert anthropic_messages.error(said) == said["error"]
    assert anthropic_messages.error(start()) is None


@given(words, calls(), st.lists(st.integers(0, 60), max_size=6))
def test_a_reply_is_the_same_however_it_is_cut_and_in_one_piece(
    text: str, called: tuple[ToolCall, ...], at: list[int]
) -> None:
    blocks: list[dict[str, Any]] = [{"type": "text", "text": text}]
    events = [start(), opened(0, type="text", text="")]
    events += [added(0, "text_delta", text=piece) for piece in cut(text, at)]
    for index, call in enumerate(called, 1):
        block = {"type": "tool_use", "id": call.id, "name": call.name}
        blocks.append(block | {"input": json.loads(call.arguments)})
        events.append(opened(index, **block, input={}))
        events += [added(index, "input_json_delta", partial_json=piece) for piece in cut(call.arguments, at)]
    reason = "tool_use" if called else "end_turn"
    message = start()["message"] | {"content": blocks, "stop_reason": reason, "stop_sequence": None}
    TheirMessage.model_validate(message)
    streamed, whole = read(*events, ended(reason, output_tokens=1)), anthropic_messages.whole(message)
    assert streamed.message == Message("assistant", (Text(text), *called))
    assert [json.loads(call.arguments) for call in whole.message.calls] == [json.loads(c.arguments) for c in called]
    assert (whole.message.text, whole.finish, whole.usage) == (text, streamed.finish, streamed.usage)
