"""Programs that spin, die, hoard, flood or will not end: each has its status, and the session goes on.

Every hazard runs between two looks: a file is there before and after it, and the next execution works.
"""

import asyncio
import resource
import secrets
import textwrap
from collections.abc import AsyncIterator

import pytest

from sandbox.engine import Engine
from sandbox.execution import Execution, Limits, Status, Stream
from sandbox.session import Session
from tests.host import alive, named


@pytest.fixture
async def survivor(session: Session) -> AsyncIterator[Session]:
    """A session with a variable and a file, of which the file must be there in the end."""
    await session.upload("kept.txt", b"kept")
    await session.execute("kept = 'kept'")
    yield session
    after = await session.execute("print('on', open('/mnt/data/kept.txt').read())")
    assert (after.status, after.stdout) == (Status.OK, "on kept\n"), after
    assert not after.state_lost
    assert await session.download("kept.txt") == b"kept"


async def run(session: Session, code: str, timeout: float | None = None) -> Execution:
    return await session.execute(textwrap.dedent(code), timeout)


async def keeps_state(session: Session) -> bool:
    return (await session.execute("kept")).status is Status.OK


class TestWithoutEnd:
    @pytest.mark.attack("D01")
    async def test_a_busy_loop_times_out_and_keeps_its_variables(self, survivor: Session) -> None:
        execution = await run(survivor, "while True: pass", 0.5)
        assert (execution.status, execution.state_lost) == (Status.TIMEOUT, False)
        assert execution.error is not None
        assert execution.error.name == "KeyboardInterrupt"
        assert await keeps_state(survivor)

    @pytest.mark.attack("D01")
    async def test_a_long_sleep_times_out(self, survivor: Session) -> None:
        assert (await run(survivor, "import time; time.sleep(1e6)", 0.5)).status is Status.TIMEOUT

    @pytest.mark.attack("D02")
    async def test_a_loop_that_swallows_every_exception_is_killed(self, survivor: Session) -> None:
        code = """
            while True:
                try:
                    while True:
                        n = 1
                except BaseException:
                    n = 2
        """
        execution = await run(survivor, code, 0.5)
        assert (execution.status, execution.state_lost) == (Status.TIMEOUT, True)
        assert execution.reason == "it ignored the interrupt and was killed"
        assert not await keeps_state(survivor)

    @pytest.mark.attack("D02")
    async def test_a_handler_that_swallows_the_interrupt_is_killed(self, survivor: Session) -> None:
        code = "import signal; signal.signal(signal.SIGINT, lambda *_: None)\nwhile True: pass"
        execution = await run(survivor, code, 0.5)
        assert (execution.status, execution.state_lost) == (Status.TIMEOUT, True)

    @pytest.mark.attack("D01")
    async def test_a_loop_in_c_that_never_looks_for_signals_is_killed(self, survivor: Session) -> None:
        execution = await run(survivor, "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)", 0.5)
        assert (execution.status, execution.state_lost) == (Status.TIMEOUT, True)

    @pytest.mark.attack("C22")
    async def test_a_regular_expression_that_backtracks_for_ever_times_out(self, survivor: Session) -> None:
        execution = await run(survivor, "import re; re.match(r'(a+)+$', 'a' * 60 + 'b')", 0.5)
        assert execution.status is Status.TIMEOUT

    @pytest.mark.attack("D04")
    async def test_a_stopped_process_times_out(self, survivor: Session) -> None:
        execution = await run(survivor, "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", 0.5)
        assert (execution.status, execution.state_lost) == (Status.TIMEOUT, True)

    @pytest.mark.attack("D03")
    async def test_blocked_signals_are_of_no_use(self, survivor: Session) -> None:
        code = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\nwhile True: pass"
        assert (await run(survivor, code, 0.5)).status is Status.TIMEOUT

    @pytest.mark.attack("D03")
    async def test_waiting_for_a_child_that_never_ends_times_out(self, survivor: Session) -> None:
        execution = await run(survivor, "!trap '' INT; sleep 1000", 0.5)
        assert execution.status is Status.TIMEOUT

    async def test_children_that_ignore_the_interrupt_do_not_outlive_it(self, survivor: Session) -> None:
        code = """
            import signal, subprocess
            ignore = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)
            child = subprocess.Popen(["sleep", "1000"], preexec_fn=ignore)
            while True: pass
        """
        assert (await run(survivor, code, 0.5)).status is Status.TIMEOUT
        execution = await run(survivor, "print(child.wait(5))")
        assert execution.stdout == "-9\n"

    async def test_forks_that_ignore_the_interrupt_and_fork_on_do_not_outlive_it(self, survivor: Session) -> None:
        code = """
            import os, signal
            child = os.fork()
            if child == 0:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                while True:
                    try:
                        if os.fork() == 0: os._exit(0) if os.getpid() % 2 else None
                    except OSError: pass
            while True: pass
        """
        assert (await run(survivor, code, 1)).status is Status.TIMEOUT
        room = """
            import os
            children = []
            for attempt in range(100_000):
                try: pid = os.fork()
                except OSError: continue  # the last of the dead are still on their way out, and count
                if pid == 0: os._exit(0)
                children.append(pid)
                if len(children) == 100: break
            print(len(children))
            for pid in children: os.waitpid(pid, 0)
        """
        assert (await run(survivor, room)).stdout == "100\n"

    @pytest.mark.attack("D13")
    async def test_input_has_nobody_to_ask(self, survivor: Session) -> None:
        execution = await run(survivor, "input('name? ')")
        assert execution.status is Status.ERROR
        assert execution.error is not None
        assert execution.error.name == "EOFError"

    @pytest.mark.attack("D13")
    async def test_the_debugger_does_not_wait_for_anybody(self, survivor: Session) -> None:
        execution = await run(survivor, "breakpoint()", 5)
        assert execution.status is not Status.TIMEOUT


