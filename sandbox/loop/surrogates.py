"""Halves of characters, which JSON can say (`"\\ud83d"`) and no encoding can write: none comes in, none goes out."""

import json
import math
from collections.abc import Mapping
from typing import Any

LEVELS = 128
"""How deep what comes in may be nested; what is made of it goes a little deeper, and must still be encodable."""
_NESTED = (dict, list, tuple, Mapping)
"""In this order, because it takes long to ask whether something is a mapping of another kind."""


def encodable(value: Any, levels: int = LEVELS, *, finite: bool = False) -> Any:
    """The JSON value with U+FFFD for each half of a pair; two that belong together become their character.

    Raises `ValueError` for what is nested deeper than that, and if it has to be finite for numbers that are not, such
    as `1e999`: an encoder would break at it later.
    """
    if isinstance(value, str):
        return value if value.isascii() else _text(value)
    if finite and isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number in it is infinite, or none")
    if value is None or isinstance(value, int | float):
        return value  # the most there are, before what takes long to ask
    if isinstance(value, _NESTED) and not levels:
        raise ValueError("it is nested too deeply")
    if isinstance(value, list | tuple):
        found = []
        for each in value:  # without a comprehension, which would take a second frame of the stack for each level
            found.append(encodable(each, levels - 1, finite=finite))
        return found
    if isinstance(value, dict | Mapping):
        made = {}
        for name, each in value.items():
            made[encodable(name)] = encodable(each, levels - 1, finite=finite)
        return made
    return value


def encoded(value: Any) -> bytes:
    """The JSON value as an upstream gets it: `encodable`, in UTF-8.

    Raises `ValueError` for what is nested too deeply and for numbers that are not finite.
    """
    try:
        try:
            return _written(value)
        except (UnicodeEncodeError, TypeError):  # a half, or a mapping that is no dict: to look first would cost more
            return _written(encodable(value, 2 * LEVELS))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _written(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
