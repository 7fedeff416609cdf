"""A session's files, which outlive its sandbox: rows and bytes kept equal to `/mnt/data` while there is one.

What an execution made, changed or deleted is stored before its end is told, so an end that was told can be built on:
after a crash the next sandbox starts from these files. Not stored are what a program left running writes after the last
execution has ended, `.outputs/`, files whose names this API cannot say, and what is longer than `/mnt/data` could hold
again (sparse files). A program may change a file while it is read; then its version has moved on, and the next look
reads it again.
"""

import asyncio
import bisect
import contextlib
import dataclasses
import time
import uuid
from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass
from typing import Self

from sandbox import logs
from sandbox.errors import FileMissing, InvalidPath, TooLarge, WorkspaceFull
from sandbox.execution import mime_of
from sandbox.files import Files, Stored
from sandbox.remote import File, Listing, checked_path
from sandbox.session import Session
from sandbox.store import Store
from sandbox.store.rows import FileRow, Page

_OUTPUTS = ".outputs/"
"""Where init keeps outputs that were too long. Not listed, and stored only when they are asked for."""
_NAMED = 3
"""Files that are named where some could not be stored."""
_logger = logs.logger(__name__)


@dataclass(frozen=True, slots=True)
class FileList:
    """What there is."""

    rows: tuple[FileRow, ...]
    """Sorted by path."""
    complete: bool
    """Whether these are all: names can be none that JSON knows, and files too many to be looked at."""

    def page(self, limit: int, after: str | None) -> Page[FileRow]:
        """At most `limit` of them, from the first whose path is behind `after`."""
        start = 0 if after is None else bisect.bisect(self.rows, after, key=lambda row: row.path)
        items = self.rows[start : start + limit]
        return Page(items, items[-1].path if start + limit < len(self.rows) else None)


