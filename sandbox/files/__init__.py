"""Immutable bytes by digest.

Bytes come in from anywhere and are kept once under their SHA-256, however many rows name them::

    directory/incoming/<random>     what is still coming; the next `open` removes what a killed server left here
    directory/<2 hex>/<64 hex>      whole, on the disk, never changed

No name in here is chosen by a user. Rows in the store say who owns which digest under what path, so a digest that no
row names is garbage. The race is between the collector, which asks the store and then removes, and a `put` of the
same bytes, whose row is not there yet. So both `put` and `hold` are blocks: within one the digest is *held*, the row
is written within it, and the collector lets go of everything that was held at any time since before it asked.
"""

import asyncio
import contextlib
import errno
import hashlib
import os
import re
import secrets
import threading
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Sequence,
    Set,
)
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from sandbox.errors import FileMissing, Overloaded, SandboxError, TooLarge, Unready
from sandbox.files.disk import sync
from sandbox.files.draft import Draft
from sandbox.files.reading import PIECE, Reading
from sandbox.files.short import place

_THREADS = 8
_SLICE = 512
"""Digests that the store is asked about at a time."""
_INCOMING = "incoming"
_DIGEST = re.compile(r"[0-9a-f]{64}")

_T = TypeVar("_T")
Unreferenced = Callable[[tuple[str, ...]], Awaitable[set[str]]]
"""Of these digests, the ones that no row names."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Bytes that are kept."""

    digest: str
    """SHA-256, 64 hex digits in lower case."""
    size: int
    """Bytes."""


