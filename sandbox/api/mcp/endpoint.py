"""`/mcp`: MCP over streamable HTTP, in its old form with protocol sessions and in its new one without."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from typing import TYPE_CHECKING

from fastapi import HTTPException, Request
from starlette.types import Receive, Scope, Send

from sandbox.api.auth import authenticate
from sandbox.api.visit import CLIENT_LEFT, Visit
from sandbox.errors import Draining
from sandbox.node import Node

if TYPE_CHECKING:
    from sandbox.api.mcp.owners import Owners

PATH = "/mcp"
_MISSING = "MCP is not installed on this server; pip install '.[mcp]' in the checkout and start it again"


class Endpoint:
    """An ASGI application. It answers within `open`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._owners: Owners | None = None
        self._loading = asyncio.Lock()
        self._open = False
        self._busy = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """At the end every connection is ended, and no session: those go on with the next server."""
        self._open = True
        try:
            yield
        finally:
            await self.close()

    async def close(self, patience: float = 0.0) -> None:
        """End all connections, those that still get an answer after `patience` seconds. May be called twice."""
        self._open = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._quiet.wait()
        if self._owners is not None:
            await self._owners.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. Raises `Unauthorized`, `Draining`, and `HTTPException` where the SDK is missing."""
        request = Request(scope, receive)
        visit = Visit.of(request)
        visit.route = PATH
        owner = await authenticate(request)
        owners = await self._loaded()
        with contextlib.nullcontext() if scope["method"] == "GET" else self._counted():  # a GET's stream has no end
            await owners.serve(owner, scope, receive, send)
        visit.status = visit.status or CLIENT_LEFT

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._busy += 1
        self._quiet.clear()
        try:
            yield
        finally:
            self._busy -= 1
            if not self._busy:
                self._quiet.set()

    async def _loaded(self) -> "Owners":
        """Imports the SDK when it is first asked for; in a thread, because that takes a second."""
        async with self._loading:
            if not self._open:
                raise Draining("the server is about to stop; try again when it is back", 5.0)
            if self._owners is None:
                try:
                    module = await asyncio.to_thread(import_module, "sandbox.api.mcp.owners")
                except ImportError as error:
                    if error.name is None or error.name.partition(".")[0] not in ("mcp", "mcp_types"):
                        raise
                    raise HTTPException(404, _MISSING) from error
                self._owners = module.Owners(self._node)
            return self._owners
