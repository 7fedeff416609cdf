"""Sessions, executions, files, claims and keys: rows in SQL, on SQLite or PostgreSQL.

Writes go through one thread that commits those which wait together; reads go through a few threads with a connection
each. A write is there for every read that begins after it has returned, and for every process that comes after a kill.
Writes happen in the order in which they were asked for, so one need not be awaited before the next that builds on it;
the end of an execution with long results is several, and others come in between.

(Long, because it is the list of all that is asked of the database; each heading below can be read alone.)
"""

import asyncio
import functools
import hashlib
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar, Unpack

from sqlalchemy import Connection, Engine, RowMapping
from sqlalchemy.exc import DBAPIError, IntegrityError

from sandbox.background import Background
from sandbox.errors import InvalidRequest, Unready
from sandbox.execution import Execution
from sandbox.gone import Gone
from sandbox.store import checkpoints, results
from sandbox.store import statements as sql
from sandbox.store.database import connect, explained, is_taken, is_there, prepare
from sandbox.store.rows import (
    Claim,
    ExecutionRow,
    Family,
    FileRow,
    KeptFileRow,
    KeyRow,
    ObjectRow,
    Page,
    PauseRow,
    SessionChanges,
    SessionRow,
    TraceRow,
    execution_row,
    key_row,
    outcome,
    pause_row,
    trace_row,
    values,
)
from sandbox.store.writer import Writer

__all__ = [
    "Claim",
    "ExecutionRow",
    "FileRow",
    "KeptFileRow",
    "KeyRow",
    "ObjectRow",
    "Page",
    "PauseRow",
    "SessionChanges",
    "SessionRow",
    "Store",
    "TraceRow",
]

T = TypeVar("T")
Row = TypeVar("Row", SessionRow, ExecutionRow, TraceRow, KeptFileRow, ObjectRow)
_READERS = 4
_GONE = 10_000


