"""Routes that come to an application after it has begun to answer.

    no route knows the path ─ wait until all have come ─ ask them again ─ it is one of theirs, or nobody's

So no client is told that something is not there which only is not there yet. Should they fail to come, those who wait
are told that instead.
"""

import asyncio
from collections.abc import Sequence

from starlette.routing import BaseRoute, Router
from starlette.types import Receive, Scope, Send

from sandbox.errors import Unready


class Later:
    """An ASGI application: what the router falls back to until `come`."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._fallback = router.default
        self._here = asyncio.Event()
        self._failed = False
        router.default = self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request whose path nobody knows yet. Raises `Unready` when nobody ever will."""
        await self._here.wait()
        if self._failed:
            raise Unready("this part of the server could not be loaded; see its log")
        await self._router(scope, receive, send)

    def come(self, routes: Sequence[BaseRoute]) -> None:
        """These were the last."""
        self._router.routes.extend(routes)
        self._router.default = self._fallback
        self._here.set()

    def fail(self) -> None:
        """They will not come."""
        self._failed = True
        self._here.set()
