"""Files that an owner keeps outside any session: those of the vendors' Files APIs.

Their bytes lie beside those of workspaces, by digest, so that giving one to a session or keeping one of a session's
copies a row and no byte before a sandbox wants it.
"""

import hashlib
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from sandbox.errors import FileMissing, InvalidField, TooLarge
from sandbox.execution import MIB, mime_of
from sandbox.files import Files
from sandbox.keys import Owner
from sandbox.quota import Quota
from sandbox.store import Store
from sandbox.store.rows import Family, FileRow, KeptFileRow, Page

_PREFIXES: dict[Family, str] = {"openai": "file-", "anthropic": "file_", "": "part_"}
"""Of ids. What belongs to no family is a part of a file that is still coming."""


@dataclass(frozen=True, slots=True)
class About:
    """What a client says of its file beside the name."""

    purpose: str = ""
    lifetime_s: float | None = None


class KeptFiles:
    """Made by the node. Everything takes an owner first; what has expired, or is another's, does not exist."""

    def __init__(self, store: Store, files: Files, quota: Quota, max_mb: int) -> None:
        self._store = store
        self._files = files
        self._quota = quota
        self._max_mb = max_mb

    async def put(
        self,
        owner: Owner,
        family: Family,
        name: str,
        pieces: AsyncIterable[bytes],
        *,
        purpose: str = "",
        mime: str = "",
        downloadable: bool = True,
        lifetime_s: float | None = None,
        about: Callable[[], About] | None = None,
    ) -> KeptFileRow:
        """Keep bytes. name: as the client says it; it is no path of ours. mime: default is what the name says.
        about: asked once all bytes have come, for what `purpose` and `lifetime_s` could not say before.

        Raises `TooLarge`, what `about` raises and, for a full key, `RateLimited`.
        """

        with self._quota.storing(owner) as room:
            if owner.limits.stored_bytes is not None:
                room.begin(await self._store.stored_bytes(owner.id))

            async def counted() -> AsyncIterator[bytes]:
                async for piece in pieces:
                    room.take(len(piece))
                    yield piece

            limit = self._max_mb * MIB
            async with self._files.put(counted(), limit=limit, too_large=self._too_large) as stored:
                if about is not None:
                    purpose, lifetime_s = (told := about()).purpose, told.lifetime_s
                row = _row(owner, family, name, stored.digest, stored.size, purpose, mime, downloadable, lifetime_s)
                await self._store.add_kept(row)
            room.keep()
        return row

    async def join(
        self,
        owner: Owner,
        family: Family,
        name: str,
        parts: Sequence[KeptFileRow],
        about: About,
        *,
        md5: str | None = None,
    ) -> KeptFileRow:
        """One file of several, which are gone then. Their bytes count already, so no limit of the key is in the way.
        md5: what it has to have, in hex digits.

        Raises `TooLarge`, `FileMissing`, `InvalidField` for another MD5.
        """
        limit = self._max_mb * MIB
        async with self._files.put(self._joined(parts, md5), limit=limit, too_large=self._too_large) as stored:
            purpose, lifetime_s = about.purpose, about.lifetime_s
            row = _row(owner, family, name, stored.digest, stored.size, purpose, "", True, lifetime_s)
            await self._store.add_kept(row)
        for part in parts:
            await self._store.remove_kept(owner.id, part.id)
        return row

    async def _joined(self, parts: Sequence[KeptFileRow], md5: str | None) -> AsyncIterator[bytes]:
        sum_of_all = hashlib.md5(usedforsecurity=False)
        for part in parts:
            async for piece in self.pieces(part):
                if md5 is not None:
                    sum_of_all.update(piece)
                yield piece
        if md5 is not None and sum_of_all.hexdigest() != md5.lower():
            raise InvalidField("md5", f"the parts together have {sum_of_all.hexdigest()}; send what differs again")

    def _too_large(self) -> TooLarge:
        return TooLarge(f"a file may have {self._max_mb} MiB here; send less, or have max_upload_mb raised")

    async def keep(
        self,
        owner: Owner,
        family: Family,
        file: FileRow,
        *,
        name: str = "",
        purpose: str = "",
        lifetime_s: float | None = None,
    ) -> KeptFileRow:
        """Keep a session's stored file as it is now, whatever becomes of the session. name: default is its own.

        Raises `FileMissing` when its bytes are gone, `RateLimited`.
        """
        name = name or file.path.rpartition("/")[2]
        with self._quota.storing(owner) as room:
            if owner.limits.stored_bytes is not None:
                room.begin(await self._store.stored_bytes(owner.id))
            room.take(file.size)
            async with self._files.hold(file.digest):
                row = _row(owner, family, name, file.digest, file.size, purpose, file.mime, True, lifetime_s)
                await self._store.add_kept(row)
            room.keep()
        return row

    async def row(self, owner: Owner, family: Family, file_id: str) -> KeptFileRow:
        """Raises `FileMissing`."""
        row = await self._store.kept(owner.id, family, file_id)
        if row is None or _is_over(row):
            _missing(file_id)
        return row

    async def page(
        self,
        owner: Owner,
        family: Family,
        *,
        limit: int,
        after: str | None = None,
        newest_first: bool = True,
        purpose: str | None = None,
    ) -> Page[KeptFileRow]:
        """Those of a family as they came. Raises `InvalidRequest` when `after` is none of them."""
        return await self._store.kepts(
            owner.id, family, time.time(), limit=limit, after=after, newest_first=newest_first, purpose=purpose
        )

    async def remove(self, owner: Owner, family: Family, file_id: str) -> None:
        """Sessions that have got it keep it. Raises `FileMissing`."""
        await self.row(owner, family, file_id)
        if not await self._store.remove_kept(owner.id, file_id):
            _missing(file_id)

    def pieces(self, row: KeptFileRow, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` to before `end`, 1 MiB at a time. Raises `FileMissing`."""
        return self._files.pieces(row.digest, start, end)


def _row(
    owner: Owner,
    family: Family,
    name: str,
    digest: str,
    size: int,
    purpose: str,
    mime: str,
    downloadable: bool,
    lifetime_s: float | None,
) -> KeptFileRow:
    now = time.time()
    return KeptFileRow(
        id=_PREFIXES[family] + uuid.uuid4().hex,
        owner=owner.id,
        family=family,
        name=name,
        purpose=purpose,
        digest=digest,
        size=size,
        mime=mime or mime_of(name),
        downloadable=downloadable,
        created_at=now,
        expires_at=None if lifetime_s is None else now + lifetime_s,
    )


def _is_over(row: KeptFileRow) -> bool:
    return row.expires_at is not None and row.expires_at <= time.time()


def _missing(file_id: str) -> NoReturn:
    raise FileMissing(f"there is no file {file_id}")
