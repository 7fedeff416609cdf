"""What reaches the reader. What a program writes is hostile: a terminal shows control characters, and obeys none."""

import sys
import unicodedata
from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from sandbox.execution import MIB, Error, Execution, Output, Result, Status, Stream

IMAGES = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/svg+xml": ".svg",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "application/pdf": ".pdf",
}
"""File name suffixes of results that are pictures."""
_PLOTLY = "application/vnd.plotly.v1+json"


def printable(text: str) -> str:
    """`text` as it may go to a terminal: control, format and bidirectional characters are spelt out.

    A lone carriage return becomes a new line, because overwriting hides what was there before.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(
        char
        if char in "\n\t" or char.isprintable() or unicodedata.category(char) == "Zs"
        else char.encode("unicode_escape").decode()
        for char in text
    )


def write(stream: TextIO, text: str) -> None:
    """Raw into files and pipes, printable on terminals, at once."""
    encoding = "utf-8"
    if stream.isatty():
        text, encoding = printable(text), stream.encoding
    stream.flush()
    stream.buffer.write(text.encode(encoding, "backslashreplace"))
    stream.buffer.flush()


def note(text: str) -> None:
    """Words of ours, on stderr. They may quote names that a program chose."""
    write(sys.stderr, f"sandbox: {printable(text)}\n")


def counted(number: int, noun: str) -> str:
    """`1 turn`, `2 turns`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


class View:
    """A program's outputs, shown as they come."""

    def __init__(self) -> None:
        self._inside_line = False

    def show(self, output: Output) -> None:
        if isinstance(output, Stream):
            write(sys.stdout if output.name == "stdout" else sys.stderr, output.text)
            if output.name == "stdout" and output.text:
                self._inside_line = not output.text.endswith("\n")
        elif isinstance(output, Result):
            self._show_result(output.data)
        elif isinstance(output, Error):
            write(sys.stderr, output.traceback.rstrip("\n") + "\n")
            if output.available:
                note(f"{output.looked_in}: {', '.join(output.available)}")

    def _show_result(self, data: Mapping[str, Any]) -> None:
        if data.keys() & IMAGES.keys():
            return  # its text says no more than "a figure"
        text = data.get("text/plain")
        if isinstance(text, str):
            write(sys.stdout, "\n" * self._inside_line + text + "\n")
            self._inside_line = False
        else:
            advice = "; fig.write_html('/mnt/data/figure.html') and --out DIR keep it" if _PLOTLY in data else ""
            note(f"a result of type {', '.join(data)} has no text to show; --json has all of it{advice}")


def _verdict(execution: Execution) -> str:
    """One line for an end that is not ok."""
    reason = f": {execution.reason}" if execution.reason else ""
    seconds, peak = execution.duration_ms / 1000, execution.peak_memory_bytes / MIB
    return f"{execution.status}{reason} (ran for {seconds:.1f} s, peak memory {peak:.0f} MiB)"


def conclude(execution: Execution, saved: list[str], hint: str | None) -> None:
    """The last words on stderr."""
    dropped = execution.truncated
    if dropped.stdout or dropped.stderr:
        note(f"output was too long: {dropped.stdout} bytes of stdout and {dropped.stderr} of stderr were dropped")
    if dropped.results:
        note(f"{dropped.results} results were too many or too large and were dropped")
    for path in saved:
        note(f"saved {path}")
    if hint:
        note(hint)
    if execution.status is not Status.OK:
        note(_verdict(execution))
    elif execution.reason:
        note(execution.reason)


def line(*parts: str | tuple[str, str]) -> None:
    """One styled line on stdout; never wrapped, so that a fix can be copied."""
    Console(highlight=False).print(Text.assemble(*parts), soft_wrap=True)
