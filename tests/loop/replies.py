"""Replies, requests and messages of every kind, for tests that hold for all of them."""

import itertools
import json
from typing import Any

from hypothesis import strategies as st

from sandbox.loop.messages import Function, Image, Message, Part, Request, Text, ToolCall, ToolResult

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
names = st.from_regex(r"[a-zA-Z0-9_-]{1,16}", fullmatch=True)
json_objects = st.dictionaries(names, st.one_of(st.integers(), words, st.lists(st.booleans(), max_size=3)), max_size=3)
texts = words.map(Text)
images = st.one_of(
    st.builds(Image, st.just("image/png"), st.just("iVBORw0KGgo=")),
    st.builds(Image, url=names.map("https://example.org/{}".format)),
)


@st.composite
def calls(draw: st.DrawFn) -> tuple[ToolCall, ...]:
    """Tool calls, each with an id of its own."""
    ids = draw(st.lists(names, max_size=3, unique=True))
    return tuple(ToolCall(each, draw(names), json.dumps(draw(json_objects))) for each in ids)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    """A system's message, then users, and assistants with the results of what they called."""
    messages = [Message("system", (draw(texts),))]
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message("user", tuple(draw(st.lists(st.one_of(texts, images), min_size=1, max_size=3)))))
        called = draw(calls())
        said: tuple[Part, ...] = (draw(texts),)
        messages.append(Message("assistant", said + called))
        messages += [Message("tool", (ToolResult(call.id, (draw(texts),)),)) for call in called]
    return tuple(messages)


functions = st.builds(
    Function, names, words, names.map(lambda name: {"type": "object", "properties": {name: {"type": "string"}}})
)
requests = st.builds(
    Request,
    model=names,
    messages=conversations(),
    functions=st.lists(functions, max_size=2).map(tuple),
    tool_choice=st.sampled_from([None, "auto", "none", "required", "run_python"]),
    max_tokens=st.one_of(st.none(), st.integers(1, 9999)),
    temperature=st.one_of(st.none(), st.floats(0, 1)),
    stop=st.lists(words, max_size=2).map(tuple),
    extra=st.sampled_from([{}, {"seed": 7, "response_format": {"type": "json_object"}}, {"max_completion_tokens": 5}]),
)


def cut(text: str, at: list[int]) -> list[str]:
    """A text in pieces that end at these places."""
    ends = sorted({min(each, len(text)) for each in at} | {0, len(text)})
    return [text[begin:end] for begin, end in itertools.pairwise(ends)]


def delta(**fields: Any) -> dict[str, Any]:
    """A chunk of OpenAI's."""
    return {"id": "chatcmpl-1", "model": "m", "choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


def finish(reason: str | None) -> dict[str, Any]:
    """The last chunk of OpenAI's but the usage."""
    return {"id": "chatcmpl-1", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
