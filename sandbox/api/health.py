"""How the server is, for machines that watch it."""

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request, Response

from sandbox.api import encode
from sandbox.api.auth import secret_of
from sandbox.api.problems import documented
from sandbox.api.route import OpenRoute, Route, node_of
from sandbox.api.schemas import HealthOut
from sandbox.errors import SandboxError
from sandbox.node import Node

router = APIRouter(route_class=OpenRoute, tags=["operation"])
metrics_router = APIRouter(route_class=Route, tags=["operation"])

_VERSION = version("sandbox-engine")
_METRICS: dict[str, Any] = {
    "text/plain": {"schema": {"type": "string"}, "example": "# TYPE sandbox_sessions gauge\nsandbox_sessions 3.0\n"}
}
_OPEN: dict[str, Any] = {"security": []}


@router.head("/health", include_in_schema=False)
@router.get(
    "/health",
    summary="Whether the server takes work",
    description="200 when it does, 503 when it does not; as it was within the last second. Needs no key, but the "
    "reasons say more to whom has one.",
    operation_id="health",
    responses={200: {"model": HealthOut}, 503: {"model": HealthOut}, 403: documented()[403]},
    openapi_extra=_OPEN,
)
async def health(request: Request) -> Response:
    """See the decorator."""
    node = node_of(request)
    found = await node.health()
    known = await _is_known(request, node)
    status = "draining" if found.draining else "unready"
    if found.ready:
        status = "degraded" if found.reasons else "ready"
    reasons = [str(reason) if known else reason.words for reason in found.reasons]
    told = {"status": status, "ready": found.ready, "reasons": reasons, "version": _VERSION}
    return encode.answer(told, 200 if found.ready else 503)


async def _is_known(request: Request, node: Node) -> bool:
    try:
        await node.owner(secret_of(request))
    except SandboxError:
        return False
    return True


@router.head("/health/live", status_code=204, include_in_schema=False)
@router.get(
    "/health/live",
    status_code=204,
    summary="Whether the server answers",
    description="204 as long as it does, while it drains and when it cannot work, too. Needs no key.",
    operation_id="live",
    responses={403: documented()[403]},
    openapi_extra=_OPEN,
)
async def live() -> Response:
    """See the decorator."""
    return Response(status_code=204)


@metrics_router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    description="In the text format, or OpenMetrics when `Accept` asks for it. Needs a key when the server does.",
    operation_id="metrics",
    response_class=Response,
    responses={
        200: {"description": "The metrics.", "content": _METRICS},
        **documented(),
    },
)
async def metrics(request: Request) -> Response:
    """See the decorator."""
    text, content_type = node_of(request).metrics.exposition(request.headers.get("accept", ""))
    return Response(text, headers={"content-type": content_type})
