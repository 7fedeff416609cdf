"""One fresh sandbox, one execution, gone."""

from fastapi import APIRouter, Request, Response

from sandbox.api.executions import OUTCOME, LastEventId, checked_last_id, respond
from sandbox.api.problems import documented
from sandbox.api.route import IdempotencyKey, Route, node_of, once_of, owner_of
from sandbox.api.schemas import RunIn

router = APIRouter(route_class=Route, tags=["executions"])


@router.post(
    "/v1/run",
    summary="Run code in a fresh sandbox",
    description="A sandbox that nobody has used, one execution, gone. Files that it made can be downloaded for a while "
    "from the session that the answer names.",
    operation_id="run",
    responses=OUTCOME | documented(404, 408, 409, 413, 415, 429),
)
async def run(
    request: Request,
    body: RunIn,
    idempotency_key: IdempotencyKey = None,
    last_event_id: LastEventId = None,
) -> Response:
    """See the decorator."""
    last_id = checked_last_id(last_event_id)
    log = await node_of(request).run(
        owner_of(request),
        body.code,
        timeout=body.timeout_s,
        image=body.image,
        memory_mb=body.memory_mb,
        files=[file.upload() for file in body.files],
        once=await once_of(request, idempotency_key),
    )
    return await respond(request, log, body, last_id)
