"""OpenAI's Responses, with the code interpreter."""

import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.exceptions import HTTPException

from sandbox.api import encode, sse
from sandbox.api.openai.lists import Wanted, listed
from sandbox.api.openai_errors import envelope
from sandbox.api.pump import Pump
from sandbox.api.route import Route, owner_of
from sandbox.errors import ObjectMissing
from sandbox.loop.openai_responses import OUTPUTS, Event
from sandbox.responses import Responses
from sandbox.responses.run import Run

router = APIRouter(route_class=Route, tags=["responses"], include_in_schema=False)


def _responses(request: Request) -> Responses:
    responses: Responses = request.app.state.responses
    return responses


@router.post("/v1/responses")
async def create_response(request: Request, body: dict[str, Any]) -> Response:
    """Make a response: at once, as a stream, or in the background."""
    responses, owner = _responses(request), owner_of(request)
    try:
        run = await responses.begin(owner, body)
    except ObjectMissing as error:
        return _previous_missing(error)
    if run.asked.background:
        shown = encode.answer(run.shown())
        log = await responses.send_off(owner, run)
        return sse.Streamed(_frames(log.follow())) if run.asked.stream else shown
    if run.asked.stream:
        return await _streamed(run)
    return encode.answer(await sse.while_here(request.receive, _made(run)))


async def _made(run: Run) -> dict[str, Any]:
    async with contextlib.aclosing(run.events(failing=True)) as events:
        async for _ in events:
            pass
    return run.shown()


def _previous_missing(error: ObjectMissing) -> Response:
    told = envelope(str(error), "invalid_request_error", "previous_response_not_found", "previous_response_id")
    return encode.answer(told, 404)


# Before those with an id, which these are none of.
@router.post("/v1/responses/input_tokens")
async def count_input_tokens(body: dict[str, Any]) -> Response:
    """Refused: only a model's server could count."""
    raise HTTPException(404, "tokens are not counted here; a response says in usage how many it took")


@router.post("/v1/responses/compact")
async def compact(body: dict[str, Any]) -> Response:
    """Refused."""
    raise HTTPException(404, "conversations are not compacted here; begin a new one with a summary")


@router.get("/v1/responses/{response_id}")
async def get_response(
    request: Request,
    response_id: str,
    stream: bool = False,
    starting_after: Annotated[int, Query(ge=-1)] = -1,
) -> Response:
    """A response that is stored, or the events of its making once more."""
    responses, owner = _responses(request), owner_of(request)
    if stream:
        return sse.Streamed(_frames(await responses.follow(owner, response_id, starting_after)))
    return encode.answer(await responses.get(owner, response_id, outputs=OUTPUTS in _include(request)))


@router.delete("/v1/responses/{response_id}")
async def delete_response(request: Request, response_id: str) -> Response:
    """Forget a response; what is being made of it is cancelled."""
    await _responses(request).delete(owner_of(request), response_id)
    return encode.answer({"id": response_id, "object": "response.deleted", "deleted": True})


@router.post("/v1/responses/{response_id}/cancel")
async def cancel_response(request: Request, response_id: str) -> Response:
    """End a response that is made in the background."""
    return encode.answer(await _responses(request).cancel(owner_of(request), response_id))


@router.get("/v1/responses/{response_id}/input_items")
async def list_input_items(
    request: Request,
    response_id: str,
    part: Wanted,
) -> Response:
    """What a response was asked."""
    page = await _responses(request).input_items(
        owner_of(request), response_id, limit=part.limit, after=part.after, newest_first=part.newest_first
    )
    return encode.answer(listed([dict(item) for item in page.items], has_more=page.has_more))


def _include(request: Request) -> list[str]:
    """As SDKs write arrays, and as people do."""
    asked = request.query_params
    return asked.getlist("include[]") + asked.getlist("include")


# Streams.


async def _streamed(run: Run) -> Response:
    """A stream that has begun: what fails before its first event is answered with a status of its own."""
    stack = contextlib.AsyncExitStack()
    pump = await stack.enter_async_context(Pump.running(run.events(failing=False)))
    try:
        await pump.begun(sse.HEARTBEAT_S)
    except BaseException:
        await stack.aclose()
        raise
    return sse.Streamed(_read(pump, stack))


async def _read(pump: Pump[Event], stack: contextlib.AsyncExitStack) -> AsyncGenerator[bytes, None]:
    async with stack:
        async for event in pump.read():
            yield _frame(event)


async def _frames(events: AsyncGenerator[Event, None]) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(events):
        async for event in events:
            yield _frame(event)


def _frame(event: Mapping[str, Any]) -> bytes:
    return b"event: " + str(event["type"]).encode() + b"\ndata: " + encode.to_json(event) + b"\n\n"
