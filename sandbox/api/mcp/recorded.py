"""Durable sessions of one owner: what runs in them is recorded like everything else on the server."""

from collections.abc import AsyncIterator

from sandbox.api.mcp.workbench import Piece
from sandbox.interpreters.node import NodeInterpreter, facts
from sandbox.keys import Owner
from sandbox.loop.interpreter import Facts
from sandbox.node import Node
from sandbox.remote import File
from sandbox.store.rows import FileRow

_UNSEEN_IDLE_S = 900.0
"""For a session whose client has no protocol session that could end: nobody tells us when it is done."""


class RecordedWorkbench(NodeInterpreter):
    """A `Workbench` over a node."""

    async def upload(self, path: str, data: bytes) -> File:
        """See `Workbench`."""
        return _file(await self._node.put_file(self._owner, self.session_id, path, _one(data), len(data)))

    async def read(self, path: str, offset: int, length: int) -> Piece:
        """See `Workbench`."""
        row = await self._node.file(self._owner, self.session_id, path)
        start, end = min(offset, row.size), min(offset + length, row.size)
        data = b"".join([piece async for piece in self._node.pieces(row, start, end)]) if start < end else b""
        return Piece(data, start, row.size)


class Recorded:
    """`Workbenches` of an owner."""

    def __init__(self, node: Node, owner: Owner) -> None:
        self.owner = owner
        """As it was authenticated last: its limits may change."""
        self._node = node

    async def facts(self) -> Facts:
        """See `Workbenches`."""
        return await facts(self._node)

    async def open(self, *, seen: bool) -> RecordedWorkbench:
        """See `Workbenches`."""
        usual = self._node.settings.idle_timeout_s
        known = await self.facts()  # first, so that nothing can fail once there is a session
        row = await self._node.open_session(self.owner, idle_timeout=usual if seen else min(usual, _UNSEEN_IDLE_S))
        return RecordedWorkbench(self._node, self.owner, row.id, known)

    async def find(self, session_id: str) -> RecordedWorkbench:
        """See `Workbenches`."""
        row = await self._node.active_session(self.owner, session_id)
        return await RecordedWorkbench.of(self._node, self.owner, row)

    async def close(self, session_id: str) -> None:
        """See `Workbenches`."""
        await self._node.close_session(self.owner, session_id)


def _file(row: FileRow) -> File:
    return File(row.path, row.size, row.modified_at, row.digest)


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data
