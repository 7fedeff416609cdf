"""Sessions: open, look at, interrupt, restart, close."""

from fastapi import APIRouter, Request, Response

from sandbox.api import encode
from sandbox.api.problems import documented
from sandbox.api.route import IdempotencyKey, Route, SessionId, Wanted, node_of, once_of, owner_of
from sandbox.api.schemas import SessionIn, SessionOut, SessionsOut
from sandbox.api.visit import Visit

router = APIRouter(prefix="/v1/sessions", route_class=Route, tags=["sessions"])
_ALL_BY_DEFAULT = SessionIn()


@router.post(
    "",
    status_code=201,
    summary="Open a session",
    description="A sandbox of one's own, with a live kernel and files in `/mnt/data`, until it is closed or expires.",
    operation_id="open_session",
    responses={201: {"model": SessionOut}, **documented(404, 408, 409, 413, 415, 429)},
)
async def open_session(
    request: Request, body: SessionIn = _ALL_BY_DEFAULT, idempotency_key: IdempotencyKey = None
) -> Response:
    """See the decorator."""
    node = node_of(request)
    row = await node.open_session(
        owner_of(request),
        image=body.image,
        memory_mb=body.memory_mb,
        idle_timeout=body.idle_timeout_s,
        metadata=body.metadata,
        files=[file.upload() for file in body.files],
        once=await once_of(request, idempotency_key),
    )
    Visit.of(request).session_id = row.id
    return encode.answer(encode.session(row, node), 201, {"location": f"/v1/sessions/{row.id}"})


@router.get(
    "",
    summary="List sessions",
    description="Those of this key, ended ones included; newest first unless asked otherwise.",
    operation_id="list_sessions",
    responses={200: {"model": SessionsOut}, **documented()},
)
async def list_sessions(request: Request, wanted: Wanted) -> Response:
    """See the decorator."""
    node = node_of(request)
    page = await node.sessions(
        owner_of(request), limit=wanted.limit, after=wanted.after, newest_first=wanted.newest_first
    )
    return encode.answer(encode.page([encode.session(row, node) for row in page.items], page.next))


@router.get(
    "/{session_id}",
    summary="Get a session",
    description="Looking at it does not keep it from expiring.",
    operation_id="get_session",
    responses={200: {"model": SessionOut}, **documented(404)},
)
async def get_session(request: Request, session_id: SessionId) -> Response:
    """See the decorator."""
    node = node_of(request)
    return encode.answer(encode.session(await node.session(owner_of(request), session_id), node))


@router.delete(
    "/{session_id}",
    summary="Close a session",
    description="Ends its sandbox, and what runs in it as `cancelled`, and deletes its files. Its executions can still "
    "be read. Twice is once.",
    operation_id="close_session",
    responses={200: {"model": SessionOut}, **documented(404)},
)
async def close_session(request: Request, session_id: SessionId) -> Response:
    """See the decorator."""
    node = node_of(request)
    return encode.answer(encode.session(await node.close_session(owner_of(request), session_id), node))


@router.post(
    "/{session_id}/interrupt",
    status_code=204,
    summary="Interrupt the running execution",
    description="As Ctrl-C does. Variables and files stay. Without a running execution nothing happens.",
    operation_id="interrupt",
    responses=documented(404, 408, 409, 413),
)
async def interrupt(request: Request, session_id: SessionId, idempotency_key: IdempotencyKey = None) -> Response:
    """See the decorator."""
    await node_of(request).interrupt(owner_of(request), session_id, await once_of(request, idempotency_key))
    return Response(status_code=204)


@router.post(
    "/{session_id}/restart",
    status_code=204,
    summary="Restart the kernel",
    description="Variables go, files stay; a running execution ends.",
    operation_id="restart",
    responses=documented(404, 408, 409, 413),
)
async def restart(request: Request, session_id: SessionId, idempotency_key: IdempotencyKey = None) -> Response:
    """See the decorator."""
    await node_of(request).restart(owner_of(request), session_id, await once_of(request, idempotency_key))
    return Response(status_code=204)
