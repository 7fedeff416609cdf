"""Values to the JSON that `schemas` describes."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from fastapi import Response
from starlette.types import Receive, Scope, Send

from sandbox import finite_json
from sandbox.api.answer import HELD
from sandbox.batches import BATCH, batches, in_turns
from sandbox.execution import Execution, Status, as_json
from sandbox.image import Manifest
from sandbox.node import Node
from sandbox.store.rows import ExecutionRow, FileRow, SessionRow

_PIECE = 1 << 16
"""Bytes from which on a piece is not copied to be sent with others."""


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A value as a JSON response."""
    return Response(to_json(value), status, headers, "application/json")


def to_json(value: Any) -> bytes:
    """Compact JSON that every client can parse, whatever a program has put into its results."""
    return finite_json.dumps(value)


async def to_pieces(value: Mapping[str, Any]) -> list[bytes]:
    """`to_json` of an object whose lists may have thousands of items, or a hundred of a mebibyte each; one at least.

    Tens of megabytes are not made one: to copy them takes as long as everything else about them.
    """
    if not any(_is_list(each) for each in value.values()):
        return [to_json(value)]
    pieces, start = [b"{"], b""
    for name, member in value.items():
        _add(pieces, start + to_json(name) + b":")
        await _add_member(pieces, member)
        start = b","
    _add(pieces, b"}")
    return pieces


async def _add_member(pieces: list[bytes], value: Any) -> None:
    if not _is_list(value):
        _add(pieces, to_json(value))
        return
    start = b"["
    many = len(value) > BATCH
    async for some in in_turns(batches(value, BATCH) if many else value):
        _add(pieces, start)
        _add(pieces, to_json(some)[1:-1] if many else to_json(some))
        start = b","
    _add(pieces, b"]")


def _add(pieces: list[bytes], data: bytes) -> None:
    if len(pieces[-1]) + len(data) < _PIECE:
        pieces[-1] += data
    else:
        pieces.append(data)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 1


def time_of(seconds: float) -> str:
    """Seconds since the epoch in ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def execution_answer(told: Mapping[str, Any]) -> Response:
    """An `ExecutionOut` as a JSON response."""
    return _Pieces(await to_pieces(told))


class _Pieces(Response):
    """JSON that is sent as it was made, a piece at a time."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._length = sum(map(len, pieces))
        super().__init__(headers={"content-length": str(self._length)}, media_type="application/json")
        self._pieces = deque(pieces)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        told = {HELD: self._length}  # with the first
        while self._pieces:  # each is let go when it is sent, because all at once take milliseconds
            message = {"type": "http.response.body", "body": self._pieces.popleft(), "more_body": bool(self._pieces)}
            await send(message | told)
            told = {}


def execution(value: Execution, created_at: float) -> dict[str, Any]:
    """`ExecutionOut` of one that has ended."""
    return as_json(value) | {"created_at": time_of(created_at)}


def execution_row(row: ExecutionRow) -> dict[str, Any]:
    """`ExecutionOut`, ended or not."""
    if row.execution is not None:
        return execution(row.execution, row.created_at)
    in_flight = execution(Execution(row.id, row.session_id, Status.OK), row.created_at)
    return in_flight | {"status": "running"}


def session(row: SessionRow, node: Node) -> dict[str, Any]:
    """`SessionOut`."""
    ended = row.ended_at is not None
    return {
        "id": row.id,
        "status": row.status,
        "image": row.image,
        "memory_mb": row.memory_mb,
        "disk_mb": node.disk_mb(row),
        "soft_limits": list(node.engine.runtime.soft),
        "timeout_s": node.settings.timeout_s,
        "idle_timeout_s": row.idle_timeout_s,
        "metadata": dict(row.metadata),
        "created_at": time_of(row.created_at),
        "last_used_at": time_of(row.last_used_at),
        "expires_at": None if ended else time_of(row.last_used_at + row.idle_timeout_s),
        "ended_at": None if row.ended_at is None else time_of(row.ended_at),
    }


def file(row: FileRow) -> dict[str, Any]:
    """`FileOut`."""
    return {
        "id": row.id,
        "path": row.path,
        "size": row.size,
        "mime": row.mime,
        "digest": row.digest,
        "modified_at": time_of(row.modified_at),
    }


def manifest(value: Manifest) -> dict[str, Any]:
    """`ImageOut`: without where things lie on this host."""
    return {name: each for name, each in asdict(value).items() if name != "base_prefix"}


def written_page(items: Sequence[bytes], following: str | None) -> Response:
    """A `page` of items that are JSON already, because they may be large."""
    between = [piece for item in items for piece in (b",", item)][1:]
    end = b'],"has_more":%b,"next":%b}' % (to_json(following is not None), to_json(following))
    return _Pieces([b'{"data":[', *between, end])


def page(data: Sequence[dict[str, Any]], following: str | None = None) -> dict[str, Any]:
    """A list. following: what to send as `after` to get more."""
    return {"data": data, "has_more": following is not None, "next": following}
