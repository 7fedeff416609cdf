"""A client's stretch of work: its queue, its end, its files, and what it refuses to be asked."""

import asyncio
import contextlib
import os
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import sandbox
from sandbox.config import Settings
from sandbox.engine import Engine
from sandbox.errors import (
    FileMissing,
    InvalidCode,
    InvalidField,
    InvalidLimits,
    InvalidPath,
    InvalidRequest,
    QueueFull,
    SessionClosed,
    SessionExpired,
    UnknownImage,
    WorkspaceFull,
)
from sandbox.execution import Calls, Execution, Limits, Output, Status, Stream
from sandbox.image import Image
from sandbox.session import Session

FOREVER = "print('on', flush=True)\nwhile True: pass"


@pytest.fixture
async def busy(session: Session) -> AsyncIterator[tuple[Session, asyncio.Task[Execution]]]:
    """A session with an execution in flight that would never end by itself."""
    task = await begin(session)
    yield session, task
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def begin(session: Session, code: str = FOREVER) -> asyncio.Task[Execution]:
    """Start an execution and wait for its first output."""
    started = asyncio.Event()

    async def follow() -> Execution:
        async with contextlib.aclosing(session.stream(code, 60)) as items:
            async for item in items:
                started.set()
                if isinstance(item, Execution):
                    return item
        raise AssertionError("the stream had no execution")

    task = asyncio.create_task(follow())
    waiting = asyncio.create_task(started.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    return task


async def goes_on(session: Session) -> bool:
    execution = await session.execute("print('on')")
    return (execution.status, execution.stdout) == (Status.OK, "on\n")


class TestExecution:
    async def test_it_tells_everything_about_itself(self, session: Session) -> None:
        execution = await session.execute("import sys; print('out'); print('err', file=sys.stderr); 6 * 7")
        assert execution.session_id == session.id
        assert (execution.status, execution.reason, execution.error) == (Status.OK, "", None)
        assert (execution.stdout, execution.stderr) == ("out\n", "err\n")
        assert execution.results == ({"text/plain": "42"},)
        assert execution.execution_count == 1
        assert execution.duration_ms > 0
        assert execution.cpu_ms > 0
        assert execution.peak_memory_bytes > 0
        assert not execution.truncated
        assert not execution.state_lost

    async def test_variables_stay_from_one_to_the_next(self, session: Session) -> None:
        await session.execute("x = 6")
        assert (await session.execute("x * 7")).results == ({"text/plain": "42"},)

    async def test_outputs_stream_as_they_come_and_the_execution_comes_last(self, session: Session) -> None:
        items: list[Output | Calls | Execution] = []
        # The program waits for a file that is written only after its first words were seen.
        code = "import os\nprint('first', flush=True)\nwhile not os.path.exists('go'): pass\nprint('second')"
        async for item in session.stream(code):
            items.append(item)
            if item == Stream("stdout", "first\n"):
                await session.upload("go", b"")
        *outputs, last = items
        assert outputs == [Stream("stdout", "first\n"), Stream("stdout", "second\n")]
        assert isinstance(last, Execution)
        assert last.stdout == "first\nsecond\n"

    async def test_artifacts_are_what_it_made_or_changed(self, session: Session) -> None:
        await session.upload("old.csv", b"a")
        await session.upload("same.csv", b"a")
        code = "open('old.csv', 'a').write('b'); open('new.png', 'w'); import os; os.mkdir('d'); open('d/x.bin', 'w')"
        execution = await session.execute(code)
        seen = [(artifact.path, artifact.size, artifact.mime, artifact.change) for artifact in execution.artifacts]
        assert seen == [
            ("d/x.bin", 0, "application/octet-stream", "created"),
            ("new.png", 0, "image/png", "created"),
            ("old.csv", 2, "text/csv", "changed"),
        ]

    async def test_a_change_that_forges_its_time_is_still_seen(self, session: Session) -> None:
        await session.upload("old.csv", b"a")
        code = "import os; s = os.stat('old.csv'); open('old.csv', 'w').write('b'); "
        execution = await session.execute(code + "os.utime('old.csv', ns=(s.st_atime_ns, s.st_mtime_ns))")
        assert [artifact.path for artifact in execution.artifacts] == ["old.csv"]

    async def test_an_exception_is_told_with_its_traceback(self, session: Session) -> None:
        execution = await session.execute("def f(): return 1 / 0\nf()")
        assert execution.status is Status.ERROR
        assert execution.error is not None
        assert (execution.error.name, execution.error.value) == ("ZeroDivisionError", "division by zero")
        assert "Cell In[1], line 2" in execution.error.traceback
        assert "\x1b" not in execution.error.traceback

    async def test_code_may_be_bytes(self, session: Session) -> None:
        assert (await session.execute("print('ü')".encode())).stdout == "ü\n"

    async def test_empty_code_is_code(self, session: Session) -> None:
        assert (await session.execute("")).status is Status.OK

    async def test_environment_variables_can_be_given(self, engine: Engine) -> None:
        async with engine.session(env={"FLAVOUR": "früh"}) as session:
            assert (await session.execute("import os; print(os.environ['FLAVOUR'])")).stdout == "früh\n"

    @pytest.mark.parametrize(
        ("env", "words"),
        [
            ({"A": 1}, "'A' is 1; names and values are texts"),
            ({"A": "\0"}, "no process can have a variable 'A'"),
            ({"A": "\ud800"}, "no process can have a variable 'A'"),
            ({"": "x"}, "no process can have a variable ''"),
            ({"A=B": "x"}, "no process can have a variable 'A=B'"),
            ({"A": "x" * (32 << 10)}, "over 32768 bytes"),
        ],
    )
    async def test_an_environment_that_cannot_be_is_refused(
        self, engine: Engine, env: dict[str, str], words: str
    ) -> None:
        with pytest.raises(InvalidField, match=words):
            await engine.open_session(env=env)

    async def test_arguments_of_another_type_are_refused_with_words_for_it(
        self, engine: Engine, session: Session
    ) -> None:
        with pytest.raises(InvalidLimits, match=r"memory_mb is 1000\.0; give a whole number"):
            await engine.open_session(memory_mb=1000.0)  # type: ignore[arg-type]
        with pytest.raises(InvalidLimits, match="cpus is '1'; give a number"):
            Limits(cpus="1")  # type: ignore[arg-type]
        for given in (512.0, True):
            with pytest.raises(InvalidLimits, match=f"memory_mb is {given}; give a whole number"):
                Limits(memory_mb=given)  # type: ignore[arg-type]
        with pytest.raises(InvalidLimits, match=r"limits is of type dict; give sandbox\.Limits"):
            await engine.open_session(limits={"memory_mb": 512})  # type: ignore[arg-type]
        with pytest.raises(InvalidLimits, match="idle_timeout is of type str; give a number of seconds"):
            await engine.open_session(idle_timeout="5")  # type: ignore[arg-type]
        with pytest.raises(InvalidLimits, match="timeout is of type str; give a number of seconds"):
            await session.execute("1", "5")  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match=r"text cannot be uploaded; give bytes"):
            await session.upload("a", "text")  # type: ignore[arg-type]
        with pytest.raises(RuntimeError, match=r"async with sandbox\.Engine\.open"):
            sandbox.run("1")

    async def test_a_run_is_one_fresh_sandbox(self, engine: Engine) -> None:
        execution = await engine.run("print(open('/mnt/data/in.txt').read())", files={"in.txt": b"here"})
        assert execution.stdout == "here\n"
        assert (await engine.run("import os; print(os.listdir('/mnt/data'))")).stdout == "[]\n"


