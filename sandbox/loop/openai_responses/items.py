"""The items of a program's input, in one form, and the files that they bring along."""

import base64
import binascii
import hashlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sandbox.errors import InvalidField
from sandbox.loop.messages import MOST_MESSAGES
from sandbox.loop.openai_responses import checks

_PREFIXES = {
    "message": "msg_",
    "code_interpreter_call": "ci_",
    "function_call": "fc_",
    "function_call_output": "fco_",
    "reasoning": "rs_",
    "item_reference": "ref_",
}
"""Types of items that are taken, and how their ids begin."""
_ROLES = ("user", "assistant", "system", "developer")
_PARTS = frozenset({"input_text", "output_text", "text", "refusal", "input_image", "input_file"})


@dataclass(frozen=True, slots=True)
class Given:
    """A file that a part of the input names or brings."""

    key: str
    """The same for the same file."""
    field: str
    """Where it is in the request."""
    name: str
    """As the part says; empty for one that is named by its id."""
    file_id: str | None
    data: bytes | None
    """When it has no id."""
    is_image: bool


def new_id(kind: str) -> str:
    """For an item of that type."""
    return _PREFIXES[kind] + uuid.uuid4().hex


def normalised(given: Any) -> tuple[Mapping[str, Any], ...]:
    """Items with a type and an id, whose contents are lists of parts. Raises `InvalidField`."""
    if isinstance(given, str) and given:
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise InvalidField("input", "text or a list of at least one item is needed")
    if len(given) > MOST_MESSAGES:
        raise InvalidField("input", f"a conversation has {MOST_MESSAGES:,} items at most")
    return tuple(_item(item, f"input[{at}]") for at, item in enumerate(given))


def _item(item: Any, field: str) -> Mapping[str, Any]:
    item = checks.mapping(item, field)
    kind = checks.text(item.get("type"), f"{field}.type") or "message"
    match kind:
        case "message":
            return _message(item, field)
        case "code_interpreter_call":
            checks.name(item.get("container_id"), f"{field}.container_id")
            checks.text(item.get("code"), f"{field}.code")
            checks.sequence(item.get("outputs"), f"{field}.outputs")
        case "function_call":
            checks.name(item.get("call_id"), f"{field}.call_id")
            checks.name(item.get("name"), f"{field}.name")
            checks.text(item.get("arguments"), f"{field}.arguments")
        case "function_call_output":
            checks.name(item.get("call_id"), f"{field}.call_id")
            if not isinstance(item.get("output"), str):
                _parts(item.get("output"), f"{field}.output")
        case "item_reference":
            checks.name(item.get("id"), f"{field}.id")
        case "reasoning":
            pass
        case _:
            raise InvalidField(f"{field}.type", f"{kind[:80]!r} is not taken here; leave such items out")
    return {**item, "type": kind, "id": _id(item, kind)}


def _message(item: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    role = item.get("role")
    if role not in _ROLES:
        raise InvalidField(f"{field}.role", f"it must be one of {', '.join(_ROLES)}")
    content = item.get("content")
    if isinstance(content, str):
        content = [{"type": "output_text" if role == "assistant" else "input_text", "text": content}]
    parts = _parts(content, f"{field}.content")
    made = {"id": _id(item, "message"), "type": "message", "status": item.get("status") or "completed", "role": role}
    return {**item, **made, "content": parts}


def _id(item: Mapping[str, Any], kind: str) -> str:
    given = item.get("id")
    return given if isinstance(given, str) and given else new_id(kind)


def _parts(content: Any, field: str) -> list[Mapping[str, Any]]:
    parts = checks.sequence(content, field)
    for at, part in enumerate(parts):
        kind = checks.kind(part, f"{field}[{at}]")
        if kind not in _PARTS:
            raise InvalidField(f"{field}[{at}].type", f"{kind[:80]!r} is not taken here")
    return parts


def contents(item: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The parts of an item that may have some."""
    content = item.get("output" if item["type"] == "function_call_output" else "content")
    return content if isinstance(content, list) and item["type"] != "reasoning" else ()


def files(items: Sequence[Mapping[str, Any]]) -> Iterator[Given]:
    """All that they bring, as often as they do. Raises `InvalidField`."""
    for at, item in enumerate(items):
        for number, part in enumerate(contents(item)):
            if (given := file(part, f"input[{at}].content[{number}]")) is not None:
                yield given


def file(part: Mapping[str, Any], field: str = "") -> Given | None:
    """What a part brings, if anything. Raises `InvalidField`."""
    is_image = part["type"] == "input_image"
    if part["type"] != "input_file" and not is_image:
        return None
    if file_id := checks.text(part.get("file_id"), f"{field}.file_id"):
        return Given(file_id, field, "", file_id, None, is_image)
    if is_image:
        return None
    if part.get("file_url"):
        raise InvalidField(f"{field}.file_url", "nothing is fetched from here; upload the file, or send file_data")
    data = _decoded(checks.name(part.get("file_data"), f"{field}.file_data"), f"{field}.file_data")
    named = checks.text(part.get("filename"), f"{field}.filename") or "file"
    return Given(f"{named}\n{hashlib.sha256(data).hexdigest()}", field, named, None, data, is_image)


def _decoded(data: str, field: str) -> bytes:
    """Of base64, in a `data:` URI or bare."""
    try:
        return base64.b64decode(data.rpartition(",")[2], validate=True)
    except (binascii.Error, ValueError):
        raise InvalidField(field, "it must be base64, such as data:text/csv;base64,YQo=") from None
