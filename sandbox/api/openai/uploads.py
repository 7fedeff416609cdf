"""OpenAI's Uploads: a file that comes in parts."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import BaseModel, Field

from sandbox.api import encode
from sandbox.api.files import form_of, is_form
from sandbox.api.openai import files
from sandbox.api.route import Route, node_of, owner_of
from sandbox.errors import InvalidField
from sandbox.store.rows import KeptFileRow, ObjectRow
from sandbox.uploads import Uploads

router = APIRouter(prefix="/v1/uploads", route_class=Route, tags=["uploads"], include_in_schema=False)


class _ExpiresAfter(BaseModel):
    anchor: Literal["created_at"]
    seconds: int


class _UploadIn(BaseModel):
    bytes: int = Field(ge=0)
    filename: str
    mime_type: str
    purpose: str
    expires_after: _ExpiresAfter | None = None


class _CompleteIn(BaseModel):
    part_ids: Annotated[list[str], Field(max_length=10_000)]
    md5: str | None = None


def _uploads(request: Request) -> Uploads:
    uploads: Uploads = request.app.state.uploads
    return uploads


@router.post("")
async def create_upload(request: Request, body: _UploadIn) -> Response:
    """The type is what the name says, as for files that come in one piece."""
    expiry = body.expires_after.model_dump() if body.expires_after else {}
    about = files.checked_about(body.purpose, expiry.get("anchor"), expiry.get("seconds"))
    name = files.checked_name(body.filename, "filename")
    row = await _uploads(request).create(owner_of(request), size=body.bytes, name=name, about=about)
    return encode.answer(_upload(row))


@router.post("/{upload_id}/parts")
async def add_part(request: Request, upload_id: str) -> Response:
    """The part `data` of a form."""
    if not is_form(request):
        raise HTTPException(415, "send the part as multipart/form-data, in the field `data`")
    async for part in form_of(request, node_of(request)).parts():
        if part.name == "data":
            row = await _uploads(request).add_part(owner_of(request), upload_id, part.pieces)
            return encode.answer(
                {"id": row.id, "object": "upload.part", "created_at": int(row.created_at), "upload_id": upload_id}
            )
        await part.text()
    raise InvalidField("data", "it is missing; send the bytes in the field `data`")


@router.post("/{upload_id}/complete")
async def complete_upload(request: Request, upload_id: str, body: _CompleteIn) -> Response:
    """Put the parts together in the order of their ids."""
    row, file = await _uploads(request).complete(owner_of(request), upload_id, body.part_ids, body.md5)
    return encode.answer(_upload(row, file))


@router.post("/{upload_id}/cancel")
async def cancel_upload(request: Request, upload_id: str) -> Response:
    """Its parts are gone then."""
    return encode.answer(_upload(await _uploads(request).cancel(owner_of(request), upload_id)))


def _upload(row: ObjectRow, file: KeptFileRow | None = None) -> dict[str, Any]:
    return {
        "id": row.id,
        "object": "upload",
        "bytes": row.body["bytes"],
        "created_at": int(row.created_at),
        "expires_at": int(row.expires_at or 0),
        "filename": row.body["filename"],
        "purpose": row.body["purpose"],
        "status": row.body["status"],
        "file": None if file is None else files.as_json(file),
    }
