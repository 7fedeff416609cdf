"""Signals, clocks, zombies and numbers of processes: what a program does to them, and who is hurt by it."""

import asyncio
import contextlib
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator

import pytest

from sandbox.engine import Engine
from sandbox.execution import Execution, Limits, Status
from sandbox.session import Session
from tests.host import WAIT_SECONDS, alive, ended, named, status

FOREVER = "while True: n = 1"


async def run(session: Session, code: str, timeout: float | None = None) -> Execution:
    return await session.execute(textwrap.dedent(code), timeout)


async def pid_of(session: Session) -> int:
    """The session's kernel, as the host numbers it."""
    name = os.urandom(7).hex()
    await run(session, f"import ctypes; ctypes.CDLL(None).prctl(15, b'{name}', 0, 0, 0)")
    [pid] = named(name)
    return pid


async def goes_on(session: Session) -> bool:
    return (await run(session, "print('on')")).stdout == "on\n"


@pytest.mark.attack("D01")
async def test_waiting_for_a_signal_that_nobody_sends_times_out(session: Session) -> None:
    execution = await run(session, "import signal; signal.pause()", 0.5)
    assert (execution.status, execution.state_lost) == (Status.TIMEOUT, False)
    assert await goes_on(session)


@pytest.mark.attack("D03")
async def test_waiting_for_a_lock_that_a_child_holds_times_out(session: Session) -> None:
    code = """
        import fcntl, os, time
        ready, told = os.pipe()
        if os.fork() == 0:
            held = open('/tmp/lock', 'w')
            fcntl.flock(held, fcntl.LOCK_EX)
            os.write(told, b'!')
            while True: time.sleep(60)
        os.read(ready, 1)
        fcntl.flock(open('/tmp/lock', 'w'), fcntl.LOCK_EX)
    """
    assert (await run(session, code, 0.5)).status is Status.TIMEOUT
    assert await goes_on(session)


@pytest.mark.attack("D04", "D05")
async def test_a_child_that_stops_everybody_stops_the_kernel_and_not_its_judge(session: Session) -> None:
    code = "import os, signal\nif os.fork() == 0:\n    os.kill(-1, signal.SIGSTOP)\n    os._exit(0)\n" + FOREVER
    execution = await run(session, code, 0.5)
    assert (execution.status, execution.state_lost) == (Status.TIMEOUT, True)
    assert await goes_on(session)


@pytest.mark.attack("D13")
@pytest.mark.parametrize(
    "code",
    [
        "import getpass; getpass.getpass()",
        "import pdb; pdb.set_trace()\nx = 1",
        "import code; code.interact()",
        "import sys; print(repr(sys.stdin.read()))",
        "import sys; print(repr(sys.stdin.readline()))",
        "%debug",
        "%pdb on\n1 / 0",
    ],
)
async def test_who_asks_somebody_gets_an_answer_at_once_or_none(session: Session, code: str) -> None:
    execution = await run(session, code, 10)
    assert execution.status in (Status.OK, Status.ERROR), execution
    assert await goes_on(session)


@pytest.mark.attack("D14")
@pytest.mark.parametrize(
    "code",
    [
        "import atexit\ndef wait():\n    while True: n = 1\natexit.register(wait)",
        "class Undead:\n    def __del__(self):\n        while True: n = 1\nx = Undead()",
        "import threading\nthreading.Thread(target=threading.Event().wait).start()",
    ],
)
async def test_what_would_block_a_shutdown_is_not_asked(engine: Engine, code: str) -> None:
    async with engine.session() as session:
        assert (await run(session, code)).status is Status.OK
        await session.restart()
        assert await goes_on(session)
        assert (await run(session, code)).status is Status.OK
        kernel = await pid_of(session)
        assert alive(kernel)
    assert not alive(kernel)


@pytest.mark.attack("D15")
async def test_a_program_makes_no_children_for_its_zygote(session: Session) -> None:
    code = """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        parent = 0x8000 | 17
        print(libc.syscall(56, parent, 0, 0, 0, 0), os.strerror(ctypes.get_errno()))
    """
    assert (await run(session, code)).stdout == "-1 Operation not permitted\n"