class TestLeaving:
    @pytest.mark.parametrize(
        "code", ["exit()", "quit()", "import sys; sys.exit()", "import sys; sys.exit(0)", "get_ipython().ask_exit()"]
    )
    async def test_leaving_with_success_is_no_failure(self, survivor: Session, code: str) -> None:
        execution = await run(survivor, code)
        assert (execution.status, execution.error, execution.state_lost) == (Status.OK, None, False)
        assert await keeps_state(survivor)

    @pytest.mark.attack("D06")
    async def test_leaving_with_a_failure_is_one(self, survivor: Session) -> None:
        execution = await run(survivor, "import sys; sys.exit(3)")
        assert execution.status is Status.ERROR
        assert execution.error is not None
        assert (execution.error.name, execution.error.value) == ("SystemExit", "3")
        assert await keeps_state(survivor)

    @pytest.mark.attack("D06")
    async def test_an_exit_past_every_handler_is_a_death(self, survivor: Session) -> None:
        execution = await run(survivor, "print('last words'); import os; os._exit(1)")
        assert (execution.status, execution.state_lost) == (Status.KILLED, True)
        assert execution.reason == "the kernel process exited with code 1"
        assert execution.stdout == "last words\n"

    @pytest.mark.attack("D06")
    @pytest.mark.parametrize(
        "end",
        [
            "os._exit(1)",
            "os.abort()",
            "os.kill(os.getpid(), 9)",
            "os.killpg(0, 9)",
            "ctypes.string_at(0)",
            "b'x' * 10**10",
        ],
    )
    async def test_what_was_printed_before_a_death_is_not_lost(self, survivor: Session, end: str) -> None:
        # A burst is gathered for a moment: until somebody else has the text it is only in the process that dies.
        code = f"import ctypes, os\nfor number in range(1000): print('é', number)\n{end}"
        execution = await run(survivor, code)
        assert execution.status in (Status.KILLED, Status.OOM)
        assert execution.stdout == "".join(f"é {number}\n" for number in range(1000))

    async def test_an_exception_out_of_a_signals_handler_neither_loses_text_nor_tells_it_twice(
        self, survivor: Session
    ) -> None:
        code = """
            import signal, sys
            class Alarm(Exception): pass
            def on_alarm(number, frame): raise Alarm
            signal.signal(signal.SIGALRM, on_alarm)
            alarms = number = 0
            while alarms < 200:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.0003)
                    while True:
                        sys.stdout.write(f"{number}.\\n")
                        number += 1
                except Alarm:
                    alarms += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            print(number)
        """
        lines = (await run(survivor, code)).stdout.splitlines()
        told = [int(line.rstrip(".")) for line in lines if line.endswith(".")]
        # Between a line and the count of it an alarm may come: then the line is there again.
        assert told == sorted(told)
        assert set(told) >= set(range(int(lines[-1])))

    @pytest.mark.attack("D06")
    async def test_an_exit_with_0_is_a_death_too(self, survivor: Session) -> None:
        execution = await run(survivor, "import os; os._exit(0)")
        assert (execution.status, execution.state_lost) == (Status.KILLED, True)

    async def test_a_keyboard_interrupt_that_nobody_sent_is_an_error(self, survivor: Session) -> None:
        execution = await run(survivor, "raise KeyboardInterrupt")
        assert (execution.status, execution.state_lost) == (Status.ERROR, False)
        assert await keeps_state(survivor)

    @pytest.mark.attack("D05", "D06")
    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            ("import ctypes; ctypes.string_at(0)", "signal 11 (SIGSEGV)"),
            ("import os; os.abort()", "signal 6 (SIGABRT)"),
            ("import os; os.kill(os.getpid(), 9)", "signal 9 (SIGKILL)"),
            ("import os; os.kill(os.getpid(), 15)", "signal 15 (SIGTERM)"),
            ("import os; os.kill(os.getppid(), 9)", "signal 9 (SIGKILL)"),
            ("import os; os.killpg(0, 9)", "signal 9 (SIGKILL)"),
        ],
    )
    async def test_a_violent_death_names_its_signal(self, survivor: Session, code: str, reason: str) -> None:
        execution = await run(survivor, code)
        assert (execution.status, execution.state_lost) == (Status.KILLED, True)
        assert execution.reason == f"the kernel process died of {reason}"

    @pytest.mark.attack("D05")
    async def test_killing_everybody_else_hurts_nobody(self, survivor: Session) -> None:
        execution = await run(survivor, "import os, subprocess; subprocess.Popen(['sleep', '9']); os.kill(-1, 9)")
        assert (execution.status, execution.state_lost) == (Status.OK, False)
        assert await keeps_state(survivor)

    async def test_a_fork_that_returns_ends_with_its_cell(self, survivor: Session) -> None:
        execution = await run(survivor, "import os; pid = os.fork()\nif pid: print(os.waitpid(pid, 0)[1])")
        assert (execution.status, execution.stdout) == (Status.OK, "0\n")

    async def test_recursion_without_end_is_an_error_or_a_death(self, survivor: Session) -> None:
        code = "import sys; sys.setrecursionlimit(10**8)\ndef f(): return [f()]\nf()"
        assert (await run(survivor, code, 10)).status in (Status.ERROR, Status.KILLED, Status.OOM)

    async def test_a_closed_pipe_is_an_exception(self, survivor: Session) -> None:
        execution = await run(survivor, "import os; r, w = os.pipe(); os.close(r); os.write(w, b'x')")
        assert execution.error is not None
        assert execution.error.name == "BrokenPipeError"

    @pytest.mark.attack("E06")
    async def test_closing_every_descriptor_harms_only_this_kernel(self, survivor: Session) -> None:
        execution = await run(survivor, "import os; os.closerange(0, 1024)", 2)
        assert execution.status in (Status.KILLED, Status.TIMEOUT)
        assert execution.state_lost


