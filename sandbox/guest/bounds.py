"""What may pass of a kernel's words, and how much: whatever it says may be a program's to make up."""

import contextlib
import json
from collections.abc import Collection
from typing import Any

from sandbox.guest.frames import MAX_ARGUMENTS, BadFrame, arguments_of

MAX_CALLS = 16 * MAX_ARGUMENTS
"""Bytes of one message with calls. A kernel puts five of the longest arguments into it, escaped once more."""
MAX_SAID = 4 << 20
"""Bytes of a message with an error, or with a reply. A kernel cuts what it says of an error far below."""
LEFT_OUT = "left_out"
"""The key by which a kernel says that forms of a result were too large."""
_ENVELOPE = 64 << 10
"""Bytes of a message with a result that may come on top of the result's forms."""
_ERROR_TEXT = 64 << 10
_NAMES = 30
"""Of those that an error found, how many are told."""
_NAME = 160
"""Characters of one of them."""
_MIME_TYPES = frozenset(
    {
        "text/plain",
        "text/html",
        "text/markdown",
        "text/latex",
        "image/png",
        "image/jpeg",
        "image/gif",
        "image/webp",
        "image/svg+xml",
        "application/json",
        "application/pdf",
        "application/geo+json",
        "application/vnd.plotly.v1+json",
        "application/vnd.dataresource+json",
    }
)
"""What may pass; scripts and widgets may not."""
_DEPTH = 100
"""Levels of a form that is JSON. No figure has as many, and not every reader of JSON takes more."""


def max_result(room: int) -> int:
    """Bytes of a message with a result of which `room` bytes may be kept. A kernel leaves out the forms that are over
    that; what is longer all the same is not worth the time to read it, which is the program's.
    """
    return room + _ENVELOPE


def result(content: dict[str, Any], room: int) -> tuple[dict[str, Any], int, bool]:
    """The forms of a rich result that fit into `room` bytes of JSON, how many bytes they take, and whether something
    had to be left out, here or before.
    """
    bundle = content.get("data")
    data: dict[str, Any] = bundle if isinstance(bundle, dict) else {}
    kept, left, left_out = {}, room, content.get(LEFT_OUT) is True
    # text/plain first: it is what remains when the rich forms are too large.
    for mime in sorted(data, key=lambda mime: mime != "text/plain"):
        if mime not in _MIME_TYPES or not (isinstance(data[mime], str) or mime.endswith("json")):
            continue
        size = len(json.dumps(data[mime]))
        if size <= left and _is_shallow(data[mime]):
            kept[mime] = data[mime]
            left -= size
        else:
            left_out = True
    return kept, room - left, left_out or not kept


def _is_shallow(value: object) -> bool:
    """Whether a value read from JSON has no more levels than a form of a result may have."""
    level = [value]
    for _ in range(_DEPTH):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return True
    return False


def error(content: dict[str, Any]) -> dict[str, Any]:
    """The body of an ERROR frame."""
    lines = content.get("traceback")
    text = "\n".join(str(line) for line in lines) if isinstance(lines, list) else ""
    value = {"name": content.get("ename"), "value": content.get("evalue"), "traceback": text}
    bounded: dict[str, Any] = {key: str(item or "")[:_ERROR_TEXT] for key, item in value.items()}
    names = content.get("available")
    bounded["looked_in"] = _line(content.get("looked_in"))
    bounded["available"] = [_line(name) for name in names[:_NAMES]] if isinstance(names, list) else []
    return bounded


def is_call(call: Any, functions: Collection[str], waiting: Collection[int]) -> bool:
    """Whether it is one of the caller's functions, with a number that does not wait for an answer already."""
    match call:
        case [int(number), str(name), str(arguments)] if name in functions and number not in waiting:
            with contextlib.suppress(BadFrame):
                arguments_of(arguments)
                return type(number) is int and 0 < number < 1 << 53  # True is a number to Python alone
    return False


def _line(text: object) -> str:
    return " ".join(str(text or "")[: 4 * _NAME].split())[:_NAME]