class Workspace:
    """Use `load`. Safe for concurrent use."""

    def __init__(self, store: Store, files: Files, owner: str, session_id: str, rows: tuple[FileRow, ...]) -> None:
        self._store = store
        self._files = files
        self._owner = owner
        self._session_id = session_id
        self._rows = {row.path: row for row in rows}
        self._versions: dict[str, str] = {}
        """Of the files that are stored as they are in the sandbox."""
        self._mark: int | None = None
        self._lock = asyncio.Lock()

    @classmethod
    async def load(cls, store: Store, files: Files, owner: str, session_id: str) -> Self:
        """From the rows that there are."""
        return cls(store, files, owner, session_id, await store.files(session_id))

    async def restore(self, session: Session) -> None:
        """Put every stored file into a sandbox that has none. Raises `WorkspaceFull`, `SessionClosed`."""
        async with self._lock:
            self._versions.clear()
            self._mark = None
            for path, row in self._rows.items():
                self._versions[path] = await self._feed(session, path, row.digest)

    async def keep(self, session: Session, *, room: int) -> str:
        """Store what has changed since the last time; words for what cannot be stored, or none.

        room: bytes that `/mnt/data` holds. More is not stored, because it could not be put back. Raises
        `SessionClosed` when the sandbox is gone, `Overloaded` and `Unready` when nothing can be stored now.
        """
        async with self._lock:
            mark = session.workspace_mark
            if mark is not None and mark == self._mark:
                return ""
            listing = await session.listing()
            left = await self._keep_changed(session, listing.files, room)
            if listing.complete:
                await self._forget(self._rows.keys() - {file.path for file in listing.files})
            self._mark = mark
        return self._told(left, listing)

    async def _keep_changed(self, session: Session, files: Sequence[File], room: int) -> list[str]:
        """The paths of those that cannot be stored."""
        changed = [file for file in files if self._versions.get(file.path) != file.version]
        room -= sum(file.size for file in files) - sum(file.size for file in changed)
        left = []
        for file in changed:
            try:
                if file.size > room:
                    raise WorkspaceFull("it is longer than what /mnt/data could hold again")
                await self._keep_one(session, file)
                room -= file.size
            except (InvalidPath, WorkspaceFull) as error:
                left.append(file.path)
                if len(left) <= _NAMED:  # a program can make thousands of them
                    _logger.warning("file not stored", session_id=self._session_id, path=file.path, why=str(error))
        return left

    def _told(self, left: Sequence[str], listing: Listing) -> str:
        count = len(left) + listing.unnamed
        if not count and listing.complete:
            return ""
        names = ", ".join([repr(path)[:80] for path in left[:_NAMED]])
        some = "some files were not looked at, because there are too many"
        if count:
            some = f"{count} could not be stored for their names or sizes"
        words = f"{some} ({names}{', …' if count > _NAMED else ''})" if names else some
        _logger.warning("files not stored", session_id=self._session_id, count=count, complete=listing.complete)
        return words

    async def keep_file(self, session: Session, path: str) -> None:
        """Store one file as it is now, so that it can be read while a program runs. Raises as `keep` does."""
        async with self._lock:
            listing = await session.listing()
            file = next((file for file in listing.files if file.path == path), None)
            if file is None and path.startswith(_OUTPUTS):
                await self._keep_one(session, File(path, 0, time.time()))
            elif file is None:
                await self._forget({path} & self._rows.keys() if listing.complete else set())
            elif self._versions.get(path) != file.version:
                await self._keep_one(session, file)

    async def _keep_one(self, session: Session, file: File) -> None:
        try:
            async with self._files.put(session.read(file.path)) as stored:
                await self._put(file.path, stored, file.modified)
        except FileMissing:
            return  # deleted meanwhile; the next look will see that
        self._versions[file.path] = file.version

    async def put(
        self, session: Session | None, path: str, pieces: AsyncIterable[bytes], *, limit: int, over: str, room: int
    ) -> FileRow:
        """Store a file, in the sandbox too when there is one.

        limit: bytes of a file; past it raises `TooLarge` with the words `over`. room: bytes of all files, which a
        sandbox sees to itself. Raises `InvalidPath`, `WorkspaceFull`, `SessionClosed`.
        """
        path = checked_path(path)
        async with self._files.put(pieces, limit=limit, too_large=lambda: TooLarge(over)) as stored, self._lock:
            version = None
            if session is not None:
                version = await self._feed(session, path, stored.digest)
            elif self._bytes_beside(path) + stored.size > room:
                raise WorkspaceFull(f"/mnt/data has room for {room >> 20} MiB; delete files first")
            row = await self._put(path, stored, time.time())
            if version is not None:
                self._versions[path] = version
        return row

    async def _feed(self, session: Session, path: str, digest: str) -> str:
        """Into the sandbox; its version there."""
        async with contextlib.aclosing(self._files.pieces(digest)) as pieces:
            return (await session.upload(path, pieces)).version

    async def _put(self, path: str, stored: Stored, modified: float) -> FileRow:
        known = self._rows.get(path)
        if known is not None and known.digest == stored.digest:
            row = dataclasses.replace(known, modified_at=modified)
        else:
            file_id = f"file_{uuid.uuid4().hex}"
            row = FileRow(
                file_id, self._session_id, self._owner, path, stored.digest, stored.size, mime_of(path), modified
            )
        await self._store.put_files((row,))
        self._rows[path] = row
        return row

    async def remove(self, session: Session | None, path: str) -> None:
        """Delete a file. Raises `FileMissing`, `InvalidPath`, `SessionClosed`."""
        path = checked_path(path)
        async with self._lock:
            if session is not None:
                await session.remove(path)
            elif path not in self._rows:
                raise FileMissing(f"there is no file {path}")
            await self._forget({path} & self._rows.keys())

    async def _forget(self, paths: set[str]) -> None:
        if paths:
            await self._store.remove_files(self._session_id, paths)
            for path in paths:
                del self._rows[path]
                self._versions.pop(path, None)

    async def list(self, session: Session | None) -> FileList:
        """The files. One that a running program has just written, or that cannot be stored, has no id and no digest."""
        if session is None:
            return FileList(tuple(row for _, row in sorted(self._rows.items())), True)
        listing = await session.listing()
        rows = tuple(self._row_of(file) for file in listing.files)
        return FileList(rows, listing.complete and not listing.unnamed)

    def _row_of(self, file: File) -> FileRow:
        if self._versions.get(file.path) == file.version and file.path in self._rows:
            return self._rows[file.path]
        return FileRow("", self._session_id, self._owner, file.path, "", file.size, mime_of(file.path), file.modified)

    async def row(self, session: Session | None, path: str) -> FileRow:
        """One stored file, brought up to date first. Raises `FileMissing`, `InvalidPath`, `SessionClosed`."""
        path = checked_path(path)
        if session is not None:
            await self.keep_file(session, path)
        try:
            return self._rows[path]
        except KeyError:
            raise FileMissing(f"there is no file {path}") from None

    def _bytes_beside(self, path: str) -> int:
        return sum(row.size for row in self._rows.values() if row.path != path)