async def test_however_many_restarts_overlap_the_sandbox_survives(session: Session) -> None:
    restarting = []
    for _ in range(20):  # each kills a kernel that is not ready yet
        restarting.append(asyncio.create_task(session.restart()))
        await asyncio.sleep(0.01)
    await asyncio.gather(*restarting)
    assert (await session.execute("1")).status is Status.OK


async def test_after_restarts_that_overlap_the_next_execution_has_a_kernel_that_lives(session: Session) -> None:
    for number in range(40):
        first = asyncio.create_task(session.restart())
        await asyncio.sleep(0.001 * number)
        await asyncio.gather(first, session.restart())
        execution = await session.execute("1")
        assert (execution.status, execution.state_lost, execution.reason) == (Status.OK, False, "")


async def test_a_form_of_too_many_levels_is_left_out_and_counted(session: Session) -> None:
    code = """
        from IPython.display import display
        for levels in (90, 500, 900):
            form = []
            for _ in range(levels): form = [form]
            display({"application/json": form, "text/plain": str(levels)}, raw=True)
    """
    execution = await session.execute(textwrap.dedent(code))
    assert (execution.status, execution.truncated.results) == (Status.OK, 2)
    assert [sorted(result) for result in execution.results] == [
        ["application/json", "text/plain"],
        ["text/plain"],
        ["text/plain"],
    ]


