"""Messages of the Assistants API's threads."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from sandbox.api import encode
from sandbox.api.openai.assistant_bodies import MessageIn, MetadataIn
from sandbox.api.openai.assistant_parts import MessageId, ThreadId, Wanted, assistants_of
from sandbox.api.route import Route, owner_of
from sandbox.api.schemas import ID_PATTERN

router = APIRouter(route_class=Route, tags=["assistants"], include_in_schema=False)


@router.post("/v1/threads/{thread_id}/messages")
async def create_message(request: Request, thread_id: ThreadId, body: MessageIn) -> Response:
    """A new one, while no run of the thread goes on."""
    return encode.answer(await assistants_of(request).add_message(owner_of(request), thread_id, body.given()))


@router.get("/v1/threads/{thread_id}/messages")
async def list_messages(
    request: Request,
    thread_id: ThreadId,
    part: Wanted,
    run_id: Annotated[str | None, Query(pattern=ID_PATTERN)] = None,
) -> Response:
    """As they were written; of a run, if one is named."""
    messages = assistants_of(request).messages
    return encode.answer(await messages.page(owner_of(request), thread_id, part, run_id))


@router.get("/v1/threads/{thread_id}/messages/{message_id}")
async def get_message(request: Request, thread_id: ThreadId, message_id: MessageId) -> Response:
    """One."""
    return encode.answer(await assistants_of(request).messages.get(owner_of(request), thread_id, message_id))


@router.post("/v1/threads/{thread_id}/messages/{message_id}")
async def update_message(request: Request, thread_id: ThreadId, message_id: MessageId, body: MetadataIn) -> Response:
    """Its new metadata."""
    messages = assistants_of(request).messages
    return encode.answer(await messages.update(owner_of(request), thread_id, message_id, body.metadata))


@router.delete("/v1/threads/{thread_id}/messages/{message_id}")
async def delete_message(request: Request, thread_id: ThreadId, message_id: MessageId) -> Response:
    """No later run knows of it."""
    return encode.answer(await assistants_of(request).messages.delete(owner_of(request), thread_id, message_id))
