"""Anthropic's Files: bytes that a key keeps outside any session."""

import contextlib
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

from fastapi import APIRouter, Request, Response

from sandbox.api import anthropic_errors, encode
from sandbox.api.download import Download
from sandbox.api.files import form_of
from sandbox.api.multipart import Part
from sandbox.api.route import AnthropicRoute, node_of, owner_of
from sandbox.api.visit import Visit
from sandbox.errors import FileMissing, InvalidRequest, RateLimited
from sandbox.store.rows import Family, FileRow, KeptFileRow

router = APIRouter(route_class=AnthropicRoute, tags=["anthropic"], include_in_schema=False)

_FAMILY: Family = "anthropic"
_LIFETIME_S = (3600, 7_776_000)
_MOST_IDS = 100
_PAGE = "page_"
_ANYTHING = "application/octet-stream"
_FORBIDDEN = re.compile(r'[<>:"|?*\\/\x00-\x1f]')


@router.post("/v1/files")
async def upload_file(request: Request) -> Response:
    """Keep a file: the part `file`, and `expires_in_seconds` before it."""
    node = node_of(request)
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise InvalidRequest("send the file as multipart/form-data, in a part `file`")
    form = form_of(request, node)
    lifetime: int | None = None
    kept: KeptFileRow | None = None
    try:
        async for part in form.parts():
            if part.name == "file" and kept is None:
                kept = await _kept(request, part, lifetime)
            elif part.name == "expires_in_seconds":
                lifetime = _lifetime(await part.text())
                if kept is not None:
                    raise InvalidRequest("expires_in_seconds: send it before the file")
            else:
                await _skip(part)
    except RateLimited as error:  # to try again would not help
        return anthropic_errors.refusal(Visit.of(request).request_id, 400, str(error), "storage_quota_exceeded")
    except BaseException:
        if kept is not None:  # nobody is told that it is there
            with contextlib.suppress(FileMissing):
                await node.kept.remove(owner_of(request), _FAMILY, kept.id)
        raise
    if kept is None:
        raise InvalidRequest("file: a part of this name with a filename is needed")
    return encode.answer(_metadata(kept))


@router.get("/v1/files")
async def list_files(request: Request) -> Response:
    """The newest first; in the words of old SDKs and of new ones."""
    asked = request.query_params
    ids = [each for name in ("ids[]", "ids") for each in asked.getlist(name)]
    cursors = {name: asked[name] for name in ("page", "after_id", "before_id") if asked.get(name)}
    if len(cursors) + bool(ids) > 1:
        raise InvalidRequest("page, after_id, before_id and ids: only one of them at a time")
    if ids:
        return encode.answer(_listed(await _of_ids(request, ids), None))
    limit = _limit(asked.get("limit", "20"))
    node, owner = node_of(request), owner_of(request)
    try:
        if before := cursors.get("before_id"):
            page = await node.kept.page(owner, _FAMILY, limit=limit, after=before, newest_first=False)
            items = page.items[::-1]
            # Behind these there is always the one that they come before.
            return encode.answer(_listed(items, items[-1].id if items else None) | {"has_more": page.next is not None})
        after = cursors.get("after_id") or cursors.get("page", "").removeprefix(_PAGE) or None
        page = await node.kept.page(owner, _FAMILY, limit=limit, after=after)
    except InvalidRequest:
        raise InvalidRequest(f"{next(iter(cursors))}: there is no such place in the list") from None
    return encode.answer(_listed(page.items, page.next))


@router.get("/v1/files/{file_id}")
async def get_file(request: Request, file_id: str) -> Response:
    """What is known of it."""
    return encode.answer(_metadata(await _row(request, file_id)))


@router.get("/v1/files/{file_id}/content")
async def download_file(request: Request, file_id: str) -> Response:
    """Its bytes, if code has made it: who has sent a file has it."""
    row = await _row(request, file_id)
    if not row.downloadable:
        message = f"File `{file_id}` is not downloadable: only files that code execution has made are."
        return anthropic_errors.refusal(Visit.of(request).request_id, 400, message, "file_not_downloadable")
    return Download(_as_stored(row), partial(node_of(request).kept.pieces, row), request.headers)


@router.delete("/v1/files/{file_id}")
async def delete_file(request: Request, file_id: str) -> Response:
    """Containers that have got it keep it."""
    try:
        await node_of(request).kept.remove(owner_of(request), _FAMILY, file_id)
    except FileMissing:
        _missing(file_id)
    return encode.answer({"id": file_id, "type": "file_deleted"})


async def _row(request: Request, file_id: str) -> KeptFileRow:
    try:
        return await node_of(request).kept.row(owner_of(request), _FAMILY, file_id)
    except FileMissing:
        _missing(file_id)


def _missing(file_id: str) -> NoReturn:
    raise FileMissing(f"File `{file_id[:80]}` not found.")


def _metadata(row: KeptFileRow) -> dict[str, Any]:
    made = {
        "id": row.id,
        "type": "file",
        "filename": row.name,
        "mime_type": row.mime,
        "size_bytes": row.size,
        "created_at": encode.time_of(row.created_at),
        "downloadable": row.downloadable,
    }
    return made if row.expires_at is None else made | {"expires_at": encode.time_of(row.expires_at)}


def _as_stored(row: KeptFileRow) -> FileRow:
    """As a download has it."""
    return FileRow(row.id, "", row.owner, row.name, row.digest, row.size, row.mime, row.created_at)


# Lists.


def _listed(rows: Sequence[KeptFileRow], following: str | None) -> dict[str, Any]:
    return {
        "data": [_metadata(row) for row in rows],
        "next_page": None if following is None else f"{_PAGE}{following}",
        "has_more": following is not None,
        "first_id": rows[0].id if rows else None,
        "last_id": rows[-1].id if rows else None,
    }


async def _of_ids(request: Request, ids: Sequence[str]) -> list[KeptFileRow]:
    """Those that there are."""
    if len(ids) > _MOST_IDS:
        raise InvalidRequest(f"ids: {_MOST_IDS} at most")
    found = []
    for file_id in dict.fromkeys(ids):
        try:
            found.append(await _row(request, file_id))
        except FileMissing:
            continue
    return found


def _limit(told: str) -> int:
    if not (told.isascii() and told.isdigit() and len(told) < 5 and 1 <= int(told) <= 1000):
        raise InvalidRequest("limit: a number from 1 to 1000 is needed")
    return int(told)


# Uploads.


async def _kept(request: Request, part: Part, lifetime: int | None) -> KeptFileRow:
    name = part.filename or ""
    if not 1 <= len(name) <= 255 or _FORBIDDEN.search(name):
        raise InvalidRequest(
            'file: a filename has 1 to 255 characters, none of them < > : " | ? * \\ / or a control character'
        )
    mime = "" if part.mime.startswith(_ANYTHING) else part.mime  # the name may say more
    return await node_of(request).kept.put(
        owner_of(request), _FAMILY, name, part.pieces, mime=mime, downloadable=False, lifetime_s=lifetime
    )


def _lifetime(told: str) -> int:
    least, most = _LIFETIME_S
    if not (told.isascii() and told.isdigit() and len(told) < 9 and least <= int(told) <= most):
        raise InvalidRequest(f"expires_in_seconds: a number from {least} to {most} is needed")
    return int(told)


async def _skip(part: Part) -> None:
    async for _ in part.pieces:
        pass