class Store:
    """Safe for concurrent use from one event loop. Every method raises `Unready` when the database fails.

    A caller that is cancelled while it waits for a write no longer waits, but the write is done.
    """

    def __init__(self, engine: Engine, readers: ThreadPoolExecutor) -> None:
        self._engine = engine
        self._readers = readers
        self._writer = Writer(engine)
        self._loop = asyncio.get_running_loop()
        self._gone = Gone[tuple[str, str], float](_GONE)
        """When rows had been made, by owner and id."""
        self._ending = Background()
        self._closed = False

    @classmethod
    @asynccontextmanager
    async def look_into(cls, url: str) -> AsyncIterator["Store | None"]:
        """As `open`, for who only asks: None where nothing was ever kept, so that asking makes no database."""
        if not is_there(url):
            yield None
            return
        async with cls.open(url) as store:
            yield store

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator["Store"]:
        """Make the database ready, in a file that is made if need be, and open it.

        url: `sqlite:////path` or `postgresql+psycopg://user:password@host/name`. At the end, writes that were asked
        for are done first. Raises `InvalidSetting` for a URL that cannot be used and `Unready` for a database.
        """
        engine = connect(url, _READERS + 1)
        readers = ThreadPoolExecutor(_READERS, "sandbox-store-reader")
        try:
            await asyncio.get_running_loop().run_in_executor(readers, prepare, engine)
            store = cls(engine, readers)
            try:
                async with checkpoints.taken(engine, readers, store._writer):
                    yield store
            finally:
                try:
                    await store._ending.settle()
                finally:
                    store._closed = True
                    await store._writer.aclose()
        finally:
            await asyncio.to_thread(readers.shutdown)
            engine.dispose()

    async def ping(self) -> None:
        """Raises `Unready` when nothing could be written now."""
        await self._write(lambda connection: None)

    # Sessions.

    async def add_session(self, row: SessionRow) -> None:
        """Insert it."""
        await self._execute(sql.ADD_SESSION, values(row))

    async def update_session(self, session_id: str, **changes: Unpack[SessionChanges]) -> bool:
        """Set these fields. False when there is no such session."""
        statement = sql.change_session(tuple(sorted(changes)))
        return await self._execute(statement, {**changes, "session": session_id}) > 0

    async def session(self, owner: str, session_id: str) -> SessionRow | None:
        """A session of this owner."""
        row = await self._first(sql.SESSION, {"owner": owner, "id": session_id})
        return SessionRow(**row) if row is not None else None

    async def sessions(
        self,
        owner: str,
        *,
        limit: int,
        after: str | None = None,
        newest_first: bool = True,
        family: Family | None = None,
    ) -> Page[SessionRow]:
        """Sessions of this owner, of a family or (None) of all, as they were made.

        Raises `InvalidRequest` when `after` is none of them.
        """
        scope: dict[str, str] = {"owner": owner}
        if family is not None:
            scope["family"] = family
        listing = sql.SESSIONS if family is None else sql.SESSIONS_OF_FAMILY
        return await self._page(listing, scope, limit, after, newest_first, lambda _, row: SessionRow(**row))

    async def active_sessions(self, node: str) -> tuple[SessionRow, ...]:
        """The sessions of this node that have not ended, oldest first."""
        return tuple(SessionRow(**row) for row in await self._rows(sql.ACTIVE_SESSIONS, {"node": node}))

    async def purge(self, before: float) -> int:
        """Delete the sessions that ended before this time, their executions and their files; how many sessions.

        In many small writes, so that others get their turn between them.
        """
        purged = 0
        while ended := [row["id"] for row in await self._rows(sql.ENDED_SESSIONS, {"before": before})]:
            for row in await self._rows(sql.WITH_RESULTS, {"sessions": ended}):
                await self._drain(sql.DELETE_RESULTS, {"execution": row["id"]})
            await self._drain(sql.DELETE_EXECUTIONS_OF, {"sessions": ended})
            await self._drain(sql.DELETE_FILES_OF, {"sessions": ended})
            purged += await self._execute(sql.DELETE_SESSIONS, {"sessions": ended})
        return purged

    # Executions.

    async def add_execution(self, row: ExecutionRow, claim: Claim | None = None) -> Claim | None:
        """Insert it in flight and mark its session used, or nothing: a `Claim` is of who was first with this
        Idempotency-Key. Raises `SessionMissing` when the session has been purged.
        """
        used = {"session": row.session_id, "now": row.created_at}

        def add(connection: Connection) -> Claim | None:
            if claim is not None and (first := _take(connection, claim, row.created_at)) is not None:
                return first
            connection.execute(sql.ADD_EXECUTION, values(row))
            connection.execute(sql.USE_SESSION, used)
            return None

        return await self._write(add)

    async def end_execution(self, execution: Execution, ended_at: float) -> bool:
        """Write how it ended, and its session's `last_used_at`. False, and nothing is written, when it has an end.

        Long results are written first, in writes of their own between which others have their turn.
        """
        if not results.are_long(execution.results):
            return await self._end(execution, {**outcome(execution), "ended_at": ended_at})
        ending = self._ending.begin(self._end_long(execution, ended_at), f"end of {execution.id}")
        return await asyncio.shield(ending)

    async def _end_long(self, execution: Execution, ended_at: float) -> bool:
        writes = results.in_writes(execution.id, execution.results)
        while rows := await self._loop.run_in_executor(self._readers, next, writes, None):
            add = functools.partial(results.add, execution_id=execution.id, rows=rows)
            if not await self._writer.write(add, long=True):
                return False
        apart = {"results": None, "results_apart": len(execution.results)}
        return await self._end(execution, {**outcome(execution), **apart, "ended_at": ended_at})

    async def _end(self, execution: Execution, told: Mapping[str, Any]) -> bool:
        told = {**told, "execution": execution.id}

        def end(connection: Connection) -> bool:
            if not connection.execute(sql.END_EXECUTION, told).rowcount:
                return False
            connection.execute(sql.USE_SESSION, {"session": execution.session_id, "now": told["ended_at"]})
            return True

        return await self._write(end)

    async def execution(self, owner: str, session_id: str, execution_id: str) -> ExecutionRow | None:
        """An execution in a session of this owner."""
        found = {"owner": owner, "session": session_id, "id": execution_id}

        def read(connection: Connection) -> ExecutionRow | None:
            row = connection.execute(sql.EXECUTION, found).mappings().first()
            return _execution(connection, row) if row is not None else None

        return await self._read(read)

    async def executions(
        self, owner: str, session_id: str, *, limit: int, after: str | None = None, newest_first: bool = True
    ) -> Page[ExecutionRow]:
        """Executions of a session as they were asked for. Raises `InvalidRequest` when `after` is none of them."""
        scope = {"owner": owner, "session": session_id}
        return await self._page(sql.EXECUTIONS, scope, limit, after, newest_first, _execution)

    async def recover(self, node: str, reason: str, now: float) -> int:
        """End every execution in flight in a session of this node as killed, its state lost; how many.

        Sessions that were made for a run have ended with it.
        """

        def end(connection: Connection) -> int:
            connection.execute(sql.CLOSE_RUNS, {"on_node": node, "now": now})
            return connection.execute(sql.RECOVER, {"on_node": node, "why": reason, "now": now}).rowcount

        return await self._write(end)

    # Files.

    async def put_files(self, rows: Iterable[FileRow]) -> None:
        """Insert them, or replace what their sessions had at the same paths, ids included; all or none.

        Raises `SessionMissing`.
        """
        told = [{**values(row), "path_digest": _path_digest(row.path)} for row in rows]
        if told:
            await self._write(lambda connection: connection.execute(sql.PUT_FILE[connection.dialect.name], told))

    async def remove_files(self, session_id: str, paths: Iterable[str]) -> None:
        """Forget these paths; those that are not there are no error."""
        told = [{"session": session_id, "digest": _path_digest(path)} for path in paths]
        if told:
            await self._write(lambda connection: connection.execute(sql.REMOVE_FILE, told))

    async def drop_files(self, session_id: str) -> None:
        """Forget all files of a session."""
        await self._execute(sql.DROP_FILES, {"session": session_id})

    async def purge_files(self, before: float) -> int:
        """Forget the files of sessions that ended before this time, in small writes; how many."""
        return await self._drain(sql.DELETE_OLD_FILES, {"before": before})

    async def files(self, session_id: str) -> tuple[FileRow, ...]:
        """The files of a session, sorted by path."""
        rows = [FileRow(**row) for row in await self._rows(sql.FILES, {"session": session_id})]
        return tuple(sorted(rows, key=lambda row: row.path))

    async def file(self, owner: str, file_id: str) -> FileRow | None:
        """A file of this owner."""
        row = await self._first(sql.FILE, {"owner": owner, "id": file_id})
        return FileRow(**row) if row is not None else None

    async def stored_bytes(self, owner: str) -> int:
        """The sizes of this owner's files together, in sessions and kept; equal ones count as often as there are."""
        return await self._read(
            lambda connection: int(connection.execute(sql.STORED_BYTES, {"owner": owner}).scalar_one())
        )

    async def unreferenced(self, digests: Collection[str]) -> set[str]:
        """Of these, the ones that no file has, in a session or kept."""
        asked = list(digests)
        unseen = set(asked)
        for start in range(0, len(asked), sql.BATCH):
            rows = await self._rows(sql.REFERENCED, {"digests": asked[start : start + sql.BATCH]})
            unseen.difference_update(row["digest"] for row in rows)
        return unseen

    # Kept files.

    async def add_kept(self, row: KeptFileRow) -> None:
        """Insert it."""
        await self._execute(sql.ADD_KEPT, values(row))

    async def kept(self, owner: str, family: Family, file_id: str) -> KeptFileRow | None:
        """A kept file of this owner. One that has expired may still be there."""
        row = await self._first(sql.KEPT, {"owner": owner, "family": family, "id": file_id})
        return KeptFileRow(**row) if row is not None else None

    async def kepts(
        self,
        owner: str,
        family: Family,
        now: float,
        *,
        limit: int,
        after: str | None = None,
        newest_first: bool = True,
        purpose: str | None = None,
    ) -> Page[KeptFileRow]:
        """Kept files of this owner that have not expired, as they came.

        Raises `InvalidRequest` when `after` is none of them.
        """
        scope: dict[str, Any] = {"owner": owner, "family": family, "now": now}
        if purpose is not None:
            scope["purpose"] = purpose
        listing = sql.KEPTS if purpose is None else sql.KEPTS_OF_PURPOSE
        return await self._page(listing, scope, limit, after, newest_first, lambda _, row: KeptFileRow(**row))

    async def remove_kept(self, owner: str, file_id: str) -> bool:
        """False when there is none."""
        scope = {"of_owner": owner, "kept": file_id}
        created_at = await self._write(lambda connection: connection.execute(sql.REMOVE_KEPT, scope).scalar())
        return self._is_gone(owner, file_id, created_at)

    async def purge_kept(self, now: float) -> int:
        """Forget those that have expired, in small writes; how many."""
        return await self._drain(sql.DELETE_KEPT, {"now": now})

    # Objects.

    async def add_object(self, row: ObjectRow) -> None:
        """Insert it."""
        await self._execute(sql.ADD_OBJECT, values(row))

    async def change_object(self, row: ObjectRow) -> bool:
        """Write its node, epoch, `live`, `expires_at` and body anew. False when there is none."""
        told = values(row)
        changed = {name: told[name] for name in ("node", "epoch", "live", "expires_at", "body")}
        return await self._execute(sql.CHANGE_OBJECT, {**changed, "object": row.id, "of_owner": row.owner}) > 0

    async def object(self, owner: str, kind: str, object_id: str) -> ObjectRow | None:
        """An object of this owner. One that has expired may still be there."""
        row = await self._first(sql.OBJECT, {"owner": owner, "kind": kind, "id": object_id})
        return ObjectRow(**row) if row is not None else None

    async def objects(
        self,
        owner: str,
        kind: str,
        *,
        parent: str = "",
        limit: int,
        after: str | None = None,
        newest_first: bool = True,
    ) -> Page[ObjectRow]:
        """Objects of a kind that are part of the same, as they were made.

        Raises `InvalidRequest` when `after` is none of them.
        """
        scope = {"owner": owner, "kind": kind, "parent": parent}
        return await self._page(sql.OBJECTS, scope, limit, after, newest_first, lambda _, row: ObjectRow(**row))

    async def remove_object(self, owner: str, object_id: str) -> bool:
        """Forget it, its parts and theirs. False when there is none."""

        def remove(connection: Connection) -> float | None:
            scope = {"of_owner": owner, "object": object_id}
            created_at: float | None = connection.execute(sql.REMOVE_OBJECT, scope).scalar()
            if created_at is not None:
                _remove_parts(connection, [object_id])
            return created_at

        return self._is_gone(owner, object_id, await self._write(remove))

    def _is_gone(self, owner: str, row_id: str, created_at: float | None) -> bool:
        if created_at is not None:
            self._gone.add((owner, row_id), created_at)
        return created_at is not None

    async def prolong_objects(self, owner: str, object_ids: Sequence[str], until: float) -> None:
        """They expire then."""
        await self._execute(sql.PROLONG_OBJECTS, {"objects": list(object_ids), "of_owner": owner, "until": until})

    async def purge_objects(self, now: float) -> int:
        """Forget those that have expired, their parts and theirs, in small writes; how many had expired."""
        total = 0
        while rows := await self._rows(sql.EXPIRED_OBJECTS, {"now": now}):
            total += await self._write(partial(_remove_objects, ids=[row["id"] for row in rows]))
        return total

    # Claims.

    async def claim(self, owner: str, key: str) -> Claim | None:
        """What this Idempotency-Key was used for."""
        return await self._read(lambda connection: _claim(connection, owner, key))

    async def add_claim(self, claim: Claim, now: float) -> Claim | None:
        """Claim what has no row of its own; None when that worked, else who was first."""
        return await self._write(lambda connection: _take(connection, claim, now))

    async def drop_claims(self, before: float) -> int:
        """Forget the claims of rows that were made before this time, in small writes; how many."""
        return await self._drain(sql.DELETE_CLAIMS, {"before": before})

    # Traces.

    async def add_trace(self, row: TraceRow) -> None:
        """Insert it."""
        await self._execute(sql.ADD_TRACE, values(row))

    async def trace(self, owner: str | None, trace_id: str) -> TraceRow | None:
        """A trace of this owner, records included; None for the owner is anybody."""
        scope = {} if owner is None else {"owner": owner}
        row = await self._first(sql.TRACE_OF_ANY if owner is None else sql.TRACE, {**scope, "id": trace_id})
        return trace_row(row) if row is not None else None

    async def traces(
        self, owner: str | None, *, limit: int, after: str | None = None, newest_first: bool = True
    ) -> Page[TraceRow]:
        """Traces of this owner (None: of all), without records. Raises `InvalidRequest` when `after` is none."""
        listing, scope = (sql.TRACES_OF_ALL, {}) if owner is None else (sql.TRACES, {"owner": owner})
        return await self._page(listing, scope, limit, after, newest_first, lambda _, row: trace_row(row))

    async def purge_traces(self, before: float) -> int:
        """Forget the traces that began before this time, in small writes; how many."""
        return await self._drain(sql.DELETE_TRACES, {"before": before})

    # Pauses.

    async def add_pause(self, row: PauseRow) -> None:
        """Insert it."""
        await self._execute(sql.ADD_PAUSE, values(row))

    async def pause(self, owner: str, pause_id: str) -> PauseRow | None:
        """A pause of this owner."""
        row = await self._first(sql.PAUSE, {"owner": owner, "id": pause_id})
        return pause_row(row) if row is not None else None

    async def purge_pauses(self, before: float) -> int:
        """Forget the pauses that began before this time, in small writes; how many."""
        return await self._drain(sql.DELETE_PAUSES, {"before": before})

    # Nodes.

    async def start_node(self, node: str) -> int:
        """The node's new epoch: 1, and one more with each start."""

        def start(connection: Connection) -> int:
            epoch: int = connection.execute(sql.START_NODE[connection.dialect.name], {"node": node}).scalar_one()
            return epoch

        return await self._write(start)

    # Keys.

    async def add_key(self, row: KeyRow) -> None:
        """Raises `InvalidRequest` when a key that is not revoked has this name."""

        def add(connection: Connection) -> None:
            try:
                connection.execute(sql.ADD_KEY, values(row))
            except IntegrityError as error:
                if not is_taken(error):
                    raise
                raise InvalidRequest(f"there is a key {row.name!r}; revoke it, or choose another name") from error

        await self._write(add)

    async def keys(self) -> tuple[KeyRow, ...]:
        """All keys, the revoked ones too, oldest first."""
        return tuple(key_row(row) for row in await self._rows(sql.KEYS, {}))

    async def key(self, digest: str) -> KeyRow | None:
        """The key with this digest, unless it is revoked."""
        row = await self._first(sql.KEY, {"digest": digest})
        return key_row(row) if row is not None else None

    async def any_key(self) -> bool:
        """Whether a key was ever made. Revoked ones count: revoking the last must lock a server, not open it."""
        return await self._first(sql.ANY_KEY, {}) is not None

    async def revoke_key(self, id_or_name: str, now: float) -> bool:
        """False when no key of this id or name is left to be revoked."""
        return await self._execute(sql.REVOKE_KEY, {"id_or_name": id_or_name, "now": now}) > 0

    # How it is done.

    async def _execute(self, statement: Any, parameters: Mapping[str, Any]) -> int:
        """Write with one statement; the rows it touched."""
        return await self._write(lambda connection: connection.execute(statement, parameters).rowcount)

    async def _drain(self, statement: Any, parameters: Mapping[str, Any]) -> int:
        """Write until nothing is left for it; the rows it touched."""
        total = 0
        while touched := await self._execute(statement, parameters):
            total += touched
        return total

    async def _write(self, work: Callable[[Connection], T]) -> T:
        return await self._writer.write(work)

    async def _first(self, statement: Any, parameters: Mapping[str, Any]) -> RowMapping | None:
        return await self._read(lambda connection: connection.execute(statement, parameters).mappings().first())

    async def _rows(self, statement: Any, parameters: Mapping[str, Any]) -> list[RowMapping]:
        return await self._read(lambda connection: list(connection.execute(statement, parameters).mappings()))

    async def _page(
        self,
        listing: sql.Listing,
        scope: Mapping[str, Any],
        limit: int,
        after: str | None,
        newest_first: bool,
        make: Callable[[Connection, RowMapping], Row],
    ) -> Page[Row]:
        def read(connection: Connection) -> Page[Row]:
            parameters: dict[str, Any] = {**scope, "limit": limit + 1}
            if after is not None:
                parameters |= {"after": after, "after_at": self._place(connection, listing, scope, after)}
            found = connection.execute(listing.pages[newest_first, after is not None], parameters).mappings().all()
            items = tuple(make(connection, row) for row in found[:limit])
            return Page(items, items[-1].id if len(found) > limit else None)

        return await self._read(read)

    def _place(self, connection: Connection, listing: sql.Listing, scope: Mapping[str, Any], after: str) -> float:
        """When the row was made behind which a page begins.

        Raises `InvalidRequest` for what is in no such list, and was in none of this owner's before.
        """
        created_at: float | None = connection.execute(listing.place, {**scope, "after": after}).scalar()
        if created_at is None:
            created_at = self._gone.get((scope.get("owner", ""), after))
        if created_at is None:
            raise InvalidRequest(f"{after[:80]!r} is not in this list; begin again without `after`")
        return created_at

    async def _read(self, work: Callable[[Connection], T]) -> T:
        if self._closed:
            raise Unready("the store is closed; nothing more is read")
        return await self._loop.run_in_executor(self._readers, self._read_now, work)

    def _read_now(self, work: Callable[[Connection], T]) -> T:
        try:
            return self._read_once(work)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise explained(error) from error
        try:  # the connection was cut since its last use; a read can be repeated, and the pool has dropped the others
            return self._read_once(work)
        except DBAPIError as error:
            raise explained(error) from error

    def _read_once(self, work: Callable[[Connection], T]) -> T:
        with self._engine.connect() as connection:
            return work(connection)