class TestHoarding:
    @pytest.mark.attack("C01")
    async def test_ten_gigabytes_at_once(self, survivor: Session) -> None:
        execution = await run(survivor, "x = [0] * (10 * 10**9 // 8)")
        assert (execution.status, execution.state_lost) == (Status.OOM, True)
        assert execution.reason == "the memory limit of 512 MB was reached"
        assert execution.peak_memory_bytes <= 512 << 20

    @pytest.mark.attack("C01")
    async def test_ten_gigabytes_bit_by_bit(self, survivor: Session) -> None:
        execution = await run(survivor, "x = []\nwhile True: x.append(bytearray(1 << 20))")
        assert (execution.status, execution.state_lost) == (Status.OOM, True)

    async def test_more_than_the_machine_could_ever_have_is_a_memory_error(self, survivor: Session) -> None:
        execution = await run(survivor, "x = bytearray(1 << 60)")
        assert execution.status is Status.ERROR
        assert execution.error is not None
        assert execution.error.name == "MemoryError"
        assert await keeps_state(survivor)

    async def test_a_child_that_dies_of_memory_does_not_take_the_kernel_along(self, survivor: Session) -> None:
        code = """
            import subprocess, sys
            ended = subprocess.run([sys.executable, "-c", "x = bytearray(1 << 30)"])
            print(ended.returncode)
            ended.check_returncode()
        """
        execution = await run(survivor, code)
        # Either may be chosen by the kernel; the truth is told in both cases.
        if execution.status is Status.ERROR:
            assert execution.stdout == "-9\n"
            assert execution.reason.endswith("MB was reached, and a process of the program's was killed")
            assert (await run(survivor, "1")).reason == ""
            assert await keeps_state(survivor)
        else:
            assert (execution.status, execution.state_lost) == (Status.OOM, True)

    async def test_a_fork_bomb_that_ends_at_its_first_failure(self, survivor: Session) -> None:
        execution = await run(survivor, "import os\nwhile True: os.fork()", 10)
        assert execution.status in (Status.ERROR, Status.TIMEOUT)

    @pytest.mark.attack("C10")
    async def test_a_fork_bomb_that_goes_on(self, survivor: Session) -> None:
        code = """
            import os
            while True:
                try: os.fork()
                except OSError: pass
        """
        execution = await run(survivor, code, 1)
        assert execution.status is Status.TIMEOUT

    @pytest.mark.attack("C10")
    async def test_a_fork_bomb_that_ignores_interrupts(self, survivor: Session) -> None:
        code = """
            import os, signal
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            while True:
                try: os.fork()
                except OSError: pass
        """
        execution = await run(survivor, code, 1)
        assert (execution.status, execution.state_lost) == (Status.TIMEOUT, True)

    @pytest.mark.attack("C10")
    async def test_a_fork_bomb_left_behind_in_the_background(self, survivor: Session) -> None:
        code = """
            import os, signal
            if os.fork() == 0:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                while True:
                    try: os.fork()
                    except OSError: pass
        """
        assert (await run(survivor, code)).status is Status.OK
        execution = await run(survivor, "print('one'); print('two')")
        assert (execution.status, execution.stdout) == (Status.OK, "one\ntwo\n")

    @pytest.mark.attack("D15")
    async def test_orphans_are_buried_at_once(self, survivor: Session) -> None:
        execution = await run(survivor, "!for n in $(seq 500); do (true &); done")
        assert (execution.status, execution.stderr) == (Status.OK, "")

    @pytest.mark.attack("C10")
    async def test_a_thread_bomb(self, survivor: Session) -> None:
        code = """
            import threading
            while True: threading.Thread(target=threading.Event().wait, daemon=True).start()
        """
        execution = await run(survivor, code, 10)
        assert (execution.status, execution.state_lost) == (Status.ERROR, False)

    @pytest.mark.attack("C18")
    async def test_every_descriptor_taken(self, survivor: Session) -> None:
        execution = await run(survivor, "held = []\nwhile True: held.append(open('/dev/null'))")
        assert execution.status is Status.ERROR
        assert (await run(survivor, "held.clear(); print(len(held))")).stdout == "0\n"

    @pytest.mark.attack("C17")
    async def test_a_full_disk(self, survivor: Session) -> None:
        execution = await run(survivor, "with open('big', 'wb') as f:\n    while True: f.write(bytes(1 << 20))")
        assert execution.status is Status.ERROR
        assert execution.error is not None
        assert execution.error.name == "OSError"
        assert (await run(survivor, "import os; print(os.path.getsize('big') > 200 << 20)")).stdout == "True\n"

    @pytest.mark.attack("C03")
    async def test_a_full_disk_and_a_dead_kernel(self, survivor: Session) -> None:
        code = """
            import contextlib, os
            for directory in ("/mnt/data", "/tmp", "/dev/shm"):
                with contextlib.suppress(OSError), open(f"{directory}/big", "wb") as file:
                    while True: file.write(bytes(1 << 20))
            os._exit(1)
        """
        execution = await run(survivor, code)
        assert (execution.status, execution.state_lost) == (Status.KILLED, True)

    @pytest.mark.attack("B10")
    async def test_every_inode_taken(self, survivor: Session) -> None:
        execution = await run(survivor, "n = 0\nwhile True: open(str(n), 'w').close(); n += 1")
        assert execution.status is Status.ERROR
        assert (await run(survivor, "!rm -f [0-9]*")).status is Status.OK


