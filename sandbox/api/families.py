"""Which API a path belongs to. Each has its own way to say that something went wrong, and SDKs depend on it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from sandbox.api import openai_errors, problems
from sandbox.api.visit import Visit
from sandbox.errors import Overloaded, SandboxError

_OPENAI = ("/v1/chat/", "/v1/models")


class Envelopes(Protocol):
    """How a family says that something went wrong."""

    def of_error(self, request_id: str, error: SandboxError) -> Response: ...

    def of_validation(self, request_id: str, found: Sequence[Mapping[str, Any]]) -> Response: ...

    def of_http(self, request_id: str, error: HTTPException) -> Response: ...

    def of_bug(self, request_id: str) -> Response: ...


def family(path: str) -> Envelopes:
    """Of a request's path; ours for everything that is nobody else's."""
    return openai_errors if path.startswith(_OPENAI) else problems


async def on_error(request: Request, error: Exception) -> Response:
    """For `SandboxError`."""
    assert isinstance(error, SandboxError)
    if isinstance(error, Overloaded):
        request.app.state.node.metrics.rejection(problems.code_of(type(error)))
    return family(request.url.path).of_error(Visit.of(request).request_id, error)


async def on_validation(request: Request, error: Exception) -> Response:
    """For `RequestValidationError`."""
    assert isinstance(error, RequestValidationError)
    return family(request.url.path).of_validation(Visit.of(request).request_id, error.errors())


async def on_http(request: Request, error: Exception) -> Response:
    """For `HTTPException`."""
    assert isinstance(error, HTTPException)
    return family(request.url.path).of_http(Visit.of(request).request_id, error)