def _execution(connection: Connection, row: RowMapping) -> ExecutionRow:
    apart = row["results_apart"]
    return execution_row(row, () if apart is None else results.read(connection, row["id"], apart))


def _take(connection: Connection, claim: Claim, now: float) -> Claim | None:
    """Claim it; None when that worked, else who was first."""
    statement = sql.ADD_CLAIM[connection.dialect.name]
    while connection.execute(statement, {**values(claim), "created_at": now}).first() is None:
        if (first := _claim(connection, claim.owner, claim.key)) is not None:
            return first  # else it has just been dropped by another process
    return None


def _remove_objects(connection: Connection, ids: Sequence[str]) -> int:
    """And their parts; how many of these were there."""
    _remove_parts(connection, ids)
    return connection.execute(sql.DELETE_OBJECTS, {"objects": list(ids)}).rowcount


def _remove_parts(connection: Connection, ids: Sequence[str]) -> None:
    for statement in (sql.DELETE_PARTS_OF_PARTS, sql.DELETE_PARTS):
        connection.execute(statement, {"objects": list(ids)})


def _claim(connection: Connection, owner: str, key: str) -> Claim | None:
    row = connection.execute(sql.CLAIM, {"owner": owner, "key": key}).mappings().first()
    return Claim(**row) if row is not None else None


def _path_digest(path: str) -> str:
    return hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()
