"""Sessions whose sandbox, database or owner goes away in the middle of something."""

import asyncio
import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import FileForbidden, FileMissing, QueueFull, SessionClosed, Unready, WorkspaceFull
from sandbox.execution import MIB, Status
from sandbox.image import Image
from sandbox.keys import LOCAL, KeyLimits, Owner
from sandbox.node import Node
from sandbox.store import FileRow
from tests.host import Embedded, ended, until
from tests.test_node import content, execute, opened, paths, pieces

SMALL: dict[str, Any] = {"pool_size": 0, "disk_mb": 4, "files": 48, "memory_budget_mb": 1024, "max_wait_s": 1.0}
# Of random bytes, so that no file is stored yet: one with the contents of another test would not be received.
MADE = "import os\nfor n in range(40): open(f'{n}.bin', 'wb').write(os.urandom(90_000))"


@pytest.fixture(scope="module")
async def node(
    root: None, python_image: Image, nothing_left: None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Node]:
    async with opened(tmp_path_factory.mktemp("durable"), **SMALL) as node:
        yield node


@pytest.fixture
async def session(node: Node) -> AsyncIterator[str]:
    row = await node.open_session(LOCAL)
    yield row.id
    await node.close_session(LOCAL, row.id)
    await until(lambda: node.admission.promised_mb == 0)


async def kill_sandbox(node: Node) -> None:
    """Of the only session that is awake; back when the node has seen it."""
    [init] = Embedded.below(os.getpid()).inits()
    os.kill(init, signal.SIGKILL)
    await ended(init)
    await until(lambda: node.admission.promised_mb == 0)


@pytest.fixture
async def asleep(node: Node, session: str) -> str:
    """A session whose sandbox is gone."""
    await kill_sandbox(node)
    return session


@contextlib.contextmanager
def refusing(node: Node, what: str) -> Iterator[None]:
    """The database fails at one kind of write: `UPDATE ON sessions`, say."""
    with contextlib.closing(sqlite3.connect(node.settings.data_dir / "sandbox.db", isolation_level=None)) as other:
        other.execute(f"CREATE TRIGGER fault BEFORE {what} BEGIN SELECT json('none'); END")
        try:
            yield
        finally:
            other.execute("DROP TRIGGER fault")


def incoming(node: Node) -> list[Path]:
    """Files that are being received."""
    return list((node.settings.data_dir / "files" / "incoming").iterdir())


class Slow:
    """A body whose second half comes when a test says so."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.rest = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"one "
        self.begun.set()
        await self.rest.wait()
        yield b"two"

    @classmethod
    async def begin(cls, node: Node, session: str) -> "tuple[Slow, asyncio.Task[FileRow]]":
        """The body of an upload to `a`, of which the first half has been taken."""
        body = cls()
        upload = asyncio.create_task(node.put_file(LOCAL, session, "a", body))
        await body.begun.wait()
        return body, upload


class TestSandboxes:
    async def test_one_that_dies_is_replaced_over_the_same_files(self, node: Node, session: str) -> None:
        await execute(node, session, "x = 1; open('kept.txt', 'w').write('kept')")
        await kill_sandbox(node)
        execution = await execute(node, session, "print(open('kept.txt').read()); x")
        assert (execution.stdout, execution.state_lost) == ("kept\n", True)
        assert execution.error is not None
        assert execution.error.name == "NameError"
        assert not (await execute(node, session, "1")).state_lost

    async def test_many_small_files_are_in_the_next_sandbox_as_they_were(self, node: Node, session: str) -> None:
        digests = """
import hashlib, pathlib
files = sorted(path for path in pathlib.Path("/mnt/data").rglob("*") if path.is_file())
print(len(files), hashlib.sha256(b"".join(str(path).encode() + path.read_bytes() for path in files)).hexdigest())
"""
        make = """
import os
os.makedirs("deep/er")
for number in range(30):
    with open(f"{('', 'deep/', 'deep/er/')[number % 3]}{number}", "wb") as file: file.write(os.urandom(50 * number**2))
