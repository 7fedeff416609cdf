"""What several of these files do with JSON."""

import json
from collections.abc import Iterable, Mapping
from typing import Any


def rest(
    value: Mapping[str, Any], taken: Iterable[str], inner: str = "", taken_inside: Iterable[str] = ()
) -> dict[str, Any]:
    """The fields of an object, and of the one in it, that nobody here reads."""
    left = {name: each for name, each in value.items() if name not in taken and each is not None}
    inside = value.get(inner)
    if isinstance(inside, Mapping) and (left_inside := rest(inside, taken_inside)):
        left[inner] = left_inside
    return left


def joined(made: dict[str, Any], extra: Mapping[str, Any], inner: str) -> dict[str, Any]:
    """The opposite of `rest`."""
    if not extra:
        return made
    return made | {**extra, inner: made[inner] | dict(extra.get(inner) or {})}


def written_out(arguments: Any) -> str:
    """Arguments as text, which is what they should have been."""
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    return json.dumps(arguments)
