"""Sessions on a server, through its HTTP API."""

import contextlib

from sandbox.api.mcp.workbench import Piece, named
from sandbox.client import AsyncClient
from sandbox.errors import SandboxError
from sandbox.interpreters.client import ClientInterpreter
from sandbox.loop.interpreter import Facts
from sandbox.remote import File, checked_path


class RemoteWorkbench(ClientInterpreter):
    """A `Workbench` over a client's session."""

    @property
    def session_id(self) -> str:
        """See `Workbench`."""
        return self.session.id

    async def upload(self, path: str, data: bytes) -> File:
        """See `Workbench`."""
        file = await self.session.upload(checked_path(path), data)
        return File(file.path, file.size, file.modified_at.timestamp(), file.digest)

    async def read(self, path: str, offset: int, length: int) -> Piece:
        """See `Workbench`."""
        checked = checked_path(path)
        file = named(await self.files(), checked)
        start, end = min(offset, file.size), min(offset + length, file.size)
        data = await self.session.download(checked, start, end) if start < end else b""
        return Piece(data, start, file.size)


class Remote:
    """`Workbenches` on a server. Those that are open when it is left are closed by `close_all`."""

    def __init__(self, client: AsyncClient, image: str, memory_mb: int | None = None) -> None:
        """memory_mb: cap of each in MiB; None is the server's."""
        self._client = client
        self._image = image
        self._memory_mb = memory_mb
        self._facts: Facts | None = None
        self._open: dict[str, RemoteWorkbench] = {}

    async def facts(self) -> Facts:
        """See `Workbenches`. What a session may have is known from one alone; it is closed again."""
        if self._facts is None:
            found = await self.open(seen=True)
            await self.close(found.session_id)
        assert self._facts is not None
        return self._facts

    async def open(self, *, seen: bool) -> RemoteWorkbench:
        """See `Workbenches`."""
        session = await self._client.open_session(memory_mb=self._memory_mb, image=self._image)
        try:
            found = self._open[session.id] = await RemoteWorkbench.of(self._client, session)
        except BaseException:
            with contextlib.suppress(SandboxError):  # what went wrong before is what matters
                await session.close()
            raise
        self._facts = found.facts
        return found

    async def find(self, session_id: str) -> RemoteWorkbench:
        """See `Workbenches`."""
        if (found := self._open.get(session_id)) is None:
            found = await RemoteWorkbench.of(self._client, await self._client.attach(session_id))
        return found

    async def close(self, session_id: str) -> None:
        """See `Workbenches`."""
        await (await self.find(session_id)).session.close()
        self._open.pop(session_id, None)

    async def close_all(self) -> None:
        """End every session that was opened here."""
        for session_id in list(self._open):
            await self.close(session_id)
