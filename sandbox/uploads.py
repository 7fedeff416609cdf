"""OpenAI's uploads: a large file that comes in parts, is put together, and is a kept file then.

Parts are kept files of no family for as long as their upload may last, so whatever is given up goes by itself.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterable, Sequence
from weakref import WeakValueDictionary

from sandbox.errors import FileMissing, InvalidField, InvalidRequest, TooLarge
from sandbox.execution import MIB
from sandbox.kept import About
from sandbox.keys import Owner
from sandbox.node import Node
from sandbox.objects import new_id
from sandbox.store.rows import KeptFileRow, ObjectRow

LIFETIME_S = 3600.0
_KIND = "upload"


class Uploads:
    """For one node. An upload's body has `bytes`, `filename`, `purpose`, `lifetime_s` (of the file), `status`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def create(self, owner: Owner, *, size: int, name: str, about: About) -> ObjectRow:
        """size: in bytes, of all parts together. about: of the file to be. Raises `TooLarge`."""
        most = self._node.settings.max_upload_mb
        if size > most * MIB:
            raise TooLarge(f"bytes: a file may have {most} MiB here; send less, or have max_upload_mb raised")
        body = {
            "bytes": size,
            "filename": name,
            "purpose": about.purpose,
            "lifetime_s": about.lifetime_s,
            "status": "pending",
        }
        return await self._node.objects.add(owner, _KIND, body, object_id=new_id("upload_"), lifetime_s=LIFETIME_S)

    async def add_part(self, owner: Owner, upload_id: str, pieces: AsyncIterable[bytes]) -> KeptFileRow:
        """Parts may come in any order, also at the same time.

        Raises `ObjectMissing`, `InvalidRequest` when it has ended, `TooLarge`, `RateLimited`.
        """
        upload = await self._pending(owner, upload_id)
        left = (upload.expires_at or 0.0) - time.time()
        return await self._node.kept.put(owner, "", upload_id, pieces, purpose=upload_id, lifetime_s=left)

    async def complete(
        self, owner: Owner, upload_id: str, part_ids: Sequence[str], md5: str | None
    ) -> tuple[ObjectRow, KeptFileRow]:
        """The upload as it is then, and the file. part_ids: in their order in the file.

        Raises `ObjectMissing`, `InvalidRequest` when it has ended or the parts are not the whole.
        """
        async with self._alone(owner, upload_id):
            upload = await self._pending(owner, upload_id)
            parts = await self._parts(owner, upload, part_ids)
            about = About(upload.body["purpose"], upload.body["lifetime_s"])
            file = await self._node.kept.join(owner, "openai", upload.body["filename"], parts, about, md5=md5)
            return await self._end(owner, upload, "completed"), file

    async def cancel(self, owner: Owner, upload_id: str) -> ObjectRow:
        """Raises `ObjectMissing`, `InvalidRequest` when it has ended."""
        async with self._alone(owner, upload_id):
            return await self._end(owner, await self._pending(owner, upload_id), "cancelled")

    async def _pending(self, owner: Owner, upload_id: str) -> ObjectRow:
        upload = await self._node.objects.get(owner, _KIND, upload_id)
        if upload.body["status"] != "pending":
            raise InvalidRequest(f"the upload {upload_id} is {upload.body['status']}; begin a new one")
        return upload

    async def _parts(self, owner: Owner, upload: ObjectRow, part_ids: Sequence[str]) -> list[KeptFileRow]:
        if len(set(part_ids)) != len(part_ids):
            raise InvalidField("part_ids", "a part is named twice; name each once")
        parts = []
        for part_id in part_ids:
            try:
                part = await self._node.kept.row(owner, "", part_id)
            except FileMissing:
                part = None
            if part is None or part.purpose != upload.id:
                raise InvalidField("part_ids", f"{part_id} is no part of {upload.id}")
            parts.append(part)
        size, wanted = sum(part.size for part in parts), upload.body["bytes"]
        if size != wanted:
            raise InvalidField("part_ids", f"the parts have {size} bytes together, and the upload said {wanted}")
        return parts

    async def _end(self, owner: Owner, upload: ObjectRow, status: str) -> ObjectRow:
        upload = await self._node.objects.change(upload, {**upload.body, "status": status})
        kept = self._node.kept
        while (left := await kept.page(owner, "", limit=100, purpose=upload.id)).items:
            for part in left.items:
                with contextlib.suppress(FileMissing):  # it has expired meanwhile
                    await kept.remove(owner, "", part.id)
        return upload

    def _alone(self, owner: Owner, upload_id: str) -> asyncio.Lock:
        """Whoever completes or cancels it has it alone: the second finds that it has ended. How long that
        takes tells no other owner whether it is there.
        """
        return self._locks.setdefault(f"{owner.id} {upload_id}", asyncio.Lock())
