"""Fields of a program's request, each of the type it must have. Null is as good as absent."""

from collections.abc import Mapping
from typing import Any

from sandbox.errors import InvalidField


def text(value: Any, field: str) -> str:
    """Text, which may be empty only where it is absent. Raises `InvalidField`, as all of these do."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidField(field, "text is needed")
    return value


def name(value: Any, field: str) -> str:
    """Text that says something."""
    if not text(value, field):
        raise InvalidField(field, "it is needed")
    return str(value)


def flag(value: Any, field: str, *, default: bool) -> bool:
    """True or false."""
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidField(field, "it is true or false")
    return value


def whole(value: Any, field: str) -> int | None:
    """A whole number above 0."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise InvalidField(field, "a whole number above 0 is needed")
    return value


def number(value: Any, field: str) -> float | None:
    """A number."""
    if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
        raise InvalidField(field, "a number is needed")
    return value


def mapping(value: Any, field: str) -> Mapping[str, Any]:
    """An object, which may be absent."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidField(field, "an object is needed")
    return value


def sequence(value: Any, field: str) -> list[Any]:
    """A list, which may be absent."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidField(field, "a list is needed")
    return value


def kind(value: Any, field: str) -> str:
    """The `type` of an object that must have one."""
    return name(mapping(value, field).get("type"), f"{field}.type")
