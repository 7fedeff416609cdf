"""What a program asks."""

from collections.abc import Iterator, Mapping
from typing import Any

from sandbox.errors import InvalidRequest
from sandbox.loop.messages import Function, Image, Message, Opaque, Part, Request, Role, Text, ToolCall, ToolResult
from sandbox.loop.openai_chat.calling import LIMIT
from sandbox.loop.openai_chat.fields import rest, written_out
from sandbox.loop.surrogates import encodable

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_READ = frozenset({"model", "messages", "tools", "tool_choice", "max_tokens", "temperature", "stop"})
_TRANSPORT = frozenset({"stream", "stream_options"})


def request(asked: Mapping[str, Any]) -> Request:
    """A program's request. Its `stream` and `stream_options` are matters of the transport and left out.

    Tools that are no functions stay in `extra["tools"]`, and a choice among them in `extra["tool_choice"]`. Raises
    `InvalidRequest`, whose message begins with the field.
    """
    asked = {name: _encodable(value, name) for name, value in asked.items()}
    functions, tools = _tools(asked.get("tools"))
    choice, chosen = _chosen(asked.get("tool_choice"))
    limit = asked.get(LIMIT) if asked.get(LIMIT) is not None else asked.get("max_tokens")
    extra = {name: value for name, value in asked.items() if name not in _READ | _TRANSPORT}
    extra |= {"tools": tools} if tools else {}
    extra |= {"tool_choice": chosen} if chosen is not None else {}
    return Request(
        model=_text(asked.get("model"), "model"),
        messages=_conversation(asked.get("messages")),
        functions=functions,
        tool_choice=choice,
        max_tokens=None if limit is None else _whole(limit, "max_tokens"),
        temperature=_number(asked.get("temperature"), "temperature"),
        stop=_stops(asked.get("stop")),
        extra=extra,
    )


def _encodable(value: Any, where: str) -> Any:
    try:
        return encodable(value, finite=True)
    except ValueError as error:
        raise InvalidRequest(f"{where}: {error}.") from error


def _conversation(messages: Any) -> tuple[Message, ...]:
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("messages: a list of at least one message is needed.")
    return tuple(_said(message, f"messages[{at}]") for at, message in enumerate(messages))


def _said(message: Any, where: str) -> Message:
    role = message.get("role") if isinstance(message, Mapping) else None
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidRequest(f"{where}.role: it must be one of {', '.join(_ROLES)}.")
    content = message.get("content")
    fields = {name: value for name, value in message.items() if name not in ("role", "content")}
    parts: tuple[Part, ...]
    if _ROLES[role] == "tool":
        called = fields.pop("tool_call_id", None) or f"call_{fields.get('name')}"
        parts = (ToolResult(_text(called, f"{where}.tool_call_id"), tuple(_plain(content, f"{where}.content"))),)
        fields = {} if role == "function" else fields
    else:
        parts = tuple(_parts(content, f"{where}.content"))
    if role == "assistant":
        parts += tuple(_made_calls(fields.pop("tool_calls", None), fields.pop("function_call", None), where))
    fields = {name: value for name, value in fields.items() if value is not None}
    fields |= {"role": role} if role == "developer" else {}
    return Message(_ROLES[role], (*parts, Opaque("openai", fields)) if fields else parts)


def _parts(content: Any, where: str) -> Iterator[Part]:
    if isinstance(content, str):
        yield from (Text(content),) if content else ()
    elif isinstance(content, list):
        for at, part in enumerate(content):
            yield _read_part(part, f"{where}[{at}]")
    elif content is not None:
        raise InvalidRequest(f"{where}: text or a list of parts is needed.")


def _plain(content: Any, where: str) -> Iterator[Text | Image]:
    for part in _parts(content, where):
        if not isinstance(part, Text | Image):
            raise InvalidRequest(f"{where}: a tool's result is text.")
        yield part


def _read_part(part: Any, where: str) -> Part:
    if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
        raise InvalidRequest(f"{where}: a part is an object with a type.")
    if part["type"] == "text":
        return Text(_text(part.get("text"), f"{where}.text", empty=True), rest(part, ("type", "text")))
    if part["type"] == "image_url":
        image = part.get("image_url")
        url = _text(image.get("url") if isinstance(image, Mapping) else image, f"{where}.image_url.url")
        return _image(url, rest(part, ("type", "image_url"), "image_url", ("url",)))
    return Opaque("openai", part)


def _image(url: str, extra: Mapping[str, Any]) -> Image:
    head, comma, data = url.partition(",")
    if comma and head.startswith("data:") and head.endswith(";base64"):
        return Image(head.removeprefix("data:").removesuffix(";base64"), data, extra=extra)
    return Image(url=url, extra=extra)


def _made_calls(calls: Any, legacy: Any, where: str) -> Iterator[Part]:
    if isinstance(legacy, Mapping):
        name = _text(legacy.get("name"), f"{where}.function_call.name")
        yield ToolCall(f"call_{name}", name, written_out(legacy.get("arguments")))
    if calls is not None and not isinstance(calls, list):
        raise InvalidRequest(f"{where}.tool_calls: a list is needed.")
    for at, call in enumerate(calls or ()):
        here = f"{where}.tool_calls[{at}]"
        if not isinstance(call, Mapping):
            raise InvalidRequest(f"{here}: an object is needed.")
        function = call.get("function")
        if not isinstance(function, Mapping):
            yield Opaque("openai", {"type": "custom"} | dict(call))
            continue
        yield ToolCall(
            _text(call.get("id"), f"{here}.id"),
            _text(function.get("name"), f"{here}.function.name"),
            written_out(function.get("arguments")),
            rest(call, ("id", "type", "function", "index"), "function", ("name", "arguments")),
        )


def _tools(tools: Any) -> tuple[tuple[Function, ...], list[Mapping[str, Any]]]:
    if tools is not None and not isinstance(tools, list):
        raise InvalidRequest("tools: a list is needed.")
    functions, others = [], []
    for at, tool in enumerate(tools or ()):
        if not isinstance(tool, Mapping) or not isinstance(tool.get("type"), str):
            raise InvalidRequest(f"tools[{at}].type: a tool is an object with a type.")
        function = tool.get("function")
        if tool["type"] != "function" or not isinstance(function, Mapping):
            others.append(tool)
            continue
        name = _text(function.get("name"), f"tools[{at}].function.name")
        extra = rest(tool, ("type", "function"), "function", ("name", "description", "parameters"))
        parameters, description = function.get("parameters") or {}, function.get("description") or ""
        if not isinstance(parameters, Mapping):
            raise InvalidRequest(f"tools[{at}].function.parameters: an object is needed, a JSON schema.")
        if not isinstance(description, str):
            raise InvalidRequest(f"tools[{at}].function.description: text is needed.")
        functions.append(Function(name, description, parameters, extra))
    return tuple(functions), others


def _chosen(choice: Any) -> tuple[str | None, Any]:
    """The choice as `Request` has it, or as it is."""
    if choice is None or choice in ("auto", "none", "required"):
        return choice, None
    function = choice.get("function") if isinstance(choice, Mapping) else None
    if isinstance(function, Mapping) and isinstance(function.get("name"), str):
        return function["name"], None
    return None, choice


def _stops(stop: Any) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(each, str) for each in stops):
        raise InvalidRequest("stop: text or a list of texts is needed.")
    return tuple(stops)


def _text(value: Any, where: str, *, empty: bool = False) -> str:
    if not isinstance(value, str) or not (value or empty):
        raise InvalidRequest(f"{where}: text is needed.")
    return value


def _whole(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidRequest(f"{where}: a whole number above 0 is needed.")
    return value


def _number(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidRequest(f"{where}: a number is needed.")
    return value
