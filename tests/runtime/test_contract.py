"""What every runtime must do, and what it must leave: nothing. The host is the judge, not the runtime."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sandbox.config import Settings
from sandbox.errors import SessionClosed, UnknownImage
from sandbox.execution import Error, Limits, Result, Spec, Status, Stream
from sandbox.guest.frames import Decoder, Frame, encode_json
from sandbox.kernel import Kernel
from sandbox.runtime import Runtime
from sandbox.runtime.docker.runtime import DockerRuntime
from sandbox.runtime.embedded.runtime import EmbeddedRuntime, Start
from tests import ordinary
from tests.containers import Containers
from tests.docker import Docker
from tests.host import Embedded, House, Watched, alive, ended
from tests.needs import missing
from tests.runtime.kernels import endings, kernel_of, run, running

ORDINARY_USERS = ("groups", "subordinate", "single")
"""With subordinate ids and a part of the control groups; with subordinate ids only; with its own id only."""


@dataclass(frozen=True, slots=True)
class Ground:
    """A runtime, what to start on it, and what the host sees of it."""

    runtime: Runtime
    spec: Spec
    house: House
    hides_processes: bool
    """Whether the host sees only that there is a sandbox, not who is in it."""
    slack_bytes: int = 0
    """How far above its memory cap a sandbox may get, where somebody has to see that it did."""


RUNTIMES = [
    "embedded",
    "embedded/exec",
    *(f"embedded/{user}" for user in ORDINARY_USERS),
    *(pytest.param(f"embedded/exec/{user}", marks=pytest.mark.nightly) for user in ORDINARY_USERS),
    "docker/runc",
    "docker/runsc",
]


@pytest.fixture(params=RUNTIMES, scope="module")
async def ground(
    request: pytest.FixtureRequest, root: None, nothing_left: None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Ground]:
    """A runtime that lives through these tests."""
    kind, *ways = str(request.param).split("/")
    if kind == "embedded":
        request.getfixturevalue("python_image")
        start: Start = "exec" if "exec" in ways else "fork"
        users = [way for way in ways if way in ORDINARY_USERS]
        async with of_ordinary_user(users[0], start) if users else of_root(start) as ground:
            yield ground
        return
    [oci_runtime] = ways
    docker: Docker = request.getfixturevalue("docker")
    request.getfixturevalue("docker_image")
    if shutil.which(oci_runtime) is None:
        missing(f"needs {oci_runtime}: apt-get install {oci_runtime}")
    async with DockerRuntime.open(tmp_path_factory.mktemp("docker"), address=docker.address) as containers:
        house = Containers.of(request.getfixturevalue("docker_client"), containers)
        hides_processes = oci_runtime == "runsc"
        slack_bytes = (512 << 20) // 4 if oci_runtime == "runsc" else 0
        yield Ground(containers, Spec(oci_runtime=oci_runtime), house, hides_processes, slack_bytes)


@contextlib.asynccontextmanager
async def of_root(start: Start = "fork") -> AsyncIterator[Ground]:
    """The embedded runtime as root has it."""
    async with EmbeddedRuntime.open(Settings.load().images_dir, start=start) as runtime:
        await runtime.prepare("python")
        yield Ground(runtime, Spec(), Embedded.below(os.getpid()), False)


@contextlib.asynccontextmanager
async def of_ordinary_user(kind: str, start: Start = "fork") -> AsyncIterator[Ground]:
    """The embedded runtime of a user who is made for it; this process only talks to its launcher."""
    images = Settings.load().images_dir
    if kind != "single" and shutil.which("newuidmap") is None:
        missing("needs newuidmap: apt-get install uidmap")
    with ordinary.user(subordinate=kind != "single", group=kind == "groups") as user:
        # How much the zygote imports is the same to whoever starts it, and takes many seconds.
        async with EmbeddedRuntime.open(images, start=start, shared=False, through=user.through(images)) as runtime:
            await runtime.prepare("python")
            if kind == "groups":
                yield Ground(runtime, Spec(), Embedded.below(os.getpid(), f"/{user.group}"), False)
            else:
                # A program gets so far between two looks on a busy machine.
                yield Ground(runtime, Spec(), Watched.below(os.getpid()), False, slack_bytes=1 << 30)


@pytest.fixture
def runtime(ground: Ground) -> Runtime:
    return ground.runtime


@pytest.fixture
def spec(ground: Ground) -> Spec:
    return ground.spec


@pytest.fixture
def house(ground: Ground) -> House:
    return ground.house


@pytest.fixture
def sees_processes(ground: Ground) -> None:
    if ground.hides_processes:
        pytest.skip("the host sees no process of this runtime's sandboxes")


class TestStart:
    async def test_its_kernel_says_ready(self, runtime: Runtime, spec: Spec) -> None:
        sandbox = await runtime.start(spec)
        try:
            decoder, frames = Decoder(), list[tuple[Frame, bytes]]()
            while not frames:
                data = await sandbox.channel.read()
                assert data, "the channel ended before READY"
                frames += decoder.feed(data)
            assert [kind for kind, _ in frames] == [Frame.READY]
        finally:
            await sandbox.stop()

    async def test_one_that_is_awaited_does_as_any_other(self, runtime: Runtime, spec: Spec) -> None:
        kernel = await Kernel.start(runtime, spec, awaited=True)
        try:
            [output], end = await run(kernel, "print('first')")
            assert (output, end.status) == (Stream("stdout", "first\n"), Status.OK)
            _, end = await run(kernel, "import os; os._exit(1)")
            assert end.status is Status.KILLED
            [output], end = await run(kernel, "print('second')")
            assert (output, end.status) == (Stream("stdout", "second\n"), Status.OK)
        finally:
            await kernel.stop()

    async def test_it_lives_until_it_is_stopped(self, runtime: Runtime, spec: Spec) -> None:
        sandbox = await runtime.start(spec)
        assert sandbox.exited() is None
        await sandbox.stop()
        end = sandbox.exited()
        assert end is not None
        assert end.reason == "stopped"

    async def test_each_has_an_id_of_its_own(self, runtime: Runtime, spec: Spec) -> None:
        sandboxes = await asyncio.gather(*(runtime.start(spec) for _ in range(4)))
        await asyncio.gather(*(sandbox.stop() for sandbox in sandboxes))
        assert len({sandbox.id for sandbox in sandboxes}) == 4

    async def test_an_unknown_image_is_refused(self, runtime: Runtime, spec: Spec) -> None:
        with pytest.raises(UnknownImage, match="nonesuch"):
            await runtime.start(replace(spec, image="nonesuch"))

    async def test_cancelled_it_leaves_nothing(self, runtime: Runtime, spec: Spec, house: House) -> None:
        start = asyncio.create_task(runtime.start(spec))
        await asyncio.sleep(0)  # lets it begin, nothing more
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        # Whatever is asked of the runtime now is answered after what was asked before.
        sandbox = await runtime.start(spec)
        await sandbox.stop()
        assert house.contained() == []
        assert house.left() == []

    async def test_the_environment_of_the_spec_reaches_the_program(self, runtime: Runtime, spec: Spec) -> None:
        async with kernel_of(runtime, replace(spec, env=(("FLAVOUR", "früh"),))) as kernel:
            outputs, _ = await run(kernel, "import os; print(os.environ['FLAVOUR'], end='')")
            assert outputs == [Stream("stdout", "früh")]

    async def test_its_manifest_says_what_is_in_it(self, runtime: Runtime, spec: Spec) -> None:
        manifest = await runtime.manifest("python")
        async with kernel_of(runtime, spec) as kernel:
            outputs, _ = await run(kernel, "import platform, pandas; platform.python_version(), pandas.__version__")
            [result] = outputs
            assert isinstance(result, Result)
            assert result.data["text/plain"] == repr((manifest.python, manifest.libraries["pandas"]))


@pytest.fixture(scope="class")
async def kernel(ground: Ground) -> AsyncIterator[Kernel]:
    """One for all executions that it survives: a container takes seconds."""
    async with kernel_of(ground.runtime, ground.spec) as kernel:
        yield kernel


class TestStatus:
    """How an execution ended, told alike everywhere."""

    async def test_ok(self, kernel: Kernel) -> None:
        outputs, end = await run(kernel, "import sys; print('out'); print('err', file=sys.stderr); 6 * 7")
        assert (end.status, end.state_lost) == (Status.OK, False)
        streams = [output for output in outputs if isinstance(output, Stream)]
        for name, text in (("stdout", "out\n"), ("stderr", "err\n")):
            assert "".join(stream.text for stream in streams if stream.name == name) == text
        assert [output.data["text/plain"] for output in outputs if isinstance(output, Result)] == ["42"]

    async def test_error(self, kernel: Kernel) -> None:
        outputs, end = await run(kernel, "1 / 0")
        [error] = outputs
        assert isinstance(error, Error)
        assert (end.status, error.name) == (Status.ERROR, "ZeroDivisionError")

    async def test_a_picture_and_the_files_it_changed(self, kernel: Kernel) -> None:
        code = "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.savefig('plot.png'); plt.show()"
        outputs, end = await run(kernel, code)
        assert end.status is Status.OK
        assert any("image/png" in output.data for output in outputs if isinstance(output, Result))
        assert [(artifact.path, artifact.change) for artifact in end.artifacts] == [("plot.png", "created")]

    async def test_timeout(self, kernel: Kernel) -> None:
        await run(kernel, "kept = 'kept'")
        _, end = await run(kernel, "while True: pass", timeout=0.5)
        assert (end.status, end.state_lost) == (Status.TIMEOUT, False)
        outputs, _ = await run(kernel, "print(kept, end='')")
        assert outputs == [Stream("stdout", "kept")]

    async def test_interrupted(self, kernel: Kernel) -> None:
        async with running(kernel):
            await kernel.interrupt()
        assert endings.pop(kernel).status is Status.INTERRUPTED

    async def test_timeout_of_a_program_that_ignores_the_interrupt(self, runtime: Runtime, spec: Spec) -> None:
        async with kernel_of(runtime, spec) as kernel:
            deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nopen('kept', 'w').write('x')\n"
            _, end = await run(kernel, f"{deaf}while True: pass", timeout=1.0)
            assert (end.status, end.state_lost) == (Status.TIMEOUT, True)
            outputs, end = await run(kernel, "print(open('kept').read(), end='')")
            assert (end.status, outputs) == (Status.OK, [Stream("stdout", "x")])

    async def test_killed(self, runtime: Runtime, spec: Spec) -> None:
        async with kernel_of(runtime, spec) as kernel:
            _, end = await run(kernel, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
            assert (end.status, end.state_lost) == (Status.KILLED, True)
            assert "SIGKILL" in end.reason
            _, end = await run(kernel, "import os; os._exit(3)")
            assert (end.status, "code 3" in end.reason) == (Status.KILLED, True)
            assert (await run(kernel, "1"))[1].status is Status.OK

    @pytest.mark.attack("C01")
    async def test_oom(self, runtime: Runtime, spec: Spec) -> None:
        async with kernel_of(runtime, spec) as kernel:
            await run(kernel, "open('kept', 'w').write('x')")
            _, end = await run(kernel, "x = bytearray(10**10)", 60.0)
            assert (end.status, end.state_lost) == (Status.OOM, True)
            outputs, end = await run(kernel, "print(open('kept').read(), end='')")
            assert (outputs, end.state_lost) == ([Stream("stdout", "x")], False)

    async def test_what_a_program_shuts_or_is_called_keeps_no_other_from_beginning(
        self, runtime: Runtime, spec: Spec
    ) -> None:
        shut = (
            "import contextlib, os\nfor name in ('/mnt/data', '/tmp', '/dev/shm'):\n"
            "    with contextlib.suppress(OSError): os.chmod(name, 0)"
        )
        name = "import ctypes; ctypes.CDLL(None).prctl(15, b'\\xff\\xfe', 0, 0, 0)"
        async with kernel_of(runtime, spec) as kernel:
            await run(kernel, f"open('kept', 'w').write('x')\n{name}")
            assert (await run(kernel, shut))[1].status is Status.OK
            await kernel.restart()
            outputs, _ = await run(kernel, "print(open('kept').read(), end='')")
            assert outputs == [Stream("stdout", "x")]

    async def test_a_restart_keeps_the_files(self, runtime: Runtime, spec: Spec) -> None:
        async with kernel_of(runtime, spec) as kernel:
            await run(kernel, "open('kept', 'w').write('x'); y = 1")
            await kernel.restart()
            outputs, end = await run(kernel, "print(open('kept').read(), 'y' in globals(), end='')")
            assert (end.state_lost, outputs) == (False, [Stream("stdout", "x False")])

    @pytest.mark.attack("C17")
    async def test_a_full_disk_is_the_programs_to_notice(self, runtime: Runtime, spec: Spec) -> None:
        small = replace(spec, limits=Limits(disk_mb=8))
        async with kernel_of(runtime, small) as kernel:
            outputs, end = await run(kernel, "open('big', 'wb').write(b'x' * (16 << 20))")
            assert end.status is Status.ERROR
            assert any(isinstance(output, Error) and "No space left" in output.value for output in outputs)

    @pytest.mark.attack("C10")
    async def test_too_many_processes_are_the_programs_to_notice(self, runtime: Runtime, spec: Spec) -> None:
        few = replace(spec, limits=Limits(processes=32))
        async with kernel_of(runtime, few) as kernel:
            code = "import subprocess\nfor _ in range(64): subprocess.Popen(['sleep', '100'])"
            outputs, end = await run(kernel, code)
            assert end.status is Status.ERROR
            assert any(isinstance(output, Error) and output.name == "BlockingIOError" for output in outputs)
            assert (await run(kernel, "1"))[1].state_lost is False


class TestMeters:
    async def test_cpu_time_is_counted(self, runtime: Runtime, spec: Spec) -> None:
        async with kernel_of(runtime, spec) as kernel:
            before = (await kernel.sandbox.usage()).cpu_ns
            # Work, not a clock: a sandbox's own may run while the machine gives it nothing.
            _, end = await run(kernel, "for _ in range(8): sum(range(10**7))")
            assert (await kernel.sandbox.usage()).cpu_ns - before >= 0.2e9
            assert end.cpu_ms >= 200

    async def test_the_peak_of_memory_is_the_peak_since_the_last_reset(
        self, runtime: Runtime, spec: Spec, sees_processes: None
    ) -> None:
        async with kernel_of(runtime, spec) as kernel:
            await run(kernel, "x = bytearray(200 << 20); del x")
            assert (await kernel.sandbox.usage()).peak_bytes >= 200 << 20
            kernel.sandbox.reset_peak()
            assert (await kernel.sandbox.usage()).peak_bytes < 200 << 20

    async def test_a_kill_by_the_memory_cap_is_counted(self, runtime: Runtime, spec: Spec, ground: Ground) -> None:
        async with kernel_of(runtime, spec) as kernel:
            assert (await kernel.sandbox.usage()).oom_kills == 0
            _, end = await run(kernel, "x = bytearray(2 << 30)", 60.0)
            assert end.status is Status.OOM
            assert (await kernel.sandbox.usage()).oom_kills >= 1
            assert (await kernel.sandbox.usage()).peak_bytes <= (512 << 20) + ground.slack_bytes

    async def test_after_the_end_the_last_reading_stays(self, runtime: Runtime, spec: Spec) -> None:
        kernel = await Kernel.start(runtime, spec)
        await run(kernel, "sum(range(3_000_000))")  # a start alone may be shorter than a soft meter's tick
        last = await kernel.sandbox.usage()
        await kernel.stop()
        assert (await kernel.sandbox.usage()).cpu_ns >= last.cpu_ns > 0
        kernel.sandbox.reset_peak()


DAEMON = """
import os, signal, time
reader, writer = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, 32, 33}:
            signal.signal(number, signal.SIG_IGN)
        os.write(writer, b"!")
        time.sleep(1000)
    os._exit(0)
