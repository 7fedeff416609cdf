"""What came of a call of a hosted tool: as a block of the dialect, and as a model is told of it."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from sandbox.execution import Execution, Status
from sandbox.loop.anthropic_messages import programs
from sandbox.loop.messages import Image, Text
from sandbox.loop.told import STDERR, STDOUT, cut

PYTHON = "code_execution"
BASH = "bash_code_execution"
EDITOR = "text_editor_code_execution"

_SIGNAL = 128
_KILLED = _SIGNAL + 9
_INTERRUPTED = _SIGNAL + 2
_LATE = 124
"""The exit status of timeout(1) for what it has ended."""
_IMAGE = "image/"
_EDITED = {"file_type": "view", "is_file_update": "create", "lines": "str_replace"}
"""What the editor says of one of its commands alone."""
_MOST = 12_000
"""Characters that a model is told of a file."""


def content(name: str, execution: Execution, *, late_is_result: bool = False) -> dict[str, Any]:
    """What is in the result block of that tool's call.

    late_is_result: a program that took too long has a result like any other, and no error.
    """
    if execution.status is Status.CANCELLED:
        return failure(name, "unavailable", execution.reason)
    if execution.status is Status.TIMEOUT and not late_is_result:
        return failure(name, "execution_time_exceeded")
    if name == PYTHON:
        return _ended(name, execution, _python_output(execution), 0 if execution.status is Status.OK else 1)
    said = programs.said(execution)
    if name == BASH:
        status = said.get("return_code") if said else None
        if execution.status is Status.OK and isinstance(status, int):
            return _ended(name, execution, execution.stdout, status)
        if execution.status in (Status.OK, Status.ERROR):
            return failure(name, "unavailable")
        return _ended(name, execution, execution.stdout, 1)
    if said is None or execution.status is not Status.OK:
        return failure(name, "unavailable", execution.reason or (execution.error.value if execution.error else ""))
    if "error_code" in said:
        return failure(name, str(said["error_code"]), str(said.get("error_message") or ""))
    command = next((word for field, word in _EDITED.items() if field in said), "view")
    return {**said, "type": f"{EDITOR}_{command}_result"}


def failure(name: str, code: str, message: str = "") -> dict[str, Any]:
    """What is in the block of a call that has no result."""
    told = {"type": f"{name}_tool_result_error", "error_code": code}
    return told | ({"error_message": message or None} if name == EDITOR else {})


def _ended(name: str, execution: Execution, stdout: str, code: int) -> dict[str, Any]:
    stderr = execution.stderr
    match execution.status:
        case Status.ERROR:
            stderr += execution.error.traceback if execution.error else execution.reason
        case Status.TIMEOUT:
            code = _LATE
            stderr += f"Execution timed out: detection timeout after {execution.duration_ms / 1000:.0f} s"
        case Status.OOM:
            code = _KILLED
            stderr += "Killed: out of memory"
        case Status.KILLED:
            code = _KILLED
            stderr += f"Killed: {execution.reason}"
        case Status.INTERRUPTED:
            code = _INTERRUPTED
            stderr += "Interrupted"
    return {"type": f"{name}_result", "stdout": stdout, "stderr": stderr, "return_code": code, "content": []}


def _python_output(execution: Execution) -> str:
    """Stdout, and below it the values that a notebook would show as text."""
    values = [
        text
        for data in execution.results
        if isinstance(text := data.get("text/plain"), str) and not any(mime.startswith(_IMAGE) for mime in data)
    ]
    if not values:
        return execution.stdout
    head = execution.stdout if not execution.stdout or execution.stdout.endswith("\n") else execution.stdout + "\n"
    return head + "\n".join(values) + "\n"


# What a model is told.


def failed(told: Mapping[str, Any]) -> bool:
    """Whether a block's content says that something went wrong."""
    return "error_code" in told or told.get("return_code") not in (None, 0)


def told(told: Mapping[str, Any]) -> tuple[Text | Image, ...]:
    """A block's content in words. It may be a caller's, and be anything."""
    if told.get("file_type") == "image" and isinstance(told.get("content"), str):
        return (Text("The image:"), Image(_mime(told["content"]), told["content"]))
    return (Text("\n".join(_words(told))),)


def _words(told: Mapping[str, Any]) -> Iterator[str]:
    if "error_code" in told:
        yield f"error: {told['error_code']}"
        if told.get("error_message"):
            yield str(told["error_message"])
    elif "return_code" in told:
        yield f"return_code: {told['return_code']}"
        for name, most in (("stdout", STDOUT), ("stderr", STDERR)):
            if text := str(told.get(name) or "").rstrip():
                yield f"{name}:\n{cut(text, most)}"
    elif "is_file_update" in told:
        yield "The file was replaced." if told["is_file_update"] else "The file was made."
    elif isinstance(told.get("lines"), list):
        yield "\n".join(map(str, told["lines"]))
    elif told.get("file_type") == "pdf":
        yield "A PDF; read it with a program."
    elif isinstance(shown := told.get("content"), str):
        if told.get("total_lines") != told.get("num_lines"):
            yield f"{told.get('num_lines')} of {told.get('total_lines')} lines, from line {told.get('start_line')}:"
        yield cut(shown, _MOST)
    else:
        yield json.dumps(told, ensure_ascii=False, default=str)


_MAGIC = {"iVBOR": "image/png", "/9j/": "image/jpeg", "R0lG": "image/gif", "UklG": "image/webp"}


def _mime(encoded: str) -> str:
    return next((mime for magic, mime in _MAGIC.items() if encoded.startswith(magic)), "image/png")
