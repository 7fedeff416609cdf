"""Threads: a conversation, its files, and the session in which its code runs.

A row's body is `thread` as the API tells it, and beside it what nobody sees: `session_id`, `paths` (of files in
`/mnt/data`, by their ids) and `placed` (the ids of those that the session has).
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

from sandbox.assistants.tools import checked_resources, files_of
from sandbox.errors import InvalidField, SandboxError
from sandbox.keys import Owner
from sandbox.loop import openai_assistants as wire
from sandbox.node import Node
from sandbox.objects import new_id
from sandbox.remote import file_name, free_path
from sandbox.store.rows import KeptFileRow, ObjectRow

_KIND = "thread"
UNUSED_S = 60 * 86_400.0
"""A thread without a new message or run for so long is removed, with all in it."""
_MOST_FILES = 500
"""Of its messages together: for each a name is sought that no other has."""


class Threads:
    """Of many owners; whatever belongs to another does not exist."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def alone(self, owner: Owner, thread_id: str) -> AsyncIterator[None]:
        """Within the block nobody else adds a message or a run to it. How long that takes tells no other owner
        whether it is there.
        """
        async with self._locks.setdefault(f"{owner.id} {thread_id}", asyncio.Lock()):
            yield

    async def create(self, owner: Owner, asked: Mapping[str, Any]) -> ObjectRow:
        """An empty one. Raises `InvalidRequest`, `FileMissing`."""
        resources = await checked_resources(self._node, owner, asked.get("tool_resources"))
        made = wire.thread({**asked, "tool_resources": resources}, id=new_id("thread_"), now=int(time.time()))
        body: dict[str, Any] = {"thread": made, "session_id": None, "paths": {}, "placed": []}
        return await self._node.objects.add(owner, _KIND, body, object_id=made["id"], lifetime_s=UNUSED_S)

    async def use(self, owner: Owner, thread_id: str) -> None:
        """Something is added to it, so it stays."""
        await self._node.objects.prolong(owner, [thread_id], UNUSED_S)

    async def row(self, owner: Owner, thread_id: str) -> ObjectRow:
        """Raises `ObjectMissing`."""
        return await self._node.objects.get(owner, _KIND, thread_id)

    async def update(self, owner: Owner, thread_id: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Only the fields that are given. Raises `ObjectMissing`, `InvalidRequest`, `FileMissing`."""
        changed: dict[str, Any] = {}
        if asked.get("metadata") is not None:
            changed["metadata"] = asked["metadata"]
        if asked.get("tool_resources") is not None:
            changed["tool_resources"] = await checked_resources(self._node, owner, asked["tool_resources"])
        async with self._change(owner, thread_id) as body:
            body["thread"] = {**body["thread"], **changed}
        thread: dict[str, Any] = body["thread"]
        return thread

    async def delete(self, owner: Owner, thread_id: str) -> dict[str, Any]:
        """And all that is in it, and its session. Raises `ObjectMissing`."""
        row = await self.row(owner, thread_id)
        await self._node.objects.remove(owner, _KIND, thread_id)
        if (session_id := row.body["session_id"]) is not None:
            with contextlib.suppress(SandboxError):  # it has expired and is forgotten
                await self._node.close_session(owner, session_id)
        return {"id": thread_id, "object": "thread.deleted", "deleted": True}

    async def attach(self, owner: Owner, thread_id: str, file_ids: Sequence[str]) -> None:
        """Files for the code interpreter. Raises `ObjectMissing`, `InvalidField` when the thread has too many."""
        if not file_ids:
            return
        async with self._change(owner, thread_id) as body:
            thread = body["thread"]
            every = list(dict.fromkeys([*files_of(thread), *file_ids]))
            if len(every) > _MOST_FILES:
                raise InvalidField("attachments", f"a thread may have {_MOST_FILES} files; begin another one")
            resources = {**thread["tool_resources"], "code_interpreter": {"file_ids": every}}
            body["thread"] = {**thread, "tool_resources": resources}

    async def name(self, owner: Owner, thread_id: str, files: Sequence[KeptFileRow]) -> Mapping[str, str]:
        """Where in `/mnt/data` these files lie, by their ids: under their own names, a second one of a name with a
        number in it. What once has a path keeps it. Raises `ObjectMissing`.
        """
        async with self._change(owner, thread_id) as body:
            paths = dict(body["paths"])
            taken = set(paths.values())
            for file in files:
                if file.id not in paths:
                    paths[file.id] = free_path(file_name(file.name), taken)
                    taken.add(paths[file.id])
            body["paths"] = paths
        return paths

    async def place(self, owner: Owner, thread_id: str, session_id: str, placed: Mapping[str, str]) -> None:
        """Its code runs in this session, which has these files: paths by ids. Raises `ObjectMissing`."""
        async with self._change(owner, thread_id) as body:
            body |= {"session_id": session_id, "placed": sorted(placed), "paths": {**body["paths"], **placed}}

    @contextlib.asynccontextmanager
    async def _change(self, owner: Owner, thread_id: str) -> AsyncIterator[dict[str, Any]]:
        """Its body, to be changed in the block by nobody else."""
        async with self._changing.setdefault(thread_id, asyncio.Lock()):
            row = await self.row(owner, thread_id)
            body = dict(row.body)
            yield body
            if body != row.body:
                await self._node.objects.change(row, body)
