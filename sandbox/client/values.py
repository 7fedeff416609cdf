"""What the server says, as values. Fields that a newer server has added are passed over.

The readers raise `KeyError`, `TypeError` or `ValueError` for what no server of ours says.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from sandbox.execution import Artifact, Error, Execution, Status, Truncated

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Started:
    """An execution was accepted; the first event of its stream."""

    id: str
    session_id: str


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session, as it was when it was asked for."""

    id: str
    status: Literal["active", "closed", "expired"]
    image: str
    memory_mb: int
    disk_mb: int
    """Size of its `/mnt/data` in MiB."""
    timeout_s: float
    """Of an execution that asks for no timeout."""
    idle_timeout_s: float
    metadata: Mapping[str, str]
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What is installed in a sandbox."""

    name: str
    python: str
    """The interpreter's version."""
    libraries: Mapping[str, str]
    """Distribution to version."""


@dataclass(frozen=True, slots=True)
class File:
    """A file in a workspace."""

    path: str
    """Relative to `/mnt/data`."""
    size: int
    mime: str
    modified_at: datetime
    id: str
    """Empty while a running program has just written it and the server has not stored it yet."""
    digest: str
    """sha256 of its bytes in hex; empty as `id` is."""


@dataclass(frozen=True, slots=True)
class ExecutionRecord:
    """An execution of the past, or the one that runs."""

    id: str
    session_id: str
    created_at: datetime
    execution: Execution | None
    """None while it runs."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list, and what to say to get the next one."""

    items: tuple[T, ...]
    next: str | None


def read_execution(data: Any) -> Execution:
    known = _known(Execution, data)
    error, truncated = data.get("error"), data.get("truncated")
    known |= {
        "status": Status(data["status"]),
        "results": tuple(data.get("results") or ()),
        "error": read_error(error) if error else None,
        "artifacts": tuple(read_artifact(artifact) for artifact in data.get("artifacts") or ()),
        "removed": tuple(data.get("removed") or ()),
        "truncated": Truncated(**_known(Truncated, truncated)) if truncated else Truncated(),
    }
    return Execution(**known)


def read_record(data: Any) -> ExecutionRecord:
    execution = None if data["status"] == "running" else read_execution(data)
    return ExecutionRecord(data["id"], data["session_id"], _time(data["created_at"]), execution)


def read_error(data: Any) -> Error:
    return Error(**{**_known(Error, data), "available": tuple(data.get("available") or ())})


def read_artifact(data: Any) -> Artifact:
    return Artifact(**_known(Artifact, data))


def read_session(data: Any) -> SessionInfo:
    times = {name: _time(data[name]) for name in ("created_at", "last_used_at")}
    maybe = {name: _time(data[name]) if data.get(name) else None for name in ("expires_at", "ended_at")}
    return SessionInfo(**{**_known(SessionInfo, data), **times, **maybe})


def read_image(data: Any) -> ImageInfo:
    return ImageInfo(**_known(ImageInfo, data))


def read_file(data: Any) -> File:
    known = _known(File, data)
    return File(**{**known, "id": data.get("id") or "", "digest": data.get("digest") or ""} | _modified(data))


def read_page(data: Any, read: Callable[[Any], T]) -> Page[T]:
    return Page(tuple(read(item) for item in data["data"]), data.get("next") if data.get("has_more") else None)


def _known(kind: type, data: Any) -> dict[str, Any]:
    return {field.name: data[field.name] for field in dataclasses.fields(kind) if field.name in data}


def _modified(data: Any) -> dict[str, datetime]:
    return {"modified_at": _time(data["modified_at"])}


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
