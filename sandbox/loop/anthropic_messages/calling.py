"""What an upstream is asked."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from sandbox.loop.messages import Function, Image, Message, Opaque, Part, Request, Text, ToolCall, ToolResult
from sandbox.loop.surrogates import encodable

MAX_TOKENS = 8192
"""Of a request that names no limit: this dialect demands one, and its models of the last years all can."""
_CHOICES: Mapping[str, Mapping[str, Any]] = {
    "auto": {"type": "auto"},
    "none": {"type": "none"},
    "required": {"type": "any"},
}
_BEGIN = {"type": "text", "text": "Go on."}


def body(request: Request, *, upstream: str = "") -> dict[str, Any]:
    """A request's body, without `stream`.

    upstream: who gets it, by its name; what others said for themselves alone is left out. Of `extra`, which is in
    OpenAI's dialect, `parallel_tool_calls`, `top_p` and `user` have a meaning here.
    """
    made: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_tokens or MAX_TOKENS,
        "messages": _turns(request.messages, upstream),
    }
    if system := [block for message in request.messages if message.role == "system" for block in _texts(message)]:
        made["system"] = system
    if request.functions:
        made["tools"] = [_tool(function) for function in request.functions]
        if choice := _choice(request):
            made["tool_choice"] = choice
    if stops := [stop for stop in request.stop if stop.strip()]:
        made["stop_sequences"] = stops
    return made | _sampling(request) | dict(request.anthropic)


def _sampling(request: Request) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if request.temperature is not None:
        made["temperature"] = min(request.temperature, 1.0)  # OpenAI's goes up to 2
    if request.extra.get("top_p") is not None:
        made["top_p"] = request.extra["top_p"]
    if isinstance(request.extra.get("user"), str):
        made["metadata"] = {"user_id": request.extra["user"]}
    return made


def _turns(messages: Sequence[Message], upstream: str) -> list[dict[str, Any]]:
    """Messages of two roles that take turns, none of them empty: what several say in a row becomes one."""
    said = [(_role(message), block) for message in messages for block in _blocks(message, upstream)]
    turns = [
        {"role": role, "content": [block for _, block in blocks]}
        for role, blocks in groupby(said, key=lambda each: each[0])
    ]
    if turns and turns[0]["role"] == "assistant":
        turns.insert(0, {"role": "user", "content": [_BEGIN]})
    return turns


def _role(message: Message) -> str:
    return "assistant" if message.role == "assistant" else "user"


def _blocks(message: Message, upstream: str) -> Iterator[dict[str, Any]]:
    for part in () if message.role == "system" else message.parts:
        yield from _block(part, upstream)


def _texts(message: Message) -> Iterator[dict[str, Any]]:
    return (block for part in message.parts if isinstance(part, Text) for block in _block(part, ""))


def _block(part: Part, upstream: str) -> Iterator[dict[str, Any]]:
    match part:
        case Text() if part.text.strip():  # blank ones are refused
            yield {"type": "text", "text": part.text} | _cached(part.extra)
        case Image():
            yield {"type": "image", "source": _source(part)} | _cached(part.extra)
        case ToolCall():
            yield {"type": "tool_use", "id": _id(part.id), "name": part.name, "input": _input(part.arguments)}
        case ToolResult():
            yield _result(part)
        case Opaque(dialect="anthropic") if part.value.get("type") and part.upstream in ("", upstream):
            yield dict(part.value)


def _result(result: ToolResult) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "tool_result", "tool_use_id": _id(result.call_id)}
    if content := [block for part in result.parts for block in _block(part, "")]:
        made["content"] = content
    return made | ({"is_error": True} if result.failed else {})


def _source(image: Image) -> dict[str, Any]:
    if image.url:
        return {"type": "url", "url": image.url}
    return {"type": "base64", "media_type": image.mime, "data": image.data}


def _cached(extra: Mapping[str, Any]) -> dict[str, Any]:
    """The one field that gateways of OpenAI's dialect have borrowed from here."""
    return {"cache_control": extra["cache_control"]} if extra.get("cache_control") else {}


def _id(name: str) -> str:
    """A call's id with the characters that are taken; those of other servers may have any."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name) or "call"


def _input(arguments: str) -> dict[str, Any]:
    """Arguments as an object, which they have to be here whatever the model wrote."""
    if not arguments.strip():
        return {}
    try:
        read = encodable(json.loads(arguments), finite=True)
    except (ValueError, RecursionError):
        read = None
    return read if isinstance(read, dict) else {"invalid": arguments}


def _tool(function: Function) -> dict[str, Any]:
    made: dict[str, Any] = {"name": function.name}
    if function.description:
        made["description"] = function.description
    return made | {"input_schema": {"type": "object"} | dict(function.parameters)} | _cached(function.extra)


def _choice(request: Request) -> dict[str, Any]:
    one = request.extra.get("parallel_tool_calls") is False and request.tool_choice != "none"
    if request.tool_choice is None and not one:
        return {}
    choice = request.tool_choice or "auto"
    made = dict(_CHOICES.get(choice, {"type": "tool", "name": choice}))
    return made | ({"disable_parallel_tool_use": True} if one else {})
