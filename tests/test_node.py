"""Durable sessions of many owners: what is kept, for whom, and for how long."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sandbox.claims import Once
from sandbox.config import Settings
from sandbox.durable import STOPPED
from sandbox.errors import (
    DataDirInUse,
    Draining,
    ExecutionMissing,
    FileMissing,
    IdempotencyConflict,
    InvalidLimits,
    InvalidPath,
    QueueFull,
    RateLimited,
    SessionClosed,
    SessionExpired,
    SessionMissing,
    TooLarge,
    Unauthorized,
    UnknownImage,
    Unready,
    WorkspaceFull,
)
from sandbox.execution import Execution, Status
from sandbox.image import Image
from sandbox.keys import LOCAL, KeyLimits, Owner, new_key
from sandbox.node import Node, Upload
from sandbox.runtime import Runtime
from sandbox.runtime.embedded import linux
from sandbox.runtime.embedded.runtime import EmbeddedRuntime
from sandbox.store.rows import SessionRow
from tests.host import WAIT_SECONDS, Embedded, until

OTHER = Owner("other", KeyLimits())
OpenNode = Callable[..., contextlib.AbstractAsyncContextManager[Node]]


@contextlib.asynccontextmanager
async def opened(directory: Path, *, runtime: Runtime | None = None, **changes: Any) -> AsyncIterator[Node]:
    """A node with a data directory of its own, and the images of this machine."""
    settings = Settings(data_dir=directory, images_dir=Settings().images_dir, **{"pool_size": 1} | changes)
    async with Node.open(settings, runtime=runtime) as node:
        yield node


@pytest.fixture(scope="module")
async def node(
    root: None, python_image: Image, nothing_left: None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Node]:
    async with opened(tmp_path_factory.mktemp("node"), pool_size=2) as node:
        yield node


@pytest.fixture(scope="module")
def open_node(node: Node) -> OpenNode:
    """Opens nodes as `opened` does, on a runtime that is open already: only who harms one needs one of its own."""
    return partial(opened, runtime=node.engine.runtime)


@pytest.fixture
async def session(node: Node) -> AsyncIterator[str]:
    row = await node.open_session(LOCAL)
    yield row.id
    await node.close_session(LOCAL, row.id)


async def execute(node: Node, session_id: str, code: str, owner: Owner = LOCAL, **options: Any) -> Execution:
    return await (await node.execute(owner, session_id, code, **options)).result()


async def test_who_retires_a_session_waits_until_it_is_written_down_and_not_for_its_sandbox(node: Node) -> None:
    row = await node.open_session(LOCAL)
    await execute(node, row.id, "1")
    host = Embedded.below(os.getpid())
    os.kill(host.launcher, signal.SIGSTOP)
    try:
        await node.retire_session(LOCAL, row.id)
        written = await node.store.session(LOCAL.id, row.id)
        assert written is not None
        assert written.status == "closed"
    finally:
        os.kill(host.launcher, signal.SIGCONT)
    assert (await node.close_session(LOCAL, row.id)).status == "closed"


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


async def content(node: Node, session_id: str, path: str) -> bytes:
    return b"".join([piece async for piece in node.pieces(await node.file(LOCAL, session_id, path))])


async def paths(node: Node, session_id: str) -> list[str]:
    return [row.path for row in (await node.files(LOCAL, session_id)).rows]


class TestExecutions:
    async def test_a_run_can_be_read_afterwards_with_its_files(self, node: Node) -> None:
        log = await node.run(LOCAL, "print(1); open('a.txt', 'w').write('made')", files=[Upload("in.txt", b"in")])
        execution = await log.result()
        assert (execution.status, execution.stdout) == (Status.OK, "1\n")
        row = await node.execution(LOCAL, log.session_id, log.execution_id)
        assert row.execution == execution
        assert row.code.startswith("print(1)")
        assert await content(node, log.session_id, "a.txt") == b"made"
        await until(lambda: node.open_sessions == 0)  # its sandbox ends after the answer
        assert await paths(node, log.session_id) == ["a.txt", "in.txt"]

    async def test_variables_and_files_stay_between_executions(self, node: Node, session: str) -> None:
        await execute(node, session, "x = 41; open('a/b.txt', 'w') if 0 else None")
        assert (await execute(node, session, "x + 1")).results[0]["text/plain"] == "42"
        page = await node.executions(LOCAL, session, limit=1)
        assert page.items[0].code == "x + 1"
        assert page.next is not None
        assert [row.code[:6] for row in (await node.executions(LOCAL, session, limit=5, after=page.next)).items] == [
            "x = 41"
        ]

    async def test_an_execution_in_flight_can_be_found_and_followed(self, node: Node, session: str) -> None:
        log = await node.execute(LOCAL, session, "print('here', flush=True)\nimport time\ntime.sleep(60)")
        async for event in log.follow():
            if event.name == "stdout":
                break
        assert (await node.execution(LOCAL, session, log.execution_id)).execution is None
        assert await node.follow(LOCAL, session, log.execution_id) is log
        await node.interrupt(LOCAL, session)
        assert (await log.result()).status is Status.INTERRUPTED
        again = await node.follow(LOCAL, session, log.execution_id)
        assert [event.name async for event in again.follow()] == ["started", "stdout", "error", "done"]

    async def test_too_many_waiting_are_refused_before_they_are_accepted(self, node: Node, session: str) -> None:
        accepted = [await node.execute(LOCAL, session, "import time; time.sleep(60)")]
        for _ in range(node.settings.queue_size):
            accepted.append(await node.execute(LOCAL, session, "1"))
        with pytest.raises(QueueFull):
            await node.execute(LOCAL, session, "1")
        await node.close_session(LOCAL, session)
        statuses = [(await log.result()).status for log in accepted]
        assert set(statuses) == {Status.CANCELLED}

    async def test_a_launcher_that_dies_is_replaced_too(self, root: None, tmp_path: Path) -> None:
        images_dir = Settings().images_dir
        async with (
            EmbeddedRuntime.open(images_dir, shared=False) as runtime,
            opened(tmp_path, runtime=runtime) as node,
        ):
            session = (await node.open_session(LOCAL)).id
            await execute(node, session, "x = 1; open('kept.txt', 'w').write('kept')")
            log = await node.execute(LOCAL, session, "print(1, flush=True); import time; time.sleep(60)")
            async for event in log.follow():
                if event.name == "stdout":
                    break
            launcher = Embedded.below(os.getpid()).launcher
            os.kill(launcher, signal.SIGKILL)
            assert (await log.result()).status is Status.KILLED
            assert (await execute(node, session, "print(open('kept.txt').read())")).stdout == "kept\n"
            assert Embedded.below(os.getpid()).launcher != launcher

    async def test_taking_back_an_execution_touches_no_other(self, node: Node, session: str) -> None:
        running = await node.execute(LOCAL, session, "print(1, flush=True)\nwhile True: pass")
        waiting = await node.execute(LOCAL, session, "print('never')")
        last = await node.execute(LOCAL, session, "print('after')")
        await node.withdraw(LOCAL, session, waiting.execution_id)
        async for event in running.follow():
            if event.name == "stdout":
                break
        await node.withdraw(LOCAL, session, running.execution_id)
        assert (await running.result()).status is Status.INTERRUPTED
        taken = await waiting.result()
        assert (taken.status, taken.stdout, taken.state_lost) == (Status.CANCELLED, "", False)
        assert (await last.result()).stdout == "after\n"

    async def test_a_restart_asked_for_loses_variables_without_a_word_and_keeps_files(
        self, node: Node, session: str
    ) -> None:
        await execute(node, session, "x = 1; open('kept.txt', 'w').write('kept')")
        await node.restart(LOCAL, session)
        execution = await execute(node, session, "'x' in globals(), open('kept.txt').read()")
        assert execution.results[0]["text/plain"] == "(False, 'kept')"
        assert not execution.state_lost


class TestOnce:
    async def test_the_same_key_gets_the_same_execution(self, node: Node, session: str) -> None:
        once = Once("key-1", "print")
        first = await execute(node, session, "print(1)", once=once)
        assert await execute(node, session, "print(1)", once=once) == first

    async def test_many_at_once_with_one_key_run_once(self, node: Node, session: str) -> None:
        await execute(node, session, "n = 0")
        once = Once("key-2", "count")
        logs = await asyncio.gather(*(node.execute(LOCAL, session, "n += 1", once=once) for _ in range(8)))
        assert len({log.execution_id for log in logs}) == 1
        await logs[0].result()
        assert (await execute(node, session, "n")).results[0]["text/plain"] == "1"

    async def test_a_run_and_a_session_are_made_once(self, node: Node) -> None:
        runs = await asyncio.gather(*(node.run(LOCAL, "print(1)", once=Once("key-3", "run")) for _ in range(3)))
        assert len({log.execution_id for log in runs}) == 1
        once = Once("key-4", "session")
        rows = await asyncio.gather(*(node.open_session(LOCAL, once=once) for _ in range(3)))
        assert len({row.id for row in rows}) == 1
        await node.close_session(LOCAL, rows[0].id)

    async def test_a_request_that_was_refused_has_claimed_nothing(self, node: Node) -> None:
        owner, once = Owner("tidy", KeyLimits(stored_bytes=4)), Once("key-7", "files")
        with pytest.raises(RateLimited):
            await node.open_session(owner, files=[Upload("a", b"1234"), Upload("b", b"5")], once=once)
        await until(lambda: node.open_sessions == 0)
        richer = Owner("tidy", KeyLimits(stored_bytes=5))
        row = await node.open_session(richer, files=[Upload("a", b"1234"), Upload("b", b"5")], once=once)
        assert row.status == "active"
        assert [file.path for file in (await node.files(richer, row.id)).rows] == ["a", "b"]
        assert (await node.open_session(richer, once=once)).id == row.id
        await node.close_session(richer, row.id)

    async def test_of_two_at_once_the_second_does_it_when_the_first_could_not(self, node: Node) -> None:
        owner, once = Owner("tight", KeyLimits(sessions=1)), Once("key-8", "session")
        taken = await node.open_session(owner)
        with pytest.raises(RateLimited):
            await node.open_session(owner, once=once)
        await node.close_session(owner, taken.id)
        rows = await asyncio.gather(*(node.open_session(owner, once=once) for _ in range(3)))
        assert len({row.id for row in rows}) == 1, "with room for one session, none was refused"
        await node.close_session(owner, rows[0].id)

    async def test_what_could_not_be_done_has_claimed_nothing(self, node: Node) -> None:
        row = await node.open_session(LOCAL)
        await node.close_session(LOCAL, row.id)
        for ask, key in ((node.restart, "key-9"), (node.interrupt, "key-10")):
            for _ in range(2):
                with pytest.raises(SessionClosed):
                    await ask(LOCAL, row.id, Once(key, "once"))

    async def test_another_request_with_the_key_is_a_conflict(self, node: Node, session: str) -> None:
        await execute(node, session, "1", once=Once("key-5", "one"))
        with pytest.raises(IdempotencyConflict):
            await node.execute(LOCAL, session, "2", once=Once("key-5", "two"))

    async def test_keys_of_different_owners_do_not_meet(self, node: Node, session: str) -> None:
        await execute(node, session, "1", once=Once("key-6", "one"))
        log = await node.run(OTHER, "2", once=Once("key-6", "two"))
        assert (await log.result()).results[0]["text/plain"] == "2"


class TestOwners:
    async def test_nothing_of_one_owner_exists_for_another(self, node: Node, session: str) -> None:
        execution = await execute(node, session, "open('a.txt', 'w').write('secret')")
        [file] = (await node.files(LOCAL, session)).rows
        attempts: list[Callable[[], Any]] = [
            lambda: node.session(OTHER, session),
            lambda: node.execute(OTHER, session, "1"),
            lambda: node.execution(OTHER, session, execution.id),
            lambda: node.executions(OTHER, session, limit=1),
            lambda: node.follow(OTHER, session, execution.id),
            lambda: node.interrupt(OTHER, session),
            lambda: node.restart(OTHER, session),
            lambda: node.files(OTHER, session),
            lambda: node.file(OTHER, session, "a.txt"),
            lambda: node.put_file(OTHER, session, "a.txt", pieces(b"x")),
            lambda: node.remove_file(OTHER, session, "a.txt"),
            lambda: node.close_session(OTHER, session),
        ]
        for attempt in attempts:
            with pytest.raises(SessionMissing):
                await attempt()
        with pytest.raises(FileMissing):
            await node.open_session(OTHER, files=[Upload("a.txt", file_id=file.id)])
        assert session not in [row.id for row in (await node.sessions(OTHER, limit=100)).items]
        assert await content(node, session, "a.txt") == b"secret"

    async def test_what_was_never_there_is_missing(self, node: Node, session: str) -> None:
        with pytest.raises(SessionMissing):
            await node.session(LOCAL, "ses_nothing")
        with pytest.raises(ExecutionMissing):
            await node.execution(LOCAL, session, "exe_nothing")
        with pytest.raises(UnknownImage):
            await node.open_session(LOCAL, image="fortran")

    async def test_a_key_opens_what_it_made_until_it_is_revoked(self, open_node: OpenNode, tmp_path: Path) -> None:
        async with open_node(tmp_path, pool_size=0) as node:
            assert await node.owner(None) == LOCAL
            secret, row = new_key("me", KeyLimits(sessions=1), time.time())
            await node.store.add_key(row)
        async with open_node(tmp_path, pool_size=0) as node:
            owner = await node.owner(secret)
            assert (owner.id, owner.limits.sessions) == (row.id, 1)
            for wrong in (None, "", secret[:-1], secret + "x"):
                with pytest.raises(Unauthorized):
                    await node.owner(wrong)
            await node.store.revoke_key(row.id, time.time())
        async with open_node(tmp_path, pool_size=0) as node:
            with pytest.raises(Unauthorized):
                await node.owner(secret)


class TestLimits:
    async def test_sessions_of_a_key_are_limited_until_one_is_closed(self, node: Node) -> None:
        owner = Owner("few", KeyLimits(sessions=1))
        first = await node.open_session(owner)
        with pytest.raises(RateLimited, match="open sessions"):
            await node.open_session(owner)
        await node.close_session(owner, first.id)
        await node.close_session(owner, (await node.open_session(owner)).id)

    async def test_one_run_after_the_other_is_never_two_sessions_at_a_time(self, node: Node) -> None:
        owner = Owner("single", KeyLimits(sessions=1, running=1))
        for _ in range(10):
            assert (await (await node.run(owner, "1")).result()).status is Status.OK

    async def test_executions_of_a_key_are_limited_in_number_and_in_a_minute(self, node: Node) -> None:
        owner = Owner("slow", KeyLimits(running=1, per_minute=1))
        log = await node.run(owner, "import time; time.sleep(60)")
        with pytest.raises(RateLimited, match="running"):
            await node.run(owner, "1")
        await node.interrupt(owner, log.session_id)  # at once: it may not have begun
        assert (await log.result()).status is Status.INTERRUPTED
        with pytest.raises(RateLimited, match="per minute") as caught:
            await node.run(owner, "1")
        assert 0 < caught.value.retry_after <= 60

    async def test_a_refused_request_costs_nothing_of_the_minute(self, node: Node) -> None:
        owner = Owner("careful", KeyLimits(per_minute=1))
        with pytest.raises(UnknownImage):
            await node.run(owner, "1", image="fortran")
        await (await node.run(owner, "1")).result()

    async def test_stored_bytes_of_a_key_are_limited(self, node: Node) -> None:
        owner = Owner("small", KeyLimits(stored_bytes=10))
        row = await node.open_session(owner)
        await node.put_file(owner, row.id, "a", pieces(b"12345"))
        with pytest.raises(RateLimited, match="stored bytes"):
            await node.put_file(owner, row.id, "b", pieces(b"123", b"456"))
        assert [file.path for file in (await node.files(owner, row.id)).rows] == ["a"]
        await node.close_session(owner, row.id)

    async def test_a_key_whose_programs_have_written_too_much_runs_no_more_until_it_deletes(self, node: Node) -> None:
        owner = Owner("writer", KeyLimits(stored_bytes=10))
        row = await node.open_session(owner)
        done = await execute(node, row.id, "open('a', 'w').write('x' * 11)", owner)
        assert (done.status, done.reason) == (Status.OK, "")
        for again in (node.execute(owner, row.id, "1"), node.run(owner, "1")):
            with pytest.raises(RateLimited, match="stored bytes") as caught:
                await again
            assert (caught.value.name, caught.value.remaining) == ("stored_bytes", 0)
        await node.remove_file(owner, row.id, "a")
        assert (await execute(node, row.id, "1", owner)).status is Status.OK
        await node.close_session(owner, row.id)

    async def test_memory_is_promised_once_and_comes_back(self, open_node: OpenNode, tmp_path: Path) -> None:
        async with open_node(tmp_path, pool_size=0, memory_budget_mb=512, max_waiting=0) as node:
            row = await node.open_session(LOCAL)
            with pytest.raises(QueueFull) as caught:
                await node.open_session(LOCAL)
            assert caught.value.retry_after >= 1
            with pytest.raises(InvalidLimits):
                await node.open_session(LOCAL, memory_mb=1024)
            await node.close_session(LOCAL, row.id)
            assert node.admission.promised_mb == 0
            assert (await (await node.run(LOCAL, "1")).result()).status is Status.OK

    async def test_a_sandbox_is_started_ahead_only_where_there_is_memory_for_it_that_is_nobodys(
        self, open_node: OpenNode, tmp_path: Path
    ) -> None:
        async with open_node(tmp_path, pool_size=1, memory_budget_mb=1024) as node:
            pool = node.engine.pool
            await pool.rest()
            with node.expecting(), node.expecting(), node.expecting(), node.expecting(1024):
                assert pool.expected == 3
                await pool.fill(2)
                await pool.rest()
                assert pool.warm == 2, "there is memory for one more"
                row = await node.open_session(LOCAL)
                await execute(node, row.id, "1")
                assert node.admission.room_mb == 0
                await until(lambda: pool.warm == 1 and pool.rested)
                await node.close_session(LOCAL, row.id)
                await pool.fill(2)
            assert pool.expected == 0

    async def test_who_waits_for_memory_gets_it_when_a_session_ends(self, open_node: OpenNode, tmp_path: Path) -> None:
        async with open_node(tmp_path, pool_size=0, memory_budget_mb=512, max_waiting=4) as node:
            row = await node.open_session(LOCAL)
            waiting = asyncio.ensure_future(node.run(LOCAL, "print(1)"))
            await until(lambda: node.admission.waiting == 1)
            await node.close_session(LOCAL, row.id)
            assert (await (await waiting).result()).stdout == "1\n"


class TestFiles:
    async def test_an_uploaded_file_is_seen_inside_and_a_made_one_outside(self, node: Node, session: str) -> None:
        row = await node.put_file(LOCAL, session, "/mnt/data/d/in.bin", pieces(b"ab", b"c"))
        assert (row.path, row.size, row.mime) == ("d/in.bin", 3, "application/octet-stream")
        execution = await execute(node, session, "data = open('d/in.bin').read(); open('out.csv', 'w').write(data * 2)")
        assert [artifact.path for artifact in execution.artifacts] == ["out.csv"]
        assert await content(node, session, "out.csv") == b"abcabc"

    async def test_what_a_program_deletes_or_renames_is_so_outside(self, node: Node, session: str) -> None:
        await execute(node, session, "for n in 'abc': open(n, 'w').write(n)")
        execution = await execute(node, session, "import os; os.remove('a'); os.rename('b', 'd')")
        assert execution.removed == ("a", "b")
        assert await paths(node, session) == ["c", "d"]
        assert await content(node, session, "d") == b"b"

    async def test_a_change_that_hides_itself_is_stored_all_the_same(self, node: Node, session: str) -> None:
        await execute(node, session, "import os; open('a', 'w').write('one'); s = os.stat('a')")
        await execute(node, session, "open('a', 'w').write('two'); os.utime('a', ns=(s.st_atime_ns, s.st_mtime_ns))")
        assert await content(node, session, "a") == b"two"

    async def test_a_file_that_could_not_be_put_back_is_not_stored_and_ends_nothing(
        self, node: Node, session: str
    ) -> None:
        code = "for n in range(40): open(f'sparse{n}', 'w').truncate(100 << 20)\nopen('a', 'w').write('kept')"
        execution = await execute(node, session, code)
        assert execution.status is Status.OK
        assert "38 files could not be stored" in execution.reason
        assert await content(node, session, "a") == b"kept"

    async def test_a_full_disk_of_ours_does_not_change_how_an_execution_ended(
        self, open_node: OpenNode, tmp_path: Path
    ) -> None:
        kept = tmp_path / "files"
        kept.mkdir()
        linux.mount("tmpfs", str(kept), "tmpfs", 0, "size=4m")
        try:
            async with open_node(tmp_path, pool_size=0) as node:
                row = await node.open_session(LOCAL)
                execution = await execute(node, row.id, "print(1); open('a', 'wb').write(bytes(range(256)) * 40_000)")
                assert (execution.status, execution.stdout, execution.state_lost) == (Status.OK, "1\n", False)
                assert "could not be stored: the disk of the data directory is full" in execution.reason
                await execute(node, row.id, "import os; os.remove('a'); open('b', 'w').write('fits')")
                assert await content(node, row.id, "b") == b"fits"
        finally:
            linux.umount(str(kept))

    async def test_what_has_no_name_here_does_not_hide_what_is_deleted(
        self, open_node: OpenNode, tmp_path: Path
    ) -> None:
        async with open_node(tmp_path, pool_size=0) as node:
            row = await node.open_session(LOCAL)
            code = "import os; open(b'\\xff', 'w').close(); open('a', 'w').close(); open('b', 'w').close()"
            assert "1 file could not be stored" in (await execute(node, row.id, code)).reason
            await execute(node, row.id, "os.remove('a')")
        async with open_node(tmp_path, pool_size=0) as node:
            assert await paths(node, row.id) == ["b"]

    async def test_a_file_of_a_running_program_can_be_read(self, node: Node, session: str) -> None:
        log = await node.execute(
            LOCAL, session, "open('a', 'w').write('now'); print('written', flush=True); import time; time.sleep(60)"
        )
        async for event in log.follow():
            if event.name == "stdout":
                break
        assert [(row.path, row.digest) for row in (await node.files(LOCAL, session)).rows] == [("a", "")]
        assert await content(node, session, "a") == b"now"
        await node.interrupt(LOCAL, session)
        await log.result()

    async def test_equal_bytes_keep_their_id_and_others_get_a_new_one(self, node: Node, session: str) -> None:
        first = await node.put_file(LOCAL, session, "a", pieces(b"one"))
        assert (await node.put_file(LOCAL, session, "a", pieces(b"one"))).id == first.id
        assert (await node.put_file(LOCAL, session, "a", pieces(b"two"))).id != first.id

    async def test_a_stored_file_can_begin_another_session(self, node: Node, session: str) -> None:
        file = await node.put_file(LOCAL, session, "a", pieces(b"shared"))
        log = await node.run(LOCAL, "print(open('b').read())", files=[Upload("b", file_id=file.id)])
        assert (await log.result()).stdout == "shared\n"

    async def test_what_is_too_large_or_no_name_is_refused(self, node: Node, session: str) -> None:
        limit = 256 << 20
        with pytest.raises(TooLarge):
            await node.put_file(LOCAL, session, "a", pieces(), size=limit + 1)
        for path in ("../a", "/etc/passwd", "a\0", ""):
            with pytest.raises(InvalidPath):
                await node.put_file(LOCAL, session, path, pieces(b"x"))
        with pytest.raises(FileMissing):
            await node.file(LOCAL, session, "nothing")
        with pytest.raises(FileMissing):
            await node.remove_file(LOCAL, session, "nothing")

    async def test_closing_a_session_deletes_its_files_and_keeps_its_executions(self, node: Node) -> None:
        row = await node.open_session(LOCAL, files=[Upload("a", b"x")])
        execution = await execute(node, row.id, "print(1)")
        assert (await node.close_session(LOCAL, row.id)).status == "closed"
        assert await paths(node, row.id) == []
        assert (await node.execution(LOCAL, row.id, execution.id)).execution == execution
        with pytest.raises(SessionClosed):
            await node.execute(LOCAL, row.id, "1")
        with pytest.raises(SessionClosed):
            await node.put_file(LOCAL, row.id, "a", pieces(b"x"))
        assert (await node.close_session(LOCAL, row.id)).status == "closed"


class TestTime:
    async def test_an_idle_session_expires_and_can_still_be_read(self, node: Node) -> None:
        row = await node.open_session(LOCAL, idle_timeout=0.2, files=[Upload("a", b"x")])
        await until(lambda: node.open_sessions == 0)
        assert (await node.session(LOCAL, row.id)).status == "expired"
        assert await content(node, row.id, "a") == b"x"
        with pytest.raises(SessionExpired):
            await node.execute(LOCAL, row.id, "1")

    async def test_what_has_ended_is_forgotten_in_time_and_its_bytes_are_freed(self, node: Node) -> None:
        log = await node.run(LOCAL, "open('a', 'w').write('bytes of this test alone')")
        await log.result()
        await until(lambda: node.open_sessions == 0)
        row = await node.file(LOCAL, log.session_id, "a")
        await node.sweep(time.time() + (node.settings.file_retention_h + 1) * 3600)
        assert await paths(node, log.session_id) == []
        with pytest.raises(FileMissing):
            await anext(aiter(node.pieces(row)))
        assert (await node.execution(LOCAL, log.session_id, log.execution_id)).execution is not None
        await node.sweep(time.time() + (node.settings.retention_h + 1) * 3600)
        with pytest.raises(SessionMissing):
            await node.session(LOCAL, log.session_id)

    async def test_a_session_that_sleeps_expires_too(self, open_node: OpenNode, tmp_path: Path) -> None:
        async with open_node(tmp_path, pool_size=0) as node:
            row = await node.open_session(LOCAL)
        async with open_node(tmp_path, pool_size=0) as node:
            await node.sweep(time.time())
            assert (await node.session(LOCAL, row.id)).status == "active"
            await node.sweep(time.time() + row.idle_timeout_s + 1)
            assert (await node.session(LOCAL, row.id)).status == "expired"


class TestLives:
    @pytest.mark.parametrize("database", ["sqlite", "postgresql"])
    async def test_a_session_goes_on_in_the_next_life_with_its_files_and_without_its_variables(
        self, open_node: OpenNode, tmp_path: Path, database: str, request: pytest.FixtureRequest
    ) -> None:
        url = {"database_url": request.getfixturevalue("cluster").empty()} if database == "postgresql" else {}
        async with open_node(tmp_path, **url) as node:
            row = await node.open_session(LOCAL, metadata={"who": "me"})
            done = await execute(node, row.id, "x = 1; open('a', 'w').write('kept')")
        async with open_node(tmp_path, **url) as node:
            again = await node.session(LOCAL, row.id)
            assert (again.status, again.metadata) == ("active", {"who": "me"})
            assert (await node.execution(LOCAL, row.id, done.id)).execution == done
            assert await paths(node, row.id) == ["a"]
            execution = await execute(node, row.id, "print(open('a').read(), 'x' in globals())")
            assert (execution.stdout, execution.state_lost) == ("kept False\n", True)

    async def test_a_session_that_sleeps_takes_files_as_long_as_they_will_fit(
        self, open_node: OpenNode, tmp_path: Path
    ) -> None:
        async with open_node(tmp_path, pool_size=0, disk_mb=2) as node:
            row = await node.open_session(LOCAL)
        async with open_node(tmp_path, pool_size=0, disk_mb=2) as node:
            await node.put_file(LOCAL, row.id, "a", pieces(bytes(1 << 20)))
            with pytest.raises(WorkspaceFull):
                await node.put_file(LOCAL, row.id, "b", pieces(bytes(3 << 19)))
            await node.put_file(LOCAL, row.id, "a", pieces(bytes(3 << 19)))
            assert (await execute(node, row.id, "import os; print(os.listdir())")).stdout == "['a']\n"

    async def test_a_session_that_never_ran_has_lost_nothing(self, open_node: OpenNode, tmp_path: Path) -> None:
        async with open_node(tmp_path, pool_size=0) as node:
            row = await node.open_session(LOCAL)
        async with open_node(tmp_path, pool_size=0) as node:
            assert not (await execute(node, row.id, "1")).state_lost

    async def test_what_runs_at_the_end_is_killed_with_the_reason(self, open_node: OpenNode, tmp_path: Path) -> None:
        async with open_node(tmp_path) as node:
            row = await node.open_session(LOCAL)
            log = await node.execute(LOCAL, row.id, "import time; time.sleep(60)")
            queued = await node.execute(LOCAL, row.id, "1")
        for end in (await log.result(), await queued.result()):
            assert (end.status, end.reason, end.state_lost) == (Status.KILLED, STOPPED, True)
        async with open_node(tmp_path, pool_size=0) as node:
            assert (await node.execution(LOCAL, row.id, log.execution_id)).execution == await log.result()

    async def test_draining_finishes_what_runs_and_takes_nothing_new(self, open_node: OpenNode, tmp_path: Path) -> None:
        async with open_node(tmp_path) as node:
            row = await node.open_session(LOCAL)
            log = await node.execute(LOCAL, row.id, "import time; time.sleep(0.5); print('finished')")
            draining = asyncio.ensure_future(node.drain())
            await asyncio.sleep(0)
            with pytest.raises(Draining):
                await node.execute(LOCAL, row.id, "1")
            with pytest.raises(Draining):
                await node.run(LOCAL, "1")
            with pytest.raises(Draining):
                await node.put_file(LOCAL, row.id, "a", pieces(b"x"))
            assert (await node.health()).draining
            await draining
            assert (await log.result()).stdout == "finished\n"

    async def test_work_that_has_begun_gets_a_sandbox_during_a_drain(self, open_node: OpenNode, tmp_path: Path) -> None:
        async with open_node(tmp_path, pool_size=0) as node:
            asleep = await node.open_session(LOCAL)
            assert await (await node._held(LOCAL, asleep.id)).sleep()
            queued = await node.open_session(LOCAL)
            dies = await node.execute(LOCAL, queued.id, "import os; os.kill(os.getppid(), 9)")
            behind = await node.execute(LOCAL, queued.id, "print('behind')")
            with node.underway():
                draining = asyncio.ensure_future(node.drain())
                await asyncio.sleep(0)
                log = await node.execute(LOCAL, asleep.id, "print('woken')", begun=True)
                assert (await log.result()).stdout == "woken\n"
                first = await node.open_session(LOCAL, begun=True)
                assert (await execute(node, first.id, "print('first')", begun=True)).stdout == "first\n"
                with pytest.raises(Draining):
                    await node.open_session(LOCAL)
                await dies.result()
                assert (await behind.result()).stdout == "behind\n"
            await draining

    async def test_work_that_has_begun_takes_along_who_waits_for_the_same_sandbox(
        self, open_node: OpenNode, tmp_path: Path
    ) -> None:
        async with open_node(tmp_path, pool_size=0, memory_budget_mb=512) as node:
            asleep = await node.open_session(LOCAL)
            assert await (await node._held(LOCAL, asleep.id)).sleep()
            other = await node.open_session(LOCAL)
            new = asyncio.ensure_future(node.execute(LOCAL, asleep.id, "print('new')"))
            await until(lambda: node.admission.waiting == 1)
            with node.underway():
                begun = asyncio.ensure_future(node.execute(LOCAL, asleep.id, "print('begun')", begun=True))
                await until(lambda: node.admission.lacking is not None and (node._running == 2))
                draining = asyncio.ensure_future(node.drain())
                await asyncio.sleep(0)
                await node.close_session(LOCAL, other.id)
                assert (await (await begun).result()).stdout == "begun\n"
                assert (await (await new).result()).stdout == "new\n"
            await draining

    async def test_two_nodes_never_share_a_directory(self, open_node: OpenNode, tmp_path: Path) -> None:
        async with open_node(tmp_path, pool_size=0):
            with pytest.raises(DataDirInUse, match="another data_dir"):
                async with open_node(tmp_path, pool_size=0):
                    pass


async def test_a_session_that_nobody_will_hear_of_leaves_no_files(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise Unready("the database is away")

    monkeypatch.setattr(node._claims, "add", fail)
    before = await node.store.stored_bytes(LOCAL.id)
    with pytest.raises(Unready):
        await node.open_session(LOCAL, files=[Upload("a", b"bytes")], once=Once("key", "fingerprint"))
    assert await node.store.stored_bytes(LOCAL.id) == before


async def test_retiring_what_has_ended_does_not_end_it_again(node: Node) -> None:
    row = await node.open_session(LOCAL)
    closed = await node.close_session(LOCAL, row.id)
    with pytest.raises(SessionClosed):
        await node.retire_session(LOCAL, row.id)
    assert (await node.session(LOCAL, row.id)).ended_at == closed.ended_at


async def test_one_session_that_cannot_be_ended_keeps_no_other_from_expiring(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, other = [await node.open_session(LOCAL, idle_timeout=60) for _ in range(2)]
    held = [await node._held(LOCAL, row.id) for row in (stuck, other)]
    for session in held:
        assert await session.sleep()

    async def fail(status: str) -> None:
        raise Unready("the database is away")

    with monkeypatch.context() as patched:
        patched.setattr(held[0], "end", fail)
        await node.sweep(time.time() + 120)
    assert [(await node.session(LOCAL, row.id)).status for row in (stuck, other)] == ["active", "expired"]
    await node.close_session(LOCAL, stuck.id)


async def test_a_session_whose_opening_is_cancelled_while_its_row_is_written_is_over(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, written = node.store.add_session, asyncio.Event()

    async def add_and_wait(row: SessionRow) -> None:
        await add(row)
        written.set()
        await asyncio.Event().wait()

    before = {row.id for row in await node.store.active_sessions(node.name)}
    with monkeypatch.context() as patched:
        patched.setattr(node.store, "add_session", add_and_wait)
        opening = asyncio.create_task(node.open_session(LOCAL))
        await written.wait()
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
    async with asyncio.timeout(WAIT_SECONDS):
        while {row.id for row in await node.store.active_sessions(node.name)} != before:
            pass
