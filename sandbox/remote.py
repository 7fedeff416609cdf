"""The workspace of a sandbox from outside: files listed, read and written by asking init.

Names go as data, and nothing here opens a path of the host. What comes back is hostile: its length is bounded by the
frames and by what init said first, and a name from inside is never used as one of ours.
"""

import asyncio
import contextlib
import functools
import os
import unicodedata
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sandbox.batches import in_turns
from sandbox.errors import (
    FileForbidden,
    FileMissing,
    InvalidPath,
    InvalidRequest,
    ProtocolError,
    SandboxFailed,
    SessionClosed,
    WorkspaceFull,
)
from sandbox.guest.frames import CHUNK, MAX_DEPTH, MAX_HANDLES, BadFrame, Frame, encode_json, rows_of
from sandbox.guest.sight import MAX_SHUT, Sight
from sandbox.runtime import Channel

_IN_FLIGHT = 4
"""Pieces of a file on their way at a time: init works on one while the next ones travel. An execution waits behind
them, and whoever reads slowly keeps them in memory."""

_Answer = asyncio.Future[tuple[dict[str, Any], bytes]]


@dataclass(frozen=True, slots=True)
class File:
    """A regular file in the workspace."""

    path: str
    """Relative to `/mnt/data`."""
    size: int
    modified: float
    """Seconds since the epoch, by the sandbox's clock."""
    version: str = ""
    """Another one after every change, also one that forges the time; means nothing beyond this sandbox."""


_NAME_BYTES = 240
"""Of a name that is made here: a file system takes 255, and a number may have to be put into it."""
_JOINERS = "\u200c\u200d"


@dataclass(frozen=True, slots=True)
class Listing:
    """What is in the workspace."""

    files: tuple[File, ...]
    """Sorted by path."""
    sight: Sight
    unnamed: int = 0
    """Files and directories that have none: names that are not UTF-8, or too many levels."""


def checked_path(path: str) -> str:
    """A workspace path in its canonical relative form. Raises `InvalidPath`.

    Accepts paths relative to `/mnt/data` or absolute below it.
    """
    relative = path.removeprefix("/mnt/data/")
    parts = relative.split("/")
    if not path or relative.startswith("/") or len(parts) > MAX_DEPTH:
        raise InvalidPath(f"{path!r} is not a path below /mnt/data")
    for part in parts:
        if part in ("", ".", "..") or len(part.encode("utf-8", "surrogatepass")) > 255:
            raise InvalidPath(f"{path!r} leaves /mnt/data or has an impossible part; use a plain relative path")
        if "\\" in part or not (part.isprintable() or all(_shows(char) for char in part)):
            raise InvalidPath(f"{path!r} has control characters or a backslash; use a plain relative path")
    return relative


def _is_path(path: str) -> bool:
    try:
        return checked_path(path) == path
    except InvalidPath:
        return False


