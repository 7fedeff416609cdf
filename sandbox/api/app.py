"""The application: our own routes behind the guard, those of `vendors` later, and the OpenAPI document."""

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.routing import Route

from sandbox.api import executions, families, files, health, images, run, sessions
from sandbox.api.guard import Guard
from sandbox.api.later import Later
from sandbox.api.mcp import endpoint
from sandbox.api.schemas import Problem
from sandbox.errors import SandboxError
from sandbox.node import Node

_DESCRIPTION = """Runs untrusted Python in warm, contained Jupyter kernels, with files in `/mnt/data`.

Send a key as `Authorization: Bearer …`; what one key makes does not exist for another. Lists page with `limit` and
`after`. Whatever fails is `application/problem+json` with a stable `code`. `X-Request-Id` comes back, or is made up.
A key with a limit per minute sees `RateLimit-Limit`, `RateLimit-Remaining` and `RateLimit-Reset` with every answer.
"""
_SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key from `sandbox key create`."},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same key."},
}
# Spans and metrics are ours; the framework would send validation errors, with what they contain, to any exporter.
_QUIET = TelemetryConfig(tracing=False, metrics=False, logs=False, operation_spans=False, auto_configure=False)
_ROUTERS = (
    run.router,
    sessions.router,
    executions.router,
    files.router,
    images.router,
    health.router,
    health.metrics_router,
)


class _App(FastAPI):
    """Without the pages that load scripts from elsewhere, and with a document that says what really comes."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        if self.openapi_schema is None:
            self.openapi_schema = _corrected(super().openapi())
        return self.openapi_schema


def create_app(node: Node) -> FastAPI:
    """The ASGI application for an open node. It is whole once `vendors.add_to` it."""
    app = _App(
        title="sandbox",
        summary="A self-hosted code interpreter",
        description=_DESCRIPTION,
        version=version("sandbox-engine"),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=_QUIET,
        # Not `include_router`: every request would be matched with the routes of a router twice.
        routes=[route for router in _ROUTERS for route in router.routes],
    )
    app.state.node = node
    app.state.mcp = endpoint.Endpoint(node)
    for path in (endpoint.PATH, f"{endpoint.PATH}/"):  # clients hide what an answer to the wrong one would say
        app.router.routes.append(Route(path, app.state.mcp))
    app.state.later = Later(app.router)
    app.add_exception_handler(SandboxError, families.on_error)
    app.add_exception_handler(RequestValidationError, families.on_validation)
    app.add_exception_handler(HTTPException, families.on_http)
    app.add_middleware(Guard, node=node)
    return app


def _corrected(document: dict[str, Any]) -> dict[str, Any]:
    """Our problems instead of the framework's, and where the key goes."""
    components = document.setdefault("components", {})
    shapes = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        shapes.pop(name, None)
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    shapes.update(problem.pop("$defs", {}))
    shapes["Problem"] = problem
    components["securitySchemes"] = _SECURITY_SCHEMES
    document["security"] = [{"bearer": []}, {"x-api-key": []}, {}]
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    return document
