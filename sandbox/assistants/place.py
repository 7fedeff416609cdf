"""Where a run's code runs, and the files that go in and come out.

A thread has one session, opened when the first code has to run. Files lie in it under their own names. What an answer
links to, and what was drawn, is kept among the owner's files, from where programs download it.
"""

import base64
import binascii
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from sandbox import logs
from sandbox.assistants.threads import Threads
from sandbox.assistants.tools import files_of
from sandbox.chats import Opening, Tool
from sandbox.errors import FileMissing, SandboxError, SessionMissing
from sandbox.execution import MIB, Output
from sandbox.keys import Owner
from sandbox.loop import openai_assistants as wire
from sandbox.loop.links import PREFIX
from sandbox.loop.messages import Image
from sandbox.loop.openai_assistants import Cited
from sandbox.node import Node, Upload
from sandbox.store.rows import KeptFileRow, ObjectRow

IDLE_S = 3600.0
"""For how long a thread's session waits for its next use."""
_OUTPUT = "assistants_output"
_MOST_PICTURE = 20 * MIB
_MOST_PICTURES = 32 * MIB
"""Of one run: all of them are in memory at once."""
_MOST_DRAWN = 100
"""Pictures of one run, between two answers of the caller's, that become files: a program may draw any number."""
_logger = logs.logger(__name__)


class Place:
    """Of one run."""

    def __init__(self, node: Node, threads: Threads, owner: Owner, run: Mapping[str, Any]) -> None:
        self.paths: Mapping[str, str] = {}
        """Of files below `/mnt/data`, by their ids."""
        self._node = node
        self._threads = threads
        self._owner = owner
        self._run = run
        self._session_id: str | None = None
        self._to_place: Mapping[str, str] = {}
        """The files that a new session begins with: paths by ids."""
        self._kept: dict[tuple[str, str], str] = {}
        self._drawn = 0

    async def tool(self, file_ids: Sequence[str]) -> Tool:
        """The thread's session with all its files, or a new one when code runs. file_ids: the assistant's.

        Raises `ObjectMissing`, `WorkspaceFull`, and what else putting files there raises.
        """
        thread = await self._threads.row(self._owner, self._run["thread_id"])
        files = await self._files([*file_ids, *files_of(thread.body["thread"])])
        self.paths = await self._threads.name(self._owner, thread.id, files)
        session_id = thread.body["session_id"]
        if session_id is not None and await self._is_open(session_id):
            self._session_id = session_id
            await self._place(thread, session_id, files)
            return Tool(session_id=session_id)
        self._to_place = {file.id: self.paths[file.id] for file in files}
        uploads = tuple(Upload(self.paths[file.id], None, file.id, "openai") for file in files)
        opening = Opening(idle_timeout_s=IDLE_S, files=uploads, metadata={"thread_id": thread.id})
        return Tool(opening=opening, lost=session_id is not None)

    async def _place(self, thread: ObjectRow, session_id: str, files: Sequence[KeptFileRow]) -> None:
        """Into a session that is open, beside whatever programs have made there."""
        placed = {file_id: self.paths[file_id] for file_id in thread.body["placed"]}
        for file in files:
            if file.id not in placed:
                path, pieces = self.paths[file.id], self._node.kept.pieces(file)
                put = await self._node.put_file(
                    self._owner, session_id, path, pieces, file.size, fresh=True, begun=True
                )
                placed[file.id] = put.path
        self.paths = {**self.paths, **placed}
        await self._threads.place(self._owner, thread.id, session_id, placed)

    async def _files(self, file_ids: Sequence[str]) -> list[KeptFileRow]:
        """Those that are still there."""
        found = []
        for file_id in dict.fromkeys(file_ids):
            try:
                found.append(await self._node.kept.row(self._owner, "openai", file_id))
            except FileMissing:
                continue
        return found

    async def _is_open(self, session_id: str) -> bool:
        try:
            return (await self._node.touch(self._owner, session_id)).status == "active"
        except SessionMissing:
            return False

    async def at(self, session_id: str | None) -> None:
        """Code runs there now."""
        if session_id is not None and session_id != self._session_id:
            self._session_id = session_id
            await self._threads.place(self._owner, self._run["thread_id"], session_id, self._to_place)

    async def pictures(self, messages: Sequence[Mapping[str, Any]]) -> dict[str, Image]:
        """The files that users show, by their ids; without those that are gone, too large for any model, or older than
        the newest that are small enough together. messages: the oldest first.
        """
        shown = [
            part["image_file"]["file_id"]
            for message in messages
            if message["role"] == "user"
            for part in message["content"]
            if part["type"] == "image_file"
        ]
        found: dict[str, Image] = {}
        left, times = _MOST_PICTURES, Counter(shown)
        for row in await self._files(shown[::-1]):
            if row.size <= _MOST_PICTURE and (size := row.size * times[row.id]) <= left:
                left -= size
                data = b"".join([piece async for piece in self._node.kept.pieces(row)])
                found[row.id] = Image(row.mime, base64.b64encode(data).decode())
        return found

    async def keep_picture(self, output: Output) -> str | None:
        """The id of the file that a picture was made; None for what is none, cannot be kept, or is one too many."""
        if (picture := wire.picture(output)) is None or self._drawn >= _MOST_DRAWN:
            return None
        ending, encoded = picture
        self._drawn += 1
        name = f"figure-{self._run['id'].removeprefix('run_')[:12]}-{self._drawn}.{ending}"
        try:
            data = base64.b64decode(encoded)
            return (await self._node.kept.put(self._owner, "openai", name, _one(data), purpose=_OUTPUT)).id
        except (binascii.Error, ValueError, SandboxError) as error:
            _logger.warning("figure_lost", run_id=self._run["id"], error=str(error))
            return None

    async def cited(self, text: str) -> list[Cited]:
        """The links in an answer, with the ids of the files as they are now; without those that cannot be kept."""
        if self._session_id is None or PREFIX not in text:
            return []
        cited = []
        try:
            listed = await self._node.files(self._owner, self._session_id)
            for link in wire.links(text, [row.path for row in listed.rows]):
                cited.append(Cited(link.start, link.end, await self._keep(link.path)))
        except SandboxError as error:
            _logger.warning("link_lost", run_id=self._run["id"], error=str(error))
        return cited

    async def _keep(self, path: str) -> str:
        assert self._session_id is not None
        file = await self._node.file(self._owner, self._session_id, path)
        known = (path, file.digest)
        if known not in self._kept:
            kept = await self._node.kept.keep(self._owner, "openai", file, purpose=_OUTPUT)
            self._kept[known] = kept.id
        return self._kept[known]


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data
