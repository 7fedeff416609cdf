"""Sessions of an engine in this process."""

from sandbox.api.mcp.workbench import Piece, named, piece_of
from sandbox.engine import Engine
from sandbox.errors import SessionMissing
from sandbox.interpreters.session import SessionInterpreter, facts_of
from sandbox.loop.interpreter import Facts
from sandbox.remote import File, checked_path


class LocalWorkbench(SessionInterpreter):
    """A `Workbench` over an engine's session."""

    @property
    def session_id(self) -> str:
        """See `Workbench`."""
        return self.session.id

    async def upload(self, path: str, data: bytes) -> File:
        """See `Workbench`."""
        return await self.session.upload(path, data)

    async def read(self, path: str, offset: int, length: int) -> Piece:
        """See `Workbench`."""
        checked = checked_path(path)
        file = named(await self.session.list(), checked)
        return Piece(await piece_of(self.session.read(checked), offset, length), min(offset, file.size), file.size)


class Local:
    """`Workbenches` of an engine, which ends them with itself."""

    def __init__(self, engine: Engine, memory_mb: int | None = None) -> None:
        """memory_mb: cap of each in MiB."""
        self._engine = engine
        self._memory_mb = memory_mb
        self._open: dict[str, LocalWorkbench] = {}

    async def facts(self) -> Facts:
        """See `Workbenches`."""
        spec = self._engine.spec(memory_mb=self._memory_mb)
        return await facts_of(self._engine, spec.image, spec.limits)

    async def open(self, *, seen: bool) -> LocalWorkbench:
        """See `Workbenches`."""
        session = await self._engine.open_session(memory_mb=self._memory_mb)
        self._open = {each: held for each, held in self._open.items() if held.session.open}
        self._open[session.id] = await LocalWorkbench.of(self._engine, session)
        return self._open[session.id]

    async def find(self, session_id: str) -> LocalWorkbench:
        """See `Workbenches`."""
        try:
            return self._open[session_id]
        except KeyError:
            raise SessionMissing(f"there is no session {session_id}") from None

    async def close(self, session_id: str) -> None:
        """See `Workbenches`."""
        found = await self.find(session_id)
        await self._engine.close_session(found.session)
