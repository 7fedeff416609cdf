"""A stored file as a response: whole, in ranges, or not at all because the client has it.

As RFC 9110 has it. The digest is the ETag, so it is strong, and a range of a file is a range of those very bytes.
"""

import asyncio
import contextlib
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from email.utils import formatdate
from urllib.parse import quote

from fastapi import HTTPException, Response
from starlette.types import Receive, Scope, Send

from sandbox.remote import file_name
from sandbox.store.rows import FileRow, KeptFileRow

_MOST_RANGES = 16
_RANGE = re.compile(r"\s*(\d{0,18})-(\d{0,18})\s*")

Ranges = list[tuple[int, int]]
"""First byte, and the one after the last."""
Pieces = Callable[[int, int], AsyncIterator[bytes]]
"""The bytes from the first to before the second."""


class Download(Response):
    """The bytes of a file, always as an attachment: they are what some program wrote, not a page of ours."""

    def __init__(self, row: FileRow | KeptFileRow, pieces: Pieces, headers: Mapping[str, str]) -> None:
        """pieces: of this file. headers: the request's. Raises `HTTPException` (416)."""
        super().__init__()
        etag = f'"{row.digest}"'
        if isinstance(row, FileRow):
            name, modified = row.path.rpartition("/")[2], row.modified_at
        else:
            name, modified = file_name(row.name), row.created_at
        common = {
            "etag": etag,
            "last-modified": formatdate(modified, usegmt=True),
            "accept-ranges": "bytes",
            "cache-control": "private, no-cache",
            "content-disposition": _attachment(name),
        }
        self._pieces = pieces
        self._parts: list[tuple[bytes, int, int]] = []
        """What comes before each run of bytes, and the run."""
        self._tail = b""
        if _matches(headers.get("if-none-match"), etag):
            self.status_code, own = 304, {}
        elif (ranges := _wanted(headers, row.size, common)) is None:
            self.status_code, own = 200, {"content-type": row.mime, "content-length": str(row.size)}
            self._parts = [(b"", 0, row.size)]
        else:
            self.status_code, own = 206, self._partial(row, ranges)
        self.init_headers(common | own)

    def _partial(self, row: FileRow | KeptFileRow, ranges: Ranges) -> dict[str, str]:
        if len(ranges) == 1:
            ((start, end),) = ranges
            self._parts = [(b"", start, end)]
            span = f"bytes {start}-{end - 1}/{row.size}"
            return {"content-type": row.mime, "content-length": str(end - start), "content-range": span}
        boundary = secrets.token_hex(16)
        for start, end in ranges:
            span = f"bytes {start}-{end - 1}/{row.size}"
            head = f"\r\n--{boundary}\r\nContent-Type: {row.mime}\r\nContent-Range: {span}\r\n\r\n"
            self._parts.append((head.encode(), start, end))
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        length = sum(len(head) + end - start for head, start, end in self._parts) + len(self._tail)
        return {"content-type": f"multipart/byteranges; boundary={boundary}", "content-length": str(length)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. Raises what `pieces` raises; before anything is sent, if it is missing."""
        async with contextlib.aclosing(self._body()) as body:
            first = b"" if scope["method"] == "HEAD" else await anext(body, b"")
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            piece: bytes | None = first
            while piece:
                # The next piece is read while this one is sent.
                coming = asyncio.ensure_future(anext(body, None))
                try:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                    piece = await coming
                finally:
                    if not coming.done():
                        coming.cancel()
                        await asyncio.gather(coming, return_exceptions=True)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _body(self) -> AsyncGenerator[bytes, None]:
        for head, start, end in self._parts:
            if head:
                yield head
            async for piece in self._pieces(start, end):
                yield piece
        if self._tail:
            yield self._tail


def _attachment(name: str) -> str:
    """RFC 6266, with RFC 8187 for names beyond ASCII. A name is data: nothing in it can end the header."""
    plain = re.sub(r'[^\x20-\x7e]|["\\%]', "_", name)
    told = f'attachment; filename="{plain}"'
    return told if plain == name else f"{told}; filename*=UTF-8''{quote(name, safe='', errors='replace')}"


def _matches(header: str | None, etag: str) -> bool:
    if header is None:
        return False
    return header.strip() == "*" or etag in (each.strip().removeprefix("W/") for each in header.split(","))


def _wanted(headers: Mapping[str, str], size: int, common: Mapping[str, str]) -> Ranges | None:
    """The ranges to send; None for the whole. Raises `HTTPException` (416)."""
    unit, _, told = headers.get("range", "").partition("=")
    if unit.strip().lower() != "bytes":
        return None
    if headers.get("if-range", common["etag"]) not in (common["etag"], common["last-modified"]):
        return None
    asked = [_RANGE.fullmatch(each) for each in told.split(",")]
    ranges: Ranges = []
    for each in asked:
        if each is None or each[1] == each[2] == "" or (each[1] and each[2] and int(each[1]) > int(each[2])):
            return None  # not a range: the header counts as absent
        if not each[1]:
            start, end = max(0, size - int(each[2])), size
        else:
            start, end = int(each[1]), min(size, int(each[2]) + 1) if each[2] else size
        if start < end:
            ranges.append((start, end))
    if not ranges:
        raise HTTPException(
            416, f"none of the ranges lies within {size} bytes", headers={"content-range": f"bytes */{size}"}
        )
    # Many or overlapping ones cost more than the file itself, and nobody needs them.
    wasteful = len(ranges) > _MOST_RANGES or sum(end - start for start, end in ranges) > size
    return None if wasteful else ranges
