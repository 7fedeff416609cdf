"""Values that go into the store and come out of it. Times are float seconds since the epoch."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypedDict, TypeVar, get_args

from sqlalchemy import RowMapping

from sandbox.execution import Artifact, Error, Execution, Status, Truncated
from sandbox.keys import KeyLimits, KeyRow

__all__ = [
    "Claim",
    "ExecutionRow",
    "Family",
    "FileRow",
    "KeptFileRow",
    "KeyRow",
    "ObjectRow",
    "Page",
    "PauseRow",
    "SessionChanges",
    "SessionRow",
    "SessionStatus",
    "TraceRow",
]

T = TypeVar("T")
SessionStatus = Literal["active", "closed", "expired"]
Family = Literal["", "openai", "anthropic"]
"""Whose API something was made through; empty is our own."""


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session."""

    id: str
    owner: str
    node: str
    epoch: int
    status: SessionStatus
    image: str
    memory_mb: int
    idle_timeout_s: float
    metadata: Mapping[str, str]
    created_at: float
    last_used_at: float
    ended_at: float | None = None
    used: bool = False
    """An execution has run in it, so a new kernel means lost state."""
    single: bool = False
    """It was made for one run, and nobody goes on with it."""
    family: Family = ""
    """Whose containers it is among."""
    yields: bool = False
    """When memory is short and nobody uses it, its sandbox makes room."""


class SessionChanges(TypedDict, total=False):
    """What of a session can change."""

    node: str
    epoch: int
    status: SessionStatus
    idle_timeout_s: float
    metadata: Mapping[str, str]
    last_used_at: float
    ended_at: float | None
    used: bool


@dataclass(frozen=True, slots=True)
class ExecutionRow:
    """An execution, and how it ended."""

    id: str
    session_id: str
    owner: str
    code: str
    created_at: float
    ended_at: float | None = None
    execution: Execution | None = None
    """None while it is in flight."""


@dataclass(frozen=True, slots=True)
class FileRow:
    """A workspace file as it was last stored; its bytes are found by `digest`."""

    id: str
    session_id: str
    owner: str
    path: str
    digest: str
    size: int
    mime: str
    modified_at: float
    uploaded: bool = False
    """It is as a client has put it there, and no program has written it since."""


@dataclass(frozen=True, slots=True)
class KeptFileRow:
    """A file that an owner keeps outside any session; its bytes are found by `digest`."""

    id: str
    owner: str
    family: Family
    name: str
    purpose: str
    """In its family's words; empty where that has none."""
    digest: str
    size: int
    mime: str
    downloadable: bool
    created_at: float
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """An object of another API that is no session and no file: a response, an assistant, a thread, a run."""

    id: str
    owner: str
    kind: str
    parent: str
    """The id of what it is part of, and removed with; empty for none."""
    node: str
    epoch: int
    """Of the node that works on it."""
    live: bool
    """Work on it goes on, or went on when its node was stopped."""
    created_at: float
    expires_at: float | None
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One run of a loop."""

    id: str
    owner: str
    session_id: str | None
    """None when no code was run."""
    model: str
    """As it was asked for."""
    prompt: str
    """The beginning of the last that the user said."""
    ending: str
    """One of `Ending`, or `failed` or `cancelled`."""
    created_at: float
    ended_at: float
    turns: int
    executions: int
    failures: int
    input_tokens: int
    output_tokens: int
    cost: float | None
    """US dollars; None when no price is known."""
    records: tuple[Mapping[str, Any], ...] = ()
    """What happened, in order; empty in lists."""


@dataclass(frozen=True, slots=True)
class PauseRow:
    """A run of a loop that waits for its caller's functions."""

    id: str
    """Of its trace."""
    owner: str
    session_id: str | None
    """None when no code was run."""
    made: bool
    """The session was made for the run, and nobody else goes on with it."""
    said: tuple[Mapping[str, Any], ...]
    """The messages of the run as they were, secrets included, because the model has to see them again."""
    created_at: float


@dataclass(frozen=True, slots=True)
class Claim:
    """An Idempotency-Key, what was asked with it, and the id of what it made."""

    owner: str
    key: str
    fingerprint: str
    resource: str


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A stretch of a list, and the `after` of the next one; None at the end."""

    items: tuple[T, ...]
    next: str | None = None


OUTCOME = tuple(field for field in dataclasses.fields(Execution) if field.name not in ("id", "session_id"))
"""The fields of an execution that are known at its end; each is a column."""
_DEFAULTS = {field.name: field.default for field in OUTCOME}


Row = SessionRow | ExecutionRow | FileRow | KeptFileRow | ObjectRow | KeyRow | TraceRow | PauseRow | Claim
_COLUMNS = {
    kind: tuple(field.name for field in dataclasses.fields(kind) if field.name != "execution") for kind in get_args(Row)
}
"""To ask for the fields of each of thousands of rows takes longer than to read them."""


def values(row: Row) -> dict[str, Any]:
    """A row's fields by name. Unlike `asdict` it copies nothing."""
    return {name: getattr(row, name) for name in _COLUMNS[type(row)]}


def outcome(execution: Execution) -> dict[str, Any]:
    """The columns of an execution's end. What is as in most of them takes no room."""
    return {
        name: None if (value := getattr(execution, name)) == default else value for name, default in _DEFAULTS.items()
    }


def execution_row(columns: RowMapping, results: tuple[Mapping[str, Any], ...] = ()) -> ExecutionRow:
    """From all columns, by name, and those results that have rows of their own."""
    told = {name: columns[name] for name in _DEFAULTS if columns[name] is not None}
    execution = None
    if columns["ended_at"] is not None:
        ended = {name: _value(name, told[name]) for name in told} | ({"results": results} if results else {})
        execution = Execution(columns["id"], columns["session_id"], **ended)
    given = {field.name: columns[field.name] for field in dataclasses.fields(ExecutionRow)[:-1]}
    return ExecutionRow(**given, execution=execution)


def trace_row(columns: RowMapping) -> TraceRow:
    """From all columns, by name; without `records` from a list."""
    return TraceRow(**{**columns, "records": tuple(columns.get("records", ()))})


def pause_row(columns: RowMapping) -> PauseRow:
    """From all columns, by name."""
    return PauseRow(**{**columns, "said": tuple(columns["said"])})


def key_row(columns: RowMapping) -> KeyRow:
    """From all columns, by name."""
    return KeyRow(**{**columns, "limits": KeyLimits(**columns["limits"])})


def _value(name: str, stored: Any) -> Any:
    match name:
        case "status":
            return Status(stored)
        case "results" | "removed":
            return tuple(stored)
        case "error":
            return Error(**{**stored, "available": tuple(stored.get("available") or ())})
        case "artifacts":
            return tuple(Artifact(**artifact) for artifact in stored)
        case "truncated":
            return Truncated(**stored)
    return stored
