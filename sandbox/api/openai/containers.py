"""OpenAI's Containers: our sessions under their ids."""

from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError

from sandbox import containers
from sandbox.api import encode
from sandbox.api.download import Download
from sandbox.api.files import form_of, is_form
from sandbox.api.openai.lists import Wanted, listed
from sandbox.api.route import Route, node_of, owner_of
from sandbox.errors import InvalidField
from sandbox.keys import Owner
from sandbox.node import Node
from sandbox.store.rows import FileRow, SessionRow

router = APIRouter(prefix="/v1/containers", route_class=Route, tags=["containers"], include_in_schema=False)


class _ExpiresAfter(BaseModel):
    anchor: Literal["last_active_at"]
    minutes: int


class _ContainerIn(BaseModel):
    name: str
    expires_after: _ExpiresAfter | None = None
    file_ids: Annotated[list[str], Field(max_length=1000)] | None = None
    memory_limit: str | None = None
    network_policy: dict[str, Any] | None = None
    skills: Annotated[list[Any], Field(max_length=1000)] | None = None


class _FileIn(BaseModel):
    file_id: str


@router.post("")
async def create_container(request: Request, body: _ContainerIn) -> Response:
    """Awake, and with its files in it."""
    if body.network_policy is not None and body.network_policy.get("type") != "disabled":
        raise InvalidField("network_policy", 'programs have no network here; leave it out or send {"type": "disabled"}')
    if body.skills:
        raise InvalidField("skills", "there are none here; leave them out, and upload what they contain as files")
    row = await containers.create(
        node_of(request),
        owner_of(request),
        name=body.name,
        memory_limit=body.memory_limit,
        minutes=None if body.expires_after is None else body.expires_after.minutes,
        file_ids=body.file_ids or (),
    )
    return encode.answer(containers.container(row))


@router.get("")
async def list_containers(request: Request, wanted: Wanted, name: Annotated[str | None, Query()] = None) -> Response:
    """Those of the key that were not deleted."""
    page = await containers.page(
        node_of(request),
        owner_of(request),
        limit=wanted.limit,
        after=wanted.after,
        newest_first=wanted.newest_first,
        name=name,
    )
    return encode.answer(listed([containers.container(row) for row in page.items], has_more=page.next is not None))


@router.get("/{container_id}")
async def retrieve_container(request: Request, container_id: str) -> Response:
    """Also when it has expired."""
    row = await containers.found(node_of(request), owner_of(request), container_id)
    return encode.answer(containers.container(row))


@router.delete("/{container_id}")
async def delete_container(request: Request, container_id: str) -> Response:
    """And its files."""
    await containers.delete(node_of(request), owner_of(request), container_id)
    return encode.answer({"id": container_id, "object": "container.deleted", "deleted": True})


@router.post("/{container_id}/files")
async def create_container_file(request: Request, container_id: str) -> Response:
    """From the bytes in the part `file` of a form, or from a kept file."""
    node, owner, row = await _usable(request, container_id)
    if is_form(request):
        return encode.answer(containers.container_file(await _from_form(request, node, owner, row)))
    try:
        asked = _FileIn.model_validate_json(await request.body())
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None
    added = await containers.add_kept_file(node, owner, row, asked.file_id)
    return encode.answer(containers.container_file(added))


async def _from_form(request: Request, node: Node, owner: Owner, row: SessionRow) -> FileRow:
    async for part in form_of(request, node).parts():
        if part.name == "file" and part.filename is not None:
            return await containers.add_file(node, owner, row, part.filename, part.pieces)
        told = await part.text()
        if part.name == "file_id":
            return await containers.add_kept_file(node, owner, row, told)
    raise InvalidField("file", "it is missing; send it as a part with a filename, or `file_id` as JSON")


@router.get("/{container_id}/files")
async def list_container_files(request: Request, container_id: str, wanted: Wanted) -> Response:
    """By the time at which they were written."""
    node, owner, row = await _usable(request, container_id)
    page = await containers.files(
        node, owner, row, limit=wanted.limit, after=wanted.after, newest_first=wanted.newest_first
    )
    return encode.answer(listed([containers.container_file(file) for file in page.items], has_more=bool(page.next)))


@router.get("/{container_id}/files/{file_id}")
async def retrieve_container_file(request: Request, container_id: str, file_id: str) -> Response:
    """What is known of it."""
    node, owner, row = await _usable(request, container_id)
    return encode.answer(containers.container_file(await containers.file(node, owner, row, file_id)))


@router.delete("/{container_id}/files/{file_id}")
async def delete_container_file(request: Request, container_id: str, file_id: str) -> Response:
    """From the container; a kept file that it was copied from stays."""
    node, owner, row = await _usable(request, container_id)
    await containers.remove_file(node, owner, row, file_id)
    return encode.answer({"id": file_id, "object": "container.file.deleted", "deleted": True})


@router.get("/{container_id}/files/{file_id}/content")
async def retrieve_container_content(request: Request, container_id: str, file_id: str) -> Response:
    """Its bytes."""
    node, owner, row = await _usable(request, container_id)
    file = await containers.file(node, owner, row, file_id)
    return Download(file, partial(node.pieces, file), request.headers)


async def _usable(request: Request, container_id: str) -> tuple[Node, Owner, SessionRow]:
    node, owner = node_of(request), owner_of(request)
    return node, owner, await containers.usable(node, owner, container_id)
