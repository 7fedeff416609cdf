"""What went wrong, as programs written for OpenAI's API expect it: `{"error": {"message", "type", "param", "code"}}`.

Statuses are those of `problems`, because an SDK makes its exceptions of them; what is special of the family is said
here. Types are the vendor's words where it has one.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Response
from starlette.exceptions import HTTPException

from sandbox.api import problems
from sandbox.api.problems import HTTP_CODES, code_of, limit_reached, status_of
from sandbox.errors import (
    InvalidField,
    Overloaded,
    RateLimited,
    SandboxError,
    Unauthorized,
    UnknownModel,
    Unready,
    UpstreamBusy,
    UpstreamError,
    UpstreamRefused,
)

_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "For a person."},
                "type": {"type": "string", "description": "Whose fault, in the vendor's words."},
                "param": {"type": ["string", "null"], "description": "The field that is wrong."},
                "code": {"type": ["string", "null"], "description": "Stable."},
            },
        }
    },
}
_EXAMPLE = {
    "error": {
        "message": "there is no model 'gpt-7'; choose from: small",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
}
_BUG = "the server failed; its log has more under this request's id"


def envelope(message: str, kind: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """The JSON of an error, which is also how a stream says that it cannot go on."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def told(error: SandboxError) -> tuple[int, dict[str, Any]]:
    """Status and JSON of one of ours."""
    status, code, param = status_of(type(error)), code_of(type(error)), None
    if isinstance(error, UpstreamRefused):
        code, param = error.code or code, error.param
        status = 404 if error.status == 404 else status
    elif isinstance(error, UpstreamBusy) and error.status == 429:
        status = 429
    elif isinstance(error, UnknownModel):
        code, param = "model_not_found", "model"
    elif isinstance(error, InvalidField):
        code, param = "invalid_value", error.field
    elif isinstance(error, Unauthorized):
        code = "invalid_api_key"
    return status, envelope(str(error), _type(status, error), code, param)


def of_error(request_id: str, error: SandboxError) -> Response:
    """One of ours."""
    status, body = told(error)
    headers: dict[str, str] = {}
    wait = error.retry_after if isinstance(error, Overloaded | Unready | UpstreamBusy) else None
    if wait is not None:
        headers["retry-after"] = str(max(1, math.ceil(wait)))
    if isinstance(error, RateLimited):
        headers |= limit_reached(error)
    if isinstance(error, Unauthorized):
        headers["www-authenticate"] = 'Bearer realm="sandbox"'
    return _response(status, body, headers)


def of_validation(request_id: str, found: Sequence[Mapping[str, Any]]) -> Response:
    """A request that is not what the document says. found: as pydantic reports them."""
    param, what = "", "it has another form"
    if found:
        param = ".".join(str(part) for part in found[0]["loc"] if part != "body")
        what = f"{param}: {found[0]['msg']}" if param else str(found[0]["msg"])
    return _response(400, envelope(what, "invalid_request_error", "invalid_request", param or None))


def of_http(request_id: str, error: HTTPException) -> Response:
    """One of the framework's, or of ours about HTTP itself."""
    status = error.status_code
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return _response(status, envelope(str(error.detail), kind, HTTP_CODES[status]), error.headers)


def of_bug(request_id: str) -> Response:
    """What nobody foresaw. Its words stay in the log."""
    return _response(500, envelope(_BUG, "server_error", HTTP_CODES[500]))


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of one operation for the OpenAPI document. Those that every operation has are among them."""
    return {
        status: {**problem, "content": {"application/json": {"schema": _SCHEMA, "example": _EXAMPLE}}}
        for status, problem in problems.documented(*statuses).items()
    }


def _type(status: int, error: SandboxError) -> str:
    if status >= 500:
        return "upstream_error" if isinstance(error, UpstreamError) else "server_error"
    return "rate_limit_error" if status == 429 else "invalid_request_error"


def _response(status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return Response(json.dumps(body), status, headers, "application/json")
