"""Routes that come to an application after it has begun to answer.

    no route knows the path ─ wait until all have come ─ ask them again ─ it is one of theirs, or nobody's

So no client is told that something is not there which only is not there yet.
"""

import asyncio
from collections.abc import Sequence

from starlette.routing import BaseRoute, Router
from starlette.types import Receive, Scope, Send


class Later:
    """An ASGI application: what the router falls back to until `come`."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._fallback = router.default
        self._here = asyncio.Event()
        router.default = self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request whose path nobody knows yet."""
        await self._here.wait()
        await self._router(scope, receive, send)

    def come(self, routes: Sequence[BaseRoute]) -> None:
        """These were the last."""
        self._router.routes.extend(routes)
        self._router.default = self._fallback
        self._here.set()
