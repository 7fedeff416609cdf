"""Functions of the caller's that programs may await: as Python has them, and as a model is told of them."""

import json
import keyword
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sandbox.errors import InvalidRequest
from sandbox.execution import Functions
from sandbox.loop.messages import Function

_TYPES = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "array": "list",
    "object": "dict",
    "null": "None",
}
_CHOICES = 12
"""Values of an enumeration that are named."""
_NAMES = 1 << 18
"""Characters of all names, parameters' included: they go into the sandbox together with the code."""
_WORDS = 2000
"""Characters of one description."""


def by_name(functions: Sequence[Function]) -> dict[str, Function]:
    """Python's name for each. Raises `InvalidRequest` when two have the same, or all are too long."""
    named: dict[str, Function] = {}
    for function in functions:
        if (first := named.setdefault(python_name(function.name), function)) is not function:
            raise InvalidRequest(f"tools: {first.name} and {function.name} cannot both be called by code; rename one")
    if sum(len(name) + sum(map(len, _parameters(function))) for name, function in named.items()) > _NAMES:
        raise InvalidRequest(f"tools: those that code may call have names of more than {_NAMES:,} characters in all")
    return named


def python_name(name: str) -> str:
    """A name that code can call it by: `get-weather` is `get_weather`."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"_{plain}" if plain[:1].isdigit() or keyword.iskeyword(plain) or not plain else plain


def lent(functions: Mapping[str, Function], answer_within_s: float) -> Functions:
    """As an interpreter takes them, by their names in Python."""
    parameters = {name: tuple(_parameters(function)) for name, function in functions.items()}
    return Functions(parameters, answer_within_s)


def described(functions: Mapping[str, Function]) -> str:
    """What a model must know to call them from its code."""
    return "\n".join(
        (
            "Code may call these async functions; several at once with asyncio.gather. Await them at the top level of "
            "the code, not in asyncio.run(). Each returns text, often JSON; when it fails it raises an exception. Use "
            "them in loops and filter what they return: only what is printed comes back.",
            *(_signature(name, function) for name, function in functions.items()),
        )
    )


def _signature(name: str, function: Function) -> str:
    required = _required(function)
    told, lines = [], []
    for parameter, schema in _parameters(function).items():
        kind = _type(schema)
        told.append(f"{parameter}: {kind}" if parameter in required else f"{parameter}: {kind} = ...")
        if words := _described(schema.get("description")):
            lines.append(f"    {parameter}: {words}")
    head = f"- await {name}({', '.join(told)})"
    words = _described(function.description)
    return "\n".join((f"{head}: {words}" if words else head, *lines))


def _described(words: object) -> str:
    return " ".join(words[:_WORDS].split()) if isinstance(words, str) else ""


def _parameters(function: Function) -> dict[str, Mapping[str, Any]]:
    """Those that must be given come first, as Python wants it."""
    properties = function.parameters.get("properties")
    schemas = properties if isinstance(properties, Mapping) else {}
    required = _required(function)
    ordered = sorted(schemas, key=lambda name: name not in required)
    return {str(name): schemas[name] if isinstance(schemas[name], Mapping) else {} for name in ordered}


def _required(function: Function) -> frozenset[str]:
    required = function.parameters.get("required")
    return frozenset(each for each in required if isinstance(each, str)) if isinstance(required, list) else frozenset()


def _type(schema: Mapping[str, Any]) -> str:
    choices = schema.get("enum")
    if isinstance(choices, list) and 0 < len(choices) <= _CHOICES:
        return " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
    kind = schema.get("type")
    kinds = [_TYPES.get(str(each), "Any") for each in (kind if isinstance(kind, list) else [kind])]
    items = schema.get("items")
    if kinds == ["list"] and isinstance(items, Mapping) and "type" in items:
        return f"list[{_type(items)}]"
    return " | ".join(kinds)
