"""Values to the JSON that `schemas` describes."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from fastapi import Response

from sandbox.batches import BATCH, batches, in_turns
from sandbox.execution import Execution, Status, as_json
from sandbox.image import Manifest
from sandbox.node import Node
from sandbox.store.rows import ExecutionRow, FileRow, SessionRow


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A value as a JSON response."""
    return Response(to_json(value), status, headers, "application/json")


def to_json(value: Any) -> bytes:
    """Compact JSON that every client can parse, whatever a program has put into its results."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")  # half a surrogate pair has no UTF-8


async def to_json_in_turns(value: Mapping[str, Any]) -> bytes:
    """`to_json` of an object whose lists may have thousands of items, or a hundred of a mebibyte each."""
    if not any(_is_list(each) for each in value.values()):
        return to_json(value)
    members = [to_json(name) + b":" + await _member(each) for name, each in value.items()]
    return b"{" + b",".join(members) + b"}"


async def _member(value: Any) -> bytes:
    if not _is_list(value):
        return to_json(value)
    size = BATCH if len(value) > BATCH else 1
    return b"[" + b",".join([to_json(some)[1:-1] async for some in in_turns(batches(value, size))]) + b"]"


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 1


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def time_of(seconds: float) -> str:
    """Seconds since the epoch in ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def execution_answer(told: Mapping[str, Any]) -> Response:
    """An `ExecutionOut` as a JSON response."""
    return Response(await to_json_in_turns(told), media_type="application/json")


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


def page(data: Sequence[dict[str, Any]], following: str | None = None) -> dict[str, Any]:
    """A list. following: what to send as `after` to get more."""
    return {"data": data, "has_more": following is not None, "next": following}
