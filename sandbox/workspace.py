"""A session's files, which outlive its sandbox: rows and bytes kept equal to `/mnt/data` while there is one.

What an execution made, changed or deleted is stored before its end is told, so an end that was told can be built on:
after a crash the next sandbox starts from these files. Not stored are what a program left running writes after the last
execution has ended, `.outputs/`, files whose names this API cannot say, and what is longer than `/mnt/data` could hold
again (sparse files). A program may change a file while it is read; then its version has moved on, and the next look
reads it again.

Which sandbox has the files is known here and nowhere else, and everything that writes asks for it under the lock: a
sandbox may come or go between the first and the last byte of an upload.
"""

import asyncio
import bisect
import contextlib
import dataclasses
import time
import uuid
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from sandbox import logs
from sandbox.batches import batches, in_turns
from sandbox.errors import (
    FileForbidden,
    FileMissing,
    InvalidPath,
    Overloaded,
    SessionClosed,
    SessionExpired,
    TooLarge,
    WorkspaceFull,
)
from sandbox.execution import MIB, Limits, mime_of
from sandbox.files import Files, Stored
from sandbox.gone import Gone
from sandbox.intake import Intake
from sandbox.remote import File, Listing, checked_path, free_path
from sandbox.session import Session
from sandbox.store import Store
from sandbox.store.rows import FileRow, Page

