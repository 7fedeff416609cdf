"""Messages as JSON and back, with nothing lost: what a trace keeps, and what a later run goes on from."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from sandbox.loop.messages import Image, Message, Opaque, Part, Text, ToolCall, ToolResult

_KINDS: Mapping[str, type[Any]] = {
    "text": Text,
    "image": Image,
    "tool_call": ToolCall,
    "tool_result": ToolResult,
    "opaque": Opaque,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def to_json(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Parts of a message."""
    return [_part(part) for part in parts]


def _part(part: Part) -> dict[str, Any]:
    fields = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    if isinstance(part, ToolResult):
        fields["parts"] = to_json(part.parts)
    return {"type": _NAMES[type(part)], **fields}


def from_json(parts: Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
    """The reverse of `to_json`."""
    return tuple(_from(part) for part in parts)


def _from(part: Mapping[str, Any]) -> Part:
    fields = {name: value for name, value in part.items() if name != "type"}
    if part["type"] == "tool_result":
        fields["parts"] = from_json(fields["parts"])
    made: Part = _KINDS[part["type"]](**fields)
    return made


def message_to_json(message: Message) -> dict[str, Any]:
    """A message."""
    return {"role": message.role, "parts": to_json(message.parts)}


def message_from_json(told: Mapping[str, Any]) -> Message:
    """The reverse of `message_to_json`."""
    return Message(told["role"], from_json(told["parts"]))
