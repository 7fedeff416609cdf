"""Which session a call is about: the one it names, else its connection's own, which is opened when it is first needed.

A connection is a process that speaks over stdio, or a protocol session over HTTP (`Mcp-Session-Id`). Since 2026-07-28
HTTP has none: such a call opens a session unless it names one, and the result says how to name it.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from sandbox import logs
from sandbox.api.mcp.workbench import Workbench, Workbenches
from sandbox.errors import Conflict, InvalidRequest, NotFound, SandboxError
from sandbox.loop.repeats import Repeats

_MOST = 10_000
"""Connections, and sessions, of which something is remembered."""
_log = logs.logger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """A session for a call."""

    workbench: Workbench
    notes: tuple[str, ...] = ()
    """What the model has to know of how it was come by."""


@dataclass(slots=True)
class Past:
    """What a model has seen of a session before."""

    lost: bool = False
    """An execution has cost it its variables."""
    repeats: Repeats = field(default_factory=Repeats)


@dataclass(slots=True)
class _Connection:
    session_id: str | None = None
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One at a time, so that calls which come together get the same session."""


class Desk:
    """For one owner. `connection` in every call: an id, or None where the protocol has none."""

    def __init__(self, sessions: Workbenches) -> None:
        self.sessions = sessions
        self._connections: OrderedDict[str, _Connection] = OrderedDict()
        self._pasts: OrderedDict[str, Past] = OrderedDict()

    async def open(self, connection: str | None, session_id: str | None) -> Found:
        """The session, a new one if need be. Raises `SessionMissing`, and what opening raises."""
        if session_id is not None:
            return Found(await self.sessions.find(session_id))
        if connection is None:
            workbench = await self.sessions.open(seen=False)
            return Found(workbench, (_handle(workbench.session_id),))
        held = self._connections.setdefault(connection, _Connection())
        self._connections.move_to_end(connection)
        while len(self._connections) > _MOST:
            self._connections.popitem(last=False)
        async with held.opening:
            if held.session_id is not None:
                return Found(await self.sessions.find(held.session_id))
            workbench = await self.sessions.open(seen=True)
            held.session_id = workbench.session_id
            return Found(workbench)

    async def reopen(self, connection: str, had: str, error: Conflict | NotFound) -> Found:
        """For a connection whose session turned out to be over. had: that one's id."""
        if self.current(connection) == had:  # else another call has been here already
            self.forget(connection)
        found = await self.open(connection, None)
        why = str(error).removesuffix("; open a new one")
        return Found(found.workbench, (f"Note: {why}. This is a new session: earlier variables and files are gone.",))

    async def find(self, connection: str | None, session_id: str | None) -> Workbench | None:
        """The session, if there is one. Raises `SessionMissing`, `InvalidRequest`."""
        if session_id is None and connection is None:
            raise InvalidRequest(
                "session_id is missing; run_python and upload_file open a session without one, and return its id"
            )
        if (wanted := session_id or self.current(connection)) is None:
            return None
        return await self.sessions.find(wanted)

    def current(self, connection: str | None) -> str | None:
        """The id of the connection's own session, if it has one."""
        held = self._connections.get(connection or "")
        return held.session_id if held else None

    def forget(self, connection: str | None) -> str | None:
        """The connection has no session from now on; the one that it had."""
        held = self._connections.get(connection or "")
        if held is None:
            return None
        had, held.session_id = held.session_id, None
        return had

    async def leave(self, connection: str) -> None:
        """The connection is over, and its session with it. Raises nothing."""
        session_id = self.forget(connection)
        self._connections.pop(connection, None)
        if session_id is not None:
            try:
                await self.sessions.close(session_id)
            except SandboxError as error:
                _log.warning("session not closed", session_id=session_id, error=str(error))

    def past(self, session_id: str) -> Past:
        """Of the session, as far as it went through here."""
        past = self._pasts.setdefault(session_id, Past())
        self._pasts.move_to_end(session_id)
        if len(self._pasts) > _MOST:
            self._pasts.popitem(last=False)
        return past


def _handle(session_id: str) -> str:
    return f"This is session {session_id}: send session_id with the next call to keep its variables and files."
