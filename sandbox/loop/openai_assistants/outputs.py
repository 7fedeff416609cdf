"""What a program put out, as a step has it: text in `logs`, and pictures."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sandbox.execution import Execution, Output, Result, Status, Stream
from sandbox.loop import words

_PICTURES = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/gif": "gif"}
_TEXTS = ("text/plain", "text/markdown", "text/html")


def picture(output: Output) -> tuple[str, str] | None:
    """The ending of its file's name and the bytes in base64, if it is a picture."""
    if isinstance(output, Result):
        for mime, ending in _PICTURES.items():
            if isinstance(data := output.data.get(mime), str):
                return ending, data
    return None


def text(output: Output) -> str:
    """All other outputs as text."""
    if isinstance(output, Stream):
        return output.text
    if isinstance(output, Result):
        return next((str(output.data[mime]) for mime in _TEXTS if mime in output.data), "")
    return output.traceback or f"{output.name}: {output.value}"


def ending(execution: Execution) -> str:
    """Why it ended where the program itself could not say so; else empty."""
    if execution.status in (Status.OK, Status.ERROR):
        return ""
    return words.in_a_line(replace(execution, error=None))  # one that is over time sees a KeyboardInterrupt


class Outputs:
    """Of one call, as they come."""

    def __init__(self) -> None:
        self._shown: list[list[str] | str] = []
        """Pieces of text, or the id of a picture's file: a program may print a million times."""

    def add_text(self, text: str, *, own_line: bool) -> Mapping[str, Any] | None:
        """What a delta says of it; None when there is nothing to say. own_line: it begins one."""
        if not text:
            return None
        last = self._shown[-1] if self._shown else None
        if isinstance(last, list):
            if own_line and not last[-1].endswith("\n"):
                text = "\n" + text
            last.append(text)
        else:
            self._shown.append([text])
        return {"index": len(self._shown) - 1, "type": "logs", "logs": text}

    def add_picture(self, file_id: str) -> Mapping[str, Any]:
        """What a delta says of it."""
        self._shown.append(file_id)
        return {"index": len(self._shown) - 1, "type": "image", "image": {"file_id": file_id}}

    def shown(self) -> list[dict[str, Any]]:
        """All of it so far."""
        return [
            {"type": "image", "image": {"file_id": each}}
            if isinstance(each, str)
            else {"type": "logs", "logs": "".join(each)}
            for each in self._shown
        ]
