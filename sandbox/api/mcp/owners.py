"""The SDK's sessions of every owner, each apart: what one key has opened does not exist for another."""

import asyncio
import contextvars
from dataclasses import dataclass

from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from sandbox import logs
from sandbox.api.mcp.desk import Desk
from sandbox.api.mcp.protocol import Context, create_server
from sandbox.api.mcp.recorded import Recorded
from sandbox.api.visit import Visit
from sandbox.execution import MIB
from sandbox.keys import Owner
from sandbox.node import Node

_MOST_CONNECTIONS = 1000
"""Protocol sessions of one owner. They are small; what their programs need is limited by the node."""
_log = logs.logger(__name__)


@dataclass(frozen=True, slots=True)
class _Counter:
    """What serves one owner."""

    sessions: Recorded
    desk: Desk
    manager: StreamableHTTPSessionManager
    task: "asyncio.Task[None]"


class Owners:
    """Made within a running loop, where its tasks live until `close`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._counters: dict[str, _Counter] = {}
        self._opening = asyncio.Lock()

    async def serve(self, owner: Owner, scope: Scope, receive: Receive, send: Send) -> None:
        """One request of an owner."""
        counter = await self._counter(owner)
        left = Request(scope).headers.get(MCP_SESSION_ID_HEADER) if scope["method"] == "DELETE" else None
        if left is None:
            await counter.manager.handle_request(scope, receive, send)
            return
        answered: list[int] = []

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered.append(message["status"])
            await send(message)

        await counter.manager.handle_request(scope, receive, watched)
        if answered == [200]:
            await counter.desk.leave(left)

    async def close(self) -> None:
        """End every protocol session. May be called twice."""
        tasks = [counter.task for counter in self._counters.values()]
        self._counters.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _counter(self, owner: Owner) -> _Counter:
        async with self._opening:
            found = self._counters.get(owner.id)
            if found is None or found.task.done():
                found = self._counters[owner.id] = await self._opened(owner)
            found.sessions.owner = owner
            return found

    async def _opened(self, owner: Owner) -> _Counter:
        sessions = Recorded(self._node, owner)
        desk = Desk(sessions)
        manager = StreamableHTTPSessionManager(
            create_server(desk, _connection, about=_about, transport="tcp"),
            session_idle_timeout=self._node.settings.idle_timeout_s,
            max_request_body_size=self._node.settings.max_body_mb * MIB,
            max_sessions=_MOST_CONNECTIONS,
        )
        ready = asyncio.Event()
        # In no context: it outlives the request that happens to be the owner's first.
        task = asyncio.create_task(_run(manager, ready), name=f"mcp of {owner.id}", context=contextvars.Context())
        await ready.wait()
        return _Counter(sessions, desk, manager, task)


async def _run(manager: StreamableHTTPSessionManager, ready: asyncio.Event) -> None:
    """In one task from begin to end, as the SDK's cancel scopes want it."""
    try:
        async with manager.run():
            ready.set()
            await asyncio.Event().wait()
    except Exception:
        _log.exception("mcp failed")
    finally:
        ready.set()


def _connection(context: Context) -> str | None:
    """The SDK has seen to it that the header names a protocol session of this owner, or that there is none."""
    request = context.request
    if not isinstance(request, Request) or context.protocol_version not in HANDSHAKE_PROTOCOL_VERSIONS:
        return None
    return request.headers.get(MCP_SESSION_ID_HEADER)


def _about(context: Context, session_id: str) -> None:
    """For the log's line."""
    if isinstance(context.request, Request):
        Visit.of(context.request).session_id = session_id
