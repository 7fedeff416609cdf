"""Anthropic's Messages, with code execution."""

import contextlib
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response

from sandbox.api import anthropic_errors, encode, sse
from sandbox.api.anthropic_errors import bug, told
from sandbox.api.pump import Pump
from sandbox.api.route import AnthropicRoute, NamedRoute, node_of, owner_of
from sandbox.api.visit import Visit
from sandbox.chats import Chats
from sandbox.errors import SandboxError, UnknownModel
from sandbox.loop.anthropic_messages.writing import Event
from sandbox.messages import Messages, Run

# On paths of its own: who calls them by hand may leave the header out.
router = APIRouter(route_class=NamedRoute, tags=["anthropic"], include_in_schema=False)
# On paths that OpenAI has, too.
models_router = APIRouter(route_class=AnthropicRoute, tags=["anthropic"], include_in_schema=False)

_FIRST = "2023-06-01"
_EPOCH = 0.0
"""When a model came into being is not known here."""
Json = Annotated[dict[str, Any], Body()]
_NO_THREADS = (
    "thread: conversations are not kept here; send all of it with every request, as SDKs then do by themselves"
)


def _messages(request: Request) -> Messages:
    return Messages(node_of(request), _chats(request), request.app.state.parking)


def _chats(request: Request) -> Chats:
    chats: Chats = request.app.state.chats
    return chats


def _api(request: Request) -> str:
    """The version of the API that a program is written for."""
    return request.headers.get("anthropic-version", _FIRST)


@router.post("/v1/messages")
async def create_message(request: Request, body: Json) -> Response:
    """Answer, with code that runs here."""
    if body.get("thread") is not None:
        return anthropic_errors.refusal(Visit.of(request).request_id, 400, _NO_THREADS, "thread_unsupported_request")
    run = await _messages(request).begin(owner_of(request), body, _api(request))
    if run.stream:
        return await _streamed(run, Visit.of(request).request_id)
    return encode.answer(await sse.while_here(request.receive, _answered(run)))


@router.post("/v1/messages/count_tokens")
async def count_tokens(request: Request, body: Json) -> Response:
    """The tokens of a prompt, by rule of thumb."""
    return encode.answer({"input_tokens": await _messages(request).count(owner_of(request), body, _api(request))})


@models_router.get("/v1/models")
async def list_models(request: Request) -> Response:
    """All of them, on one page."""
    listed = [_model(each.name) for each in await _chats(request).models.list()]
    ends = {"first_id": listed[0]["id"], "last_id": listed[-1]["id"]} if listed else {"first_id": None, "last_id": None}
    return encode.answer({"data": listed, "has_more": False, **ends})


@models_router.get("/v1/models/{model:path}")
async def get_model(request: Request, model: str) -> Response:
    """One of them."""
    if all(each.name != model for each in await _chats(request).models.list()):
        raise UnknownModel(f"model: there is no model {model!r}; GET /v1/models lists those that there are")
    return encode.answer(_model(model))


def _model(name: str) -> dict[str, Any]:
    return {"type": "model", "id": name, "display_name": name, "created_at": encode.time_of(_EPOCH)}


async def _answered(run: Run) -> dict[str, Any]:
    async with contextlib.aclosing(run.events()) as events:
        async for _ in events:
            pass
    return run.message


async def _streamed(run: Run, request_id: str) -> Response:
    """A stream whose model has begun to speak: what fails before is answered with a status of its own."""
    stack = contextlib.AsyncExitStack()
    pump = await stack.enter_async_context(Pump.running(_begun(run)))
    try:
        await pump.begun(sse.HEARTBEAT_S)
    except BaseException:
        await stack.aclose()
        raise
    return sse.Streamed(_told(pump, stack, request_id))


async def _begun(run: Run) -> AsyncGenerator[list[Event], None]:
    """The events, the very first together with the next, because it says nothing about how the rest will go."""
    held: list[Event] = []
    async with contextlib.aclosing(run.events()) as events:
        async for event in events:
            held.append(event)
            if len(held) > 1 or event["type"] != "message_start":
                yield held
                held = []


async def _told(
    pump: Pump[list[Event]], stack: contextlib.AsyncExitStack, request_id: str
) -> AsyncGenerator[bytes, None]:
    async with stack:
        try:
            async for events in pump.read():
                yield b"".join(map(_event, events))
        except SandboxError as error:
            yield _event(told(request_id, error)[1])
        except Exception:
            yield _event(bug(request_id))
            raise


def _event(event: Event) -> bytes:
    return b"event: " + str(event["type"]).encode() + b"\ndata: " + encode.to_json(event) + b"\n\n"
