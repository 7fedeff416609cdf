"""What every route does before its function is called: whose request, what kind of body, then the body itself.

In this order, so that whoever has no key cannot make the server take or parse a body.
"""

import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, Literal

from fastapi import Depends, Header, HTTPException, Path, Query, Request, Response
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from sandbox import logs
from sandbox.api.auth import authenticate
from sandbox.api.families import is_anthropic
from sandbox.api.schemas import ID_PATTERN, SOME_EXECUTION, SOME_SESSION
from sandbox.api.visit import Visit
from sandbox.claims import Once
from sandbox.keys import Owner
from sandbox.node import Node

_JSON = re.compile(r"application/(?:[\w.+-]+\+)?json\s*(?:;.*)?", re.IGNORECASE)

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class OpenRoute(APIRoute):
    """A route that needs no key."""

    def get_route_handler(self) -> Handler:
        """The function of the route, with all that comes before it."""
        handler = super().get_route_handler()
        template = self.path_format

        async def handle(request: Request) -> Response:
            Visit.of(request).route = template
            return await handler(request)

        return handle


class Route(OpenRoute):
    """A route for whoever has a key."""

    def get_route_handler(self) -> Handler:
        """See `OpenRoute`."""
        handler = super().get_route_handler()
        template, json, optional = self.path_format, self.body_field is not None, self._is_body_optional()

        async def handle(request: Request) -> Response:
            visit = Visit.of(request)
            visit.route = template
            visit.session_id = request.path_params.get("session_id")
            visit.execution_id = request.path_params.get("execution_id")
            await authenticate(request)
            if json and not (optional and await _has_no_body(request)):
                if not _JSON.fullmatch(request.headers.get("content-type", "")):
                    raise HTTPException(415, "send the body as JSON, with `Content-Type: application/json`")
                await request.body()  # here, where what it raises is still told apart from JSON that cannot be parsed
            with logs.bound(**visit.ids):
                return await handler(request)

        return handle

    def _is_body_optional(self) -> bool:
        return self.body_field is not None and not self.body_field.field_info.is_required()


async def _has_no_body(request: Request) -> bool:
    return "content-type" not in request.headers and not await request.body()


class NamedRoute(Route):
    """A route of Anthropic's API: its SDKs look for a request's id in another header than ours."""

    def get_route_handler(self) -> Handler:
        """See `OpenRoute`."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            response = await handler(request)
            response.headers["request-id"] = Visit.of(request).request_id
            return response

        return handle


class AnthropicRoute(NamedRoute):
    """The same on a path that others have, too."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the request is for it; other families' routes are asked after this one."""
        return super().matches(scope) if is_anthropic(scope) else (Match.NONE, {})


# Functions that the routes call, not dependencies: to solve those costs FastAPI many times what they do.
def node_of(request: Request) -> Node:
    """Whom every route asks."""
    node: Node = request.app.state.node
    return node


def owner_of(request: Request) -> Owner:
    """Whose request it is, on a route for whoever has a key."""
    owner = Visit.of(request).owner
    assert owner is not None
    return owner


async def once_of(request: Request, key: str | None) -> Once | None:
    """What an `IdempotencyKey` says of this request."""
    if key is None:
        return None
    asked = sha256(f"{request.method} {request.url.path}\n".encode("utf-8", "surrogateescape"))
    asked.update(await request.body())
    return Once(key, asked.hexdigest())


@dataclass(frozen=True, slots=True)
class PagePart:
    """Which part of a list is wanted."""

    limit: int
    after: str | None
    newest_first: bool


# A coroutine, because FastAPI runs a dependency that is none in a thread.
async def _page(
    limit: Annotated[int, Query(ge=1, le=100, description="Most items of one page.", examples=[20])] = 20,
    after: Annotated[
        str | None,
        Query(pattern=ID_PATTERN, description="The `next` of the page before this one.", examples=[SOME_SESSION]),
    ] = None,
    order: Annotated[
        Literal["asc", "desc"], Query(description="By time: oldest or newest first.", examples=["asc"])
    ] = "desc",
) -> PagePart:
    return PagePart(limit, after, order == "desc")


IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x20-\x7e]+$",
        examples=["5c1f6d0e-first-try"],
        description="Words of the client's own. The same key with the same request is done once in 24 hours, and "
        "every repetition gets the first one's answer; with another request it is a conflict.",
    ),
]
Wanted = Annotated[PagePart, Depends(_page)]
SessionId = Annotated[str, Path(pattern=ID_PATTERN, description="The session's `id`.", examples=[SOME_SESSION])]
ExecutionId = Annotated[str, Path(pattern=ID_PATTERN, description="The execution's `id`.", examples=[SOME_EXECUTION])]
