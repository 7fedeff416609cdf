"""What the tools need of sessions, wherever those are: recorded in a node, in this process, or on a server."""

import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from sandbox.errors import FileMissing
from sandbox.execution import Calls, Execution, Output
from sandbox.loop.interpreter import Facts
from sandbox.remote import File


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a file."""

    data: bytes
    offset: int
    size: int
    """Of the whole file, in bytes."""


class Workbench(Protocol):
    """A session: an `Interpreter`, and files both ways."""

    @property
    def session_id(self) -> str: ...

    @property
    def facts(self) -> Facts: ...

    def stream(self, code: str, timeout: float | None = None) -> AsyncGenerator[Output | Calls | Execution, None]:
        """See `Interpreter`; nothing is called."""

    async def files(self) -> Sequence[File]:
        """See `Interpreter`."""

    async def upload(self, path: str, data: bytes) -> File:
        """Store a file. Raises `InvalidPath`, `WorkspaceFull`, `TooLarge` and what a session raises that is over."""

    async def read(self, path: str, offset: int, length: int) -> Piece:
        """At most `length` bytes from `offset` on. Raises `FileMissing`, `InvalidPath`."""


class Workbenches(Protocol):
    """Sessions of one caller."""

    async def facts(self) -> Facts:
        """What will be true of a session that is opened now."""

    async def open(self, *, seen: bool) -> Workbench:
        """A new session. seen: we will notice when its client leaves, so it may idle for longer.

        Raises `Overloaded` and whatever else can keep a sandbox from being had.
        """

    async def find(self, session_id: str) -> Workbench:
        """Raises `SessionMissing`."""

    async def close(self, session_id: str) -> None:
        """End it. Twice is once. Raises `SessionMissing`."""


async def piece_of(pieces: AsyncGenerator[bytes, None], offset: int, length: int) -> bytes:
    """A part of what can only be read from its start."""
    taken, at = bytearray(), 0
    async with contextlib.aclosing(pieces) as each:
        async for data in each:
            taken += data[max(0, offset - at) : max(0, offset + length - at)]
            at += len(data)
            if at >= offset + length:
                break
    return bytes(taken)


def named(files: Sequence[File], path: str) -> File:
    """Raises `FileMissing`."""
    for file in files:
        if file.path == path:
            return file
    raise FileMissing(f"there is no file {path}")