class TestFlooding:
    @pytest.mark.attack("C13")
    async def test_a_gigabyte_of_prints_is_counted_to_the_byte(self, survivor: Session) -> None:
        lines, line = 1 << 10, 1 << 20
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        execution = await run(survivor, f"x = 'x' * {line - 1}\nfor _ in range({lines}): print(x)", 120)
        assert execution.status is Status.OK
        mark = execution.stdout.index("\n[… ")
        shown = len(execution.stdout) - (execution.stdout.index("…]\n", mark) + 3 - mark)
        assert shown == 1 << 20
        assert execution.truncated.stdout == lines * line - shown
        assert f"[… {execution.truncated.stdout} bytes dropped here" in execution.stdout
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB
        assert execution.peak_memory_bytes < 256 << 20

    async def test_what_was_dropped_is_in_a_file_while_it_fits(self, survivor: Session) -> None:
        execution = await run(survivor, "for n in range(400_000): print(n)")
        assert execution.truncated.stdout > 0
        path = f".outputs/{execution.id}.stdout.txt"
        assert f"all of it is in /mnt/data/{path}" in execution.stdout
        assert (await survivor.download(path)).decode() == "".join(f"{n}\n" for n in range(400_000))

    async def test_both_streams_are_counted_apart(self, survivor: Session) -> None:
        code = """
            import os, sys
            sys.stdout.write("o" * 3_000_000)
            sys.stderr.write("e" * 2_000_000)
        """
        execution = await run(survivor, code)
        assert (execution.truncated.stdout, execution.truncated.stderr) == (
            3_000_000 - (1 << 20),
            2_000_000 - (1 << 20),
        )

    @pytest.mark.attack("C13")
    async def test_a_flood_past_python_is_bounded_too(self, survivor: Session) -> None:
        execution = await run(survivor, "!head -c 50000000 /dev/zero | tr '\\0' x", 60)
        assert execution.status is Status.OK
        assert execution.truncated.stdout == 50_000_000 - (1 << 20)

    @pytest.mark.attack("C13")
    async def test_a_flood_without_end_times_out(self, survivor: Session) -> None:
        execution = await run(survivor, "while True: print('x' * 1000)", 1)
        assert (execution.status, execution.state_lost) == (Status.TIMEOUT, False)

    @pytest.mark.attack("C15")
    async def test_results_beyond_their_number_are_counted(self, survivor: Session) -> None:
        execution = await run(survivor, "for n in range(1000): display(n)")
        assert (len(execution.results), execution.truncated.results) == (100, 900)

    @pytest.mark.attack("C15")
    async def test_a_result_beyond_its_size_is_dropped_and_counted(self, survivor: Session) -> None:
        execution = await run(survivor, "from IPython.display import HTML\ndisplay(HTML('x' * (20 << 20)))")
        assert execution.status is Status.OK
        assert sum(len(str(bundle)) for bundle in execution.results) < 8 << 20

    @pytest.mark.attack("C16")
    async def test_an_error_of_any_length_is_cut(self, survivor: Session) -> None:
        execution = await run(survivor, "raise ValueError('x' * (50 << 20))")
        assert execution.status is Status.ERROR
        assert execution.error is not None
        assert len(execution.error.value) <= 64 << 10

    @pytest.mark.attack("C15", "E14")
    async def test_a_representation_that_never_ends_times_out(self, survivor: Session) -> None:
        code = "class Slow:\n    def __repr__(self):\n        while True: pass\nSlow()"
        assert (await run(survivor, code, 0.5)).status is Status.TIMEOUT

    @pytest.mark.attack("C14", "E15")
    async def test_a_slow_reader_loses_nothing(self, survivor: Session) -> None:
        text = []
        async for item in survivor.stream("for n in range(20_000): print(n, flush=True)", 60):
            await asyncio.sleep(0)  # a reader that lets everybody else go first
            if isinstance(item, Stream):
                text.append(item.text)
        assert "".join(text) == "".join(f"{n}\n" for n in range(20_000))


class TestLeftBehind:
    """What goes on after its cell has ended."""

    @pytest.mark.attack("D07")
    async def test_a_thread_that_prints_late_prints_into_no_later_cell(self, survivor: Session) -> None:
        code = """
            import threading
            go, gone = threading.Event(), threading.Event()
            def late():
                go.wait()
                print("late")
                gone.set()
            threading.Thread(target=late).start()
        """
        assert (await run(survivor, code)).stdout == ""
        execution = await run(survivor, "go.set(); gone.wait(); print('mine')")
        assert (execution.stdout, execution.stderr) == ("mine\n", "")

    @pytest.mark.attack("D07")
    async def test_a_thread_that_prints_between_cells_is_not_heard(self, survivor: Session) -> None:
        code = """
            import threading
            go, gone = threading.Event(), threading.Event()
            threading.Thread(target=lambda: (go.wait(), print("late"), gone.set())).start()
            threading.Timer(0.05, go.set).start()
        """
        await run(survivor, code)
        execution = await run(survivor, "gone.wait(); print('mine')")
        assert execution.stdout == "mine\n"

    @pytest.mark.attack("D07")
    async def test_a_thread_that_dies_late_is_not_the_next_cells_error(self, survivor: Session) -> None:
        code = """
            import threading
            go = threading.Event()
            def late():
                go.wait()
                raise ValueError("late")
            thread = threading.Thread(target=late)
            thread.start()
        """
        await run(survivor, code)
        execution = await run(survivor, "go.set(); thread.join(); print('mine')")
        assert (execution.status, execution.stdout, execution.stderr) == (Status.OK, "mine\n", "")

    @pytest.mark.attack("D07")
    async def test_a_process_that_wrote_between_cells_is_not_heard_in_the_next(self, survivor: Session) -> None:
        await run(survivor, "import subprocess; child = subprocess.Popen('read x; echo late', shell=True, stdin=-1)")
        await run(survivor, "child.stdin.write(b'\\n'); child.stdin.close()")
        assert (await run(survivor, "child.wait() and None")).status is Status.OK
        assert (await run(survivor, "print('mine')")).stdout == "mine\n"

    @pytest.mark.attack("D08", "D09")
    async def test_a_daemon_lives_on_and_ends_with_its_session(self, engine: Engine) -> None:
        name = secrets.token_hex(7)
        code = f"""
            import ctypes, os, signal, time
            reader, writer = os.pipe()
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    for number in signal.valid_signals() - {{signal.SIGKILL, signal.SIGSTOP, 32, 33}}:
                        signal.signal(number, signal.SIG_IGN)
                    ctypes.CDLL(None).prctl(15, b"{name}", 0, 0, 0)
                    os.write(writer, b"!")
                    while True: time.sleep(1)
                os._exit(0)
            os.read(reader, 1)
            os.wait()
        """
        async with engine.session() as session:
            assert (await run(session, code)).status is Status.OK
            [daemon] = named(name)
            assert (await run(session, "print('on')")).stdout == "on\n"
            assert alive(daemon)
        assert not alive(daemon)

    @pytest.mark.attack("D02")
    async def test_a_handler_that_was_set_in_one_cell_does_not_protect_the_next(self, survivor: Session) -> None:
        await run(survivor, "import signal; handler = signal.signal(signal.SIGINT, signal.SIG_IGN)")
        execution = await run(survivor, "while True: pass", 0.5)
        assert execution.status is Status.TIMEOUT