@pytest.mark.attack("D15")
async def test_a_kernel_whose_first_thread_alone_has_ended_is_replaced(engine: Engine) -> None:
    code = """
        import asyncio, ctypes, threading
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        asyncio.get_running_loop().call_later(0.2, ctypes.CDLL(None).syscall, 60, 0)
    """
    async with engine.session() as session:
        kernel = await pid_of(session)
        await run(session, code)
        async with asyncio.timeout(WAIT_SECONDS):
            while status(kernel)["State"][0] != "Z":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        execution = await session.execute("print('on')", 20)
        assert (execution.status, execution.stdout, execution.state_lost) == (Status.OK, "on\n", True)


@pytest.mark.attack("D15")
async def test_zombies_that_nobody_buries_count_and_end_with_their_parent(engine: Engine) -> None:
    code = """
        import os
        made = 0
        while True:
            try: pid = os.fork()
            except OSError: break
            if pid == 0: os._exit(0)
            made += 1
        print(made)
    """
    async with engine.session(limits=Limits(processes=40)) as session:
        execution = await run(session, code)
        assert execution.status is Status.OK
        assert 24 < int(execution.stdout) < 40
        await session.restart()
        assert await goes_on(session)


@pytest.mark.attack("D11")
@pytest.mark.parametrize("hours", [1, -1])
async def test_a_jump_of_the_clock_moves_no_deadline(
    session: Session, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600 * hours)
    in_time = asyncio.create_task(run(session, "import time; time.sleep(0.3); print('on')", 20))
    while not in_time.done():
        hours *= -1  # it keeps jumping
        await asyncio.sleep(0)
    assert (in_time.result().status, in_time.result().stdout) == (Status.OK, "on\n")
    late = await run(session, FOREVER, 0.5)
    assert late.status is Status.TIMEOUT
    assert 400 <= late.duration_ms < 60_000
    assert session.open


@pytest.mark.attack("D11")
async def test_a_program_cannot_set_the_clock(session: Session) -> None:
    code = """
        import ctypes, errno
        libc = ctypes.CDLL(None, use_errno=True)
        for number in (227, 164, 159, 305):  # clock_settime, settimeofday, adjtimex, clock_adjtime
            print(libc.syscall(number, 0, bytes(256)), errno.errorcode[ctypes.get_errno()])
    """
    assert (await run(session, code)).stdout == "-1 EPERM\n" * 4


SENTINEL = """
import ctypes, os, struct, sys
numbers = (ctypes.c_int32 * 1)(int(sys.argv[1]))
arguments = (ctypes.c_uint64 * 11)()
arguments[4], arguments[8], arguments[9] = 17, ctypes.addressof(numbers), 1  # exit_signal, set_tid, set_tid_size
pid = ctypes.CDLL(None, use_errno=True).syscall(435, arguments, 88)
if pid == 0:
    while True: os.read(0, 1) or os._exit(0)
print(pid, ctypes.get_errno(), flush=True)
if pid > 0: os.waitpid(pid, 0)
"""


@contextlib.contextmanager
def stranger(number: int) -> Iterator[None]:
    """A process of nobody's that has this number; a visible skip where none can be given."""
    command = [sys.executable, "-c", SENTINEL, str(number)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        made, error = map(int, parent.stdout.readline().split())
        if made < 0:
            pytest.skip(f"no process can be given a number here: {os.strerror(error)}")
        assert made == number
        yield


@pytest.mark.attack("D10")
async def test_a_number_that_another_process_has_now_is_not_killed_for_the_kernel_that_had_it(engine: Engine) -> None:
    async with engine.session() as session:
        kernel = await pid_of(session)
        await run(session, "import os; os._exit(0)")
        await ended(kernel)
        assert await goes_on(session)
        with stranger(kernel):
            await session.restart()
            assert (await run(session, FOREVER, 0.5)).status is Status.TIMEOUT
            await session.close()
            assert alive(kernel), "the stranger was killed for somebody who had its number before"
