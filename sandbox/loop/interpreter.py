"""What a loop needs of a session, wherever that is: here, in a node that records everything, or on a server."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sandbox.execution import Answer, Calls, Execution, Functions, Output
from sandbox.remote import File


@dataclass(frozen=True, slots=True)
class Facts:
    """What is true of a sandbox, and what a model that writes programs for it should know."""

    python: str
    """The interpreter's version."""
    libraries: Mapping[str, str]
    """Distribution to version."""
    memory_mb: int
    disk_mb: int
    """Of `/mnt/data`."""
    timeout_s: float
    """Of each execution."""


class Interpreter(Protocol):
    """A session as a loop sees it."""

    @property
    def facts(self) -> Facts:
        """Do not change while it lives."""

    async def ready(self) -> None:
        """Have a sandbox, if there is none yet: what follows is the program's own time. Raises what opening raises."""

    def stream(
        self, code: str, timeout: float | None = None, functions: Functions | None = None
    ) -> AsyncGenerator[Output | Calls | Execution, None]:
        """Run code; outputs as they come, and the whole `Execution` last. timeout: seconds.

        functions: those that the code may await; their calls come as `Calls`, and each wants an `answer`. Leaving the
        iterator early interrupts the program. Raises `InvalidCode`, `Overloaded`, `SessionClosed`, `SessionExpired` and
        whatever else of ours can go wrong.
        """

    async def answer(self, answers: Sequence[Answer]) -> int:
        """Answer calls of the program that runs; how many of them it was waiting for. Raises `TooLarge`."""

    async def files(self) -> Sequence[File]:
        """What lies in `/mnt/data`, sorted by path."""

    async def download(self, path: str) -> bytes:
        """A file's contents. Raises `FileMissing`."""
