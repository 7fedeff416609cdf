"""What went wrong, as RFC 9457 has it: `application/problem+json` with a stable `code`.

Status and code follow from the class in `errors`, so a new error there is an answer here without a word more.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Response
from starlette.exceptions import HTTPException

from sandbox import errors
from sandbox.errors import Overloaded, RateLimited, SandboxError, Unauthorized, Unready

MEDIA_TYPE = "application/problem+json"
MOST_TOLD = 50
"""Faults of one request: who makes a hundred thousand is told of the first."""
_STATUS: Mapping[type[SandboxError], int] = {
    errors.InvalidRequest: 400,
    errors.TooLarge: 413,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Overloaded: 503,
    errors.RateLimited: 429,
    errors.WorkspaceFull: 413,
    errors.Unready: 503,
    errors.UpstreamRefused: 400,
    errors.UpstreamBusy: 503,
    errors.UpstreamError: 502,
    errors.SandboxError: 500,
}
HTTP_CODES = {
    400: "invalid_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
    431: "headers_too_large",
    500: "internal_error",
}
"""Of what is none of our exceptions."""
_MEANINGS = {
    400: "The request asks for something that cannot be; `detail` says what to change.",
    401: "No key, or one that is not known here.",
    403: "Sent by a browser for a page that has no business here, or to a host name that is not allowed.",
    404: "No such thing, or it belongs to another key.",
    408: "The body came too slowly.",
    409: "The thing exists but cannot take this now: `session_closed`, `session_expired`, `idempotency_conflict`.",
    413: "More bytes than are taken, or than `/mnt/data` has room for.",
    415: "The body's content type is not the one that is documented.",
    416: "None of the ranges lies in the file; `Content-Range` says how long it is.",
    429: "A limit of the key is reached: `name`, `limit`, `remaining`, `reset`; `Retry-After` says when to come back.",
    500: "Our fault; the log has more under the `request_id`.",
    502: "A model's server is away, broke off, or said what nobody understands.",
    503: "Full (`queue_full`), about to stop (`draining`) or not ready; `Retry-After` says when to come back.",
}
_RATE_LIMIT = {
    "RateLimit-Limit": "The limit that was reached.",
    "RateLimit-Remaining": "What is left of it.",
    "RateLimit-Reset": "Seconds until all of it is free again.",
}
_SCHEMA = {"$ref": "#/components/schemas/Problem"}


def code_of(error: type[SandboxError]) -> str:
    """`SessionMissing` is `session_missing`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", error.__name__).lower()


def status_of(error: type[SandboxError]) -> int:
    """The HTTP status of the nearest ancestor that has one."""
    return next(_STATUS[each] for each in error.__mro__ if each in _STATUS)


def problem(
    request_id: str, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None, **more: Any
) -> Response:
    """A problem as a response."""
    return Response(encoded(request_id, status, code, detail, **more), status, headers, MEDIA_TYPE)


def encoded(request_id: str, status: int, code: str, detail: str, **more: Any) -> bytes:
    """A problem as JSON."""
    members = {
        "type": f"urn:sandbox:problem:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
        **more,
    }
    return json.dumps(members, ensure_ascii=False).encode("utf-8", "replace")


def of_error(request_id: str, error: SandboxError) -> Response:
    """One of ours."""
    headers: dict[str, str] = {}
    more: dict[str, Any] = {}
    if isinstance(error, Overloaded | Unready):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
        more["retry_after"] = round(error.retry_after, 3)
    if isinstance(error, RateLimited):
        headers |= limit_reached(error)
        reset = round(error.reset, 3)
        more |= {"name": error.name, "limit": error.limit, "remaining": error.remaining, "reset": reset}
    if isinstance(error, Unauthorized):
        headers["www-authenticate"] = 'Bearer realm="sandbox"'
    kind = type(error)
    return problem(request_id, status_of(kind), code_of(kind), str(error), headers, **more)


def limit_reached(error: RateLimited) -> dict[str, str]:
    """Headers of a refusal."""
    headers = rate_limit(error.limit, error.remaining, error.reset)
    if error.name == "stored_bytes":  # nothing becomes free by itself, and SDKs would try again for minutes
        headers["x-should-retry"] = "false"
    return headers


def rate_limit(limit: int, remaining: int, reset: float) -> dict[str, str]:
    """Where a key stands with one of its limits, as headers. reset: seconds."""
    told = {"limit": limit, "remaining": remaining, "reset": math.ceil(reset)}
    return {f"ratelimit-{name}": str(value) for name, value in told.items()}


def of_validation(request_id: str, found: Sequence[Mapping[str, Any]]) -> Response:
    """A request that is not what the OpenAPI document says. found: as pydantic reports them."""
    told = [{"where": ".".join(str(part) for part in each["loc"]), "what": str(each["msg"])} for each in found]
    first = f"{told[0]['where']}: {told[0]['what']}" if told else "it has another form"
    more = f"{len(told) - 1} more" if len(told) < MOST_TOLD else "more"
    rest = f" (and {more}, see `errors`)" if len(told) > 1 else ""
    detail = f"the request is not what /openapi.json says: {first}{rest}"
    return problem(request_id, 400, "invalid_request", detail, errors=told)


def of_http(request_id: str, error: HTTPException) -> Response:
    """One of the framework's, or of ours about HTTP itself."""
    status = error.status_code
    return problem(request_id, status, HTTP_CODES[status], str(error.detail), error.headers)


def of_bug(request_id: str) -> Response:
    """What nobody foresaw. Its words stay in the log."""
    return problem(request_id, 500, HTTP_CODES[500], "the server failed; its log has more under this request_id")


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems of one operation for the OpenAPI document. Those that every operation has are among them."""
    return {status: _document(status) for status in sorted({400, 401, 403, 500, 503, *statuses})}


def _document(status: int) -> dict[str, Any]:
    headers = {}
    if status == 429:
        for name, words in _RATE_LIMIT.items():
            headers[name] = {"description": words, "schema": {"type": "integer", "minimum": 0}}
    if status in (429, 503):
        headers["Retry-After"] = {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}
    if status == 401:
        headers["WWW-Authenticate"] = {"description": "Always `Bearer`.", "schema": {"type": "string"}}
    return {"description": _MEANINGS[status], "headers": headers, "content": {MEDIA_TYPE: {"schema": _SCHEMA}}}
