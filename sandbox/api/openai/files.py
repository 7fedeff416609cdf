"""OpenAI's Files: bytes that a key keeps outside any session."""

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Response

from sandbox.api import encode
from sandbox.api.download import Download
from sandbox.api.files import form_of, is_form
from sandbox.api.multipart import Part
from sandbox.api.openai.lists import LongWanted, listed
from sandbox.api.route import Route, node_of, owner_of
from sandbox.errors import InvalidField
from sandbox.kept import About
from sandbox.store.rows import Family, KeptFileRow

router = APIRouter(prefix="/v1/files", route_class=Route, tags=["files"], include_in_schema=False)

FAMILY: Family = "openai"
_PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
"""Those that a client can give. Others come from what makes files here."""
_LEAST_S, _MOST_S = 3600, 2_592_000
_MOST_NAME = 1024


@router.post("")
async def create_file(request: Request) -> Response:
    """Keep the part `file` of a form whose other fields come before it or after it."""
    if not is_form(request):
        raise HTTPException(415, "send the file as multipart/form-data, with the fields `purpose` and `file`")
    node, owner = node_of(request), owner_of(request)
    fields: dict[str, str] = {}
    parts = form_of(request, node).parts()
    async for part in parts:
        if part.name != "file":
            fields[part.name] = await part.text()
            continue
        if part.filename is None:
            raise InvalidField("file", "it is no file; send it as a part with a filename")
        if "purpose" in fields:
            _about(fields)  # refused before all the bytes have come
        name = checked_name(part.filename, "file")
        pieces = _with_the_rest(part, parts, fields)
        row = await node.kept.put(owner, FAMILY, name, pieces, about=partial(_about, fields))
        return encode.answer(as_json(row))
    raise InvalidField("file", "it is missing; send it as a part with a filename")


async def _with_the_rest(part: Part, parts: AsyncIterator[Part], fields: dict[str, str]) -> AsyncIterator[bytes]:
    """The bytes of the file, and behind them the fields that come after it."""
    async for piece in part.pieces:
        yield piece
    async for other in parts:
        if other.name == "file":
            raise InvalidField("file", "there are two; send one file in a request")
        fields[other.name] = await other.text()


@router.get("")
async def list_files(request: Request, wanted: LongWanted, purpose: Annotated[str | None, Query()] = None) -> Response:
    """Those of the key."""
    page = await node_of(request).kept.page(
        owner_of(request),
        FAMILY,
        limit=wanted.limit,
        after=wanted.after,
        newest_first=wanted.newest_first,
        purpose=purpose,
    )
    return encode.answer(listed([as_json(row) for row in page.items], has_more=page.next is not None))


@router.get("/{file_id}")
async def retrieve_file(request: Request, file_id: str) -> Response:
    """What is known of it."""
    return encode.answer(as_json(await node_of(request).kept.row(owner_of(request), FAMILY, file_id)))


@router.delete("/{file_id}")
async def delete_file(request: Request, file_id: str) -> Response:
    """Containers that have got it keep it."""
    await node_of(request).kept.remove(owner_of(request), FAMILY, file_id)
    return encode.answer({"id": file_id, "object": "file", "deleted": True})


@router.get("/{file_id}/content")
async def retrieve_content(request: Request, file_id: str) -> Response:
    """Its bytes, whatever its purpose."""
    kept = node_of(request).kept
    row = await kept.row(owner_of(request), FAMILY, file_id)
    return Download(row, partial(kept.pieces, row), request.headers)


def as_json(row: KeptFileRow) -> dict[str, Any]:
    """A file's JSON."""
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.size,
        "created_at": int(row.created_at),
        "expires_at": None if row.expires_at is None else int(row.expires_at),
        "filename": row.name,
        "purpose": row.purpose,
        "status": "processed",
        "status_details": None,
    }


def checked_name(name: str, field: str) -> str:
    """What a client calls its file. Raises `InvalidField`."""
    if not 0 < len(name) <= _MOST_NAME:
        raise InvalidField(field, f"the file's name has {len(name)} characters; choose from 1 to {_MOST_NAME}")
    return name


def checked_about(purpose: str, anchor: str | None, seconds: int | None) -> About:
    """What a client says of a file. anchor, seconds: of `expires_after`. Raises `InvalidField`."""
    if purpose not in _PURPOSES:
        raise InvalidField("purpose", f"it is {purpose!r}; choose from {', '.join(_PURPOSES)}")
    if anchor is None and seconds is None:
        return About(purpose)
    if anchor != "created_at":
        raise InvalidField("expires_after.anchor", "it can be created_at only")
    if seconds is None or not _LEAST_S <= seconds <= _MOST_S:
        raise InvalidField("expires_after.seconds", f"it is {seconds}; choose from {_LEAST_S} to {_MOST_S}")
    return About(purpose, float(seconds))


def _about(fields: Mapping[str, str]) -> About:
    """The fields of a form."""
    if "purpose" not in fields:
        raise InvalidField("purpose", f"it is missing; choose from {', '.join(_PURPOSES)}")
    told = fields.get("expires_after[seconds]")
    if told is not None and not (told.isascii() and told.isdigit() and len(told) < 10):
        raise InvalidField("expires_after.seconds", f"it is {told!r}; choose from {_LEAST_S} to {_MOST_S}")
    return checked_about(fields["purpose"], fields.get("expires_after[anchor]"), int(told) if told else None)