_OUTPUTS = ".outputs/"
"""Where init keeps outputs that were too long. Not listed, and stored only when they are asked for."""
_NAMED = 3
"""Files that are named where some could not be stored."""
_KEEP_S = 60.0
"""In which an execution's files have to be read: whatever a program left running may starve init."""
_REMOVED = 1000
"""Files of which it is still known where they were."""
_ROWS = 25
"""Made and written at a time: others have requests, too, and their rows wait for these."""
_PAGE = 4096
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
        self.guard: Callable[[], None] = lambda: None
        """Raises when the session has ended: after that nothing may be stored."""
        self._store = store
        self._files = files
        self._owner = owner
        self._session_id = session_id
        self._rows = {row.path: row for row in rows}
        self._session: Session | None = None
        """Of the sandbox that got these files last."""
        self._removed = Gone[str, FileRow](_REMOVED)
        self._left_out: set[str] = set()
        """What did not fit into that sandbox. It stays stored."""
        self._versions: dict[str, str] = {}
        """Of the files that are stored as they are in the sandbox."""
        self._mark: int | None = None
        self._lock = asyncio.Lock()

    @classmethod
    async def load(cls, store: Store, files: Files, owner: str, session_id: str) -> Self:
        """From the rows that there are."""
        return cls(store, files, owner, session_id, await store.files(session_id))

    @property
    def _live(self) -> Session | None:
        """The sandbox's session, if there is one now."""
        return self._session if self._session is not None and self._session.open else None

    def has(self, path: str) -> bool:
        """Whether some version of it is stored."""
        return path in self._rows

    def is_current(self, path: str) -> bool:
        """Whether it is stored as it was when `keep` last heard of it."""
        return path in self._versions

    async def restore(self, session: Session) -> str:
        """Put every stored file into a new sandbox, which has them from then on; words for what did not fit, or none.

        That stays stored, and the next sandbox may have room for it. Raises `SessionClosed`.
        """
        async with self._lock:
            versions, left = dict[str, str](), list[str]()
            # The small ones first: if something has to stay outside, let it be few.
            for row in sorted(self._rows.values(), key=lambda row: row.size):
                try:
                    versions[row.path] = await self._feed(session, row.path, row.digest)
                except (WorkspaceFull, InvalidPath, FileMissing) as error:
                    left.append(row.path)
                    self._log("file left out", row.path, error, len(left))
            self._session, self._versions, self._left_out, self._mark = session, versions, set(left), None
        return f"{len(left)} stored files were left out of the new sandbox ({_names(left)})" if left else ""

    async def keep(self, changed: Iterable[str] = ()) -> str:
        """Store what has changed since the last time; words for what cannot be stored, or none.

        changed: what is known to have changed, so that `is_current` knows even if the sandbox is gone by now.
        More than `/mnt/data` holds is not stored, because it could not be put back. Raises `SessionClosed` when the
        sandbox is gone, and `Overloaded` and `Unready` when something cannot be stored now; the rest is.
        """
        async with self._lock:
            for path in changed:
                self._versions.pop(path, None)
                self._mark = None
            try:
                async with asyncio.timeout(_KEEP_S):
                    return await self._keep()
            except TimeoutError:
                raise Overloaded(f"to look at them and to read them takes longer than {_KEEP_S:g} s") from None

    async def _keep(self) -> str:
        session = self._attached()
        mark = session.workspace_mark
        if mark is not None and mark == self._mark:
            return ""
        listing = await session.listing()
        fitting, left = await self._sort_out(listing.files, session.limits)
        left += [*await self._keep_files(session, [file for file in fitting if self._has_changed(file)])]
        gone = self._rows.keys() - {file.path for file in listing.files} - self._left_out
        await self._forget({path for path in gone if listing.sight.tells_of(path)})
        self._mark = mark
        return self._told(left, listing)

    def _attached(self) -> Session:
        self.guard()
        if (live := self._live) is None:
            raise SessionClosed(f"the sandbox of session {self._session_id} is gone")
        return live

    def _has_changed(self, file: File) -> bool:
        return self._versions.get(file.path) != file.version

    async def _sort_out(self, files: Iterable[File], limits: Limits) -> tuple[list[File], list[str]]:
        """What a sandbox with these limits can hold again, and the paths of the changed files beyond that."""
        fitting, left, filling = list[File](), list[str](), _Filling(limits)
        # What is stored comes first: a sparse newcomer may not push it out. Then as many as possible.
        in_order = sorted(files, key=lambda file: (file.path not in self._rows, file.size))
        async for some in in_turns(batches(in_order)):
            for file in some:
                if filling.take(file.path, file.size):
                    fitting.append(file)
                elif self._has_changed(file):
                    left.append(file.path)
                    why = "it is longer than what /mnt/data could hold again"
                    self._log("file not stored", file.path, why, len(left))
        return fitting, left

    async def _keep_files(self, session: Session, files: Sequence[File]) -> Mapping[str, InvalidPath | FileForbidden]:
        """Store them, also those that were read before an error; why others cannot be, by their paths."""
        async with Intake(self._files, session) as intake:
            try:
                await intake.read(files)
            finally:
                for start in range(0, len(intake.stored), _ROWS):
                    some = intake.stored[start : start + _ROWS]
                    await self._write([self._row(file.path, stored, file.modified) for file, stored in some])
                    self._versions.update((file.path, file.version) for file, _ in some)
        for count, (path, why) in enumerate(intake.impossible.items(), 1):
            self._log("file not stored", path, why, count)
        return intake.impossible

    def _log(self, event: str, path: str, why: object, count: int) -> None:
        if count <= _NAMED:  # a program can make thousands of them
            _logger.warning(event, session_id=self._session_id, path=path, why=str(why))

    def _told(self, left: Sequence[str], listing: Listing) -> str:
        count = len(left) + listing.unnamed
        if not count and listing.sight.whole:
            return ""
        words = list[str]()
        if count:
            words.append(f"{'1 file' if count == 1 else f'{count} files'} could not be stored: name, size or mode")
        if not listing.sight.whole:
            words.append(
                "some files were not looked at: too many, or in a directory that was moved or is shut by its mode"
            )
        some = "; ".join(words)
        _logger.warning("files not stored", session_id=self._session_id, count=count, complete=listing.sight.whole)
        return f"{some} ({_names(left)})" if left else some

    async def keep_file(self, path: str) -> None:
        """Store one file as it is now, so that it can be read while a program runs.

        Raises as `keep` does, and `FileMissing`, `FileForbidden` or `InvalidPath` for what cannot be stored.
        """
        async with self._lock:
            if (session := self._live) is None:
                return
            listing = await session.listing()
            file = next((file for file in listing.files if file.path == path), None)
            if file is None and path.startswith(_OUTPUTS):
                await self._keep_one(session, File(path, 0, time.time()))
            elif file is None:
                gone = {path} & self._rows.keys() - self._left_out
                await self._forget(gone if listing.sight.tells_of(path) else set())
            elif self._has_changed(file):
                if path in (await self._sort_out(listing.files, session.limits))[1]:
                    raise FileMissing(f"{path} is not stored: it is longer than what /mnt/data could hold again")
                await self._keep_one(session, file)

    async def _keep_one(self, session: Session, file: File) -> None:
        for why in (await self._keep_files(session, [file])).values():
            raise why

    async def put(
        self,
        path: str,
        pieces: AsyncIterable[bytes],
        *,
        limit: int,
        over: str,
        limits: Limits,
        fresh: bool = False,
        uploaded: bool = True,
    ) -> FileRow:
        """Store a file, in the sandbox too when there is one. fresh: beside one that is there, under another name.
        uploaded: it comes from a client, and not from what a program has put out.

        limit: bytes of a file; past it raises `TooLarge` with the words `over`. limits: of the next sandbox, when
        there is none that would see to them itself. Raises `InvalidPath`, `WorkspaceFull`, and what `guard` raises.
        """
        path = checked_path(path)
        async with self._files.put(pieces, limit=limit, too_large=lambda: TooLarge(over)) as stored, self._lock:
            self.guard()
            if fresh:
                path = free_path(path, {row.path for row in (await self.files()).rows})
            version = await self._feed_live(path, stored.digest)
            if version is None:
                self._check_room(path, stored.size, limits)
            row = dataclasses.replace(self._row(path, stored, time.time()), uploaded=uploaded)
            await self._write([row])
            self._versions.pop(path, None)
            if version is not None:
                self._versions[path] = version
        return row

    async def _feed_live(self, path: str, digest: str) -> str | None:
        """Into the sandbox; its version there. None when there is no sandbox, or none any more."""
        if (session := self._live) is None:
            return None
        try:
            return await self._feed(session, path, digest)
        except (SessionClosed, SessionExpired):
            self.guard()
            return None

    async def _feed(self, session: Session, path: str, digest: str) -> str:
        async with contextlib.aclosing(self._files.pieces(digest)) as pieces:
            return (await session.upload(path, pieces)).version

    def _check_room(self, path: str, size: int, limits: Limits) -> None:
        """Raises `WorkspaceFull` when the next sandbox could not hold it beside the other files."""
        filling = _Filling(limits)
        beside = [filling.take(row.path, row.size) for row in self._rows.values() if row.path != path]
        if not (all(beside) and filling.take(path, size)):
            room = f"{limits.disk} MiB and {limits.files} files and directories"
            raise WorkspaceFull(f"/mnt/data has room for {room}; delete files first")

    def _row(self, path: str, stored: Stored, modified: float) -> FileRow:
        known = self._rows.get(path)
        if known is not None and known.digest == stored.digest:
            return dataclasses.replace(known, modified_at=modified)
        file_id = f"file_{uuid.uuid4().hex}"
        return FileRow(
            file_id, self._session_id, self._owner, path, stored.digest, stored.size, mime_of(path), modified
        )

    async def _write(self, rows: Sequence[FileRow]) -> None:
        # Writes are done in the order in which they are asked for, and nothing comes between this and the asking: so
        # no row is written after those of a session that has ended were deleted.
        self.guard()
        await self._store.put_files(rows)
        self._rows.update((row.path, row) for row in rows)
        self._left_out.difference_update(row.path for row in rows)

    async def remove(self, path: str) -> None:
        """Delete a file. Raises `FileMissing`, `InvalidPath`, and what `guard` raises."""
        path = checked_path(path)
        async with self._lock:
            self.guard()
            if not await self._remove_live(path) and path not in self._rows:
                raise FileMissing(f"there is no file {path}")
            await self._forget({path} & self._rows.keys())

    async def _remove_live(self, path: str) -> bool:
        """Whether it was in a sandbox and is no more. Raises `FileMissing` when a sandbox should have it."""
        if (session := self._live) is None:
            return False
        try:
            await session.remove(path)
        except (SessionClosed, SessionExpired):
            self.guard()
            return False
        except FileMissing:
            if path not in self._left_out:
                raise
            return False
        return True

    async def _forget(self, paths: set[str]) -> None:
        if paths:
            await self._store.remove_files(self._session_id, paths)
            for path in paths:
                row = self._rows.pop(path)
                self._removed.add(row.id, row)
                self._versions.pop(path, None)
            self._left_out -= paths

    def removed(self, file_id: str) -> FileRow | None:
        """One of the last that were removed: who removes what it lists goes on behind it."""
        return self._removed.get(file_id)

    async def files(self) -> FileList:
        """The files. One that a running program has just written, or that cannot be stored, has no id and no digest."""
        found, complete = self._rows, True
        if (session := self._live) is not None:
            with contextlib.suppress(SessionClosed, SessionExpired):  # then what is stored is all there is
                listing = await session.listing()
                listed = {file.path: self._row_of(file) for file in listing.files}
                stored = {path: row for path, row in self._rows.items() if not listing.sight.tells_of(path)}
                found = {path: self._rows[path] for path in self._left_out} | stored | listed
                complete = listing.sight.whole and not listing.unnamed
        return FileList(tuple(row for _, row in sorted(found.items())), complete)

    def _row_of(self, file: File) -> FileRow:
        if self._versions.get(file.path) == file.version and file.path in self._rows:
            return self._rows[file.path]
        return FileRow("", self._session_id, self._owner, file.path, "", file.size, mime_of(file.path), file.modified)

    async def row(self, path: str) -> FileRow:
        """One stored file, brought up to date first. Raises `FileMissing`, `InvalidPath`."""
        path = checked_path(path)
        with contextlib.suppress(SessionClosed, SessionExpired):  # then what is stored is all there is
            await self.keep_file(path)
        try:
            return self._rows[path]
        except KeyError:
            raise FileMissing(f"there is no file {path}") from None


class _Filling:
    """How full `/mnt/data` gets: it takes whole pages, and an inode for every file and directory."""

    def __init__(self, limits: Limits) -> None:
        self._pages = limits.disk * MIB // _PAGE
        self._inodes = limits.files - 2  # itself, and `.outputs`
        self._directories = {""}
        """Those that are in, with all that they are in."""

    def take(self, path: str, size: int) -> bool:
        """Whether it fits; then it is in."""
        directories, above = list[str](), path.rpartition("/")[0]
        while above not in self._directories:
            directories.append(above)
            above = above.rpartition("/")[0]
        pages, inodes = self._pages - -(-size // _PAGE), self._inodes - 1 - len(directories)
        if pages < 0 or inodes < 0:
            return False
        self._pages, self._inodes = pages, inodes
        self._directories.update(directories)
        return True


def _names(paths: Sequence[str]) -> str:
    """The first of them, for a person."""
    return ", ".join([repr(path)[:80] for path in paths[:_NAMED]]) + (", …" if len(paths) > _NAMED else "")
