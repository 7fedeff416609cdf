"""Threads of the Assistants API."""

from fastapi import APIRouter, Request, Response

from sandbox.api import encode
from sandbox.api.openai.assistant_bodies import ThreadChangesIn, ThreadIn
from sandbox.api.openai.assistant_parts import ThreadId, assistants_of
from sandbox.api.route import Route, owner_of

router = APIRouter(route_class=Route, tags=["assistants"], include_in_schema=False)


@router.post("/v1/threads")
async def create_thread(request: Request, body: ThreadIn | None = None) -> Response:
    """A new one."""
    asked = body.given() if body is not None else {}
    return encode.answer(await assistants_of(request).create_thread(owner_of(request), asked))


@router.get("/v1/threads/{thread_id}")
async def get_thread(request: Request, thread_id: ThreadId) -> Response:
    """One."""
    return encode.answer(await assistants_of(request).thread(owner_of(request), thread_id))


@router.post("/v1/threads/{thread_id}")
async def update_thread(request: Request, thread_id: ThreadId, body: ThreadChangesIn) -> Response:
    """Its new fields."""
    return encode.answer(await assistants_of(request).threads.update(owner_of(request), thread_id, body.given()))


@router.delete("/v1/threads/{thread_id}")
async def delete_thread(request: Request, thread_id: ThreadId) -> Response:
    """With all that is in it."""
    return encode.answer(await assistants_of(request).delete_thread(owner_of(request), thread_id))
