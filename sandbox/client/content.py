"""Local files on their way to a server and from it."""

import contextlib
import io
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sandbox.client.requests import PIECE, Content, unreadable
from sandbox.errors import InvalidRequest


class Source:
    """What is uploaded, from where its file stands now; again from there when it has to be sent again."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.in_memory = isinstance(file, io.BytesIO)
        """Reading it never waits for a disk."""
        self.repeatable = file.seekable()
        self._start = file.tell() if self.repeatable else 0
        self.size: int | None = None
        """Bytes to come; None when that cannot be known, as with a pipe."""
        if self.repeatable:
            self.size = file.seek(0, os.SEEK_END) - self._start

    def rewind(self) -> None:
        if self.repeatable:
            self._file.seek(self._start)

    def read(self) -> bytes:
        """The next piece; empty at the end."""
        return self._file.read(PIECE)

    def pieces(self) -> Iterator[bytes]:
        self.rewind()
        while piece := self.read():
            yield piece


@contextlib.contextmanager
def opened(content: Content) -> Iterator[Source]:
    """What to send. A file that the caller has opened stays open. Raises `InvalidRequest`."""
    if isinstance(content, bytes):
        yield Source(io.BytesIO(content))
    elif isinstance(content, str | io.TextIOBase):  # of callers that nobody checks
        raise InvalidRequest("text cannot be uploaded; give bytes, a pathlib.Path or a file opened in binary mode")
    elif isinstance(content, Path):
        try:
            file = content.open("rb")
        except OSError as error:
            raise unreadable(content, error) from error
        with file:
            yield Source(file)
    else:
        yield Source(content)


@contextlib.contextmanager
def replacing(local: str | Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `local` when the block ends well, and is gone when it does not."""
    path = Path(local)
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        file = temporary.open("xb")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # the name that the caller knows
    try:
        with file:
            yield file
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise
