"""The store: the same promises on SQLite and PostgreSQL."""

import asyncio
import contextlib
import ctypes
import dataclasses
import functools
import os
import sqlite3
import sys
import traceback
import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Delete, Select, Update, event, select

from sandbox.errors import InvalidRequest, InvalidSetting, SessionMissing, Unready
from sandbox.execution import Artifact, Error, Execution, Status, Truncated
from sandbox.guest.frames import BadFrame, Frame, decode_json, encode_json
from sandbox.keys import KeyLimits, new_key
from sandbox.store import (
    Claim,
    ExecutionRow,
    FileRow,
    PauseRow,
    SessionRow,
    Store,
    TraceRow,
    checkpoints,
    results,
    schema,
    statements,
)
from sandbox.store.database import LOG_BYTES, connect
from sandbox.store.rows import ObjectRow
from sandbox.store.schema import REVISION, metadata
from sandbox.store.statements import Listing
from tests.postgresql import Cluster

ODD = "\0 \ud800 \x1a é 漢 \U0001f600 \\u0000"
ODD_TEXTS = ["", ODD, "\0", "\udfff", "\x1a", '\x1a"a"', "é\ud83d", "plain", "\ufeff\uffff"]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/sandbox.db"
    cluster: Cluster = request.getfixturevalue("cluster")
    return cluster.empty()


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    async with Store.open(url) as store:
        yield store


def a_session(session_id: str = "ses_1", **fields: Any) -> SessionRow:
    row = SessionRow(session_id, "me", "here", 1, "active", "python", 512, 60.0, {}, 100.0, 100.0)
    return dataclasses.replace(row, **fields)


def an_execution(execution_id: str, session_id: str = "ses_1", **fields: Any) -> ExecutionRow:
    return dataclasses.replace(ExecutionRow(execution_id, session_id, "me", "1 + 1", 200.0), **fields)


def a_file(path: str, session_id: str = "ses_1", **fields: Any) -> FileRow:
    row = FileRow(uuid.uuid4().hex, session_id, "me", path, f"digest of {path!r}", 10, "text/plain", 300.5)
    return dataclasses.replace(row, **fields)


FULL = Execution(
    id="exe_1",
    session_id="ses_1",
    status=Status.TIMEOUT,
    reason="too slow",
    stdout="out",
    stderr="err",
    results=({"text/plain": "2", "application/json": {"a": [1, None, 1.5]}}, {"image/png": "AAAA"}),
    error=Error("KeyError", "no", "Traceback", "keys of d: dict", ("'a'", "2")),
    artifacts=(Artifact("a/b.csv", 1 << 40, "text/csv", "created"),),
    removed=("c.csv",),
    execution_count=3,
    duration_ms=1.25,
    cpu_ms=0.75,
    peak_memory_bytes=1 << 40,
    truncated=Truncated(1, 2, 3),
    state_lost=True,
)


async def run_one(store: Store, execution: Execution, code: str = "1 + 1") -> ExecutionRow | None:
    await store.add_execution(an_execution(execution.id, execution.session_id, code=code))
    assert await store.end_execution(execution, 250.0)
    return await store.execution("me", execution.session_id, execution.id)


# Opening.


async def test_what_was_written_is_there_when_it_is_opened_again(url: str) -> None:
    async with Store.open(url) as store:
        await store.add_session(a_session())
    async with Store.open(url) as store:
        assert await store.session("me", "ses_1") == a_session()


_OPEN_AND_START = """
import asyncio, sys
from sandbox.store import Store

async def main():
    async with Store.open(sys.argv[1]) as store:
        await store.start_node("here")

asyncio.run(main())
"""


async def test_processes_that_open_a_new_database_at_once_all_find_it_ready(url: str) -> None:
    starts = [asyncio.create_subprocess_exec(sys.executable, "-c", _OPEN_AND_START, url) for _ in range(3)]
    processes = [await start for start in starts]
    assert [await process.wait() for process in processes] == [0] * 3
    async with Store.open(url) as store:
        assert await store.start_node("here") == 4


async def test_stores_that_are_opened_at_once_in_one_process_share_the_database(url: str) -> None:
    async def start() -> int:
        async with Store.open(url) as store:
            return await store.start_node("here")

    assert sorted(await asyncio.gather(*(start() for _ in range(5)))) == [1, 2, 3, 4, 5]


def _on(url: str, statement: str) -> None:
    engine = connect(url, 1)
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


async def test_a_database_of_a_newer_release_is_left_alone(url: str) -> None:
    async with Store.open(url):
        pass
    _on(url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Unready, match=r"newer release \(schema 9999.*upgrade"):
        async with Store.open(url):
            pass


async def test_a_migration_that_fails_changes_nothing_and_can_be_repeated(url: str) -> None:
    _on(url, "CREATE TABLE keys (id TEXT)")  # somebody else's, and the last that is made
    with pytest.raises(Unready, match="already exists"):
        async with Store.open(url):
            pass
    _on(url, "DROP TABLE keys")
    async with Store.open(url) as store:
        assert await store.start_node("here") == 1


def _differences(connection: Connection) -> list[Any]:
    return list(compare_metadata(MigrationContext.configure(connection), metadata))


async def test_migrations_make_the_tables_of_the_schema(url: str, store: Store) -> None:
    engine = connect(url, 1)
    with engine.connect() as connection:
        assert _differences(connection) == []
        assert MigrationContext.configure(connection).get_current_revision() == REVISION
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://root:hunter2@localhost/x", "mysql, which is not supported"),
        ("postgresql+psycopg2://root:hunter2@localhost/x", "psycopg2, which is not supported"),
        ("root:hunter2@localhost", "is not the URL of a database"),
        ("postgresql://root:hunter2@localhost:port/x", "is not the URL of a database"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:////proc/nowhere/sandbox.db", "cannot be made"),
    ],
)
async def test_a_url_that_cannot_be_used_is_refused_without_its_password(url: str, words: str) -> None:
    with pytest.raises(InvalidSetting, match=words) as raised:
        async with Store.open(url):
            pass
    assert "hunter2" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("password", [":hunter2@127.0.0.1:1/x", "@127.0.0.1:1/x?password=hunter2"])
async def test_a_database_that_cannot_be_reached_is_named_without_its_password(password: str) -> None:
    with pytest.raises(Unready, match=r"127\.0\.0\.1:1/x cannot be used: .*refused.*database_url") as raised:
        async with Store.open(f"postgresql://root{password}"):
            pass
    assert "hunter2" not in "".join(traceback.format_exception(raised.value))


async def test_a_postgresql_database_that_cannot_hold_all_text_is_refused(cluster: Cluster) -> None:
    cluster.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    with pytest.raises(InvalidSetting, match="encoded in LATIN1; make one in UTF8"):
        async with Store.open(cluster.url("latin")):
            pass


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sandbox.db").write_text("a" * 1000)
    with pytest.raises(Unready, match="file is not a database"):
        async with Store.open(f"sqlite:///{tmp_path}/sandbox.db"):
            pass


async def test_a_new_database_file_is_for_nobody_else_to_read(tmp_path: Path) -> None:
    async with Store.open(f"sqlite:///{tmp_path}/below/sandbox.db") as store:
        await store.start_node("here")
        modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "below").iterdir()}
    assert modes == {"sandbox.db": 0o600, "sandbox.db-wal": 0o600, "sandbox.db-shm": 0o600}


# Sessions.


async def test_a_session_comes_back_as_it_was_given(store: Store) -> None:
    row = a_session(metadata={"team": ODD, ODD: ""}, idle_timeout_s=0.1, created_at=1763739876.123456, used=True)
    await store.add_session(row)
    assert await store.session("me", row.id) == row


async def test_a_session_of_another_owner_is_not_there(store: Store) -> None:
    await store.add_session(a_session())
    assert await store.session("you", "ses_1") is None
    assert (await store.sessions("you", limit=10)).items == ()


@pytest.mark.parametrize("text", ODD_TEXTS)
async def test_an_id_may_be_any_text_and_is_not_found(store: Store, text: str) -> None:
    await store.add_session(a_session())
    assert await store.session("me", text) is None
    assert await store.execution("me", text, text) is None
    assert await store.file("me", text) is None
    assert await store.key(text) is None
    assert await store.claim("me", text) is None
    assert not await store.update_session(text, status="closed")
    with pytest.raises(InvalidRequest, match="is not in this list"):
        await store.sessions("me", limit=1, after=text)


async def test_what_changes_of_a_session_is_what_was_asked_for(store: Store) -> None:
    await store.add_session(a_session())
    await store.add_session(a_session("ses_2"))
    assert await store.update_session("ses_1", status="closed", ended_at=150.0)
    assert await store.update_session("ses_1", metadata={"a": "b"})
    assert await store.session("me", "ses_1") == a_session(status="closed", ended_at=150.0, metadata={"a": "b"})
    assert await store.session("me", "ses_2") == a_session("ses_2")


@pytest.mark.parametrize("newest_first", [True, False])
async def test_pages_show_every_session_once_and_in_order(store: Store, newest_first: bool) -> None:
    # Three were made at each time, so that the id decides.
    rows = [a_session(f"ses_{number % 7}{number}", created_at=float(number // 3)) for number in range(20)]
    await asyncio.gather(*(store.add_session(row) for row in rows))
    await store.add_session(a_session("ses_x", owner="you", created_at=3.0))
    seen: list[SessionRow] = []
    after: str | None = None
    for _ in range(7):
        page = await store.sessions("me", limit=3, after=after, newest_first=newest_first)
        seen += page.items
        after = page.next
    assert after is None
    assert seen == sorted(rows, key=lambda row: (row.created_at, row.id), reverse=newest_first)


def an_object(object_id: str, *, owner: str = "me", created_at: float = 0.0) -> ObjectRow:
    return ObjectRow(object_id, owner, "thing", "", "node_1", 1, False, created_at, None, {})


@pytest.mark.parametrize("newest_first", [True, False])
async def test_a_list_goes_on_behind_what_was_removed_from_it(store: Store, newest_first: bool) -> None:
    for number in range(9):
        await store.add_object(an_object(f"obj_{number % 5}{number}", created_at=float(number // 3)))
    seen: list[str] = []
    after: str | None = None
    while len(seen) < 9:
        page = await store.objects("me", "thing", limit=2, after=after, newest_first=newest_first)
        for row in page.items:
            assert await store.remove_object("me", row.id)
            assert not await store.remove_object("me", row.id)
        seen += [row.id for row in page.items]
        after = page.items[-1].id
    assert len(set(seen)) == 9
    assert (await store.objects("me", "thing", limit=2, after=after, newest_first=newest_first)).items == ()
    await store.add_object(an_object("obj_x", owner="you"))
    with pytest.raises(InvalidRequest, match="is not in this list"):
        await store.objects("you", "thing", limit=2, after=after)


async def test_a_page_after_the_last_is_empty_and_one_after_a_strangers_is_refused(store: Store) -> None:
    await store.add_session(a_session())
    await store.add_session(a_session("ses_x", owner="you"))
    assert (await store.sessions("me", limit=5, after="ses_1")).items == ()
    with pytest.raises(InvalidRequest, match="'ses_x' is not in this list"):
        await store.sessions("me", limit=5, after="ses_x")


async def test_active_sessions_are_those_of_the_node_that_have_not_ended(store: Store) -> None:
    await store.add_session(a_session("ses_2", created_at=2.0))
    await store.add_session(a_session("ses_1", created_at=1.0))
    await store.add_session(a_session("ses_3", status="closed", ended_at=5.0))
    await store.add_session(a_session("ses_4", node="elsewhere"))
    assert [row.id for row in await store.active_sessions("here")] == ["ses_1", "ses_2"]


async def test_each_start_of_a_node_has_a_higher_epoch(store: Store) -> None:
    assert [await store.start_node("a"), await store.start_node("a"), await store.start_node("b")] == [1, 2, 1]


# Executions.


async def test_an_execution_in_flight_has_no_outcome_and_its_session_is_used(store: Store) -> None:
    await store.add_session(a_session())
    await store.add_execution(an_execution("exe_1"))
    assert await store.execution("me", "ses_1", "exe_1") == an_execution("exe_1")
    assert await store.session("me", "ses_1") == a_session(used=True, last_used_at=200.0)


@pytest.mark.parametrize("execution", [FULL, Execution("exe_1", "ses_1", Status.OK)], ids=["full", "plain"])
async def test_an_execution_comes_back_as_it_ended(store: Store, execution: Execution) -> None:
    await store.add_session(a_session())
    assert await run_one(store, execution) == an_execution("exe_1", ended_at=250.0, execution=execution)
    assert await store.session("me", "ses_1") == a_session(used=True, last_used_at=250.0)


async def test_an_error_of_an_older_release_is_read(url: str) -> None:
    async with Store.open(url) as store:
        await store.add_session(a_session())
        await run_one(store, FULL)
    _on(url, """UPDATE executions SET error = '{"name":"KeyError","value":"no","traceback":"Traceback"}'""")
    async with Store.open(url) as store:
        row = await store.execution("me", "ses_1", "exe_1")
    assert row is not None
    assert row.execution is not None
    assert row.execution.error == Error("KeyError", "no", "Traceback")


def test_the_full_execution_of_these_tests_has_no_default_in_it() -> None:
    for field in dataclasses.fields(Execution):
        assert getattr(FULL, field.name) != field.default


@pytest.mark.parametrize("text", ODD_TEXTS)
async def test_any_text_that_a_program_writes_survives(store: Store, text: str) -> None:
    await store.add_session(a_session())
    execution = dataclasses.replace(
        FULL, reason=text, stdout=text, stderr=text, results=({"text/plain": text, text: 1},), removed=(text,)
    )
    execution = dataclasses.replace(execution, error=Error(text, text, text))
    execution = dataclasses.replace(execution, artifacts=(Artifact(text, 1, text, "changed"),))
    assert await run_one(store, execution, text) == an_execution(
        "exe_1", code=text, ended_at=250.0, execution=execution
    )


async def test_a_hostile_kernels_numbers_and_nesting_do_not_keep_an_execution_from_its_end(store: Store) -> None:
    await store.add_session(a_session())
    nested: Any = None
    with contextlib.suppress(BadFrame):
        for _ in range(2000):  # as deep as the channel takes
            decode_json(encode_json(Frame.RESULT, {"data": {"application/json": [nested]}})[5:])
            nested = [nested]
    execution = dataclasses.replace(FULL, execution_count=10**1000, results=({"application/json": nested},))
    row = await run_one(store, execution)
    assert row is not None
    assert row.execution is not None
    assert row.execution.execution_count == 10**1000


LONG: tuple[Mapping[str, Any], ...] = (
    {"image/png": "A" * results.LONG, "text/plain": "é\0"},
    {"application/json": [[1, None, "x"]] * 100_000},
    *({"text/plain": f"{number:06}" * 10} for number in range(5000)),
)
"""Results that have rows of their own: more than one write takes, few and big ones and many small ones."""


async def test_long_results_come_back_as_they_were_alone_and_in_lists(store: Store) -> None:
    await store.add_session(a_session())
    execution = dataclasses.replace(FULL, results=LONG)
    row = an_execution("exe_1", ended_at=250.0, execution=execution)
    assert await run_one(store, execution) == row
    short = an_execution("exe_2", ended_at=250.0, execution=dataclasses.replace(FULL, id="exe_2"))
    assert await run_one(store, dataclasses.replace(FULL, id="exe_2")) == short
    page = await store.executions("me", "ses_1", limit=5, newest_first=False)
    assert page.items == (row, short)


@pytest.mark.parametrize(
    ("results_", "are_long"),
    [
        (FULL.results, False),
        ([{"text/plain": "x" * (results.LONG - 100)}], False),
        ([{"text/plain": "x" * results.LONG}], True),
        ([{"text/plain": "x" * 1000}] * 300, True),
        ([{"application/json": {"a": [[0] * 1000] * 20}}], True),
        ([{"application/json": {"k" * results.LONG: 0}}], True),
        ([{"application/json": {"a": [[0] * 100] * 20}}], False),
        ([{"text/plain": "漢" * (results.LONG // 3 + 1)}], True),
        ([{"application/json": [10**4000] * 100}], True),
    ],
)
def test_results_are_long_by_all_that_is_in_them(results_: Any, are_long: bool) -> None:
    assert results.are_long(results_) is are_long


async def test_long_results_of_an_attempt_that_was_not_finished_are_replaced(store: Store) -> None:
    await store.add_session(a_session())
    execution = dataclasses.replace(FULL, results=LONG)
    await store.add_execution(an_execution("exe_1"))
    for rows in results.in_writes("exe_1", [{"text/plain": "of the first"}] * 6000):
        assert await store._write(functools.partial(results.add, execution_id="exe_1", rows=rows))
    assert await store.execution("me", "ses_1", "exe_1") == an_execution("exe_1")
    assert await store.end_execution(execution, 250.0)
    assert await store.execution("me", "ses_1", "exe_1") == an_execution("exe_1", ended_at=250.0, execution=execution)


async def test_others_write_between_the_rows_of_long_results(store: Store) -> None:
    transactions: list[int] = []  # results in each
    writer = "before_cursor_execute"

    def note(connection: Any, cursor: Any, statement: str, rows: Any, context: Any, many: bool) -> None:
        if statement.startswith("BEGIN"):
            transactions.append(0)
        elif statement.startswith("INSERT INTO results"):
            transactions[-1] += len(rows) if many else 1

    await store.add_session(a_session())
    ends = []
    for number in range(3):
        await store.add_execution(an_execution(f"exe_{number}"))
        ends.append(dataclasses.replace(FULL, id=f"exe_{number}", results=({"text/plain": "x" * (1 << 19)},) * 8))
    event.listen(store._engine, writer, note)
    assert await asyncio.gather(*(store.end_execution(end, 250.0) for end in ends)) == [True] * 3
    event.remove(store._engine, writer, note)
    assert [count for count in transactions if count] == [1] * 3 * 8


async def test_an_end_with_long_results_changes_nothing_of_the_first(store: Store) -> None:
    await store.add_session(a_session())
    first = dataclasses.replace(FULL, results=LONG)
    row = await run_one(store, first)
    assert not await store.end_execution(dataclasses.replace(FULL, results=LONG[1:]), 300.0)
    assert not await store.end_execution(dataclasses.replace(FULL, id="exe_2", results=LONG), 300.0)
    assert (await store.executions("me", "ses_1", limit=5)).items == (row,)
    assert row == an_execution("exe_1", ended_at=250.0, execution=first)


async def test_an_end_with_long_results_whose_caller_is_cancelled_is_written_before_the_store_closes(url: str) -> None:
    execution = dataclasses.replace(FULL, results=LONG)
    async with Store.open(url) as store:
        await store.add_session(a_session())
        await store.add_execution(an_execution("exe_1"))
        task = asyncio.create_task(store.end_execution(execution, 250.0))
        await asyncio.sleep(0)  # it has asked
        task.cancel()
    async with Store.open(url) as store:
        row = await store.execution("me", "ses_1", "exe_1")
    assert row == an_execution("exe_1", ended_at=250.0, execution=execution)


async def test_the_first_end_of_an_execution_stays(store: Store) -> None:
    await store.add_session(a_session())
    await run_one(store, FULL)
    assert not await store.end_execution(dataclasses.replace(FULL, status=Status.OK), 300.0)
    assert not await store.end_execution(dataclasses.replace(FULL, id="exe_2"), 300.0)
    row = await store.execution("me", "ses_1", "exe_1")
    assert row == an_execution("exe_1", ended_at=250.0, execution=FULL)


async def test_an_execution_of_another_owner_or_session_is_not_there(store: Store) -> None:
    await store.add_session(a_session())
    await run_one(store, FULL)
    assert await store.execution("you", "ses_1", "exe_1") is None
    assert await store.execution("me", "ses_2", "exe_1") is None
    assert (await store.executions("you", "ses_1", limit=5)).items == ()


async def test_executions_are_listed_by_session_and_page(store: Store) -> None:
    await store.add_session(a_session())
    await store.add_session(a_session("ses_2"))
    for number in range(5):
        await store.add_execution(an_execution(f"exe_{number}", created_at=float(number)))
    await store.add_execution(an_execution("exe_x", "ses_2"))
    page = await store.executions("me", "ses_1", limit=3)
    assert ([row.id for row in page.items], page.next) == (["exe_4", "exe_3", "exe_2"], "exe_2")
    page = await store.executions("me", "ses_1", limit=3, after=page.next)
    assert ([row.id for row in page.items], page.next) == (["exe_1", "exe_0"], None)
    page = await store.executions("me", "ses_1", limit=2, after="exe_1", newest_first=False)
    assert ([row.id for row in page.items], page.next) == (["exe_2", "exe_3"], "exe_3")


async def test_recovery_ends_what_was_in_flight_on_this_node_and_nothing_else(store: Store) -> None:
    await store.add_session(a_session())
    await store.add_session(a_session("ses_2", node="elsewhere"))
    await run_one(store, FULL)
    await store.add_execution(an_execution("exe_2"))
    await store.add_execution(an_execution("exe_3", "ses_2"))
    assert await store.recover("here", "the server died", 400.0) == 1
    ended = await store.execution("me", "ses_1", "exe_2")
    killed = Execution("exe_2", "ses_1", Status.KILLED, "the server died", state_lost=True)
    assert ended == an_execution("exe_2", ended_at=400.0, execution=killed)
    assert await store.execution("me", "ses_2", "exe_3") == an_execution("exe_3", "ses_2")
    assert await store.recover("here", "the server died", 500.0) == 0


async def test_recovery_closes_sessions_of_runs_on_this_node_and_no_other(store: Store) -> None:
    each: list[dict[str, Any]] = [{}, {"single": True}, {"single": True, "node": "elsewhere"}]
    for number, fields in enumerate(each):
        await store.add_session(a_session(f"ses_{number}", **fields))
    await store.recover("here", "the server died", 400.0)
    assert await store.active_sessions("here") == (a_session("ses_0"),)
    closed = a_session("ses_1", single=True, status="closed", ended_at=400.0)
    assert await store.session("me", "ses_1") == closed
    assert len(await store.active_sessions("elsewhere")) == 1


async def test_an_execution_of_a_session_that_is_gone_is_refused_with_its_claim(store: Store) -> None:
    with pytest.raises(SessionMissing, match="open a new one"):
        await store.add_execution(an_execution("exe_1"), Claim("me", "once", "f", "exe_1"))
    assert await store.claim("me", "once") is None


# Claims.


async def test_of_those_who_come_with_one_idempotency_key_one_is_first_and_all_are_told_who(store: Store) -> None:
    await store.add_session(a_session())
    claims = [Claim("me", "once", f"print({number})", f"exe_{number}") for number in range(20)]
    told = await asyncio.gather(*(store.add_execution(an_execution(claim.resource), claim) for claim in claims))
    (first,) = [claim for claim, other in zip(claims, told, strict=True) if other is None]
    assert all(other in (None, first) for other in told)
    assert [row.id for row in (await store.executions("me", "ses_1", limit=50)).items] == [first.resource]
    assert await store.claim("me", "once") == first


async def test_a_claim_is_its_owners_and_ends(store: Store) -> None:
    mine, yours = Claim("me", ODD, "f", "ses_1"), Claim("you", ODD, "f", "ses_2")
    assert await store.add_claim(mine, 10.0) is None
    assert await store.add_claim(yours, 20.0) is None
    assert await store.add_claim(Claim("me", ODD, "g", "ses_3"), 20.0) == mine
    assert await store.drop_claims(15.0) == 1
    assert (await store.claim("me", ODD), await store.claim("you", ODD)) == (None, yours)
    assert await store.add_claim(mine, 20.0) is None


# Files.


async def test_a_file_replaces_what_was_at_its_path(store: Store) -> None:
    await store.add_session(a_session())
    old, other = a_file("a.txt"), a_file("b.txt", size=1 << 40)
    await store.put_files((old, other))
    new = a_file("a.txt", digest="new", size=3)
    await store.put_files((new,))
    assert await store.files("ses_1") == (new, other)
    assert await store.file("me", old.id) is None
    assert await store.file("me", new.id) == new
    assert await store.file("you", new.id) is None
    assert await store.stored_bytes("me") == 3 + (1 << 40)
    assert await store.stored_bytes("you") == 0


async def test_paths_are_names_of_any_kind_and_length(store: Store) -> None:
    await store.add_session(a_session())
    paths = [*ODD_TEXTS, "/".join([os.urandom(120).hex()] * 16), "a/b", "A/b"]
    rows = [a_file(path) for path in paths]
    await store.put_files(rows)
    assert await store.files("ses_1") == tuple(sorted(rows, key=lambda row: row.path))
    await store.remove_files("ses_1", [*paths[:-1], "never was"])
    assert await store.files("ses_1") == (rows[-1],)
    await store.drop_files("ses_1")
    assert await store.files("ses_1") == ()


async def test_files_of_a_session_that_is_gone_are_refused_together(store: Store) -> None:
    await store.add_session(a_session())
    with pytest.raises(SessionMissing):
        await store.put_files((a_file("a"), a_file("b", "ses_2")))
    assert await store.files("ses_1") == ()


async def test_contents_that_no_file_names_are_told(store: Store) -> None:
    await store.add_session(a_session())
    await store.put_files(a_file(f"{number}", digest=f"{number}") for number in range(0, 2000, 2))
    assert await store.unreferenced([str(number) for number in range(2000)]) == {str(n) for n in range(1, 2000, 2)}
    assert await store.unreferenced([]) == set()


# Retention.


async def test_a_purge_takes_what_ended_before_and_leaves_the_rest(store: Store) -> None:
    for number in range(120):
        await store.add_session(a_session(f"ses_{number}", status="closed", ended_at=float(number)))
    await store.add_session(a_session("ses_x"))
    await asyncio.gather(*(store.add_execution(an_execution(f"exe_{n}", "ses_7")) for n in range(statements.BATCH + 9)))
    await store.put_files([a_file("old", "ses_7"), a_file("recent", "ses_110"), a_file("live", "ses_x")])
    await store.end_execution(dataclasses.replace(FULL, session_id="ses_7", results=LONG), 250.0)
    assert await store.purge(100.0) == 100
    left = [row.id for row in (await store.sessions("me", limit=100)).items]
    assert sorted(left) == sorted(["ses_x", *(f"ses_{number}" for number in range(100, 120))])
    assert (await store.executions("me", "ses_7", limit=5)).items == ()
    assert await store._rows(select(schema.results), {}) == []
    assert await store.unreferenced([a_file(path).digest for path in ("old", "recent", "live")]) == {"digest of 'old'"}


async def test_files_can_be_purged_before_their_sessions(store: Store) -> None:
    await store.add_session(a_session("ses_1", status="closed", ended_at=1.0))
    await store.add_session(a_session("ses_2", status="closed", ended_at=9.0))
    await store.put_files([a_file("old"), a_file("recent", "ses_2")])
    assert await store.purge_files(5.0) == 1
    assert (await store.files("ses_1"), len(await store.files("ses_2"))) == ((), 1)
    assert await store.session("me", "ses_1") is not None


# Keys.


async def test_a_key_is_found_by_its_digest_until_it_is_revoked(store: Store) -> None:
    assert not await store.any_key()
    _, row = new_key("ci", KeyLimits(sessions=0, per_minute=60), 1.0)
    _, other = new_key("漢", KeyLimits(), 2.0)
    await store.add_key(row)
    await store.add_key(other)
    assert await store.key(row.digest) == row
    assert await store.revoke_key("ci", 5.0)
    assert await store.revoke_key(other.id, 6.0)
    assert await store.key(row.digest) is None
    assert not await store.revoke_key("ci", 7.0)
    assert await store.keys() == (
        dataclasses.replace(row, revoked_at=5.0),
        dataclasses.replace(other, revoked_at=6.0),
    )
    assert await store.any_key()  # a server that had a key must not be open to everybody


async def test_a_name_is_of_one_key_at_a_time(store: Store) -> None:
    await store.add_key(new_key("ci", KeyLimits(), 1.0)[1])
    with pytest.raises(InvalidRequest, match="there is a key 'ci'"):
        await store.add_key(new_key("ci", KeyLimits(), 2.0)[1])
    await store.revoke_key("ci", 3.0)
    await store.add_key(new_key("ci", KeyLimits(), 4.0)[1])


# Writing together.


async def test_a_write_that_fails_in_a_group_fails_alone(store: Store) -> None:
    await store.add_session(a_session())
    rows = [an_execution(f"exe_{number}", "ses_1" if number % 10 else "never was") for number in range(50)]
    told = await asyncio.gather(*(store.add_execution(row) for row in rows), return_exceptions=True)
    assert [isinstance(answer, SessionMissing) for answer in told] == [not number % 10 for number in range(50)]
    assert len((await store.executions("me", "ses_1", limit=100)).items) == 45


@pytest.mark.parametrize("reading", [False, True])
async def test_a_commit_is_on_the_disk_soon_without_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reading: bool
) -> None:
    monkeypatch.setattr(checkpoints, "_CHECKPOINT_EVERY_S", 0.5)
    (tmp_path / "link").symlink_to("db")
    async with Store.open(f"sqlite:///{tmp_path / 'link'}") as store:
        with contextlib.closing(sqlite3.connect(tmp_path / "db")) as reader:
            if reading:  # checkpoints get no further than what it sees
                reader.execute("BEGIN")
                reader.execute("SELECT * FROM sessions").fetchall()
            for number in range(3):
                await store.add_session(a_session(str(number)))
                async with asyncio.timeout(20):
                    while _unwritten(tmp_path / "db-wal"):
                        await store.sessions("me", limit=1)


def _unwritten(path: Path) -> int:
    """Pages of the file that are not on the disk yet."""
    told = (ctypes.c_uint64 * 5)()  # of cachestat(2): in the cache, dirty, being written, evicted, lately
    everything = (ctypes.c_uint64 * 2)()
    with open(path, "rb") as file:
        if ctypes.CDLL(None).syscall(451, file.fileno(), everything, told, 0) != 0:
            pytest.skip("this kernel has no cachestat, which Linux has from 6.5 on")
    return told[1] + told[2]


async def test_a_log_that_gets_long_is_brought_into_the_database(tmp_path: Path) -> None:
    async with Store.open(f"sqlite:///{tmp_path / 'db'}") as store:
        await store.add_session(a_session())
        for number in range(5):
            await store.add_object(dataclasses.replace(an_object(str(number)), body={"long": "x" * (LOG_BYTES // 4)}))
        async with asyncio.timeout(20):  # before it would be anyway
            while not await _has_sessions(tmp_path / "db", tmp_path / "copy"):
                await store.sessions("me", limit=1)


async def _has_sessions(database: Path, copy: Path) -> bool:
    """Whether the file alone has any, without the log beside it."""
    # By another process: one that closes a file drops the locks that SQLite has on it.
    copying = await asyncio.create_subprocess_exec("cp", database, copy)
    assert await copying.wait() == 0
    with contextlib.closing(sqlite3.connect(copy)) as connection, contextlib.suppress(sqlite3.DatabaseError):
        return bool(connection.execute("SELECT count(*) FROM sessions").fetchone()[0])
    return False


async def test_writes_happen_in_the_order_in_which_they_were_asked_for(store: Store) -> None:
    await asyncio.gather(
        store.add_session(a_session()),
        store.add_execution(an_execution("exe_1")),
        store.end_execution(FULL, 250.0),
        store.update_session("ses_1", status="closed", ended_at=260.0),
    )
    assert await store.execution("me", "ses_1", "exe_1") == an_execution("exe_1", ended_at=250.0, execution=FULL)
    assert await store.session("me", "ses_1") == a_session(
        status="closed", ended_at=260.0, used=True, last_used_at=250.0
    )


async def test_a_write_whose_caller_is_cancelled_is_done_all_the_same(store: Store) -> None:
    task = asyncio.create_task(store.add_session(a_session()))
    await asyncio.sleep(0)  # it has asked
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.ping()
    assert await store.session("me", "ses_1") is not None


async def test_closing_does_what_was_asked_for_and_then_refuses(url: str) -> None:
    async with Store.open(url) as store:
        tasks = [asyncio.create_task(store.add_session(a_session(f"ses_{number}"))) for number in range(600)]
        await asyncio.sleep(0)
    assert await asyncio.gather(*tasks) == [None] * 600
    with pytest.raises(Unready, match="closed"):
        await store.ping()
    with pytest.raises(Unready, match="closed"):
        await store.keys()
    async with Store.open(url) as store:
        assert len((await store.sessions("me", limit=1000)).items) == 600


_WRITE_FOREVER = """
import asyncio, itertools, sys
from sandbox.store import SessionRow, Store

async def write(store, numbers):
    for number in numbers:
        row = SessionRow(f"ses_{number}", "me", "here", 1, "active", "python", 512, 60.0, {}, 1.0, 1.0)
        await store.add_session(row)
        print(row.id, flush=True)

async def main():
    async with Store.open(sys.argv[1]) as store:
        numbers = itertools.count()
        await asyncio.gather(*(write(store, numbers) for _ in range(8)))

asyncio.run(main())
"""


async def test_a_write_that_has_returned_outlives_a_kill(url: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _WRITE_FOREVER, url, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    told = [await process.stdout.readline() for _ in range(500)]
    process.kill()
    told += (await process.stdout.read()).splitlines(keepends=True)
    await process.wait()
    written = {line.decode().strip() for line in told if line.endswith(b"\n")}
    async with Store.open(url) as store:
        page = await store.sessions("me", limit=1_000_000)
        assert len(written) >= 500
        assert written <= {row.id for row in page.items}
        assert await store.start_node("here") == 1


async def test_a_write_waits_for_another_process_that_writes(tmp_path: Path) -> None:
    path = tmp_path / "sandbox.db"
    async with Store.open(f"sqlite:///{path}") as store:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            writing = asyncio.create_task(store.add_session(a_session()))
            assert (await store.sessions("me", limit=1)).items == ()  # reads do not wait
            assert not writing.done()
            other.execute("COMMIT")
        await writing


async def test_a_server_that_went_away_is_told_and_one_that_came_back_is_used(cluster: Cluster) -> None:
    async with Store.open(cluster.empty()) as store:
        await store.add_session(a_session())
        cluster.stop()
        try:
            for attempt in (store.ping, store.keys, store.ping, store.keys):
                with pytest.raises(Unready, match="the database failed"):
                    await attempt()
        finally:
            cluster.start()
        assert await store.session("me", "ses_1") == a_session()
        cluster.stop()
        cluster.start()  # nobody has noticed
        told = await asyncio.gather(*(store.add_session(a_session(f"ses_{number}")) for number in range(2, 9)))
        assert told == [None] * 7
        assert len(await store.active_sessions("here")) == 8


# Traces.


def a_trace(trace_id: str = "trc_1", owner: str = "me", created_at: float = 1.0) -> TraceRow:
    records = ({"kind": "message", "text": ODD}, {"kind": "end"})
    return TraceRow(trace_id, owner, None, "model", ODD, "answered", created_at, 2.0, 2, 1, 0, 10, 20, 0.5, records)


async def test_a_trace_comes_back_as_it_was_and_is_its_owners(store: Store) -> None:
    await store.add_trace(a_trace())
    assert await store.trace("me", "trc_1") == a_trace()
    assert await store.trace(None, "trc_1") == a_trace()
    assert await store.trace("you", "trc_1") is None


async def test_traces_are_listed_newest_first_without_their_records(store: Store) -> None:
    for number, owner in enumerate(("me", "you", "me")):
        await store.add_trace(a_trace(f"trc_{number}", owner, number))
    first = await store.traces("me", limit=1)
    assert [(row.id, row.records) for row in first.items] == [("trc_2", ())]
    assert [row.id for row in (await store.traces("me", limit=9, after=first.next)).items] == ["trc_0"]
    assert [row.id for row in (await store.traces(None, limit=9)).items] == ["trc_2", "trc_1", "trc_0"]


async def test_a_pause_comes_back_as_it_was_and_is_its_owners_until_it_is_purged(store: Store) -> None:
    row = PauseRow("trc_1", "me", "ses_1", True, ({"role": "user", "parts": [{"type": "text", "text": ODD}]},), 1.0)
    await store.add_pause(row)
    assert await store.pause("me", "trc_1") == row
    assert await store.pause("you", "trc_1") is None
    assert await store.purge_pauses(2.0) == 1
    assert await store.pause("me", "trc_1") is None


async def test_old_traces_are_purged(store: Store) -> None:
    for number in range(3):
        await store.add_trace(a_trace(f"trc_{number}", created_at=number))
    assert await store.purge_traces(2.0) == 2
    assert [row.id for row in (await store.traces("me", limit=9)).items] == ["trc_2"]


# Every statement has its index.

_FEW = {"KEYS", "ANY_KEY", "REVOKE_KEY"}
"""A server has few keys."""
_SAMPLES: dict[str, Any] = {
    "after_at": 0.0,
    "limit": 1,
    "before": 1.0,
    "now": 1.0,
    "until": 1.0,
    "ended_at": 1.0,
    "sessions": ["a"],
    "digests": ["a"],
    "objects": ["a"],
    "live": False,
    "epoch": 1,
    "expires_at": None,
}


def _questions() -> list[Any]:
    found = []
    for name, value in vars(statements).items():
        if isinstance(value, Listing):
            found += [pytest.param(each, True, id=name) for each in (*value.pages.values(), value.place)]
        elif isinstance(value, Select | Update | Delete) and not name.startswith("_") and name not in _FEW:
            found.append(pytest.param(value, False, id=name))
    return found


@pytest.mark.parametrize(("statement", "is_ordered"), _questions())
async def test_no_statement_reads_or_sorts_a_whole_table(tmp_path: Path, statement: Any, is_ordered: bool) -> None:
    url = f"sqlite:///{tmp_path}/sandbox.db"
    async with Store.open(url):
        pass
    engine = connect(url, 1)
    plan: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def explain(_: Any, cursor: Any, question: str, parameters: Any, *__: Any) -> None:
        plan.extend(row[3] for row in cursor.execute(f"EXPLAIN QUERY PLAN {question}", parameters).fetchall())

    asked = statement.compile().params
    if statement is statements.END_EXECUTION:  # which sets what it is given
        asked = {"execution": None, "ended_at": None}
    parameters = {name: _SAMPLES.get(name, "a") if value is None else value for name, value in asked.items()}
    with engine.connect() as connection:
        connection.execute(statement, parameters)
    engine.dispose()
    assert plan
    # A list of everything is read in its index's order, and no further than its limit.
    fine = ("executions_in_flight", "traces_created_at_id", "CONSTANT ROW")
    assert not [step for step in plan if step.startswith("SCAN") and not any(index in step for index in fine)]
    assert not is_ordered or "TEMP B-TREE" not in str(plan)
