"""The application: every family of routes behind the guard, and the OpenAPI document."""

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.routing import Route

from sandbox.api import chat, executions, families, files, health, images, run, sessions
from sandbox.api.anthropic import files as anthropic_files
from sandbox.api.anthropic import messages
from sandbox.api.guard import Guard
from sandbox.api.mcp import endpoint
from sandbox.api.openai import assistants, containers, responses, runs, threads, uploads
from sandbox.api.openai import files as openai_files
from sandbox.api.openai import messages as thread_messages
from sandbox.api.schemas import Problem
from sandbox.assistants import Assistants
from sandbox.chats import Chats
from sandbox.chats.parking import Parking
from sandbox.errors import SandboxError
from sandbox.node import Node
from sandbox.plans import budget, known_secrets
from sandbox.responses import Responses
from sandbox.traces import Secrets
from sandbox.uploads import Uploads

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
    # Before those whose paths they share: they take only what says that it is for them.
    messages.router,
    messages.models_router,
    anthropic_files.router,
    chat.router,
    responses.router,
    containers.router,
    openai_files.router,
    uploads.router,
    assistants.router,
    runs.router,  # before threads: `/v1/threads/runs` is no thread
    threads.router,
    thread_messages.router,
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
    """The ASGI application for an open node."""
    app = _App(
        title="sandbox",
        summary="A self-hosted code interpreter",
        description=_DESCRIPTION,
        version=version("sandbox-engine"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=_QUIET,
        # Not `include_router`: every request would be matched with the routes of a router twice.
        routes=[route for router in _ROUTERS for route in router.routes],
    )
    app.state.node = node
    secrets = Secrets(known_secrets(node.settings, node.engine.models.catalogue))
    app.state.chats = Chats(node, node.engine.models, budget(node.settings), secrets)
    app.state.responses = Responses(node, app.state.chats)
    app.state.assistants = Assistants(node, app.state.chats)
    app.state.uploads = Uploads(node)
    app.state.parking = Parking()
    app.state.mcp = endpoint.Endpoint(node)
    app.router.routes.append(Route(endpoint.PATH, app.state.mcp))
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
