"""What an upstream is asked."""

import json
from collections.abc import Sequence
from typing import Any

from sandbox.loop.messages import Function, Image, Message, Opaque, Part, Request, Text, ToolCall, ToolResult
from sandbox.loop.openai_chat.fields import joined

LIMIT = "max_completion_tokens"
"""What `max_tokens` is called since there are models that think."""


def body(request: Request, *, upstream: str = "", limit: str = "max_tokens") -> dict[str, Any]:
    """A request's body, without `stream`.

    upstream: who gets it, by its name; what others said for themselves alone is left out. limit: the name of the field
    for `max_tokens`, for servers that insist on one; a request that came with `max_completion_tokens` keeps that name.
    """
    extra = dict(request.extra)
    made: dict[str, Any] = {"model": request.model, "messages": _messages(request.messages, upstream)}
    if tools := [_tool(function) for function in request.functions] + list(extra.pop("tools", ())):
        made["tools"] = tools
    if request.tool_choice is not None:
        made["tool_choice"] = _choice(request.tool_choice)
    named = LIMIT if extra.pop(LIMIT, None) is not None else limit
    if request.max_tokens is not None:
        made[named] = request.max_tokens
    if request.temperature is not None:
        made["temperature"] = request.temperature
    if request.stop:
        made["stop"] = list(request.stop)
    return made | extra


def _messages(messages: Sequence[Message], upstream: str) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    seen: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "tool":
            results, pictures = _results(message, upstream)
            made += results
            seen += pictures
            continue
        made += _shown(seen)
        seen = []
        made.append(_message(message, upstream))
    return made + _shown(seen)


def _shown(pictures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pictures of tool results. A `tool` message takes text only, and nothing may come between several of them."""
    if not pictures:
        return []
    return [{"role": "user", "content": [{"type": "text", "text": "What the tools returned as images:"}, *pictures]}]


def _results(message: Message, upstream: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    results, pictures = [], []
    for part in message.parts:
        if isinstance(part, ToolResult):
            texts = [inner for inner in part.parts if isinstance(inner, Text)]
            content = (
                [_part(text) for text in texts]
                if any(text.extra for text in texts)
                else "\n".join(text.text for text in texts)
            )
            results.append({"role": "tool", "tool_call_id": part.call_id, "content": content})
            pictures += [_part(inner) for inner in part.parts if isinstance(inner, Image)]
    if results:
        results[-1] |= fields(message, upstream)
    return results, pictures


def _message(message: Message, upstream: str) -> dict[str, Any]:
    made: dict[str, Any] = {"role": message.role, "content": _content(message, upstream)}
    if message.role == "assistant" and (made_calls := calls(message, upstream)):
        made |= {"content": made["content"] or None, "tool_calls": made_calls}
    return made | fields(message, upstream)


def _content(message: Message, upstream: str) -> str | list[dict[str, Any]]:
    parts = [part for part in message.parts if isinstance(part, Text | Image) or _is_content(part, upstream)]
    if all(isinstance(part, Text) and not part.extra for part in parts) and len(parts) < 2:
        return message.text
    return [_part(part) for part in parts]


def _is_content(part: Part, upstream: str) -> bool:
    return _theirs(part, upstream) and _kind(part) not in ("", "custom")


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Text():
            return {"type": "text", "text": part.text} | dict(part.extra)
        case Image():
            url = part.url or f"data:{part.mime};base64,{part.data}"
            return joined({"type": "image_url", "image_url": {"url": url}}, part.extra, "image_url")
        case Opaque():
            return dict(part.value)
    raise AssertionError(part)


def calls(message: Message, upstream: str) -> list[dict[str, Any]]:
    made = []
    for part in message.parts:
        if isinstance(part, ToolCall):
            function = {"name": part.name, "arguments": _sound(part.arguments)}
            # A program, which is no upstream, gets everything: it has to give it back.
            extra = part.extra if part.upstream in ("", upstream) or not upstream else {}
            made.append(joined({"id": part.id, "type": "function", "function": function}, extra, "function"))
        elif isinstance(part, Opaque) and _theirs(part, upstream) and _kind(part) == "custom":
            made.append(dict(part.value))
    return made


def _sound(arguments: str) -> str:
    """Arguments that servers can put into their templates: many fail for good when the history has other than JSON."""
    if not arguments.strip():
        return "{}"
    try:
        json.loads(arguments)
    except (ValueError, RecursionError):
        return json.dumps({"invalid": arguments})
    return arguments


def fields(message: Message, upstream: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in message.parts:
        if isinstance(part, Opaque) and _theirs(part, upstream) and not _kind(part):
            found |= part.value
    return found


def _theirs(part: Part, upstream: str) -> bool:
    return isinstance(part, Opaque) and part.dialect == "openai" and part.upstream in ("", upstream)


def _kind(part: Part) -> str:
    return str(part.value.get("type") or "") if isinstance(part, Opaque) else ""


def _tool(function: Function) -> dict[str, Any]:
    described = {"name": function.name, "description": function.description, "parameters": dict(function.parameters)}
    filled = {name: value for name, value in described.items() if value}
    return joined({"type": "function", "function": filled}, function.extra, "function")


def _choice(choice: str) -> Any:
    if choice in ("auto", "none", "required"):
        return choice
    return {"type": "function", "function": {"name": choice}}