class TestShell:
    async def test_reset_forgets_variables_and_nothing_else(self, survivor: Session) -> None:
        assert (await run(survivor, "%reset -f")).status is Status.OK
        assert not await keeps_state(survivor)

    async def test_a_shell_command_prints(self, survivor: Session) -> None:
        assert (await run(survivor, "!ls")).stdout == "kept.txt\n"

    async def test_a_shell_command_that_fails_tells_its_code(self, survivor: Session) -> None:
        execution = await run(survivor, "!exit 3\nprint(_exit_code)")
        assert (execution.status, execution.stdout) == (Status.OK, "3\n")

    @pytest.mark.attack("E08")
    async def test_streams_that_were_replaced_are_only_this_kernels_loss(self, survivor: Session) -> None:
        assert (await run(survivor, "import sys; keep = sys.stdout; sys.stdout = None; print('x')")).status is Status.OK
        assert (await run(survivor, "sys.stdout = keep; print('y')")).stdout == "y\n"

    @pytest.mark.attack("E08")
    async def test_streams_that_were_closed_are_only_this_cells_loss(self, survivor: Session) -> None:
        code = "import sys\nwith open('log', 'w') as sys.stdout: print('x')"
        assert (await run(survivor, code)).status is Status.OK
        execution = await run(survivor, "print(open('log').read(), end='')")
        assert (execution.status, execution.stdout, execution.state_lost) == (Status.OK, "x\n", False)

    @pytest.mark.attack("E08")
    async def test_a_broken_ipython_answers_with_an_error(self, survivor: Session) -> None:
        assert (await run(survivor, "get_ipython().run_cell_async = None")).status is Status.OK
        execution = await run(survivor, "1")
        assert execution.status is Status.ERROR
        assert execution.error is not None
        assert execution.error.name == "TypeError"
        await survivor.restart()

    @pytest.mark.attack("E08")
    async def test_a_kernel_that_can_answer_nothing_times_out_and_is_replaced(self, survivor: Session) -> None:
        execution = await run(survivor, "get_ipython().kernel.link.detach()", 1)
        assert (execution.status, execution.state_lost) in ((Status.TIMEOUT, True), (Status.KILLED, True))


class TestSmall:
    async def test_a_gradual_hoard_in_the_smallest_sandbox(self, engine: Engine) -> None:
        async with engine.session(limits=Limits(memory_mb=192)) as session:
            for _ in range(3):
                execution = await run(session, "x = []\nwhile True: x.append(bytearray(1 << 16))")
                assert (execution.status, execution.state_lost) == (Status.OOM, True)
            assert (await run(session, "print('on')")).stdout == "on\n"

    async def test_a_full_disk_in_the_smallest_sandbox(self, engine: Engine) -> None:
        fill = """
            import contextlib, os
            for directory in ("/mnt/data", "/tmp", "/dev/shm"):
                with contextlib.suppress(OSError), open(f"{directory}/big", "wb") as file:
                    while True: file.write(bytes(1 << 16))
            os._exit(1)
        """
        async with engine.session(limits=Limits(memory_mb=192)) as session:
            assert (await run(session, fill)).status is Status.KILLED
            assert (await run(session, "import pandas; print(len(pandas.DataFrame({'a': [1]})))")).stdout == "1\n"
