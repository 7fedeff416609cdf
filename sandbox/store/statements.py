"""What is asked of the database: every statement, built once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    Column,
    Insert,
    Table,
    Update,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    tuple_,
    union,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningInsert
from sqlalchemy.sql.expression import BindParameter, ColumnElement, Select

from sandbox.execution import Status
from sandbox.store.schema import (
    claims,
    executions,
    files,
    kept_files,
    keys,
    nodes,
    objects,
    pauses,
    results,
    sessions,
    traces,
)

BATCH = 500
"""Rows that one deletion takes at most, because everybody who writes waits for it."""

FEW = 16
"""Long rows that one deletion takes at most."""

ByDialect = Mapping[str, Any]
"""One statement for each database, by its name: SQL has no standard for conflicts."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A list in the order of making: `created_at`, then `id`.

    Parameters: those of its scope, `limit`, and where it goes on `after`, which was made `after_at`.
    """

    pages: Mapping[tuple[bool, bool], Select[Any]]
    """By whether the newest come first, and whether it goes on after an id."""
    place: Select[Any]
    """The row with the id `after`."""


def _each(build: Callable[[Any], Any]) -> ByDialect:
    return {"sqlite": build(sqlite.insert), "postgresql": build(postgresql.insert)}


def _listing(table: Table, *shown_if: ColumnElement[bool], without: str = "", **scope: Column[Any]) -> Listing:
    """shown_if: what else has to be true of a row for a page to have it."""
    within = [column == bindparam(name) for name, column in scope.items()]
    key = tuple_(table.c.created_at, table.c.id)
    place = select(table.c.created_at).where(table.c.id == bindparam("after"), *within)
    start = tuple_(bindparam("after_at", type_=table.c.created_at.type), bindparam("after", type_=table.c.id.type))
    shown = [column for column in table.c if column.name != without]
    every = select(*shown).where(*within, *shown_if).limit(bindparam("limit"))
    down, up = (table.c.created_at.desc(), table.c.id.desc()), (table.c.created_at, table.c.id)
    pages = {
        (True, False): every.order_by(*down),
        (True, True): every.where(key < start).order_by(*down),
        (False, False): every.order_by(*up),
        (False, True): every.where(key > start).order_by(*up),
    }
    return Listing(pages, place)


def _is(column: Column[Any], name: str) -> ColumnElement[bool]:
    return column == bindparam(name)


# Sessions.
ADD_SESSION = insert(sessions)
SESSION = select(sessions).where(_is(sessions.c.id, "id"), _is(sessions.c.owner, "owner"))
SESSIONS = _listing(sessions, owner=sessions.c.owner)
SESSIONS_OF_FAMILY = _listing(sessions, owner=sessions.c.owner, family=sessions.c.family)
ACTIVE_SESSIONS = (
    select(sessions)
    .where(_is(sessions.c.node, "node"), sessions.c.status == "active")
    .order_by(sessions.c.created_at, sessions.c.id)
)
USE_SESSION = update(sessions).where(_is(sessions.c.id, "session")).values(used=True, last_used_at=bindparam("now"))
CLOSE_RUNS = (
    update(sessions)
    .where(_is(sessions.c.node, "on_node"), sessions.c.status == "active", sessions.c.single.is_(True))
    .values(status="closed", ended_at=bindparam("now"))
)
ENDED_SESSIONS = select(sessions.c.id).where(sessions.c.ended_at < bindparam("before")).limit(50)
_ENDED: BindParameter[Any] = bindparam("sessions", expanding=True)
DELETE_SESSIONS = delete(sessions).where(sessions.c.id.in_(_ENDED))
DELETE_EXECUTIONS_OF = delete(executions).where(
    executions.c.id.in_(select(executions.c.id).where(executions.c.session_id.in_(_ENDED)).limit(BATCH))
)
WITH_RESULTS = select(executions.c.id).where(
    executions.c.session_id.in_(_ENDED), executions.c.results_apart.is_not(None)
)
DELETE_FILES_OF = delete(files).where(
    files.c.id.in_(select(files.c.id).where(files.c.session_id.in_(_ENDED)).limit(BATCH))
)


@cache
def change_session(names: tuple[str, ...]) -> Update:
    """Set these columns of the session whose id is the parameter `session`."""
    return update(sessions).where(_is(sessions.c.id, "session")).values({name: bindparam(name) for name in names})


# Executions.
ADD_EXECUTION = insert(executions)
END_EXECUTION = update(executions).where(_is(executions.c.id, "execution"), executions.c.ended_at.is_(None))
EXECUTION = select(executions).where(
    _is(executions.c.id, "id"), _is(executions.c.session_id, "session"), _is(executions.c.owner, "owner")
)
EXECUTIONS = _listing(executions, session=executions.c.session_id, owner=executions.c.owner)
IN_FLIGHT = select(executions.c.id).where(_is(executions.c.id, "execution"), executions.c.ended_at.is_(None))
ADD_RESULTS = insert(results)
_OF_EXECUTION = _is(results.c.execution_id, "execution")
RESULTS = select(results.c.bundle).where(_OF_EXECUTION).order_by(results.c.place)
REMOVE_RESULTS = delete(results).where(_OF_EXECUTION)
DELETE_RESULTS = delete(results).where(
    _OF_EXECUTION, results.c.place.in_(select(results.c.place).where(_OF_EXECUTION).limit(FEW))
)
RECOVER = (
    update(executions)
    .where(
        executions.c.ended_at.is_(None),
        select(1)
        .where(sessions.c.id == executions.c.session_id, sessions.c.node == bindparam("on_node"))
        .correlate(executions)
        .exists(),
    )
    .values(status=Status.KILLED.value, reason=bindparam("why"), ended_at=bindparam("now"), state_lost=True)
)


# Files.
def _put_file(insert_into: Callable[[Table], Any]) -> Any:
    statement = insert_into(files)
    replaced = ("id", "digest", "size", "mime", "modified_at", "uploaded")
    return statement.on_conflict_do_update(
        index_elements=["session_id", "path_digest"], set_={name: statement.excluded[name] for name in replaced}
    )


PUT_FILE = _each(_put_file)
REMOVE_FILE = delete(files).where(_is(files.c.session_id, "session"), _is(files.c.path_digest, "digest"))
DROP_FILES = delete(files).where(_is(files.c.session_id, "session"))
DELETE_OLD_FILES = delete(files).where(
    files.c.id.in_(
        select(files.c.id)
        .join(sessions, sessions.c.id == files.c.session_id)
        .where(sessions.c.ended_at < bindparam("before"))
        .limit(BATCH)
    )
)
_FILE = select(*(column for column in files.c if column is not files.c.path_digest))
FILES = _FILE.where(_is(files.c.session_id, "session"))
FILE = _FILE.where(_is(files.c.id, "id"), _is(files.c.owner, "owner"))
_DIGESTS: BindParameter[Any] = bindparam("digests", expanding=True)
STORED_BYTES = select(
    select(func.coalesce(func.sum(files.c.size), 0)).where(_is(files.c.owner, "owner")).scalar_subquery()
    + select(func.coalesce(func.sum(kept_files.c.size), 0)).where(_is(kept_files.c.owner, "owner")).scalar_subquery()
)
REFERENCED = union(
    *(select(table.c.digest).where(table.c.digest.in_(_DIGESTS)) for table in (files, kept_files)),
)

# Kept files.
ADD_KEPT = insert(kept_files)
KEPT = select(kept_files).where(
    _is(kept_files.c.id, "id"), _is(kept_files.c.owner, "owner"), _is(kept_files.c.family, "family")
)
_STILL_KEPT = or_(kept_files.c.expires_at.is_(None), kept_files.c.expires_at > bindparam("now"))
KEPTS = _listing(kept_files, _STILL_KEPT, owner=kept_files.c.owner, family=kept_files.c.family)
KEPTS_OF_PURPOSE = _listing(
    kept_files, _STILL_KEPT, owner=kept_files.c.owner, family=kept_files.c.family, purpose=kept_files.c.purpose
)
REMOVE_KEPT = (
    delete(kept_files)
    .where(_is(kept_files.c.id, "kept"), _is(kept_files.c.owner, "of_owner"))
    .returning(kept_files.c.created_at)
)
DELETE_KEPT = delete(kept_files).where(
    kept_files.c.id.in_(select(kept_files.c.id).where(kept_files.c.expires_at < bindparam("now")).limit(BATCH))
)

# Objects.
ADD_OBJECT = insert(objects)
OBJECT = select(objects).where(_is(objects.c.id, "id"), _is(objects.c.owner, "owner"), _is(objects.c.kind, "kind"))
OBJECTS = _listing(objects, owner=objects.c.owner, kind=objects.c.kind, parent=objects.c.parent)
CHANGE_OBJECT = (
    update(objects)
    .where(_is(objects.c.id, "object"), _is(objects.c.owner, "of_owner"))
    .values({name: bindparam(name) for name in ("node", "epoch", "live", "expires_at", "body")})
)
REMOVE_OBJECT = (
    delete(objects).where(_is(objects.c.owner, "of_owner"), _is(objects.c.id, "object")).returning(objects.c.created_at)
)
_OBJECTS: BindParameter[Any] = bindparam("objects", expanding=True)
PROLONG_OBJECTS = (
    update(objects)
    .where(objects.c.id.in_(_OBJECTS), _is(objects.c.owner, "of_owner"))
    .values(expires_at=bindparam("until"))
)
EXPIRED_OBJECTS = select(objects.c.id).where(objects.c.expires_at < bindparam("now")).limit(BATCH)
_PARTS = select(objects.c.id).where(objects.c.parent.in_(_OBJECTS))
DELETE_PARTS_OF_PARTS = delete(objects).where(objects.c.parent.in_(_PARTS))
DELETE_PARTS = delete(objects).where(objects.c.parent.in_(_OBJECTS))
DELETE_OBJECTS = delete(objects).where(objects.c.id.in_(_OBJECTS))

# Claims.
ADD_CLAIM = _each(lambda insert_into: insert_into(claims).on_conflict_do_nothing().returning(claims.c.key))
"""Returns a row if it was free."""
CLAIM = select(claims.c.owner, claims.c.key, claims.c.fingerprint, claims.c.resource).where(
    _is(claims.c.owner, "owner"), _is(claims.c.key, "key")
)
_CLAIM_KEY = (claims.c.owner, claims.c.key)
DELETE_CLAIMS = delete(claims).where(
    tuple_(*_CLAIM_KEY).in_(select(*_CLAIM_KEY).where(claims.c.created_at < bindparam("before")).limit(BATCH))
)

# Traces.
ADD_TRACE = insert(traces)
TRACE = select(traces).where(_is(traces.c.id, "id"), _is(traces.c.owner, "owner"))
TRACE_OF_ANY = select(traces).where(_is(traces.c.id, "id"))
TRACES = _listing(traces, without="records", owner=traces.c.owner)
TRACES_OF_ALL = _listing(traces, without="records")
DELETE_TRACES = delete(traces).where(
    traces.c.id.in_(select(traces.c.id).where(traces.c.created_at < bindparam("before")).limit(BATCH))
)
# Pauses.
ADD_PAUSE = insert(pauses)
PAUSE = select(pauses).where(_is(pauses.c.id, "id"), _is(pauses.c.owner, "owner"))
DELETE_PAUSES = delete(pauses).where(
    pauses.c.id.in_(select(pauses.c.id).where(pauses.c.created_at < bindparam("before")).limit(BATCH))
)


# Nodes.
def _start_node(insert_into: Callable[[Table], Insert]) -> ReturningInsert[tuple[int]]:
    statement: Any = insert_into(nodes).values(epoch=1)
    raised = statement.on_conflict_do_update(index_elements=["node"], set_={"epoch": nodes.c.epoch + 1})
    returning: ReturningInsert[tuple[int]] = raised.returning(nodes.c.epoch)
    return returning


START_NODE = _each(_start_node)

# Keys.
ADD_KEY = insert(keys)
KEYS = select(keys).order_by(keys.c.created_at, keys.c.id)
KEY = select(keys).where(_is(keys.c.digest, "digest"), keys.c.revoked_at.is_(None))
ANY_KEY = select(keys.c.id).limit(1)
_NAMED: BindParameter[str] = bindparam("id_or_name", type_=keys.c.name.type)
REVOKE_KEY = (
    update(keys)
    .where(keys.c.revoked_at.is_(None), or_(keys.c.id == _NAMED, keys.c.name == _NAMED))
    .values(revoked_at=bindparam("now"))
)