os.read(reader, 1)
"""


class TestStop:
    async def test_it_leaves_no_process_and_no_control_group(self, runtime: Runtime, spec: Spec, house: House) -> None:
        async with kernel_of(runtime, spec) as kernel:
            await run(kernel, "import subprocess\nfor _ in range(5): subprocess.Popen(['sleep', '1000'])")
            inside = house.contained()
            assert len(inside) >= 2
            assert house.left()
        assert not any(alive(pid) for pid in inside)
        assert house.left() == []

    @pytest.mark.attack("C10", "D09")
    async def test_it_ends_daemons_that_ignore_every_signal(self, runtime: Runtime, spec: Spec, house: House) -> None:
        async with kernel_of(runtime, spec) as kernel:
            _, end = await run(kernel, DAEMON)
            assert end.status is Status.OK
            inside = house.contained()
        assert not any(alive(pid) for pid in inside)
        assert house.left() == []

    async def test_twice_is_once(self, runtime: Runtime, spec: Spec) -> None:
        sandbox = await runtime.start(spec)
        await asyncio.gather(sandbox.stop(), sandbox.stop())
        await sandbox.stop()

    async def test_everybody_who_waits_is_told(self, runtime: Runtime, spec: Spec) -> None:
        sandbox = await runtime.start(spec)
        waiting = [asyncio.create_task(sandbox.wait()) for _ in range(3)]
        await sandbox.stop()
        assert [(await wait).reason for wait in waiting] == ["stopped"] * 3

    async def test_it_is_allowed_before_the_kernel_is_there(self, runtime: Runtime, spec: Spec, house: House) -> None:
        for _ in range(3):
            sandbox = await runtime.start(spec)
            await sandbox.stop()
        assert house.contained() == []
        assert house.left() == []

    async def test_an_execution_in_flight_ends_as_cancelled(self, runtime: Runtime, spec: Spec) -> None:
        kernel = await Kernel.start(runtime, spec)
        async with running(kernel):
            await kernel.stop()
        assert endings.pop(kernel).status is Status.CANCELLED


class TestKilled:
    """kill -9 of a process from outside: a typed end for who waits, and the rest goes on."""

    async def test_a_kernel_is_replaced_in_the_same_sandbox(
        self, runtime: Runtime, spec: Spec, house: House, sees_processes: None
    ) -> None:
        async with kernel_of(runtime, spec) as kernel:
            async with running(kernel):
                [victim] = house.kernels()
                os.kill(victim, signal.SIGKILL)
            end = endings.pop(kernel)
            assert (end.status, end.state_lost) == (Status.KILLED, True)
            assert "SIGKILL" in end.reason
            assert (await run(kernel, "1"))[1].status is Status.OK

    async def test_who_is_killed_for_want_of_memory_is_given_nothing_more_to_run(
        self, runtime: Runtime, spec: Spec
    ) -> None:
        async with kernel_of(runtime, spec) as kernel:
            await run(kernel, "x = 1")
            await kernel.sandbox.channel.write(encode_json(Frame.KILL, {}))
            outputs, end = await run(kernel, "print('x' in globals(), end='')")
            assert (outputs, end.status, end.state_lost) == ([Stream("stdout", "False")], Status.OK, True)

    async def test_an_idle_kernel_is_replaced_and_the_next_result_says_so(
        self, runtime: Runtime, spec: Spec, house: House, sees_processes: None
    ) -> None:
        async with kernel_of(runtime, spec) as kernel:
            await run(kernel, "x = 1")
            [victim] = house.kernels()
            os.kill(victim, signal.SIGKILL)
            await ended(victim)
            _, end = await run(kernel, "1")
            assert (end.status, end.state_lost) == (Status.OK, True)

    async def test_init_takes_its_sandbox_along_and_no_other(self, runtime: Runtime, spec: Spec, house: House) -> None:
        async with kernel_of(runtime, spec) as other:
            bystanders = set(house.contained())
            async with kernel_of(runtime, spec) as kernel:
                [victim] = set(house.inits()) - bystanders
                inside = set(house.contained()) - bystanders
                async with running(kernel):
                    os.kill(victim, signal.SIGKILL)
                end = endings.pop(kernel)
                assert (end.status, end.state_lost) == (Status.KILLED, True)
                await kernel.sandbox.wait()
                assert not any(alive(pid) for pid in inside)
                with pytest.raises(SessionClosed):
                    await run(kernel, "1")
                assert (await run(other, "1"))[1].status is Status.OK


class TestFiles:
    @pytest.mark.attack("B01", "B03")
    async def test_what_is_written_is_read_and_no_name_leads_out(self, runtime: Runtime, spec: Spec) -> None:
        async with kernel_of(runtime, spec) as kernel:
            await kernel.files.write("deep/er/x.bin", _pieces(b"0123456789" * 100_000))
            outputs, _ = await run(kernel, "import os; print(os.path.getsize('deep/er/x.bin'), end='')")
            assert outputs == [Stream("stdout", "1000000")]
            await run(kernel, "os.symlink('/etc/passwd', 'link'); os.symlink('/etc', 'etc')")
            for path in ("link", "etc/passwd"):
                with pytest.raises((LookupError, ValueError)):
                    [piece async for piece in kernel.files.read(path)]
            assert b"".join([piece async for piece in kernel.files.read("deep/er/x.bin")]) == b"0123456789" * 100_000


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


def test_no_runtime_is_left_out() -> None:
    packages = {path.parent.name for path in (Path(__file__).parents[2] / "sandbox" / "runtime").glob("*/runtime.py")}
    assert packages == {"embedded", "docker"}
