"""A session's files, streamed both ways."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, HTTPException, Query, Request, Response
from starlette.requests import ClientDisconnect

from sandbox.api import encode
from sandbox.api.download import Download
from sandbox.api.multipart import Multipart
from sandbox.api.problems import documented
from sandbox.api.route import Route, SessionId, node_of, owner_of
from sandbox.api.schemas import FileOut, FilesOut
from sandbox.api.visit import Visit
from sandbox.errors import FileForbidden, FileMissing, InvalidPath
from sandbox.execution import MIB
from sandbox.node import Node

router = APIRouter(prefix="/v1/sessions/{session_id}/files", route_class=Route, tags=["files"])

_FORM_BYTES = 64 << 10
"""What the form around a largest file may take."""
_BYTES: dict[str, Any] = {
    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}, "example": "a,b\n1,2\n"}
}
_RANGES: dict[str, Any] = {
    "multipart/byteranges": {
        "schema": {"type": "string", "format": "binary"},
        "example": "\r\n--x\r\nContent-Type: text/csv\r\nContent-Range: bytes 0-2/8\r\n\r\na,b\r\n--x--\r\n",
    }
}
_FORM = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            "required": ["file"],
        },
        "example": {"file": ["a,b\n1,2\n"]},
    }
}
_DOWNLOAD: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole file. `ETag` is its digest.", "content": _BYTES},
    206: {"description": "The ranges that were asked for.", "content": _BYTES | _RANGES},
    304: {"description": "The client has it: `If-None-Match` names its digest."},
}
_PATH = {
    "parameters": [
        {
            "name": "path",
            "in": "path",
            "required": True,
            "description": "Relative to `/mnt/data`; may have slashes, which are not encoded.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 4096},
            "example": "data/a.csv",
        }
    ]
}


@router.get(
    "",
    summary="List a session's files",
    description="Sorted by path. `complete` says whether there are files that no page has: more than 10,000 files and "
    "directories are not looked at, nor one that its mode shuts, and names that are not UTF-8 cannot be said.",
    operation_id="list_files",
    responses={200: {"model": FilesOut}, **documented(404, 409)},
)
async def list_files(
    request: Request,
    session_id: SessionId,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most items of one page.", examples=[100])] = 100,
    after: Annotated[
        str | None,
        Query(max_length=4096, description="The `next` of the page before this one: a path.", examples=["data/a.csv"]),
    ] = None,
) -> Response:
    """See the decorator."""
    found = await node_of(request).files(owner_of(request), session_id)
    page = found.page(limit, after)
    listed = encode.page([encode.file(row) for row in page.items], page.next)
    return encode.answer(listed | {"complete": found.complete})


@router.post(
    "",
    summary="Upload files",
    description="Parts with a `filename`, which is the path below `/mnt/data`; a thousand at most. What is there is "
    "replaced. Those before one that fails are there.",
    operation_id="upload_files",
    responses={200: {"model": FilesOut}, **documented(404, 408, 409, 413, 415, 429)},
    openapi_extra={"requestBody": {"required": True, "content": _FORM}},
)
async def upload_files(request: Request, session_id: SessionId) -> Response:
    """See the decorator."""
    node, owner = node_of(request), owner_of(request)
    if not is_form(request):
        raise HTTPException(415, "send the files as multipart/form-data, or one of them with PUT")
    await node.session(owner, session_id)
    form = form_of(request, node)
    rows = {}
    async for path, pieces in form.files():
        rows[path] = await node.put_file(owner, session_id, path, pieces)
    return encode.answer(encode.page([encode.file(row) for _, row in sorted(rows.items())]) | {"complete": True})


@router.head(
    "/{path:path}",
    summary="Look at a file",
    description="The headers that a download would have.",
    operation_id="look_at_file",
    response_class=Response,
    responses={200: {"description": "The file is there."}, **documented(404, 409, 416)},
    openapi_extra=_PATH,
)
@router.get(
    "/{path:path}",
    summary="Download a file",
    description="As it is now. Supports `Range`, `If-Range` and `If-None-Match`. Always an attachment.",
    operation_id="download_file",
    response_class=Response,
    responses=_DOWNLOAD | documented(404, 409, 416),
    openapi_extra=_PATH,
)
async def download_file(request: Request, session_id: SessionId) -> Response:
    """See the decorator."""
    node, owner = node_of(request), owner_of(request)
    row = await node.file(owner, session_id, _path(request))
    return Download(row, partial(node.pieces, row), request.headers)


@router.put(
    "/{path:path}",
    summary="Upload a file",
    description="The body is the file, whatever its content type. 201 when it is new, 200 when it replaces one.",
    operation_id="upload_file",
    responses={200: {"model": FileOut}, 201: {"model": FileOut}, **documented(404, 408, 409, 413, 429)},
    openapi_extra=_PATH | {"requestBody": {"required": True, "content": _BYTES}},
)
async def upload_file(request: Request, session_id: SessionId) -> Response:
    """See the decorator."""
    node, owner = node_of(request), owner_of(request)
    path = _path(request)
    status = 200
    try:
        await node.file(owner, session_id, path)
    except FileForbidden:
        pass  # it is there
    except FileMissing:
        status = 201
    declared = request.headers.get("content-length", "")
    size = int(declared) if declared.isascii() and declared.isdigit() else None
    row = await node.put_file(owner, session_id, path, _pieces(request, node), size)
    return encode.answer(encode.file(row), status)


@router.delete(
    "/{path:path}",
    status_code=204,
    summary="Delete a file",
    description="From the workspace and from what is stored.",
    operation_id="delete_file",
    responses=documented(404, 409),
    openapi_extra=_PATH,
)
async def delete_file(request: Request, session_id: SessionId) -> Response:
    """See the decorator."""
    await node_of(request).remove_file(owner_of(request), session_id, _path(request))
    return Response(status_code=204)


def _path(request: Request) -> str:
    """The path as the client wrote it. Raises `InvalidPath` for what the framework's decoding would have hidden."""
    raw: bytes = request.scope["raw_path"].partition(b"/files/")[2]
    if b"%2f" in raw.lower():
        raise InvalidPath("the path has an encoded slash; write slashes as they are")
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise InvalidPath("the path is not UTF-8; encode it so, with percent signs") from None


def is_form(request: Request) -> bool:
    """Whether the body says that it is a form with files."""
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


def form_of(request: Request, node: Node) -> Multipart:
    """The body as a form whose files may be as long as files may be here. Raises `InvalidRequest`."""
    return Multipart(request.headers.get("content-type", ""), _pieces(request, node))


async def _pieces(request: Request, node: Node) -> AsyncIterator[bytes]:
    """The body of an upload, whose bound is another than that of JSON."""
    body = Visit.of(request).body
    body.stream(node.settings.max_upload_mb * MIB + _FORM_BYTES)
    more = True
    while more:
        message = await body.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        if message.get("body"):
            yield message["body"]
        more = message.get("more_body", False)