def file_name(called: str) -> str:
    """A name in `/mnt/data` for what a client calls its file: that, as far as it is no path and can be seen."""
    name = "".join(char if _shows(char) else "_" for char in called.replace("\\", "/").rpartition("/")[2])
    stem, suffix = os.path.splitext(name)
    suffix = _cut(suffix, _NAME_BYTES // 4)
    name = _cut(stem, _NAME_BYTES - len(suffix.encode())) + suffix
    return "file" if name in ("", ".", "..") else name


def free_path(path: str, taken: Container[str]) -> str:
    """A path that is not taken: `a/b.csv`, else `a/b-2.csv` and so on."""
    stem, suffix = os.path.splitext(path)
    count = 1
    while path in taken:
        count += 1
        path = f"{stem}-{count}{suffix}"
    return path


def _cut(text: str, most: int) -> str:
    return text.encode()[:most].decode(errors="ignore")


def _shows(char: str) -> bool:
    """Not what would end a line, move a cursor or turn the direction of a text; but the spaces and joiners of names.

    macOS puts a narrow space into the names of screenshots, and many emoji are several, joined.
    """
    return char.isprintable() or char in _JOINERS or unicodedata.category(char) == "Zs"


class RemoteFiles:
    """Init's file operations. alive: whether the sandbox can still answer."""

    def __init__(self, channel: Channel, alive: Callable[[], bool]) -> None:
        self._channel = channel
        self._alive = alive
        self._calls: dict[int, tuple[str, _Answer]] = {}
        """What was asked, and who waits for the answer."""
        self._next_call = 0
        self._handles = asyncio.Semaphore(MAX_HANDLES)
        self._next_handle = 0

    async def list(self) -> Listing:
        """The regular files in the workspace. Incomplete past 10,000 entries or 1.5 MiB of paths."""
        answer, payload = await self._call("list")
        files = list[File]()
        with _understood():
            async for rows in in_turns(rows_of(payload)):
                files += [_file(*row) for row in rows]
            return Listing(tuple(files), _sight(answer["complete"], answer["shut"]), int(answer["unnamed"]))

    async def read(self, path: str) -> AsyncGenerator[bytes, None]:
        """The contents in pieces. A file that changes meanwhile ends at the size it had at the start, or before.

        Raises `FileMissing`, `InvalidPath`.
        """
        checked = checked_path(path)
        async with self._handle() as handle, _in_flight() as answers:
            answer, _ = await self._call("open", path=checked, handle=handle)
            with _understood():
                left = int(answer["size"])
            while left > 0:
                while len(answers) < min(_IN_FLIGHT, -(-left // CHUNK)):
                    answers.append(await self._ask("read", handle=handle))
                _, data = await _answer(answers.popleft())
                if not data:
                    return
                yield data[:left]
                left -= len(data)

    async def gather(self, paths: Sequence[str]) -> tuple[bytes | None, ...]:
        """The contents of small files with one call; None for one that `read` has to be asked for: what is gone, has a
        name that cannot be, or is too much together with those before it, which is more than `CHUNK` bytes.
        """
        asked = [path for path in paths if _is_path(path)]
        answer, data = await self._call("gather", paths=asked)
        contents = dict(zip(asked, _split(answer, data, len(asked)), strict=True))
        return tuple(contents.get(path) for path in paths)

    async def write(self, path: str, data: bytes | AsyncIterable[bytes]) -> File:
        """Store a file, wholly or not at all. Raises `WorkspaceFull`, `InvalidPath`."""
        checked = checked_path(path)
        async with self._handle() as handle, _in_flight() as answers:
            await self._call("create", path=checked, handle=handle)
            async for piece in _pieces(data):
                if len(answers) == _IN_FLIGHT:
                    await _answer(answers.popleft())
                answers.append(await self._ask("write", piece, handle=handle))
            while answers:
                await _answer(answers.popleft())
            answer, _ = await self._call("commit", handle=handle)
            with _understood():
                return _file(checked, *answer["file"])

    @contextlib.asynccontextmanager
    async def _handle(self) -> AsyncIterator[int]:
        """A number for a file that init is to open, closed at the end whether or not init's answer was awaited."""
        async with self._handles:
            self._next_handle += 1
            handle = self._next_handle
            try:
                yield handle
            finally:
                if self._alive():
                    with contextlib.suppress(SessionClosed):
                        await asyncio.shield(self._call("close", handle=handle))

    async def remove(self, path: str) -> None:
        """Delete a file. Raises `FileMissing`, `InvalidPath`."""
        await self._call("remove", path=checked_path(path))

    async def _call(self, op: str, **arguments: Any) -> tuple[dict[str, Any], bytes]:
        return await _answer(await self._ask(op, **arguments))

    async def _ask(self, op: str, payload: bytes | memoryview = b"", **arguments: Any) -> _Answer:
        """Send a call. Init answers in the order of the calls; whoever no longer wants the answer cancels it."""
        if not self._alive():
            raise SessionClosed("the sandbox is gone; open a new session")
        self._next_call += 1
        number = self._next_call
        answer: _Answer = asyncio.get_running_loop().create_future()
        self._calls[number] = op, answer
        answer.add_done_callback(functools.partial(self._forget, number))
        try:
            await self._channel.write(encode_json(Frame.CALL, {"call": number, "op": op, **arguments}, payload))
        except BaseException as error:
            answer.cancel()
            if isinstance(error, ConnectionError):
                raise SessionClosed("the sandbox is gone; open a new session") from error
            raise
        return answer

    def _forget(self, number: int, answer: _Answer) -> None:
        self._calls.pop(number, None)
        if not answer.cancelled():
            answer.exception()  # marked as seen: after a failure nobody waits for the answers behind it

    def on_reply(self, value: dict[str, Any], payload: bytes, *, is_listing: bool = False) -> None:
        """Init has answered a call; is_listing: by a frame that only `list` is answered with, and may be longer than
        others. Raises `BadFrame`.
        """
        if value["call"] not in self._calls:
            return
        op, answer = self._calls[value["call"]]
        if is_listing != (op == "list") and "error" not in value:
            raise BadFrame(f"{op} is not answered like this")
        if not answer.done():
            answer.set_result((value, payload))

    def fail(self, reason: str) -> None:
        """The sandbox is gone: whoever waits for an answer is told."""
        for _, answer in self._calls.values():
            if not answer.done():
                answer.set_exception(SessionClosed(f"the sandbox is gone ({reason}); open a new session"))


@contextlib.contextmanager
def _understood() -> Iterator[None]:
    """Around the reading of an answer, which may be anything. Raises `ProtocolError`."""
    try:
        yield
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"the sandbox gave an answer that no init gives: {error!r}"[:300]) from error


def _split(answer: dict[str, Any], data: bytes, count: int) -> Iterator[bytes | None]:
    with _understood():
        sizes = [None if size is None else int(size) for size in answer["sizes"]]
        if len(sizes) != count or any(size is not None and size < 0 for size in sizes):
            raise ValueError(f"{len(sizes)} sizes of {count} files")
        if sum(size or 0 for size in sizes) != len(data):
            raise ValueError(f"{len(data)} bytes are not what the sizes say")
    start = 0
    for size in sizes:
        yield None if size is None else data[start : start + size]
        start += size or 0


_LATEST = 253402300799.0
"""The last second of the year 9999: a program may set its files' times to what no calendar has."""


def _file(path: object, size: int, modified_ns: int, version: object) -> File:
    named = str(path)
    if named.count("/") >= MAX_DEPTH:  # whoever sorts files out looks at each directory above each
        raise ValueError("a path is deeper than any that is listed")
    return File(named, int(size), min(max(int(modified_ns) / 1e9, 0.0), _LATEST), str(version))


def _sight(complete: object, shut: object) -> Sight:
    if not isinstance(shut, list) or len(shut) > MAX_SHUT:
        raise ValueError("that many shut directories no init names")
    return Sight(complete is True, tuple(str(directory) for directory in shut))


@contextlib.asynccontextmanager
async def _in_flight() -> AsyncIterator[deque[_Answer]]:
    """Answers that are waited for in turn; at the end nobody waits for the rest."""
    answers: deque[_Answer] = deque()
    try:
        yield answers
    finally:
        for answer in answers:
            answer.cancel()


async def _answer(answer: _Answer) -> tuple[dict[str, Any], bytes]:
    """What init answered. Raises what it refused with, or `SessionClosed`."""
    value, data = await answer
    if "error" in value:
        raise _file_error(value["error"])
    return value, data


def _file_error(error: Any) -> Exception:
    if not isinstance(error, dict):
        return ProtocolError("the sandbox refused in a way that no init does")
    kind, text = str(error.get("kind")), str(error.get("text"))
    if kind == "full":
        return WorkspaceFull(f"/mnt/data is full: {text}. Delete files, or have disk_mb raised")
    if kind == "missing":
        return FileMissing(text)
    if kind == "forbidden":
        return FileForbidden(f"the modes that the program has set forbid it: {text}")
    if kind == "failed":
        return SandboxFailed(f"the sandbox could not do it: {text}; try again")
    return InvalidPath(text)


async def _pieces(data: bytes | AsyncIterable[bytes]) -> AsyncIterator[memoryview]:
    """In pieces of `CHUNK`; what comes in smaller ones is gathered, because every call costs."""
    if not isinstance(data, bytes | bytearray | memoryview | AsyncIterable):  # of callers that nobody checks
        kind = "text" if isinstance(data, str) else f"a {type(data).__name__}"
        raise InvalidRequest(f"{kind} cannot be uploaded; give bytes, such as Path(…).read_bytes(), or pieces of them")
    gathered = bytearray()
    async for piece in _once(data) if isinstance(data, bytes | bytearray | memoryview) else data:
        whole: bytes | bytearray = piece
        if gathered or len(piece) < CHUNK:
            gathered += piece
            if len(gathered) < CHUNK:
                continue
            whole, gathered = gathered, bytearray()
        for start in range(0, len(whole), CHUNK):
            yield memoryview(whole)[start : start + CHUNK]
    if gathered:
        yield memoryview(gathered)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
