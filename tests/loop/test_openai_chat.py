"""OpenAI's Chat Completions: what is written is as the specification has it, and what is read is anything."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from sandbox.errors import InvalidRequest
from sandbox.loop import openai_chat
from sandbox.loop.messages import (
    Finish,
    Function,
    Image,
    Message,
    Opaque,
    Reply,
    Request,
    Text,
    ToolCall,
    ToolResult,
    Usage,
)
from sandbox.loop.surrogates import encoded
from tests.loop.replies import calls, conversations, cut, delta, finish, names, requests, words

ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


def read(*chunks: Any) -> Reply:
    reading = openai_chat.Reading()
    for chunk in chunks:
        reading.feed(chunk)
    return reading.reply()


def call(index: int | None = None, id: str | None = None, **function: Any) -> dict[str, Any]:
    piece: dict[str, Any] = {} if index is None else {"index": index}
    return delta(tool_calls=[piece | ({} if id is None else {"id": id}) | {"function": function}])


def pairs(reply: Reply) -> list[tuple[str, str, str]]:
    return [(each.id, each.name, each.arguments) for each in reply.message.calls]


# What is asked.


def test_a_request_says_what_it_was_made_of() -> None:
    request = Request(
        "gpt",
        (
            Message("system", (Text("Be brief."),)),
            Message("user", (Text("What is this?"), Image("image/png", "AAAA"))),
            Message("assistant", (ToolCall("call_1", "run_python", '{"code": "1"}'),)),
            Message("tool", (ToolResult("call_1", (Text("1"),)),)),
        ),
        (Function("run_python", "Runs.", {"type": "object"}),),
        tool_choice="run_python",
        max_tokens=10,
        stop=("END",),
        extra={"seed": 1},
    )
    assert openai_chat.body(request) == {
        "model": "gpt",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "run_python", "arguments": '{"code": "1"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "1"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {"name": "run_python", "description": "Runs.", "parameters": {"type": "object"}},
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "run_python"}},
        "max_tokens": 10,
        "stop": ["END"],
        "seed": 1,
    }


def test_images_of_tools_follow_all_their_results_in_a_message_of_the_user() -> None:
    picture = ToolResult("call_1", (Text("a chart"), Image("image/png", "AAAA")))
    messages = (
        Message("tool", (picture,)),
        Message("tool", (ToolResult("call_2", (Text("2"),)),)),
        Message("user", (Text("Go on."),)),
    )
    made = openai_chat.body(Request("m", messages))["messages"]
    assert [each["role"] for each in made] == ["tool", "tool", "user", "user"]
    assert made[2]["content"][1]["image_url"]["url"] == "data:image/png;base64,AAAA"


def test_malformed_arguments_go_back_as_json_because_servers_put_them_into_templates() -> None:
    messages = tuple(Message("assistant", (ToolCall("1", "f", text),)) for text in ('{"code": "1', ""))
    made = openai_chat.body(Request("m", messages))["messages"]
    assert [json.loads(each["tool_calls"][0]["function"]["arguments"]) for each in made] == [
        {"invalid": '{"code": "1'},
        {},
    ]


def test_arguments_that_are_nested_beyond_reading_go_back_as_text() -> None:
    deep = "[" * 100_000
    made = openai_chat.body(Request("m", (Message("assistant", (ToolCall("1", "f", deep),)),)))["messages"]
    assert json.loads(made[0]["tool_calls"][0]["function"]["arguments"]) == {"invalid": deep}


def test_half_a_character_goes_nowhere() -> None:
    asked = ASKED | {"user": "\ud83d", "messages": [{"role": "user", "content": "a\ud83db \ud83d\ude00"}]}
    request = openai_chat.request(asked)
    assert request.messages == (Message.of("user", "a\ufffdb \U0001f600"),)
    assert request.extra == {"user": "\ufffd"}
    body = json.loads(encoded(openai_chat.body(Request("m", (Message.of("user", "\ude00"),)))))
    assert body["messages"] == [{"role": "user", "content": "\ufffd"}]
    reading = openai_chat.Reading()
    told = reading.feed(delta(content="\ud83d"))
    assert (told.text, reading.reply().message.text) == ("\ufffd", "\ufffd")
    assert json.dumps(told.raw, ensure_ascii=False).encode()


def test_what_is_nested_too_deeply_is_refused_and_not_understood() -> None:
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    with pytest.raises(InvalidRequest, match=r"^metadata: it is nested too deeply"):
        openai_chat.request(ASKED | {"metadata": deep})
    with pytest.raises(ValueError, match="nested too deeply"):
        read(delta(reasoning_details=deep))


def test_what_one_upstream_has_put_into_a_call_no_other_hears_but_every_program() -> None:
    signed = {"extra_content": {"google": {"thought_signature": "s"}}}
    function = {"name": "f", "arguments": "{}"}
    message = {"tool_calls": [{"id": "1", "type": "function", "function": function, **signed}]}
    reply = openai_chat.whole({"choices": [{"message": message}]}, upstream="gemini")
    request = Request("m", (reply.message,))
    [mine] = openai_chat.body(request, upstream="gemini")["messages"][0]["tool_calls"]
    [others] = openai_chat.body(request, upstream="strict")["messages"][0]["tool_calls"]
    assert (mine["extra_content"], "extra_content" in others) == (signed["extra_content"], False)
    run = Reply(reply.message, "tool_calls", Usage(), "m")
    [told] = openai_chat.answer(run, id="1", created=1)["choices"][0]["message"]["tool_calls"]
    assert told["extra_content"] == signed["extra_content"]


def test_the_limit_has_the_name_that_the_program_or_the_server_wants() -> None:
    assert openai_chat.body(Request("m", (), max_tokens=5))["max_tokens"] == 5
    assert openai_chat.body(Request("m", (), max_tokens=5), limit=openai_chat.LIMIT)["max_completion_tokens"] == 5
    asked = openai_chat.request(ASKED | {"max_completion_tokens": 5})
    assert openai_chat.body(asked) == ASKED | {"max_completion_tokens": 5}


def test_what_one_upstream_said_for_itself_no_other_hears() -> None:
    reply = openai_chat.whole({"choices": [{"message": {"content": "4", "reasoning_content": "2+2"}}]}, upstream="deep")
    request = Request("m", (reply.message,))
    assert openai_chat.body(request, upstream="deep")["messages"][0]["reasoning_content"] == "2+2"
    assert "reasoning_content" not in openai_chat.body(request, upstream="other")["messages"][0]


@pytest.mark.parametrize(
    "asked",
    [
        ASKED | {"temperature": 0.5, "top_p": 1, "logit_bias": {"1": 2}, "stop": ["a"], "unknown": [None]},
        ASKED | {"tools": [{"type": "function", "function": {"name": "f", "strict": True}, "cache_control": {"a": 1}}]},
        ASKED
        | {
            "tools": [{"type": "code_interpreter", "timeout_ms": 5}, {"type": "custom", "custom": {"name": "c"}}],
            "tool_choice": {"type": "custom", "custom": {"name": "c"}},
        },
        {"model": "m", "messages": [{"role": "developer", "content": "Be brief."}]},
        {"model": "m", "messages": [{"role": "user", "name": "Ann", "content": [{"type": "input_audio", "x": {}}]}]},
        {
            "model": "m",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
                        {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}},
                    ],
                },
                {
                    "role": "assistant",
                    "content": "b",
                    "audio": {"id": "audio_1"},
                    "tool_calls": [
                        {
                            "id": "1",
                            "type": "function",
                            "function": {"name": "f", "arguments": "{}"},
                            "extra_content": {"google": {"thought_signature": "s"}},
                        },
                        {"id": "2", "type": "custom", "custom": {"name": "c", "input": "x"}},
                    ],
                },
                {"role": "tool", "tool_call_id": "1", "name": "f", "content": "r"},
            ],
        },
    ],
)
def test_a_request_passes_through_without_a_loss(asked: dict[str, Any]) -> None:
    assert openai_chat.body(openai_chat.request(asked)) == asked


@given(requests)
def test_what_is_written_is_read_as_the_same(request: Request) -> None:
    body = openai_chat.body(request)
    assert openai_chat.body(openai_chat.request(json.loads(json.dumps(body)))) == body


@given(conversations())
def test_a_conversation_survives_the_wire(messages: tuple[Message, ...]) -> None:
    body = openai_chat.body(Request("m", messages))
    assert openai_chat.request(json.loads(json.dumps(body))).messages == messages


def test_legacy_functions_are_tool_calls() -> None:
    asked = ASKED | {
        "messages": [
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "42"},
        ]
    }
    first, second = openai_chat.request(asked).messages
    assert first.calls == (ToolCall("call_f", "f", "{}"),)
    assert second.parts == (ToolResult("call_f", (Text("42"),)),)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"messages": ASKED["messages"]}, "model"),
        ({"model": "m", "messages": []}, "messages"),
        ({"model": "m", "messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"model": "m", "messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"model": "m", "messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"model": "m", "messages": [{"role": "tool", "tool_call_id": 3, "content": ""}]}, "messages[0].tool_call_id"),
        ({"model": "m", "messages": [{"role": "assistant", "tool_calls": [1]}]}, "messages[0].tool_calls[0]"),
        (ASKED | {"tools": [{"function": {}}]}, "tools[0].type"),
        (ASKED | {"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        (
            ASKED | {"tools": [{"type": "function", "function": {"name": "f", "parameters": [1]}}]},
            "tools[0].function.parameters",
        ),
        (
            ASKED | {"tools": [{"type": "function", "function": {"name": "f", "description": 1}}]},
            "tools[0].function.description",
        ),
        (ASKED | {"max_tokens": "many"}, "max_tokens"),
        (ASKED | {"temperature": "hot"}, "temperature"),
        (ASKED | {"stop": [1]}, "stop"),
    ],
)
def test_a_request_that_cannot_be_read_is_told_which_field(asked: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as told:
        openai_chat.request(asked)
    assert str(told.value).startswith(f"{field}:")


# What is answered.


def test_a_stream_of_text() -> None:
    reply = read(
        delta(role="assistant", content=""),
        delta(content="Hel"),
        delta(content="lo"),
        finish("stop"),
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}},
    )
    assert reply == Reply(Message("assistant", (Text("Hello"),)), "stop", Usage(3, 2), "m", "chatcmpl-1")


def test_calls_that_come_interleaved_by_index() -> None:
    reply = read(
        call(0, "a", name="f", arguments=""),
        call(1, "b", name="g", arguments=""),
        call(1, arguments='{"y":'),
        call(0, arguments='{"x":'),
        call(0, arguments="1}"),
        call(1, arguments="2}"),
        finish("tool_calls"),
    )
    assert pairs(reply) == [("a", "f", '{"x":1}'), ("b", "g", '{"y":2}')]
    assert reply.finish == "tool_calls"


def test_calls_without_index() -> None:
    reply = read(
        call(id="a", name="f", arguments='{"x":'),
        call(arguments="1}"),
        call(id="b", name="f", arguments="{}"),
        finish("tool_calls"),
    )
    assert pairs(reply) == [("a", "f", '{"x":1}'), ("b", "f", "{}")]


def test_calls_without_index_and_id_get_ids_of_their_own() -> None:
    reply = read(call(name="f", arguments='{"x":1}'), call(name="f", arguments='{"x":2}'), finish("stop"))
    assert pairs(reply) == [("call_chatcmpl-1_0", "f", '{"x":1}'), ("call_chatcmpl-1_1", "f", '{"x":2}')]


def test_calls_that_all_have_the_same_index() -> None:
    reply = read(call(0, "a", name="f", arguments="{}"), call(0, "b", name="g", arguments="{}"), finish("stop"))
    assert pairs(reply) == [("a", "f", "{}"), ("b", "g", "{}")]


def test_calls_that_all_have_the_same_id() -> None:
    reply = read(call(0, "a", name="f", arguments="{}"), call(1, "a", name="g", arguments="{}"))
    assert pairs(reply) == [("a", "f", "{}"), ("call_chatcmpl-1_1", "g", "{}")]


def test_calls_that_all_have_the_same_id_and_no_index() -> None:
    reply = read(call(id="a", name="f", arguments="{}"), call(id="a", name="f", arguments='{"x":1}'))
    assert pairs(reply) == [("a", "f", "{}"), ("call_chatcmpl-1_1", "f", '{"x":1}')]
    pieces = [call(id="a", name="f", arguments=words) for words in ('{"x"', ":1}", "")]
    assert pairs(read(*pieces)) == [("a", "f", '{"x":1}')]


def test_more_calls_than_anybody_wants_are_nonsense() -> None:
    with pytest.raises(ValueError, match="more than 128 tool calls"):
        read(*[call(at, name="f", arguments="{}") for at in range(129)])


def test_id_and_name_that_are_repeated_in_every_piece() -> None:
    reply = read(call(0, "a", name="f", arguments='{"x"'), call(0, "a", name="f", arguments=":1}"))
    assert pairs(reply) == [("a", "f", '{"x":1}')]


def test_an_id_that_changes_with_every_piece() -> None:
    reply = read(call(0, "a", name="f", arguments='{"x"'), call(0, "b", arguments=":1}"))
    assert pairs(reply) == [("a", "f", '{"x":1}')]


def test_arguments_that_are_an_object() -> None:
    assert pairs(read(call(0, "a", name="f", arguments={"x": 1}))) == [("a", "f", '{"x": 1}')]


def test_a_legacy_function_call() -> None:
    reply = read(
        delta(function_call={"name": "f", "arguments": '{"x"'}),
        delta(function_call={"arguments": ":1}"}),
        finish("function_call"),
    )
    assert pairs(reply) == [("call_chatcmpl-1_0", "f", '{"x":1}')]
    assert reply.finish == "tool_calls"


def test_stop_with_calls_is_calls_and_calls_without_any_is_stop() -> None:
    assert read(call(0, "a", name="f", arguments="{}"), finish("stop")).finish == "tool_calls"
    assert read(delta(content="x"), finish("tool_calls")).finish == "stop"


def test_a_call_that_was_cut_off_by_the_limit_says_so() -> None:
    assert read(call(0, "a", name="f", arguments='{"x'), finish("length")).finish == "length"


def test_text_and_calls_may_come_mixed() -> None:
    reply = read(delta(content="a"), call(0, "a", name="f", arguments="{}"), delta(content="b"), finish("tool_calls"))
    assert reply.message.text == "ab"
    assert len(reply.message.calls) == 1


def test_a_count_that_is_no_number_counts_as_none() -> None:
    assert openai_chat.usage({"prompt_tokens": float("inf"), "completion_tokens": float("nan")}) == Usage()


def test_no_usage_is_none_and_the_last_one_counts() -> None:
    assert read(delta(content="x"), finish("stop")).usage == Usage()
    counting = [delta(content="x") | {"usage": {"prompt_tokens": 9, "completion_tokens": n}} for n in (1, 2)]
    assert read(*counting, finish("stop")).usage == Usage(9, 2)


def test_cached_and_reasoning_tokens_are_counted() -> None:
    said = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    assert openai_chat.usage(said) == Usage(10, 5, cache_read_tokens=4, reasoning_tokens=3)


def test_reasoning_is_no_text() -> None:
    reading = openai_chat.Reading("deep")
    assert reading.feed(delta(reasoning_content="Let me")).text == ""
    reading.feed(delta(reasoning_content=" think."))
    reading.feed(delta(content="4"))
    reply = reading.reply()
    assert reply.message.text == "4"
    assert reply.message.parts[-1] == Opaque("openai", {"reasoning_content": "Let me think."}, "deep")


def test_a_refusal_is_what_the_model_says() -> None:
    reply = read(delta(refusal="I will "), delta(refusal="not."), finish("stop"))
    assert (reply.message.text, reply.finish) == ("I will not.", "content_filter")


def test_a_refusal_is_told_as_one_with_the_reason_that_was_given() -> None:
    told = openai_chat.answer(read(delta(refusal="I will "), delta(refusal="not."), finish("stop")), id="1", created=1)
    [choice] = told["choices"]
    assert (choice["message"]["content"], choice["message"]["refusal"]) == (None, "I will not.")
    assert choice["finish_reason"] == "stop"
    assert openai_chat.answer(read(delta(content="x", refusal="")), id="1", created=1)["choices"][0] == {
        "index": 0,
        "message": {"role": "assistant", "content": "x", "refusal": None},
        "logprobs": None,
        "finish_reason": "stop",
    }


def test_what_else_an_answer_has_is_kept() -> None:
    extra = {"system_fingerprint": "fp_1", "service_tier": "default"}
    reply = read(delta(content="x") | extra, finish("stop"))
    assert extra.items() <= openai_chat.answer(reply, id="1", created=1).items()
    gathering = openai_chat.Gathering(id="1", created=1, model="m")
    gathering.feed(delta(content="x") | extra)
    assert extra.items() <= gathering.answer(reply).items()


def test_empty_choices_are_passed_over_and_an_answer_without_any_is_none() -> None:
    assert read({"choices": [], "prompt_filter_results": []}, delta(content="x"), finish("stop")).message.text == "x"
    with pytest.raises(ValueError, match="no choices"):
        read({"choices": []})
    with pytest.raises(ValueError, match="JSON object"):
        read([1])


def test_other_choices_do_not_mix_in() -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "stop"}]}
    assert read(delta(content="yes"), other, finish("stop")).message.text == "yes"


def test_a_stream_without_a_finish_is_not_finished() -> None:
    reading = openai_chat.Reading()
    reading.feed(delta(content="x"))
    assert not reading.finished
    reading.feed(finish("stop"))
    assert reading.finished


def test_an_error_is_found_wherever_it_stands() -> None:
    assert openai_chat.error({"error": {"message": "no"}}) == {"message": "no"}
    assert openai_chat.error({"error": "no"}) == {"message": "no"}
    assert openai_chat.error({"error": None, "choices": []}) is None
    assert openai_chat.error([]) is None


def test_content_may_be_a_list_of_parts() -> None:
    content = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "Hi"}]
    assert openai_chat.whole({"choices": [{"message": {"content": content}}]}).message.text == "Hi"


@given(words, calls(), st.lists(st.integers(0, 60), max_size=6))
def test_a_reply_is_the_same_however_it_is_cut(text: str, called: tuple[ToolCall, ...], at: list[int]) -> None:
    chunks = [delta(role="assistant", content="")] + [delta(content=piece) for piece in cut(text, at)]
    for index, each in enumerate(called):
        chunks.append(call(index, each.id, name=each.name, arguments=""))
        chunks += [call(index, arguments=piece) for piece in cut(each.arguments, at)]
    reply = read(*chunks, finish("stop"))
    assert reply.message == Message("assistant", (Text(text), *called))


# What a program is told.


@given(words, calls(), st.lists(st.integers(0, 60), max_size=6), st.booleans())
def test_what_is_told_in_chunks_is_what_was_said(
    text: str, called: tuple[ToolCall, ...], at: list[int], counting: bool
) -> None:
    finish: Finish = "tool_calls" if called else "stop"
    reply = Reply(Message("assistant", (Text(text), *called)), finish, Usage(3, 2, 1), "m", "chatcmpl-9")
    writing = openai_chat.Writing(id="chatcmpl-9", created=1, model="m", include_usage=counting)
    chunks = [chunk for piece in cut(text, at) for chunk in writing.text(piece)] + list(writing.end(reply))
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert (chunks[-1]["choices"] == []) is counting
    told = read(*chunks)
    assert (told.message, told.finish) == (reply.message, reply.finish)
    assert told.usage == (reply.usage if counting else Usage())


@given(words, calls(), names)
def test_what_is_told_at_once_is_what_was_said(text: str, called: tuple[ToolCall, ...], id: str) -> None:
    finish: Finish = "tool_calls" if called else "stop"
    reply = Reply(Message("assistant", (Text(text), *called)), finish, Usage(3, 2, 1, 0, 1), "m", id)
    told = openai_chat.answer(reply, id=id, created=1)
    ChatCompletion.model_validate(told)
    assert openai_chat.whole(told) == reply


ODD = {
    "without index, id and the right reason": [
        call(name="f", arguments='{"x":'),
        call(arguments="1}"),
        call(name="g", arguments="{}"),
        finish("stop"),
    ],
    "with the same id and name in every piece": [
        call(0, "a", name="f", arguments='{"x":'),
        call(0, "a", name="f", arguments="1}"),
        call(1, "b", name="g", arguments={}),
        finish("tool_calls"),
    ],
    "with the same index and id": [
        call(0, "a", name="f", arguments='{"x":1}'),
        call(0, "b", name="g", arguments="{}"),
        finish("stop"),
    ],
    "with indices that make no sense": [
        call(3_000_000, "a", name="f", arguments='{"x":1}'),
        {"choices": [{"delta": {"tool_calls": [{"index": "x", "id": "b", "function": {"name": "g"}}, 5]}}]},
        call(-1, "c", name="h", arguments="{}"),
        finish("stop"),
    ],
}
"""Chunks of servers that call themselves compatible."""


@pytest.mark.parametrize("chunks", ODD.values(), ids=ODD)
def test_odd_chunks_are_passed_on_as_openai_would_send_them(chunks: list[dict[str, Any]]) -> None:
    writing = openai_chat.Writing(id="1", created=1, model="m")
    gathering = openai_chat.Gathering(id="1", created=1, model="m")
    names: dict[int, str] = {}
    ids: dict[int, str] = {}
    for chunk in chunks:
        gathering.feed(chunk)
        told = writing.given(chunk)
        ChatCompletionChunk.model_validate(told)
        for piece in told["choices"][0]["delta"].get("tool_calls", ()):
            assert (piece["index"] in ids) is ("id" not in piece)
            ids.setdefault(piece["index"], piece.get("id"))
            names[piece["index"]] = names.get(piece["index"], "") + piece["function"].get("name", "")
    assert list(names.values()) == ["f", "g", "h"][: len(names)]
    assert list(names) == list(range(len(names)))
    assert len(set(ids.values())) == len(names) >= 2
    assert told["choices"][0]["finish_reason"] == "tool_calls"
    answer = gathering.answer(read(*chunks))
    ChatCompletion.model_validate(answer)
    [choice] = answer["choices"]
    assert [each["function"]["name"] for each in choice["message"]["tool_calls"]] == list(names.values())
    assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]) == {"x": 1}
    assert choice["finish_reason"] == "tool_calls"


def test_of_choices_that_nobody_asked_for_some_are_kept() -> None:
    gathering = openai_chat.Gathering(id="1", created=1, model="m")
    for at in range(1000):
        gathering.feed({"choices": [{"index": at, "delta": {"content": "x"}, "logprobs": 5}, None]})
    assert len(gathering.answer(read(delta(content="x")))["choices"]) == 128
