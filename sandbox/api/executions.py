"""Executions in a session."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response

from sandbox.api import encode, sse
from sandbox.api.problems import documented
from sandbox.api.route import ExecutionId, IdempotencyKey, Route, SessionId, Wanted, node_of, once_of, owner_of
from sandbox.api.schemas import ExecutionIn, ExecutionOut, ExecutionsOut
from sandbox.api.visit import Visit
from sandbox.errors import SandboxError
from sandbox.events import Cursor, EventLog

router = APIRouter(route_class=Route, tags=["executions"])

LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        max_length=128,
        description="The `id` of the last event received.",
        examples=["3.0.0.0.0.0"],
    ),
]
MOST_BYTES = 32 << 20
"""Of a page; one of its executions may have as many."""
_AT_ONCE = 8
EVENTS: dict[str, Any] = {sse.MEDIA_TYPE: {"schema": sse.SCHEMA, "example": sse.EXAMPLE}}
OUTCOME: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ExecutionOut,
        "description": f"The Execution, whatever the program did. With `stream`: {sse.DESCRIPTION}",
        "content": EVENTS,
    }
}


@router.post(
    "/v1/sessions/{session_id}/executions",
    summary="Run code in a session",
    description="Executions of a session run one at a time, in the order in which they came. The answer comes when the "
    "code has ended, or at once as a stream of events. What the program does wrong is an Execution with another "
    "status, not an HTTP error.",
    operation_id="execute",
    responses=OUTCOME | documented(404, 408, 409, 413, 415, 429),
)
async def execute(
    request: Request,
    session_id: SessionId,
    body: ExecutionIn,
    idempotency_key: IdempotencyKey = None,
    last_event_id: LastEventId = None,
) -> Response:
    """See the decorator."""
    last_id = checked_last_id(last_event_id)
    once = await once_of(request, idempotency_key)
    log = await node_of(request).execute(owner_of(request), session_id, body.code, timeout=body.timeout_s, once=once)
    return await respond(request, log, body, last_id)


@router.get(
    "/v1/sessions/{session_id}/executions",
    summary="List a session's executions",
    description="Newest first unless asked otherwise. With 32 MiB a page ends before its limit.",
    operation_id="list_executions",
    responses={200: {"model": ExecutionsOut}, **documented(404)},
)
async def list_executions(request: Request, session_id: SessionId, wanted: Wanted) -> Response:
    """See the decorator."""
    node, owner = node_of(request), owner_of(request)
    items, after, some = list[bytes](), wanted.after, 1
    while True:
        some = min(2 * some, _AT_ONCE, wanted.limit - len(items))
        page = await node.executions(owner, session_id, limit=some, after=after, newest_first=wanted.newest_first)
        items += [encode.to_json(encode.execution_row(row)) for row in page.items]
        after = page.next
        if after is None or len(items) == wanted.limit or sum(map(len, items)) > MOST_BYTES:
            return encode.written_page(items, after)


@router.get(
    "/v1/sessions/{session_id}/executions/{execution_id}",
    summary="Get an execution",
    description="While it runs, its status is `running` and everything else is empty.",
    operation_id="get_execution",
    responses={200: {"model": ExecutionOut}, **documented(404)},
)
async def get_execution(request: Request, session_id: SessionId, execution_id: ExecutionId) -> Response:
    """See the decorator."""
    row = await node_of(request).execution(owner_of(request), session_id, execution_id)
    return await encode.execution_answer(encode.execution_row(row))


@router.get(
    "/v1/sessions/{session_id}/executions/{execution_id}/events",
    summary="Follow an execution",
    description=f"{sse.DESCRIPTION} Also of an execution that has ended.",
    operation_id="follow_execution",
    response_class=Response,
    responses={200: {"description": "Server-sent events.", "content": EVENTS}, **documented(404)},
)
async def follow_execution(
    request: Request,
    session_id: SessionId,
    execution_id: ExecutionId,
    last_event_id: LastEventId = None,
) -> Response:
    """See the decorator."""
    last_id = checked_last_id(last_event_id)
    log = await node_of(request).follow(owner_of(request), session_id, execution_id)
    return sse.event_stream(log, last_id=last_id)


def checked_last_id(last_event_id: str | None) -> str | None:
    """Before anything is accepted. Raises `InvalidRequest`."""
    if last_event_id is not None:
        Cursor.parse(last_event_id)
    return last_event_id


async def respond(request: Request, log: EventLog, body: ExecutionIn, last_id: str | None) -> Response:
    """The outcome, once it is there or as it comes."""
    visit = Visit.of(request)
    visit.session_id, visit.execution_id = log.session_id, log.execution_id

    async def interrupt() -> None:
        try:
            await node_of(request).withdraw(owner_of(request), log.session_id, log.execution_id)
        except SandboxError:
            return  # it has ended meanwhile, which was wanted

    leaving = interrupt if body.on_disconnect == "interrupt" else None
    if body.stream:
        return sse.event_stream(log, last_id=last_id, left=leaving)
    if leaving is not None:
        await _unless_left(request, log, leaving)
    return await encode.execution_answer(encode.execution(await log.result(), log.created_at))


async def _unless_left(request: Request, log: EventLog, leaving: Callable[[], Awaitable[None]]) -> None:
    """Wait for the end; when the client leaves before, say so."""
    ending, going = asyncio.ensure_future(log.result()), asyncio.ensure_future(sse.gone(request.receive))
    try:
        await asyncio.wait((ending, going), return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            await leaving()
    finally:
        for waiting in (ending, going):
            waiting.cancel()
        await asyncio.gather(ending, going, return_exceptions=True)