open("back\\\\slash", "w").close()
"""
        await execute(node, session, make)
        before = await execute(node, session, "os.unlink('back\\\\slash')" + digests)
        await kill_sandbox(node)
        after = await execute(node, session, digests)
        assert before.stdout == after.stdout
        assert after.stdout.startswith("30 ")

    @pytest.mark.parametrize("how", ["withdraw", "interrupt"])
    async def test_what_is_taken_back_while_its_sandbox_is_fetched_never_runs(
        self, node: Node, tmp_path: Path, how: str
    ) -> None:
        tight = {"pool_size": 0, "memory_mb": 192, "memory_budget_mb": 192}
        async with opened(tmp_path, runtime=node.engine.runtime, **tight) as node:
            session = (await node.open_session(LOCAL)).id
            dying = await node.execute(LOCAL, session, "print(1, flush=True)\nwhile True: pass")
            log = await node.execute(LOCAL, session, "open('ran', 'w').close()")
            async for event in dying.follow():
                if event.name == "stdout":
                    break
            [init] = Embedded.below(os.getpid()).inits()
            os.kill(init, signal.SIGKILL)
            assert (await dying.result()).status is Status.KILLED
            if how == "withdraw":
                await node.withdraw(LOCAL, session, log.execution_id)
            else:
                await node.interrupt(LOCAL, session)
            expected = Status.CANCELLED if how == "withdraw" else Status.INTERRUPTED
            assert ((await log.result()).status, await paths(node, session)) == (expected, [])
            assert (await execute(node, session, "1")).status is Status.OK


class TestUploads:
    async def test_one_that_began_while_the_session_slept_is_there_when_it_has_woken(
        self, node: Node, asleep: str
    ) -> None:
        body, upload = await Slow.begin(node, asleep)
        await execute(node, asleep, "1")
        body.rest.set()
        await upload
        assert (await execute(node, asleep, "print(open('a').read())")).stdout == "one two\n"
        await execute(node, asleep, "open('b', 'w').close()")
        assert await paths(node, asleep) == ["a", "b"]
        assert await content(node, asleep, "a") == b"one two"

    async def test_one_whose_sandbox_dies_meanwhile_is_in_the_next(self, node: Node, session: str) -> None:
        body, upload = await Slow.begin(node, session)
        await kill_sandbox(node)
        body.rest.set()
        await upload
        assert (await execute(node, session, "print(open('a').read())")).stdout == "one two\n"

    @pytest.mark.parametrize("is_awake", [True, False])
    async def test_one_whose_session_is_closed_meanwhile_stores_nothing(
        self, node: Node, session: str, is_awake: bool
    ) -> None:
        if not is_awake:
            await kill_sandbox(node)
        body, upload = await Slow.begin(node, session)
        await node.close_session(LOCAL, session)
        body.rest.set()
        with pytest.raises(SessionClosed):
            await upload
        assert await node.store.files(session) == ()

    async def test_what_is_sent_and_deleted_while_the_session_wakes_is_deleted(self, node: Node, asleep: str) -> None:
        waking = asyncio.create_task(node.execute(LOCAL, asleep, "1"))
        number = 0
        while not waking.done():
            await node.put_file(LOCAL, asleep, f"{number}", pieces(b"x"))
            await node.remove_file(LOCAL, asleep, f"{number}")
            number += 1
        await (await waking).result()
        assert (await execute(node, asleep, "import os; print(os.listdir())")).stdout == "[]\n"
        assert await paths(node, asleep) == []

    async def test_a_session_that_sleeps_takes_what_the_next_sandbox_can_hold(self, node: Node, asleep: str) -> None:
        page = 4096
        await node.put_file(LOCAL, asleep, "a", pieces(bytes(4 * MIB - page - 1)))
        with pytest.raises(WorkspaceFull):  # 4 MiB in all, and a page more than that
            await node.put_file(LOCAL, asleep, "b", pieces(bytes(page + 1)))
        await node.put_file(LOCAL, asleep, "b", pieces(bytes(page)))
        await node.put_file(LOCAL, asleep, "a", pieces(b""))
        for number in range(22):  # two inodes each, and four are taken
            await node.put_file(LOCAL, asleep, f"d{number}/c", pieces(b""))
        with pytest.raises(WorkspaceFull, match="48 files and directories"):
            await node.put_file(LOCAL, asleep, "c", pieces(b""))
        told = await execute(node, asleep, "import os; print(sum(len(files) for _, _, files in os.walk('.')))")
        assert (told.stdout, told.reason) == (f"{len(await paths(node, asleep))}\n", "")


class TestWhatIsMade:
    async def test_is_told_as_far_as_it_is_stored_when_the_sandbox_dies_after_the_end(
        self, node: Node, session: str
    ) -> None:
        await execute(node, session, "open('old', 'w').write('old')")
        [init] = Embedded.below(os.getpid()).inits()
        log = await node.execute(LOCAL, session, MADE)
        await until(lambda: bool(incoming(node)))
        os.kill(init, signal.SIGKILL)
        told = await log.result()
        await until(lambda: node.admission.promised_mb == 0)
        stored = await paths(node, session)
        assert told.status is Status.OK
        assert told.state_lost == ("its sandbox ended before its files could be stored" in told.reason)
        assert {made.path for made in told.artifacts} == set(stored) - {"old"}
        again = await execute(node, session, "import os; print(sorted(os.listdir()))")
        assert again.stdout == f"{sorted(stored)}\n"
        assert again.state_lost != told.state_lost  # said once; now, if all of them could just be stored

    async def test_leaves_no_row_when_the_session_is_closed_while_it_is_stored(self, node: Node, session: str) -> None:
        log = await node.execute(LOCAL, session, MADE)
        await until(lambda: bool(incoming(node)))
        await node.close_session(LOCAL, session)
        await log.result()
        assert await node.store.files(session) == ()

    async def test_that_is_sparse_pushes_out_nothing_that_is_stored(self, node: Node, session: str) -> None:
        await execute(node, session, "open('real', 'wb').write(b'x' * (3 << 20))")
        told = await execute(node, session, "open('real', 'ab').write(b'y')\nopen('a', 'w').truncate(2 << 20)")
        assert "1 file could not be stored: name, size or mode ('a')" in told.reason
        assert (await content(node, session, "real"))[-1:] == b"y"
        with pytest.raises(FileMissing, match="longer than what"):
            await node.file(LOCAL, session, "a")

    async def test_through_memory_is_seen_whenever_that_is_written_to(self, node: Node, session: str) -> None:
        await node.put_file(LOCAL, session, "a", pieces(bytes(4096)))
        mapped = "f = open('a', 'r+b'); m = mmap.mmap(f.fileno(), 0); n = m[1]; m[1] = 1"
        for code, changed in (
            ("import mmap; f = open('a', 'rb'); mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)[1]", False),
            (mapped, True),
            ("print(m[1])", False),
            ("m[2] = 1", True),
            ("m[3] = 1; m.close()", True),
            ("1", False),
        ):
            told = await execute(node, session, code)
            assert (told.status, [made.path for made in told.artifacts]) == (Status.OK, ["a"] * changed), code
        assert await content(node, session, "a") == b"\0\1\1\1" + bytes(4092)

    async def test_are_stored_with_the_execution_that_changed_them_whatever_times_they_have(
        self, node: Node, session: str
    ) -> None:
        for number in range(3):
            code = f"import os; open('a', 'w').write('{number}'); os.utime('a', ns=(1, {-1 - number}))"
            told = await execute(node, session, code)
            assert (told.status, [made.path for made in told.artifacts]) == (Status.OK, ["a"])
            assert await content(node, session, "a") == str(number).encode()

    async def test_that_nobody_may_read_is_said_and_neither_removed_nor_told_as_it_was(
        self, node: Node, session: str
    ) -> None:
        await execute(node, session, "open('a', 'w').write('old')")
        told = await execute(node, session, "import os; open('a', 'w').write('new'); os.chmod('a', 0)")
        assert "1 file could not be stored: name, size or mode ('a')" in told.reason
        assert (len(told.artifacts), told.removed) == (1, ())
        with pytest.raises(FileForbidden, match="a: Permission denied"):
            await node.file(LOCAL, session, "a")
        await execute(node, session, "os.chmod('a', 0o600)")
        assert await content(node, session, "a") == b"new"

    @pytest.mark.parametrize("mode", ["0", "0o444"])
    async def test_in_a_directory_that_is_shut_stays_stored(self, node: Node, session: str, mode: str) -> None:
        await execute(node, session, "import os; os.mkdir('d'); open('d/a', 'w').write('kept')")
        await execute(node, session, "open('old', 'w').write('x')")
        told = await execute(node, session, f"os.chmod('d', {mode}); os.unlink('old'); open('new', 'w').write('x')")
        assert "not looked at" in told.reason
        assert ([(made.path, made.change) for made in told.artifacts], told.removed) == ([("new", "created")], ("old",))
        listed = await node.files(LOCAL, session)
        assert ([row.path for row in listed.rows], listed.complete) == (["d/a", "new"], False)
        await kill_sandbox(node)
        told = await execute(node, session, "import os; print(open('d/a').read(), os.path.exists('old'))")
        assert told.stdout == "kept False\n"


class TestFailures:
    async def test_a_session_whose_end_cannot_be_written_holds_no_place_and_ends_when_it_can(self, node: Node) -> None:
        owner = Owner("patient", KeyLimits(sessions=1))
        row = await node.open_session(owner)
        with refusing(node, "UPDATE ON sessions"):
            with pytest.raises(Unready):
                await node.close_session(owner, row.id)
            with pytest.raises(SessionClosed):
                await node.execute(owner, row.id, "1")
        await node.sweep(time.time())
        assert (found := await node.store.session(owner.id, row.id)) is not None
        assert found.status == "closed"
        again = await node.open_session(owner)
        with refusing(node, "UPDATE ON sessions"), pytest.raises(Unready):
            await node.close_session(owner, again.id)
        assert (await node.close_session(owner, again.id)).status == "closed"
        assert (found := await node.store.session(owner.id, again.id)) is not None
        assert found.status == "closed"

    async def test_an_end_that_cannot_be_written_is_our_error_and_is_written_later(
        self, node: Node, session: str
    ) -> None:
        with refusing(node, "UPDATE ON executions"):
            log = await node.execute(LOCAL, session, "print('result')")
            with pytest.raises(Unready):
                await log.result()
            assert (await node.execution(LOCAL, session, log.execution_id)).execution is None
            await node.close_session(LOCAL, session)
            again = await node.follow(LOCAL, session, log.execution_id)
            with pytest.raises(Unready):
                await again.result()
            await node.sweep(time.time())
        await node.sweep(time.time())
        end = await (await node.follow(LOCAL, session, log.execution_id)).result()
        assert (end.status, end.stdout) == (Status.OK, "result\n")

    async def test_an_execution_that_cannot_be_written_down_is_our_error_and_not_its_programs(
        self, node: Node, session: str
    ) -> None:
        with refusing(node, "INSERT ON executions"):
            log = await node.execute(LOCAL, session, "print('unseen')")
            with pytest.raises(Unready):
                await log.result()
        with pytest.raises(Unready):  # and no event before that
            await anext(aiter(log.follow()))
        assert node.running == 0
        assert (await execute(node, session, "print(1)")).stdout == "1\n"

    async def test_a_run_whose_session_is_closed_under_it_has_an_end(self, node: Node) -> None:
        log = await node.run(LOCAL, "print(1, flush=True)\nwhile True: pass")
        async for event in log.follow():
            if event.name == "stdout":
                break
        await node.close_session(LOCAL, log.session_id)
        assert (await log.result()).status is Status.CANCELLED
        assert (await node.execution(LOCAL, log.session_id, log.execution_id)).execution == await log.result()
        await until(lambda: node.running == 0)


class TestWaking:
    async def test_all_who_wait_for_one_sandbox_wait_once_and_are_refused_together(
        self, node: Node, asleep: str
    ) -> None:
        others = [await node.open_session(LOCAL), await node.open_session(LOCAL)]  # they have all memory
        waiting = [asyncio.create_task(node.execute(LOCAL, asleep, "1")) for _ in range(5)]
        await until(lambda: node.admission.waiting == 1)
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for _ in range(10):
            await asyncio.sleep(0)
        assert [task.done() for task in waiting] == [True] * 5
        for task in waiting:
            with pytest.raises(QueueFull, match="no memory became free"):
                await task
        for row in others:
            await node.close_session(LOCAL, row.id)
        ends = await asyncio.gather(*(execute(node, asleep, "1") for _ in range(5)))
        assert {end.status for end in ends} == {Status.OK}

    async def test_what_is_accepted_while_the_old_sandbox_expires_runs_in_a_new_one(self, node: Node) -> None:
        launcher = Embedded.below(os.getpid()).launcher
        row = await node.open_session(LOCAL, idle_timeout=1.0)
        os.kill(launcher, signal.SIGSTOP)  # a sandbox takes a moment to end
        try:
            held = await node._held(LOCAL, row.id)
            await until(lambda: held.live is None)
            accepting = asyncio.create_task(node.execute(LOCAL, row.id, "print('ran'); open('a', 'w').close()"))
            await until(lambda: held.running == 1)
        finally:
            os.kill(launcher, signal.SIGCONT)
        end = await (await accepting).result()
        assert (end.status, end.stdout) == (Status.OK, "ran\n")
        assert [made.path for made in end.artifacts] == ["a"]
        await node.close_session(LOCAL, row.id)


class TestDying:
    async def test_nothing_is_left_here_of_a_sandbox_that_died_by_itself(self, node: Node, session: str) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            assert (await execute(node, session, "1")).status is Status.OK
            await kill_sandbox(node)
        await until(lambda: len(os.listdir("/proc/self/fd")) < before)  # that of its first sandbox is closed as well
        assert not list(node.engine._sessions)

    async def test_how_it_died_is_told_and_not_that_we_let_go_of_it(self, node: Node, session: str) -> None:
        log = await node.execute(LOCAL, session, "import time; print('begun', flush=True); time.sleep(60)")
        async with contextlib.aclosing(log.follow()) as events:
            async for event in events:
                if event.name == "stdout":
                    break
        await kill_sandbox(node)
        end = await log.result()
        assert (end.status, end.state_lost, "stopped" in end.reason) == (Status.KILLED, True, False)


class TestGarbage:
    async def test_is_looked_for_every_ten_minutes(self, node: Node, session: str) -> None:
        now = time.time() + 1000
        await node.sweep(now)
        row = await node.put_file(LOCAL, session, "a", pieces(b"bytes of this test alone"))
        await node.remove_file(LOCAL, session, "a")
        await node.sweep(now + 30)
        assert [piece async for piece in node.pieces(row)] == [b"bytes of this test alone"]
        await node.sweep(now + 600)
        with pytest.raises(FileMissing):
            await anext(aiter(node.pieces(row)))


class TestLives:
    async def test_files_for_which_the_next_sandbox_has_no_room_stay_stored_and_keep_nobody_out(
        self, node: Node, tmp_path: Path
    ) -> None:
        runtime = node.engine.runtime
        async with opened(tmp_path, runtime=runtime, **SMALL) as node:
            row = await node.open_session(LOCAL)
            await execute(node, row.id, f"open('large', 'wb').write(bytes({2 * MIB})); open('small', 'w').write('s')")
        async with opened(tmp_path, runtime=runtime, **SMALL | {"disk_mb": 1}) as node:
            told = await execute(node, row.id, "import os; print(os.listdir()); open('new', 'w').close()")
            assert (told.status, told.stdout) == (Status.OK, "['small']\n")
            assert told.reason == "1 stored files were left out of the new sandbox ('large')"
            assert (await execute(node, row.id, "1")).reason == ""
            assert await paths(node, row.id) == ["large", "new", "small"]
            assert await content(node, row.id, "large") == bytes(2 * MIB)
            await node.remove_file(LOCAL, row.id, "large")
            assert await paths(node, row.id) == ["new", "small"]
