"""A run of the model loop on a terminal: words as they come, code in colour, what it puts out, pictures."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.syntax import Syntax

from sandbox.cli.view import View, note, printable, write
from sandbox.errors import SandboxError
from sandbox.execution import Execution, Status
from sandbox.loop.attempt import Attempt
from sandbox.loop.events import Ending, Event, Finished, Ran, Running, Said, Showed, Unusable

_QUIET = frozenset({"answered", "cached", "cancelled"})


class Conversation:
    """Shows events, in order, on stdout; notes of ours on stderr."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._view = View()
        self._inside_line = False
        self._error = ""
        """The words of the last attempt that failed."""

    def show(self, event: Event) -> None:
        """One event."""
        if isinstance(event, Said):
            write(sys.stdout, event.text)
            self._inside_line = not event.text.endswith("\n")
        elif isinstance(event, Running):
            self._end_line()
            self._code(event.code)
        elif isinstance(event, Showed):
            self._view.show(event.output)
        elif isinstance(event, Ran):
            self._view = View()
            if event.execution.status is not Status.OK:
                note(_verdict(event.execution))
        elif isinstance(event, Unusable):
            self._end_line()
            note(f"the model's call cannot be run: {event.told}")
        elif isinstance(event, Attempt):
            if event.outcome not in _QUIET:
                self._end_line()
                note(f"{event.upstream} {event.outcome}: {'again' if event.error == self._error else event.error}")
                self._error = event.error
        elif isinstance(event, Finished):
            self._end_line()
            if event.why is not Ending.ANSWERED:
                note(f"the run ended because of: {event.why}")

    def has_told(self, error: SandboxError) -> bool:
        """Whether these are the words of the last attempt."""
        return str(error) == self._error

    def saved(self, paths: Sequence[str]) -> None:
        """Files are on disk."""
        for path in paths:
            note(f"saved {path}")

    def _code(self, code: str) -> None:
        code = printable(code).strip("\n")
        if self._console.is_terminal:
            self._console.print(Syntax(code, "python", theme="ansi_dark", background_color="default"), soft_wrap=True)
            self._console.rule(style="dim")
        else:
            write(sys.stdout, "".join(f">>> {line}\n" for line in code.splitlines()))

    def _end_line(self) -> None:
        if self._inside_line:
            write(sys.stdout, "\n")
            self._inside_line = False


def _verdict(execution: Execution) -> str:
    error = execution.error
    words = f"{error.name}: {error.value}".partition("\n")[0] if error else execution.reason
    return f"{execution.status}: {words}" if words else str(execution.status)
