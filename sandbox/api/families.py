"""Which API a request belongs to. Each has its own way to say that something went wrong, and SDKs depend on it.

Two vendors have `/v1/files` and `/v1/models`. Anthropic's SDKs send `anthropic-version` with everything they ask, and
OpenAI's never do.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import Scope

from sandbox.api import anthropic_errors, nowhere, openai_errors, problems, unknown
from sandbox.api.visit import Visit
from sandbox.errors import Overloaded, SandboxError

_OPENAI = (
    "/v1/assistants",
    "/v1/chat/",
    "/v1/containers",
    "/v1/files",
    "/v1/models",
    "/v1/responses",
    "/v1/threads",
    "/v1/uploads",
    *(f"/v1/{path}" for path in nowhere.OF_OPENAI),
)
_OF_NO_ROUTE = {404: "Not Found", 405: "Method Not Allowed"}
"""What the framework says when no route takes a request."""
_ANTHROPIC = ("/v1/messages",)
_ANTHROPIC_HEADER = b"anthropic-version"


class Envelopes(Protocol):
    """How a family says that something went wrong."""

    def of_error(self, request_id: str, error: SandboxError) -> Response: ...

    def of_validation(self, request_id: str, found: Sequence[Mapping[str, Any]]) -> Response: ...

    def of_http(self, request_id: str, error: HTTPException) -> Response: ...

    def of_bug(self, request_id: str) -> Response: ...


def is_anthropic(scope: Scope) -> bool:
    """Whether a request says that it is meant for Anthropic's API."""
    return any(name == _ANTHROPIC_HEADER for name, _ in scope["headers"])


def family(scope: Scope) -> Envelopes:
    """Of a request; ours for everything that is nobody else's."""
    path = scope["path"]
    if path.startswith(_ANTHROPIC) or (path.startswith("/v1/") and is_anthropic(scope)):
        return anthropic_errors
    return openai_errors if nowhere.with_version(path).startswith(_OPENAI) else problems


async def on_error(request: Request, error: Exception) -> Response:
    """For `SandboxError`."""
    assert isinstance(error, SandboxError)
    if isinstance(error, Overloaded):
        request.app.state.node.metrics.rejection(problems.code_of(type(error)))
    return family(request.scope).of_error(Visit.of(request).request_id, error)


async def on_validation(request: Request, error: Exception) -> Response:
    """For `RequestValidationError`."""
    assert isinstance(error, RequestValidationError)
    model = _body_of(request)
    errors = sorted(error.errors(), key=lambda each: each["type"] != "extra_forbidden")  # what is missing is misspelt
    found = [_plain(each, model) for each in errors[: problems.MOST_TOLD]]
    error.__cause__ = error.__context__ = None  # with frames that have the request, which has this error: a circle
    return family(request.scope).of_validation(Visit.of(request).request_id, found)


def _body_of(request: Request) -> type[BaseModel] | None:
    """What the route wants to be sent, if that is an object."""
    field = getattr(request.scope.get("route"), "body_field", None)
    kind = getattr(getattr(field, "field_info", None), "annotation", None)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _plain(found: Mapping[str, Any], model: type[BaseModel] | None) -> Mapping[str, Any]:
    """What is wrong with a body that is no JSON, in words: FastAPI has it as a number in the place of a field. And of a
    field that there is not, what there is.
    """
    if found["type"] == "extra_forbidden" and model is not None:
        return {"loc": found["loc"], "msg": unknown.advice(model, found["loc"][1:])}
    if found["type"] != "json_invalid":
        return found
    why, at = found["ctx"]["error"].removesuffix(" at"), found["loc"][1:]
    return {"loc": ("body",), "msg": " ".join(["this is no JSON:", why, *(f"at character {each}" for each in at)])}


async def on_http(request: Request, error: Exception) -> Response:
    """For `HTTPException`."""
    assert isinstance(error, HTTPException)
    if error.detail == _OF_NO_ROUTE.get(error.status_code):
        error = nowhere.told(error, request.app.routes, request.scope["method"], request.scope["path"])
    return family(request.scope).of_http(Visit.of(request).request_id, error)
