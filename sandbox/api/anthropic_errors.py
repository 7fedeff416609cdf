"""What went wrong, as programs written for Anthropic's API expect it.

`{"type": "error", "error": {"type", "message"}, "request_id"}`. Statuses are those of `problems`, apart from a few that
the vendor has words of its own for.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Response
from starlette.exceptions import HTTPException

from sandbox.api.problems import limit_reached, status_of
from sandbox.errors import Overloaded, RateLimited, SandboxError, Unready, UpstreamBusy, UpstreamRefused

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_BUG = "the server failed; its log has more under this request's id"


def envelope(request_id: str, kind: str, message: str) -> dict[str, Any]:
    """The JSON of an error, which is also the event `error` of a stream."""
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}


def told(request_id: str, error: SandboxError) -> tuple[int, dict[str, Any]]:
    """Status and JSON of one of ours."""
    status = status_of(type(error))
    if isinstance(error, UpstreamRefused) and error.status == 404:
        status = 404
    if isinstance(error, UpstreamBusy) and error.status == 429:
        status = 429
    elif isinstance(error, Overloaded | UpstreamBusy) and status == 503:
        status = 529
    return status, envelope(request_id, _type(status), str(error))


def of_error(request_id: str, error: SandboxError) -> Response:
    """One of ours."""
    status, body = told(request_id, error)
    headers: dict[str, str] = {}
    wait = error.retry_after if isinstance(error, Overloaded | Unready | UpstreamBusy) else None
    if wait is not None:
        headers["retry-after"] = str(max(1, math.ceil(wait)))
    if isinstance(error, RateLimited):
        headers |= limit_reached(error)
    return _response(request_id, status, body, headers)


def refusal(request_id: str, status: int, message: str, code: str) -> Response:
    """One of this API's own, with the code that its programs know it by."""
    body = envelope(request_id, _type(status), message)
    body["error"]["details"] = {"error_code": code}
    return _response(request_id, status, body)


def of_validation(request_id: str, found: Sequence[Mapping[str, Any]]) -> Response:
    """A request that is not what the document says. found: as pydantic reports them."""
    what = "the request has another form"
    if found:
        where = ".".join(str(part) for part in found[0]["loc"] if part != "body")
        what = f"{where}: {found[0]['msg']}" if where else str(found[0]["msg"])
    return _response(request_id, 400, envelope(request_id, _TYPES[400], what))


def of_http(request_id: str, error: HTTPException) -> Response:
    """One of the framework's, or of ours about HTTP itself."""
    status = error.status_code
    body = envelope(request_id, _type(status), str(error.detail))
    return _response(request_id, status, body, error.headers)


def of_bug(request_id: str) -> Response:
    """What nobody foresaw. Its words stay in the log."""
    return _response(request_id, 500, bug(request_id))


def bug(request_id: str) -> dict[str, Any]:
    """The same in the middle of a stream."""
    return envelope(request_id, _TYPES[500], _BUG)


def _type(status: int) -> str:
    return _TYPES.get(status, _TYPES[400] if status < 500 else _TYPES[500])


def _response(
    request_id: str, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> Response:
    return Response(json.dumps(body), status, {"request-id": request_id, **(headers or {})}, "application/json")