class TestInterrupt:
    async def test_it_ends_the_execution_and_keeps_variables(
        self, busy: tuple[Session, asyncio.Task[Execution]]
    ) -> None:
        session, task = busy
        await session.interrupt()
        execution = await task
        assert (execution.status, execution.state_lost) == (Status.INTERRUPTED, False)
        assert execution.stdout == "on\n"
        assert await goes_on(session)

    @pytest.mark.parametrize("rest", ["await asyncio.sleep(600)", "await asyncio.sleep(0)\nwhile True: pass"])
    async def test_it_ends_a_program_that_awaits(self, session: Session, rest: str) -> None:
        task = await begin(session, f"import asyncio\nx = 1\nprint('on', flush=True)\n{rest}")
        await session.interrupt()
        execution = await task
        assert (execution.status, execution.state_lost) == (Status.INTERRUPTED, False)
        assert (await session.execute("x")).results == ({"text/plain": "1"},)

    async def test_a_program_that_ignores_it_is_killed(self, session: Session) -> None:
        code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + FOREVER
        task = await begin(session, code)
        await session.interrupt()
        execution = await task
        assert (execution.status, execution.state_lost) == (Status.INTERRUPTED, True)
        assert execution.reason == "it ignored the interrupt and was killed"
        assert await goes_on(session)

    async def test_without_an_execution_nothing_happens(self, session: Session) -> None:
        await session.execute("x = 1")
        await session.interrupt()
        execution = await session.execute("x")
        assert (execution.status, execution.state_lost) == (Status.OK, False)

    @pytest.mark.attack("D16")
    async def test_a_storm_of_them_is_one(self, busy: tuple[Session, asyncio.Task[Execution]]) -> None:
        session, task = busy
        await asyncio.gather(*(session.interrupt() for _ in range(200)))
        assert (await task).status is Status.INTERRUPTED
        for _ in range(3):
            assert await goes_on(session)

    async def test_a_program_may_handle_it_and_end_well(self, session: Session) -> None:
        task = await begin(
            session, "try:\n    print('on')\n    while True: n = 1\nexcept KeyboardInterrupt: print('bye')"
        )
        await session.interrupt()
        execution = await task
        assert (execution.status, execution.stdout) == (Status.OK, "on\nbye\n")


class TestRestart:
    async def test_variables_go_and_files_stay_and_nobody_is_surprised(self, session: Session) -> None:
        await session.execute("x = 1; open('kept', 'w').write('kept')")
        await session.restart()
        execution = await session.execute("print('x' in globals(), open('kept').read())")
        assert (execution.stdout, execution.state_lost) == ("False kept\n", False)
        assert execution.execution_count == 1

    async def test_an_execution_in_flight_ends_as_killed(self, busy: tuple[Session, asyncio.Task[Execution]]) -> None:
        session, task = busy
        await session.restart()
        execution = await task
        assert (execution.status, execution.state_lost) == (Status.KILLED, True)
        assert await goes_on(session)

    async def test_it_can_be_done_again_and_again(self, session: Session) -> None:
        for _ in range(4):
            await session.restart()
        assert await goes_on(session)

    async def test_lost_state_is_told_once(self, session: Session) -> None:
        assert (await session.execute("import os; os._exit(0)")).state_lost
        assert not (await session.execute("1")).state_lost


class TestQueue:
    @pytest.mark.attack("E16")
    async def test_executions_run_one_at_a_time_in_the_order_they_came(self, session: Session) -> None:
        await session.execute("seen = []")
        # The first ones take longest, so that any overlap or overtaking would show.
        codes = [f"import time; time.sleep({0.02 * (8 - n)}); seen.append({n}); print(seen)" for n in range(8)]
        executions = await asyncio.gather(*(session.execute(code) for code in codes))
        assert [execution.stdout for execution in executions] == [f"{list(range(n + 1))}\n" for n in range(8)]

    @pytest.mark.attack("E16", "H15")
    async def test_it_is_bounded_and_says_so_at_once(self, engine: Engine) -> None:
        async with engine.session() as session:
            running = await begin(session)
            waiting = [asyncio.create_task(session.execute(f"print({n})")) for n in range(engine.settings.queue_size)]
            await asyncio.sleep(0)  # lets them take their places
            with pytest.raises(QueueFull, match="wait"):
                await session.execute("print('one too many')")
            await session.interrupt()
            assert (await running).status is Status.INTERRUPTED
            assert [(await task).stdout for task in waiting] == [f"{n}\n" for n in range(len(waiting))]
            assert await goes_on(session)

    async def test_who_gives_up_waiting_leaves_the_queue(self, busy: tuple[Session, asyncio.Task[Execution]]) -> None:
        session, task = busy
        waiting = asyncio.create_task(session.execute("print('never')"))
        await asyncio.sleep(0)  # lets it take its place
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not task.done()
        await session.interrupt()
        await task
        assert await goes_on(session)

    async def test_sessions_do_not_wait_for_each_other(
        self, engine: Engine, busy: tuple[Session, asyncio.Task[Execution]]
    ) -> None:
        async with engine.session() as other:
            assert await goes_on(other)
        assert not busy[1].done()


