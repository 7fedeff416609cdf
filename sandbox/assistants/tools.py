"""What assistants, threads and runs may have of tools and files."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sandbox.errors import InvalidField
from sandbox.keys import Owner
from sandbox.loop import tool
from sandbox.node import Node

MOST_FILES = 20
"""For the code interpreter, of an assistant and again of a thread."""
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_NO_SEARCH = "file_search is not here; attach files for code_interpreter, whose programs can read them"


def checked_tools(tools: Sequence[Mapping[str, Any]] | None, where: str = "tools") -> list[dict[str, Any]] | None:
    """Raises `InvalidRequest` for a tool that is not here."""
    if tools is None:
        return None
    for at, each in enumerate(tools):
        kind = each.get("type")
        if kind == "function":
            _check_function(each.get("function"), f"{where}[{at}].function", tools)
        elif kind != "code_interpreter":
            raise InvalidField(f"{where}[{at}].type", _refused(kind))
    return [dict(each) for each in tools]


def _refused(kind: object) -> str:
    return _NO_SEARCH if kind == "file_search" else f"it is {kind!r}; choose code_interpreter or function"


def _check_function(function: Any, where: str, tools: Sequence[Mapping[str, Any]]) -> None:
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidField(f"{where}.name", "1 to 64 letters, digits, dashes and underscores are needed")
    if not isinstance(function.get("parameters") or {}, Mapping):
        raise InvalidField(f"{where}.parameters", "an object is needed, a JSON schema")
    if not isinstance(function.get("description") or "", str):
        raise InvalidField(f"{where}.description", "text is needed")
    if name == tool.NAME and any(each.get("type") == "code_interpreter" for each in tools):
        raise InvalidField(f"{where}.name", f"{name} is the code interpreter's own function; choose another name")


def checked_choice(choice: Any, tools: Sequence[Mapping[str, Any]]) -> Any:
    """A `tool_choice`. Raises `InvalidRequest` when the run has no such tool."""
    if choice is None or choice in ("none", "auto", "required"):
        return choice
    kind = choice.get("type") if isinstance(choice, Mapping) else None
    if kind not in ("code_interpreter", "function"):
        raise InvalidField("tool_choice", _refused(kind))
    given = choice.get("function")
    name = given.get("name") if isinstance(given, Mapping) else None
    for each in tools:
        if each["type"] == kind and (kind != "function" or each["function"]["name"] == name):
            return choice
    raise InvalidField("tool_choice", f"among this run's tools there is no {name or kind}")


async def checked_resources(
    node: Node, owner: Owner, resources: Mapping[str, Any] | None, where: str = "tool_resources"
) -> dict[str, Any] | None:
    """What of them is here: the files of the code interpreter. Raises `InvalidRequest`, `FileMissing`."""
    if resources is None:
        return None
    search = resources.get("file_search")
    if isinstance(search, Mapping) and any(search.values()):
        raise InvalidField(f"{where}.file_search", _NO_SEARCH)
    interpreter = resources.get("code_interpreter")
    if interpreter is None:
        return {}
    file_ids = (interpreter.get("file_ids") if isinstance(interpreter, Mapping) else None) or []
    if not isinstance(file_ids, list) or not all(isinstance(each, str) for each in file_ids):
        raise InvalidField(f"{where}.code_interpreter.file_ids", "a list of ids of files is needed")
    if len(file_ids) > MOST_FILES:
        raise InvalidField(f"{where}.code_interpreter.file_ids", f"there may be {MOST_FILES} files")
    for file_id in file_ids:
        await node.kept.row(owner, "openai", file_id)
    return {"code_interpreter": {"file_ids": file_ids}}


def files_of(thing: Mapping[str, Any]) -> list[str]:
    """The ids of an assistant's or a thread's files for the code interpreter."""
    interpreter = thing["tool_resources"].get("code_interpreter") or {}
    return list(interpreter.get("file_ids") or ())
