"""OpenAI's Assistants, version 2: the assistants themselves. Threads, messages and runs are beside this file."""

from fastapi import APIRouter, Request, Response

from sandbox.api import encode
from sandbox.api.openai.assistant_bodies import AssistantChangesIn, AssistantIn
from sandbox.api.openai.assistant_parts import AssistantId, Wanted, assistants_of
from sandbox.api.route import Route, owner_of

router = APIRouter(route_class=Route, tags=["assistants"], include_in_schema=False)


@router.post("/v1/assistants")
async def create_assistant(request: Request, body: AssistantIn) -> Response:
    """A new one."""
    return encode.answer(await assistants_of(request).definitions.create(owner_of(request), body.given()))


@router.get("/v1/assistants")
async def list_assistants(request: Request, part: Wanted) -> Response:
    """As they were made."""
    return encode.answer(await assistants_of(request).definitions.page(owner_of(request), part))


@router.get("/v1/assistants/{assistant_id}")
async def get_assistant(request: Request, assistant_id: AssistantId) -> Response:
    """One."""
    return encode.answer(await assistants_of(request).definitions.get(owner_of(request), assistant_id))


@router.post("/v1/assistants/{assistant_id}")
async def update_assistant(request: Request, assistant_id: AssistantId, body: AssistantChangesIn) -> Response:
    """Its new fields."""
    definitions = assistants_of(request).definitions
    return encode.answer(await definitions.update(owner_of(request), assistant_id, body.given()))


@router.delete("/v1/assistants/{assistant_id}")
async def delete_assistant(request: Request, assistant_id: AssistantId) -> Response:
    """Its runs stay."""
    return encode.answer(await assistants_of(request).definitions.delete(owner_of(request), assistant_id))