class Files:
    """Use `open`. Safe for concurrent use from one event loop; all work on the disk is done in threads.

    All methods raise `Overloaded` when the disk is full or descriptors have run out, `Unready` when it fails otherwise.
    """

    def __init__(self, directory: Path, threads: ThreadPoolExecutor) -> None:
        self._directory = directory
        self._threads = threads
        self._held: Counter[str] = Counter()
        self._collecting = asyncio.Lock()
        self._condemned: set[str] = set()
        """What the collector means to remove unless somebody holds it first."""
        self._leaving: set[str] = set()
        """What is being removed at this moment, too late to be rescued."""
        self._left = asyncio.Event()

    @classmethod
    @contextlib.contextmanager
    def open(cls, directory: Path) -> Iterator[Self]:
        """Make `directory` if need be, and remove what a killed server was still receiving. Blocks for milliseconds.

        One at a time may have a directory open: a second one would remove what comes in at the first.
        """
        try:
            _prepare(directory)
        except OSError as error:
            raise _failure(error) from error
        with ThreadPoolExecutor(_THREADS, "files", initializer=_give_way) as threads:
            yield cls(directory, threads)

    @contextlib.asynccontextmanager
    async def put(
        self,
        data: bytes | AsyncIterable[bytes],
        *,
        limit: int | None = None,
        too_large: Callable[[], Exception] | None = None,
    ) -> AsyncIterator[Stored]:
        """Keep `data`; within the block it is on the disk and held. Write the rows that name it within the block.

        limit: bytes; what is longer raises `too_large()`, or `TooLarge`, as soon as it is. Whatever ends it early,
        and cancellation too, leaves nothing. An iterator that can be closed is, at the end.
        """
        draft = Draft(self._directory / _INCOMING / secrets.token_hex(16))
        try:
            stored = await self._receive(draft, data, limit, too_large)
            async with self._holding({stored.digest}):
                await self._do(draft.place, self._path(stored.digest))
                yield stored
        finally:
            if not draft.settled:
                await self._of(asyncio.shield(self._begin(draft.discard)))

    @contextlib.asynccontextmanager
    async def put_all(self, contents: Sequence[bytes]) -> AsyncIterator[list[Stored]]:
        """Keep several that are short, with no more steps than one would take; otherwise as `put`."""
        digests = await self._do(_digests, contents)
        async with self._holding({*digests}):
            await self._do(
                place, self._directory / _INCOMING, dict(zip(map(self._path, digests), contents, strict=True))
            )
            yield [Stored(digest, len(content)) for digest, content in zip(digests, contents, strict=True)]

    async def _receive(
        self,
        draft: Draft,
        data: bytes | AsyncIterable[bytes],
        limit: int | None,
        too_large: Callable[[], Exception] | None,
    ) -> Stored:
        """The next piece is received while the last one is hashed and written."""
        size = 0
        buffer = bytearray()
        writing: asyncio.Future[None] | None = None
        async with _closing(data) as pieces:
            async for piece in pieces:
                size += len(piece)
                if limit is not None and size > limit:
                    raise too_large() if too_large else TooLarge(f"it is longer than the {limit} bytes that are taken")
                buffer += piece
                if len(buffer) >= PIECE:
                    if writing is not None:
                        await self._of(writing)
                    writing = self._begin(draft.write, buffer)
                    buffer = bytearray()
        if writing is not None:
            await self._of(writing)
        return Stored(await self._do(draft.end, buffer), size)

    @contextlib.asynccontextmanager
    async def hold(self, digest: str) -> AsyncIterator[Path]:
        """Where it is on the disk, where it stays within the block. Do not write there. Raises `FileMissing`."""
        path = self._path(digest)
        async with self._holding({digest}):
            if not await self._do(path.exists):
                raise FileMissing(f"the bytes {digest} are not kept here")
            yield path

    @contextlib.asynccontextmanager
    async def _holding(self, digests: Set[str]) -> AsyncIterator[None]:
        while not self._leaving.isdisjoint(digests):
            await self._left.wait()
        self._condemned -= digests
        self._held.update(digests)
        try:
            yield
        finally:
            for digest in digests:
                self._held[digest] -= 1
                if not self._held[digest]:
                    del self._held[digest]

    async def pieces(self, digest: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` to before `end`, 1 MiB at a time; fewer where the file ends.

        Once it has begun it goes on, even if they are collected meanwhile. Raises `FileMissing`.
        """
        reading = Reading(self._path(digest), start, end)
        try:
            while not reading.closed:
                if data := await self._do(reading.next):
                    yield data
        finally:
            if not reading.closed:
                await self._of(asyncio.shield(self._begin(reading.close)))

    async def collect(self, unreferenced: Unreferenced, digests: Iterable[str] | None = None) -> int:
        """Remove what no row names, of `digests` or of everything here; how many were removed.

        `unreferenced` is asked several times. What it raises ends the collection, and what is held stays.
        """
        removed = 0
        async with self._collecting:
            async for some in self._candidates(digests):
                while self._leaving:  # a collection that was cancelled left its thread at work
                    await self._left.wait()
                # Whoever holds one of them from now on takes it off this list, so a row written meanwhile is safe.
                self._condemned = {digest for digest in some if digest not in self._held}
                garbage = await unreferenced(tuple(self._condemned))
                removed += await self._remove(self._condemned & garbage)
        return removed

    async def _candidates(self, digests: Iterable[str] | None) -> AsyncIterator[list[str]]:
        for source in _fan_out(self._directory) if digests is None else [digests]:
            names = await self._do(os.listdir, source) if isinstance(source, Path) else source
            known = [name for name in dict.fromkeys(names) if _DIGEST.fullmatch(name)]
            for start in range(0, len(known), _SLICE):
                yield known[start : start + _SLICE]

    async def _remove(self, digests: set[str]) -> int:
        self._condemned, self._leaving = set(), digests
        self._left = asyncio.Event()
        removing = self._begin(_unlink, [self._path(digest) for digest in digests])
        # When the thread is done, that is, which may be after a cancellation of ours.
        removing.add_done_callback(self._on_left)
        return await self._of(asyncio.shield(removing))

    def _on_left(self, removing: "asyncio.Future[int]") -> None:
        self._leaving = set()
        self._left.set()

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise FileMissing(f"{digest!r} is not a digest")
        return self._directory / digest[:2] / digest

    def _begin(self, work: Callable[..., _T], *arguments: object) -> "asyncio.Future[_T]":
        future = asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
        future.add_done_callback(_see)
        return future

    async def _of(self, future: "asyncio.Future[_T]") -> _T:
        try:
            return await future
        except OSError as error:
            raise _failure(error) from error

    async def _do(self, work: Callable[..., _T], *arguments: object) -> _T:
        return await self._of(self._begin(work, *arguments))


@contextlib.asynccontextmanager
async def _closing(data: bytes | AsyncIterable[bytes]) -> AsyncIterator[AsyncIterable[bytes]]:
    # A generator would otherwise keep what it holds until somebody collects it.
    pieces = _once(data) if isinstance(data, bytes | bytearray | memoryview) else data
    try:
        yield pieces
    finally:
        if (aclose := getattr(pieces, "aclose", None)) is not None:
            await aclose()


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _digests(contents: Sequence[bytes]) -> list[str]:
    return [hashlib.sha256(content).hexdigest() for content in contents]


def _give_way() -> None:
    """A thread's precedence is that of who answers requests, and nothing for who works off what is to be stored."""
    thread = threading.get_native_id()
    if os.getpriority(os.PRIO_PROCESS, thread) < 0:
        os.setpriority(os.PRIO_PROCESS, thread, 0)


def _see(future: "asyncio.Future[_T]") -> None:
    """Whoever is cancelled, or fails of something else first, never learns how its last step ended, and need not."""
    if not future.cancelled():
        future.exception()


def _fan_out(directory: Path) -> list[Path]:
    # One directory of millions of entries would be slow, and hard to look into.
    return [directory / f"{number:02x}" for number in range(256)]


def _prepare(directory: Path) -> None:
    for path in (directory, directory / _INCOMING, *_fan_out(directory)):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)  # whoever may not enter here need not be kept out below
    for left in (directory / _INCOMING).iterdir():
        left.unlink()
    sync(directory)


def _unlink(paths: list[Path]) -> int:
    removed = 0
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            removed += 1
    return removed


def _failure(error: OSError) -> SandboxError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Overloaded("the disk of the data directory is full; remove files and sessions, or make room", 30.0)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return Overloaded("too many files are open; try again, or raise the limit of open files (ulimit -n)")
    return Unready(f"the data directory cannot keep files: {os.strerror(error.errno or 0)}; see to its disk")
