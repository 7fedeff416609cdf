"""The APIs of others, and chats: all that needs a model.

To import them takes a third of all imports. Who wants a session, after a crash for one, need not wait for that: they
come to an application that answers already.
"""

import functools
import json

from fastapi import FastAPI, Request, Response

from sandbox.api import chat
from sandbox.api.anthropic import files as anthropic_files
from sandbox.api.anthropic import messages
from sandbox.api.later import Later
from sandbox.api.openai import assistants, containers, responses, runs, threads, uploads
from sandbox.api.openai import files as openai_files
from sandbox.api.openai import messages as thread_messages
from sandbox.assistants import Assistants
from sandbox.chats import Chats
from sandbox.chats.parking import Parking
from sandbox.node import Node
from sandbox.plans import budget, known_secrets
from sandbox.responses import Responses
from sandbox.traces import Secrets
from sandbox.uploads import Uploads

_ROUTERS = (
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
)


def add_to(app: FastAPI) -> None:
    """Complete an application that `create_app` has made. Until then, who asks for one of these waits."""
    node: Node = app.state.node
    secrets = Secrets(known_secrets(node.settings, node.engine.models.catalogue))
    app.state.chats = Chats(node, node.engine.models, budget(node.settings), secrets)
    app.state.responses = Responses(node, app.state.chats)
    app.state.assistants = Assistants(node, app.state.chats)
    app.state.uploads = Uploads(node)
    app.state.parking = Parking()
    later: Later = app.state.later
    later.come([route for router in _ROUTERS for route in router.routes])
    _describe(app)  # only now, so that nobody gets half a description


def _describe(app: FastAPI) -> None:
    """At `/openapi.json`, written once: it takes long enough to hold up others, and needs no key."""

    @functools.cache
    def description() -> bytes:
        return json.dumps(app.openapi(), ensure_ascii=False, separators=(",", ":")).encode()

    async def described(request: Request) -> Response:
        return Response(description(), media_type="application/json")

    app.add_route("/openapi.json", described, include_in_schema=False)
