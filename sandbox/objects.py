"""Objects of other APIs that are no sessions and no files: responses, assistants, threads, messages, runs.

Here they are JSON under an id, of an owner, in the order of their making; what is in them is their family's business.
"""

import dataclasses
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from sandbox.errors import ObjectMissing
from sandbox.keys import Owner
from sandbox.store import Store
from sandbox.store.rows import ObjectRow, Page


class Objects:
    """Made by the node. Everything takes an owner first; what has expired, or is another's, does not exist."""

    def __init__(self, store: Store, node: str, epoch: int) -> None:
        self._store = store
        self._node = node
        self._epoch = epoch

    async def add(
        self,
        owner: Owner,
        kind: str,
        body: Mapping[str, Any],
        *,
        object_id: str,
        parent: str = "",
        live: bool = False,
        lifetime_s: float | None = None,
    ) -> ObjectRow:
        """Keep a new one. object_id: see `new_id`. parent: the id of what it is removed with. live: work on it goes on.
        lifetime_s: default is until it is removed.
        """
        now = time.time()
        expires_at = None if lifetime_s is None else now + lifetime_s
        row = ObjectRow(object_id, owner.id, kind, parent, self._node, self._epoch, live, now, expires_at, body)
        await self._store.add_object(row)
        return row

    async def change(self, row: ObjectRow, body: Mapping[str, Any], *, live: bool | None = None) -> ObjectRow:
        """Write its body anew. live: default is as it was. Raises `ObjectMissing` when it was removed meanwhile."""
        live = row.live if live is None else live
        row = dataclasses.replace(row, body=body, live=live, node=self._node, epoch=self._epoch)
        if not await self._store.change_object(row):
            raise _missing(row.kind, row.id)
        return row

    async def prolong(self, owner: Owner, object_ids: Sequence[str], lifetime_s: float) -> None:
        """They expire in so many seconds from now."""
        await self._store.prolong_objects(owner.id, object_ids, time.time() + lifetime_s)

    async def get(self, owner: Owner, kind: str, object_id: str) -> ObjectRow:
        """Raises `ObjectMissing`."""
        row = await self._store.object(owner.id, kind, object_id)
        if row is None or (row.expires_at is not None and row.expires_at <= time.time()):
            raise _missing(kind, object_id)
        return row

    async def page(
        self,
        owner: Owner,
        kind: str,
        *,
        parent: str = "",
        limit: int,
        after: str | None = None,
        newest_first: bool = True,
    ) -> Page[ObjectRow]:
        """Those of a kind and a parent, in the order of their making.

        Raises `InvalidRequest` when `after` is none of them.
        """
        return await self._store.objects(
            owner.id, kind, parent=parent, limit=limit, after=after, newest_first=newest_first
        )

    async def remove(self, owner: Owner, kind: str, object_id: str) -> None:
        """And its parts. Raises `ObjectMissing`."""
        await self.get(owner, kind, object_id)
        if not await self._store.remove_object(owner.id, object_id):
            raise _missing(kind, object_id)

    def is_abandoned(self, row: ObjectRow) -> bool:
        """Whether work on it was cut off by a stop of the server, and nobody will end it."""
        return row.live and row.node == self._node and row.epoch != self._epoch


def new_id(prefix: str) -> str:
    """Such as `resp_` and 32 hexadecimal digits."""
    return prefix + uuid.uuid4().hex


def _missing(kind: str, object_id: str) -> ObjectMissing:
    return ObjectMissing(f"there is no {kind} {object_id}")
