"""What an execution put out, as an item `code_interpreter_call` has it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sandbox.execution import Execution, Status

_IMAGES = {"image/png": "png", "image/jpeg": "jpg"}
_COMPLETED = frozenset({Status.OK, Status.ERROR, Status.INTERRUPTED})
"""Code that raised has run; code whose kernel died under it has failed."""


@dataclass(frozen=True, slots=True)
class Figure:
    """An image that a program displayed."""

    mime: str
    data: str
    """In base64."""

    @property
    def suffix(self) -> str:
        """Of a file's name."""
        return _IMAGES[self.mime]


def status(execution: Execution) -> str:
    """Of the item."""
    return "completed" if execution.status in _COMPLETED else "failed"


def outputs(execution: Execution) -> list[dict[str, Any]]:
    """Logs, if there are any, as a notebook would show them as text; then the images."""
    logs = _logs(execution)
    told: list[dict[str, Any]] = [{"type": "logs", "logs": logs}] if logs else []
    return told + [{"type": "image", "url": f"data:{each.mime};base64,{each.data}"} for each in figures(execution)]


def figures(execution: Execution) -> tuple[Figure, ...]:
    """What it displayed."""
    found = (_figure(bundle) for bundle in execution.results)
    return tuple(figure for figure in found if figure is not None)


def _figure(bundle: Mapping[str, Any]) -> Figure | None:
    for mime in _IMAGES:
        if isinstance(data := bundle.get(mime), str):
            return Figure(mime, "".join(data.split()))
    return None


def _logs(execution: Execution) -> str:
    logs = ""
    for piece in _pieces(execution):
        logs += piece if not logs or logs.endswith("\n") else f"\n{piece}"
    return logs


def _pieces(execution: Execution) -> Iterator[str]:
    yield from (each for each in (execution.stdout, execution.stderr) if each)
    for bundle in execution.results:
        text = bundle.get("text/plain")
        if isinstance(text, str) and text and _figure(bundle) is None:
            yield text
    if execution.error is not None:
        yield execution.error.traceback or f"{execution.error.name}: {execution.error.value}"
    if execution.status not in (Status.OK, Status.ERROR):  # a program that is over time sees a KeyboardInterrupt
        yield f"{execution.status.value}: {execution.reason}".removesuffix(": ")
