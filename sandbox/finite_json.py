"""JSON that every parser takes, of whatever a program has put into its results, and fast: it may be megabytes."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import orjson

_COMPACT = (",", ":")
# Values of our own are not to become JSON by accident.
_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


def dumps(value: Any, default: Callable[[Any], Any] | None = None, *, ascii_only: bool = False) -> bytes:
    """Compact JSON in UTF-8; a number that is none becomes null. Raises `TypeError` for what is no JSON.

    default: as `json.dumps` has it. ascii_only: half a surrogate pair, which UTF-8 cannot say, makes all of it ASCII,
    so that it comes back as it was; otherwise it becomes a question mark.
    """
    with contextlib.suppress(orjson.JSONEncodeError):  # such a half, more than 64 bits, hundreds of levels
        return orjson.dumps(value, default, _OPTIONS)
    text = json.dumps(value, default=default, ensure_ascii=ascii_only, separators=_COMPACT)
    if "NaN" in text or "Infinity" in text:
        value = json.loads(text, parse_constant=lambda name: None)
        text = json.dumps(value, ensure_ascii=ascii_only, separators=_COMPACT)
    return text.encode("utf-8", "replace")