class TestCancellation:
    async def test_it_stops_the_program_and_the_session_goes_on(
        self, busy: tuple[Session, asyncio.Task[Execution]]
    ) -> None:
        session, task = busy
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await goes_on(session)

    async def test_at_any_moment_is_as_good(self, session: Session) -> None:
        for turns in range(0, 40, 3):
            task = asyncio.create_task(session.execute("print('x' * 100); print('y')"))
            for _ in range(turns):
                await asyncio.sleep(0)  # one turn of the loop each, so that it is met at different points
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert await goes_on(session)

    async def test_a_program_that_ignores_it_loses_its_state_and_that_is_told(self, session: Session) -> None:
        await session.execute("import signal; x = 1")
        task = await begin(session, "signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + FOREVER)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        execution = await session.execute("'x' in globals()")
        assert (execution.results, execution.state_lost) == (({"text/plain": "False"},), True)

    async def test_leaving_a_stream_early_stops_the_program(self, session: Session) -> None:
        async with contextlib.aclosing(session.stream(FOREVER)) as items:
            async for _ in items:
                break
        assert await goes_on(session)

    async def test_leaving_a_stream_without_closing_it_stops_the_program_too(self, session: Session) -> None:
        async for _ in session.stream(FOREVER):
            break
        assert await goes_on(session)

    async def test_a_timeout_of_the_callers_own_is_a_cancellation(self, session: Session) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await session.execute("while True: pass")
        assert await goes_on(session)


class TestEnd:
    async def test_a_closed_session_takes_nothing(self, engine: Engine) -> None:
        session = await engine.open_session()
        await engine.close_session(session)
        assert not session.open
        for request in requests(session):
            with pytest.raises(SessionClosed, match="open a new one"):
                await request()

    async def test_closing_twice_is_closing_once(self, engine: Engine) -> None:
        session = await engine.open_session()
        await asyncio.gather(session.close(), session.close())
        await engine.close_session(session)

    async def test_executions_in_flight_and_in_the_queue_end_as_cancelled(self, engine: Engine) -> None:
        session = await engine.open_session()
        running = await begin(session)
        waiting = asyncio.create_task(session.execute("1"))
        await asyncio.sleep(0)  # lets it take its place
        await engine.close_session(session)
        assert (await running).status is Status.CANCELLED
        assert (await running).stdout == "on\n"
        execution = await waiting
        assert (execution.status, execution.reason) == (Status.CANCELLED, "its session closed while it waited")

    async def test_an_idle_session_expires(self, engine: Engine) -> None:
        session = await engine.open_session(idle_timeout=0.2)
        assert await goes_on(session)
        await session._kernel.sandbox.wait()
        assert not session.open
        for request in requests(session):
            with pytest.raises(SessionExpired, match=r"idle for 0.2 s; open a new one"):
                await request()
        await engine.close_session(session)

    async def test_a_session_that_works_does_not_expire(self, engine: Engine) -> None:
        async with engine.session(idle_timeout=0.3) as session:
            for _ in range(3):
                execution = await session.execute("import time; time.sleep(0.5)")
                assert execution.status is Status.OK

    async def test_the_engines_end_is_the_end_of_its_sessions(self, root: None, python_image: Image) -> None:
        async with Engine.open(Settings(pool_size=0)) as engine:
            session = await engine.open_session()
            running = await begin(session)
        assert (await running).status is Status.CANCELLED
        with pytest.raises(SessionClosed):
            await session.execute("1")


def requests(session: Session) -> list[Callable[[], Awaitable[Any]]]:
    """Everything that a session can be asked for."""
    return [
        lambda: session.execute("1"),
        session.interrupt,
        session.restart,
        session.list,
        lambda: session.upload("x", b""),
        lambda: session.download("x"),
        lambda: session.remove("x"),
    ]


class TestBadRequests:
    """Each is refused with what to do next, and nothing is lost by it."""

    @pytest.mark.parametrize(
        ("code", "words"),
        [
            pytest.param(b"print('\xff')", "not valid UTF-8", id="not UTF-8"),
            pytest.param("print('\ud800')", "not valid UTF-8", id="a lone surrogate"),
            pytest.param("x" * ((1 << 20) + 1), "1048576 at most", id="over 1 MiB"),
            pytest.param("ü" * (1 << 19) + "x", "1048576 at most", id="over 1 MiB in bytes"),
            pytest.param("print(1)\0", "NUL", id="NUL"),
        ],
    )
    async def test_code(self, session: Session, code: str | bytes, words: str) -> None:
        await session.execute("x = 1")
        with pytest.raises(InvalidCode, match=words):
            await session.execute(code)
        execution = await session.execute("x")
        assert (execution.status, execution.execution_count) == (Status.OK, 2)

    async def test_code_of_exactly_1_mib_is_fine(self, session: Session) -> None:
        code = "print(1)#"
        assert (await session.execute(code + "x" * ((1 << 20) - len(code)))).stdout == "1\n"

    @pytest.mark.parametrize("timeout", [0, -1, 3601, float("inf"), float("nan"), 1e308])
    async def test_a_timeout(self, session: Session, timeout: float) -> None:
        with pytest.raises(InvalidLimits, match="3600 s at most"):
            await session.execute("1", timeout)
        assert await goes_on(session)

    @pytest.mark.parametrize(
        "limits",
        [
            {"memory_mb": 100},
            {"memory_mb": -1},
            {"cpus": 0},
            {"cpus": float("nan")},
            {"processes": 0},
            {"disk_mb": 0},
            {"disk_mb": 512},
            {"files": 0},
            {"output_bytes": 0},
            {"results": 0},
            {"result_bytes": 1 << 30},
        ],
    )
    def test_limits(self, limits: dict[str, Any]) -> None:
        with pytest.raises(InvalidLimits, match=f"{next(iter(limits))} is .*; choose a value from"):
            Limits(**limits)

    async def test_more_memory_than_this_host_allows(self, engine: Engine) -> None:
        with pytest.raises(InvalidLimits, match="this host allows"):
            await engine.open_session(memory_mb=engine.settings.max_memory_mb + 1)

    @pytest.mark.parametrize("idle_timeout", [0, -1, float("inf"), float("nan"), 31 * 86_400])
    async def test_an_idle_timeout(self, engine: Engine, idle_timeout: float) -> None:
        with pytest.raises(InvalidLimits, match="30 days at most"):
            await engine.open_session(idle_timeout=idle_timeout)

    @pytest.mark.parametrize("image", ["nonesuch", "../python", "", "/etc"])
    async def test_an_unknown_image(self, engine: Engine, image: str) -> None:
        if not image:
            return  # no name means the default image
        with pytest.raises(UnknownImage):
            await engine.open_session(image=image)

    @pytest.mark.parametrize(
        "path",
        [
            "",
            ".",
            "..",
            "../x",
            "a/../x",
            "a/../../x",
            "/etc/passwd",
            "/mnt/data",
            "/mnt/data/",
            "/mnt/data/../x",
            "/mnt/datax",
            "//x",
            "a//b",
            "a/",
            "a\0b",
            "a\nb",
            "a\rb",
            "a\x1bb",
            "..\\x",
            "a\\b",
            "x" * 256,
            "ü" * 128,
            "/".join("x" * 17),
            "\ud800",
            "\u202etxt.exe",
            "\u200b",
        ],
    )
    @pytest.mark.attack("B13")
    async def test_a_path(self, session: Session, path: str) -> None:
        for request in (session.upload(path, b"x"), session.download(path), session.remove(path)):
            with pytest.raises(InvalidPath):
                await request
        assert await session.list() == []


class TestFiles:
    async def test_what_goes_up_comes_down(self, session: Session) -> None:
        data = bytes(range(256)) * 100
        assert (await session.upload("a/b/x.bin", data)).size == len(data)
        assert await session.download("a/b/x.bin") == data
        assert await session.download("/mnt/data/a/b/x.bin") == data
        assert (await session.execute("print(len(open('a/b/x.bin', 'rb').read()))")).stdout == f"{len(data)}\n"

    async def test_an_empty_file_is_a_file(self, session: Session) -> None:
        assert (await session.upload("empty", b"")).size == 0
        assert await session.download("empty") == b""

    async def test_the_program_can_change_what_was_uploaded(self, session: Session) -> None:
        await session.upload("x.txt", b"one")
        await session.execute("open('x.txt', 'a').write(' two')")
        assert await session.download("x.txt") == b"one two"

    async def test_a_second_upload_replaces_the_first(self, session: Session) -> None:
        await session.upload("x.txt", b"a long first one")
        await session.upload("x.txt", b"short")
        assert await session.download("x.txt") == b"short"
        assert [(file.path, file.size) for file in await session.list()] == [("x.txt", 5)]

    async def test_they_are_listed_by_path(self, session: Session) -> None:
        await asyncio.gather(*(session.upload(path, b"x") for path in ("b", "a/z", "a/y", "c.d")))
        assert [file.path for file in await session.list()] == ["a/y", "a/z", "b", "c.d"]

    async def test_they_can_be_removed(self, session: Session) -> None:
        await session.upload("x", b"x")
        await session.remove("x")
        assert await session.list() == []
        for request in (session.remove("x"), session.download("x")):
            with pytest.raises(FileMissing):
                await request

    @pytest.mark.attack("B14")
    async def test_a_directory_is_no_file(self, session: Session) -> None:
        await session.upload("d/x", b"x")
        for request in (session.download("d"), session.remove("d")):
            with pytest.raises((FileMissing, InvalidPath)):
                await request
        with pytest.raises(InvalidPath):
            await session.upload("d", b"x")
        assert [file.path for file in await session.list()] == ["d/x"]

    async def test_a_file_is_no_directory(self, session: Session) -> None:
        await session.upload("f", b"x")
        with pytest.raises(InvalidPath):
            await session.upload("f/x", b"x")
        assert await session.download("f") == b"x"

    async def test_a_hundred_megabytes_go_both_ways(self, engine: Engine) -> None:
        piece = os.urandom(1 << 20)

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield piece

        async with engine.session(limits=Limits(memory_mb=1024, disk_mb=512)) as session:
            assert (await session.upload("big.bin", pieces())).size == 100 << 20
            code = "import hashlib; print(hashlib.file_digest(open('big.bin', 'rb'), 'sha256').hexdigest())"
            execution = await session.execute(code)
            data = await session.download("big.bin")
            assert data == piece * 100
            assert len(execution.stdout) == 65

    @pytest.mark.attack("B23")
    async def test_more_than_the_disk_holds_is_refused_whole(self, session: Session) -> None:
        await session.upload("kept", b"kept")
        with pytest.raises(WorkspaceFull, match="have disk_mb raised"):
            await session.upload("big", bytes(300 << 20))
        assert [(file.path, file.size) for file in await session.list()] == [("kept", 4)]
        assert (await session.upload("fits", bytes(100 << 20))).size == 100 << 20

    @pytest.mark.attack("B23")
    async def test_an_upload_that_breaks_off_leaves_nothing(self, session: Session) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"half"
            raise ConnectionError("the client went away")

        with pytest.raises(ConnectionError):
            await session.upload("x", pieces())
        assert await session.list() == []

    async def test_an_upload_that_is_cancelled_leaves_nothing(self, session: Session) -> None:
        reached = asyncio.Event()

        async def pieces() -> AsyncIterator[bytes]:
            yield b"half"
            reached.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(session.upload("x", pieces()))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await session.list() == []

    async def test_cancelled_at_any_moment_they_leave_nothing_open(self, session: Session) -> None:
        await session.upload("kept", bytes(3 << 20))
        for turns in range(60):
            transfer = session.upload("x", bytes(3 << 20)) if turns % 2 else session.download("kept")
            task = asyncio.ensure_future(transfer)
            for _ in range(turns // 4):
                await asyncio.sleep(0)  # one turn of the loop each, so that it is met at different points
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert {file.path for file in await session.list()} <= {"kept", "x"}
        assert (await session.upload("x", b"x")).path == "x"
        assert len(await session.download("kept")) == 3 << 20

    async def test_any_number_at_once_is_fine(self, session: Session) -> None:
        await asyncio.gather(*(session.upload(f"{n}", b"x") for n in range(100)))
        assert await asyncio.gather(*(session.download(f"{n}") for n in range(100))) == [b"x"] * 100

    async def test_many_at_once_do_not_disturb_each_other(self, session: Session) -> None:
        contents = {f"{n}.bin": os.urandom(2 << 20) for n in range(20)}
        await asyncio.gather(*(session.upload(path, data) for path, data in contents.items()))
        downloads = await asyncio.gather(*(session.download(path) for path in contents))
        assert downloads == list(contents.values())

    async def test_they_can_be_used_while_a_program_runs(self, busy: tuple[Session, asyncio.Task[Execution]]) -> None:
        session, task = busy
        await session.upload("x", b"x")
        assert await session.download("x") == b"x"
        assert not task.done()


class TestHostileFiles:
    """What a program leaves in its workspace for us to trip over."""

    @pytest.mark.parametrize(
        "target", ["/etc/passwd", "/proc/self/environ", "/proc/1/root/etc/passwd", "../../etc/passwd"]
    )
    @pytest.mark.attack("B01", "B02")
    async def test_a_link_out_is_not_followed(self, session: Session, target: str) -> None:
        await session.execute(f"import os; os.symlink({target!r}, 'link.txt')")
        assert await session.list() == []
        with pytest.raises((InvalidPath, FileMissing)):
            await session.download("link.txt")

    @pytest.mark.attack("B03")
    async def test_a_link_to_a_directory_is_not_followed(self, session: Session) -> None:
        await session.execute("import os; os.symlink('/etc', 'd'); os.symlink('/tmp', 't')")
        assert await session.list() == []
        for path in ("d/passwd", "t/x"):
            with pytest.raises((InvalidPath, FileMissing)):
                await session.download(path)
            with pytest.raises((InvalidPath, FileMissing)):
                await session.upload(path, b"x")
            with pytest.raises((InvalidPath, FileMissing)):
                await session.remove(path)
        assert (await session.execute("print(os.listdir('/tmp').count('x'))")).stdout == "0\n"

    @pytest.mark.attack("B01")
    async def test_a_link_inside_the_workspace_is_not_followed_either(self, session: Session) -> None:
        await session.execute("import os; open('x', 'w').write('x'); os.symlink('x', 'link')")
        assert [file.path for file in await session.list()] == ["x"]
        with pytest.raises((InvalidPath, FileMissing)):
            await session.download("link")

    @pytest.mark.attack("B14")
    async def test_an_upload_onto_a_link_replaces_the_link(self, session: Session) -> None:
        await session.execute("import os; open('/tmp/target', 'w').write('safe'); os.symlink('/tmp/target', 'link')")
        await session.upload("link", b"new")
        execution = await session.execute("print(os.path.islink('link'), open('/tmp/target').read())")
        assert execution.stdout == "False safe\n"
        assert await session.download("link") == b"new"

    @pytest.mark.attack("B14")
    async def test_removing_a_link_removes_the_link(self, session: Session) -> None:
        await session.execute("import os; open('/tmp/target', 'w').write('safe'); os.symlink('/tmp/target', 'link')")
        await session.remove("link")
        assert (
            await session.execute("print(os.path.lexists('link'), open('/tmp/target').read())")
        ).stdout == "False safe\n"

    @pytest.mark.attack("B07")
    async def test_a_fifo_cannot_be_made(self, session: Session) -> None:
        execution = await session.execute("import os; os.mkfifo('out.csv')")
        assert execution.error is not None
        assert execution.error.name == "PermissionError"

    @pytest.mark.attack("B08")
    async def test_a_socket_is_no_file(self, session: Session) -> None:
        await session.execute("import socket; s = socket.socket(socket.AF_UNIX); s.bind('out.csv'); s.listen()")
        assert await session.list() == []
        with pytest.raises((FileMissing, InvalidPath)):
            await session.download("out.csv")

    @pytest.mark.attack("B09")
    async def test_a_file_with_a_hole_is_as_long_as_it_says(self, session: Session) -> None:
        execution = await session.execute("f = open('hole', 'wb'); f.truncate(64 << 20); f.close()")
        assert [artifact.size for artifact in execution.artifacts] == [64 << 20]
        assert await session.download("hole") == bytes(64 << 20)

    @pytest.mark.attack("B09")
    async def test_a_hole_without_end_is_refused_to_the_program(self, session: Session) -> None:
        execution = await session.execute("f = open('hole', 'wb'); f.truncate(1 << 50)")
        assert execution.error is not None
        assert execution.error.name == "OSError"
        assert [file.size for file in await session.list()] == [0]

    async def test_a_file_that_only_its_owner_may_read_can_be_downloaded(self, session: Session) -> None:
        await session.execute("import os; os.umask(0o777); open('x', 'w').write('x'); os.umask(0o077)")
        assert (await session.execute("os.chmod('x', 0o400)")).status is Status.OK
        assert await session.download("x") == b"x"

    async def test_a_file_that_nobody_may_read_harms_nobody(self, session: Session) -> None:
        await session.execute("import os; open('x', 'w').write('x'); os.chmod('x', 0)")
        with pytest.raises((FileMissing, InvalidPath)):
            await session.download("x")
        await session.upload("x", b"new")
        assert await session.download("x") == b"new"

    @pytest.mark.attack("B12")
    async def test_hostile_names_are_data(self, session: Session) -> None:
        code = """
import os
names = ["a\\nb", "-rf", "x" * 255, "ü" * 127, "..x", "con", " ", "a\\\\b"]
names += ["\\u202etxt.exe", "<script>", "'; ls", "a\\x1b[31m"]
for name in names: open(name, "w").close()
open(b"not-utf8-\\xff", "w").close()
print(len(names))
"""
        execution = await session.execute(code)
        assert execution.stdout == "12\n"
        paths = [file.path for file in await session.list()]
        assert len(paths) == 12
        assert {"a\nb", "-rf", "<script>", "\u202etxt.exe"} <= set(paths)
        assert await session.download("-rf") == b""
        assert {artifact.path for artifact in execution.artifacts} == set(paths)

    @pytest.mark.attack("B11")
    async def test_a_deep_tree_ends_the_walk_and_nothing_else(self, session: Session) -> None:
        code = "import os\nfor _ in range(2000): os.mkdir('d'); os.chdir('d')\nopen('deep', 'w').close()"
        code += "\nos.chdir('/mnt/data')"
        assert (await session.execute(code)).status is Status.OK
        await session.upload("x", b"x")
        assert [file.path for file in await session.list()] == ["x"]

    @pytest.mark.attack("B10")
    async def test_thousands_of_files_do_not_stop_the_next_one(self, session: Session) -> None:
        code = "import os\nfor n in range(8000): open(f'f{n}', 'w').close()"
        execution = await session.execute(code)
        assert execution.status is Status.OK
        assert [made.path for made in execution.artifacts] == sorted(f"f{n}" for n in range(8000))
        assert [file.path for file in await session.list()] == sorted(f"f{n}" for n in range(8000))
        await session.upload("x", b"x")
        assert await session.download("x") == b"x"

    @pytest.mark.attack("B17", "B18", "B19")
    async def test_a_file_that_shrinks_while_it_is_read_ends_early(self, session: Session) -> None:
        await session.upload("x", bytes(32 << 20))
        task = await begin(
            session, "import os\nprint('on', flush=True)\nwhile True: os.truncate('x', 0); os.truncate('x', 32 << 20)"
        )
        for _ in range(5):
            assert len(await session.download("x")) <= 32 << 20
        await session.interrupt()
        assert (await task).status is Status.INTERRUPTED

    @pytest.mark.attack("B04")
    async def test_a_race_of_links_and_files_leaks_nothing(self, session: Session) -> None:
        code = """
import os
open("/tmp/secret", "w").write("secret")
open("good", "w").write("good")
os.symlink("/tmp/secret", "bad")
print("on", flush=True)
while True:
    os.link("good", "new"); os.rename("new", "x")
    os.symlink("/tmp/secret", "new"); os.rename("new", "x")
"""
        task = await begin(session, code)
        seen = set()
        for _ in range(500):
            with contextlib.suppress(FileMissing, InvalidPath):
                seen.add(await session.download("x"))
        await session.interrupt()
        assert (await task).status is Status.INTERRUPTED
        assert seen == {b"good"}
