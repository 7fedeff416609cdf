"""The sub-tools of Anthropic's code execution, as programs in a session's kernel."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sandbox.execution import Execution
from sandbox.loop import tool
from sandbox.loop.anthropic_messages import programs, results
from sandbox.loop.anthropic_messages.results import BASH, EDITOR, PYTHON
from sandbox.loop.hosted import HostedTool
from sandbox.loop.interpreter import Facts
from sandbox.loop.messages import Function, Image, Text
from sandbox.remote import File

_EDITS: Mapping[str, tuple[str, ...]] = {
    "view": (),
    "create": ("file_text",),
    "str_replace": ("old_str", "new_str"),
}
"""Commands of the editor, and the texts that each needs besides a path."""


@dataclass(frozen=True, slots=True)
class Version:
    """What a type of the tool offers."""

    type: str
    tools: tuple[HostedTool, ...]
    late_is_result: bool = False
    """A Python cell that took too long has a result like any other."""
    calls: bool = False
    """Its Python may call tools of the caller's."""


def _python(facts: Facts, files: Sequence[File]) -> Function:
    made = tool.function(facts, files)
    return Function(PYTHON, made.description, made.parameters)


def _python_code(arguments: str, cut_off: bool) -> str:
    try:
        return tool.code_of(arguments, whole=cut_off)
    except tool.Unusable as error:
        raise tool.Unusable(str(error).replace(tool.NAME, PYTHON)) from None


def _bash(facts: Facts, files: Sequence[File]) -> Function:
    about = (
        "Run a command with bash in a sandbox without network. It starts in /mnt/data, whose files stay for later "
        f"calls. Python {facts.python} is there as `python`, with {tool.libraries(facts)}. "
        f"Limits: {facts.memory_mb} MB of memory, {facts.disk_mb} MB in /mnt/data, {facts.timeout_s:g} s per call. "
        "To give the user a file, write it into the directory $OUTPUT_DIR, which is new and empty for each call. "
        f"/mnt/data holds {tool.listing(files)}."
    )
    command = {"type": "string", "description": "The command, or a script of several lines."}
    return Function(BASH, about, _object({"command": command}, "command"))


def _bash_code(arguments: str, cut_off: bool) -> str:
    command = _arguments(arguments, BASH, '{"command": "ls -l"}').get("command")
    if not isinstance(command, str) or not command.strip():
        raise tool.Unusable(f'no command came. Call {BASH} with one JSON object: {{"command": "ls -l"}}')
    if "\0" in command:
        raise tool.Unusable("the command has a NUL character, which no program can be given")
    return programs.cell("bash", {"command": command})


def _editor(facts: Facts, files: Sequence[File]) -> Function:
    about = (
        "Look at, create and change files of the sandbox. Paths are absolute, or below /mnt/data. `view` shows a "
        "file, with view_range [first, last] only these lines, or lists a directory; `create` writes file_text as the "
        "whole file; `str_replace` puts new_str in the place of old_str, which must be in the file exactly once."
    )
    text = {"type": "string"}
    fields = {
        "command": {"type": "string", "enum": list(_EDITS)},
        "path": text,
        "view_range": {"type": "array", "items": {"type": "integer"}},
        "file_text": text,
        "old_str": text,
        "new_str": text,
    }
    return Function(EDITOR, about, _object(fields, "command", "path"))


def _editor_code(arguments: str, cut_off: bool) -> str:
    asked = _arguments(arguments, EDITOR, '{"command": "view", "path": "notes.txt"}')
    command, path = asked.get("command"), asked.get("path")
    if not isinstance(command, str) or command not in _EDITS:
        raise tool.Unusable(f"command must be one of {', '.join(_EDITS)}")
    if not isinstance(path, str) or not path or "\0" in path:
        raise tool.Unusable("path must be the path of a file")
    texts = {name: asked.get(name) for name in _EDITS[command]}
    if command == "str_replace" and texts["new_str"] is None:
        texts["new_str"] = ""
    if missing := [name for name, text in texts.items() if not isinstance(text, str)]:
        raise tool.Unusable(f"{command} needs {missing[0]}, a text")
    lines = asked.get("view_range")
    if lines is not None and not (isinstance(lines, list) and len(lines) == 2 and all(type(at) is int for at in lines)):
        raise tool.Unusable("view_range must be two line numbers, such as [1, 20]; -1 is the end")
    return programs.cell("editor", {"command": command, "path": path, "view_range": lines, **texts})


def _object(properties: Mapping[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _arguments(arguments: str, name: str, example: str) -> Mapping[str, Any]:
    if len(arguments) > tool.LARGEST:
        raise tool.Unusable(f"the arguments are too long: {len(arguments):,} characters, {tool.LARGEST:,} at most")
    try:
        asked = json.loads(arguments, strict=False)
        arguments.encode()
        json.dumps(asked, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise tool.Unusable("the arguments have half of a character; write whole ones") from None
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, Mapping):
        raise tool.Unusable(f"the arguments are not valid JSON. Call {name} with one JSON object: {example}")
    return asked


def _told(name: str, execution: Execution) -> tuple[Text | Image, ...]:
    return results.told(results.content(name, execution))


_PYTHON = HostedTool(PYTHON, _python, _python_code, calls=True)
_BASH = HostedTool(BASH, _bash, _bash_code, lambda execution: _told(BASH, execution))
_EDITOR = HostedTool(EDITOR, _editor, _editor_code, lambda execution: _told(EDITOR, execution))

VERSIONS: Mapping[str, Version] = {
    version.type: version
    for version in (
        Version("code_execution_20250522", (_PYTHON,)),
        Version("code_execution_20250825", (_BASH, _EDITOR)),
        Version("code_execution_20260120", (_PYTHON, _BASH, _EDITOR), calls=True),
        Version("code_execution_20260521", (_PYTHON, _BASH, _EDITOR), late_is_result=True, calls=True),
    )
}
"""By the type that a caller names."""
