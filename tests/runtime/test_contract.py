"""What every runtime must do, and what it must leave: nothing. The host is the judge, not the runtime."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator

import pytest

from sandbox.config import Settings
from sandbox.engine import Engine
from sandbox.errors import SessionClosed, UnknownImage
from sandbox.execution import Limits, Output, Spec, Status
from sandbox.guest.frames import Decoder, Frame
from sandbox.image import Image
from sandbox.kernel import Ending, Kernel
from sandbox.runtime import Runtime
from sandbox.runtime.embedded.runtime import EmbeddedRuntime
from tests.host import Embedded, alive, command, ended, groups, status

SPEC = Spec()
SMALL = Spec(limits=Limits(memory_mb=256))


@pytest.fixture(params=["embedded"], scope="module")
async def runtime(request: pytest.FixtureRequest, root: None, python_image: Image) -> AsyncIterator[Runtime]:
    """A runtime that lives through these tests; whoever kills a part of it opens another."""
    async with opened() as runtime:
        yield runtime


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[EmbeddedRuntime]:
    async with EmbeddedRuntime.open(Settings.load().images_dir) as runtime:
        await runtime.prepare(SPEC.image)
        yield runtime


@pytest.fixture
def host(runtime: Runtime) -> Embedded:
    """The same runtime as the machine sees it."""
    return Embedded.below(os.getpid())


@contextlib.asynccontextmanager
async def kernel_of(runtime: Runtime, spec: Spec = SPEC) -> AsyncIterator[Kernel]:
    kernel = await Kernel.start(runtime, spec)
    try:
        yield kernel
    finally:
        await kernel.stop()


async def run(kernel: Kernel, code: str, timeout: float = 20.0) -> tuple[list[Output], Ending]:
    outputs: list[Output] = []
    async for item in kernel.stream("exe_1", code, timeout):
        if isinstance(item, Ending):
            return outputs, item
        outputs.append(item)
    raise AssertionError("the stream had no ending")


@contextlib.asynccontextmanager
async def running(kernel: Kernel, code: str = "print('on'); import time; time.sleep(60)") -> AsyncIterator[Kernel]:
    """With an execution in flight; the caller ends it somehow and reads how in the task."""
    started = asyncio.Event()

    async def follow() -> Ending:
        async for item in kernel.stream("exe_1", code, 50.0):
            started.set()
            if isinstance(item, Ending):
                return item
        raise AssertionError("the stream had no ending")

    task = asyncio.create_task(follow())
    await started.wait()
    yield kernel
    endings[kernel] = await task


endings: dict[Kernel, Ending] = {}


class TestStart:
    async def test_its_channel_says_ready(self, runtime: Runtime) -> None:
        sandbox = await runtime.start(SPEC)
        try:
            decoder, frames = Decoder(), list[tuple[Frame, bytes]]()
            while not frames:
                data = await sandbox.channel.read()
                assert data, "the channel ended before READY"
                frames += decoder.feed(data)
            assert [kind for kind, _ in frames] == [Frame.READY]
        finally:
            await sandbox.stop()

    async def test_it_lives_until_it_is_stopped(self, runtime: Runtime) -> None:
        sandbox = await runtime.start(SPEC)
        assert sandbox.exited() is None
        await sandbox.stop()
        end = sandbox.exited()
        assert end is not None
        assert end.reason == "stopped"

    async def test_each_has_an_id_of_its_own(self, runtime: Runtime) -> None:
        sandboxes = await asyncio.gather(*(runtime.start(SPEC) for _ in range(6)))
        await asyncio.gather(*(sandbox.stop() for sandbox in sandboxes))
        assert len({sandbox.id for sandbox in sandboxes}) == 6

    async def test_an_unknown_image_is_refused(self, runtime: Runtime) -> None:
        with pytest.raises(UnknownImage, match="nonesuch"):
            await runtime.start(Spec(image="nonesuch"))

    async def test_cancelled_it_leaves_nothing(self, runtime: Runtime, host: Embedded) -> None:
        start = asyncio.create_task(runtime.start(SPEC))
        await asyncio.sleep(0)  # lets it begin, nothing more
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        # Whatever is asked of the runtime now is answered after what was asked before.
        sandbox = await runtime.start(SPEC)
        await sandbox.stop()
        assert host.contained() == []
        assert host.groups() == []

    async def test_the_environment_of_the_spec_reaches_the_program(self, runtime: Runtime) -> None:
        spec = Spec(env=(("FLAVOUR", "früh"),))
        async with kernel_of(runtime, spec) as kernel:
            outputs, _ = await run(kernel, "import os; print(os.environ['FLAVOUR'], end='')")
            assert [getattr(output, "text", None) for output in outputs] == ["früh"]


class TestMeters:
    async def test_cpu_time_is_counted(self, runtime: Runtime) -> None:
        async with kernel_of(runtime) as kernel:
            before = kernel.sandbox.usage().cpu_ns
            _, end = await run(kernel, "import time\nwhile time.process_time() < 0.5: pass")
            assert kernel.sandbox.usage().cpu_ns - before >= 0.4e9
            assert end.cpu_ms >= 400

    async def test_the_peak_of_memory_is_the_peak_since_the_last_reset(self, runtime: Runtime) -> None:
        async with kernel_of(runtime) as kernel:
            await run(kernel, "x = bytearray(200 << 20); del x")
            assert kernel.sandbox.usage().peak_bytes >= 200 << 20
            kernel.sandbox.reset_peak()
            assert kernel.sandbox.usage().peak_bytes < 150 << 20

    async def test_a_kill_by_the_memory_cap_is_counted(self, runtime: Runtime) -> None:
        async with kernel_of(runtime, SMALL) as kernel:
            assert kernel.sandbox.usage().oom_kills == 0
            _, end = await run(kernel, "x = bytearray(1 << 30)")
            assert end.status is Status.OOM
            assert kernel.sandbox.usage().oom_kills >= 1
            assert kernel.sandbox.usage().peak_bytes <= 256 << 20

    async def test_after_the_end_the_last_reading_stays(self, runtime: Runtime) -> None:
        kernel = await Kernel.start(runtime, SPEC)
        last = kernel.sandbox.usage()
        await kernel.stop()
        assert kernel.sandbox.usage().cpu_ns >= last.cpu_ns > 0
        kernel.sandbox.reset_peak()


class TestStop:
    async def test_it_leaves_no_process_and_no_control_group(self, runtime: Runtime, host: Embedded) -> None:
        async with kernel_of(runtime) as kernel:
            await run(kernel, "import subprocess\nfor _ in range(5): subprocess.Popen(['sleep', '1000'])")
            inside = host.contained()
            assert len(inside) == 7
            assert host.groups()
        assert not any(alive(pid) for pid in inside)
        assert host.groups() == []

    async def test_it_ends_daemons_that_ignore_every_signal(self, runtime: Runtime, host: Embedded) -> None:
        daemon = """
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
        async with kernel_of(runtime) as kernel:
            _, end = await run(kernel, daemon.replace("\n            ", "\n"))
            assert end.status is Status.OK
            inside = host.contained()
            assert len(inside) == 3
        assert not any(alive(pid) for pid in inside)
        assert host.groups() == []

    async def test_twice_is_once(self, runtime: Runtime) -> None:
        sandbox = await runtime.start(SPEC)
        await asyncio.gather(sandbox.stop(), sandbox.stop())
        await sandbox.stop()

    async def test_everybody_who_waits_is_told(self, runtime: Runtime) -> None:
        sandbox = await runtime.start(SPEC)
        waiting = [asyncio.create_task(sandbox.wait()) for _ in range(3)]
        await sandbox.stop()
        assert [(await wait).reason for wait in waiting] == ["stopped"] * 3

    async def test_it_is_allowed_before_the_kernel_is_there(self, runtime: Runtime, host: Embedded) -> None:
        for _ in range(5):
            sandbox = await runtime.start(SPEC)
            await sandbox.stop()
        assert host.contained() == []
        assert host.groups() == []

    async def test_no_verb_is_lost_while_the_runtime_is_slow(self, runtime: Runtime, host: Embedded) -> None:
        sandbox = await runtime.start(SPEC)
        os.kill(host.launcher, signal.SIGSTOP)
        stops = [asyncio.create_task(sandbox.stop()) for _ in range(3000)]
        start = asyncio.create_task(runtime.start(SPEC))
        await asyncio.sleep(0)  # lets them all ask
        os.kill(host.launcher, signal.SIGCONT)
        await asyncio.gather(*stops)
        await (await start).stop()

    async def test_an_execution_in_flight_ends_as_cancelled(self, runtime: Runtime) -> None:
        kernel = await Kernel.start(runtime, SPEC)
        async with running(kernel):
            await kernel.stop()
        assert endings.pop(kernel).status is Status.CANCELLED


class TestKilled:
    """kill -9 of each process from outside: a typed end for who waits, and the rest goes on."""

    async def test_a_kernel_is_replaced_in_the_same_sandbox(self, runtime: Runtime, host: Embedded) -> None:
        async with kernel_of(runtime) as kernel:
            async with running(kernel):
                [victim] = host.kernels()
                os.kill(victim, signal.SIGKILL)
            end = endings.pop(kernel)
            assert (end.status, end.state_lost) == (Status.KILLED, True)
            assert "SIGKILL" in end.reason
            assert (await run(kernel, "1"))[1].status is Status.OK

    async def test_an_idle_kernel_is_replaced_and_the_next_result_says_so(
        self, runtime: Runtime, host: Embedded
    ) -> None:
        async with kernel_of(runtime) as kernel:
            [victim] = host.kernels()
            os.kill(victim, signal.SIGKILL)
            await ended(victim)
            _, end = await run(kernel, "1")
            assert (end.status, end.state_lost) == (Status.OK, True)

    async def test_init_takes_its_sandbox_along_and_no_other(self, runtime: Runtime, host: Embedded) -> None:
        async with kernel_of(runtime) as other, kernel_of(runtime) as kernel:
            [victim] = set(host.inits()) - {init for init in host.inits() if init < max(host.inits())}
            inside = [pid for pid in host.contained() if namespace(pid) == namespace(victim)]
            async with running(kernel):
                os.kill(victim, signal.SIGKILL)
            end = endings.pop(kernel)
            assert (end.status, end.state_lost) == (Status.KILLED, True)
            await kernel.sandbox.wait()
            assert not any(alive(pid) for pid in inside)
            with pytest.raises(SessionClosed):
                await run(kernel, "1")
            assert (await run(other, "1"))[1].status is Status.OK

    async def test_a_zygote_hurts_no_live_kernel_and_another_takes_its_place(self, root: None) -> None:
        async with opened() as runtime:
            host = Embedded.below(os.getpid())
            async with kernel_of(runtime) as kernel:
                await run(kernel, "x = 6")
                async with running(kernel, "print('on'); import time; time.sleep(0.5); x *= 7"):
                    [victim] = host.zygotes()
                    os.kill(victim, signal.SIGKILL)
                    await ended(victim)
                assert endings.pop(kernel).status is Status.OK
                outputs, _ = await run(kernel, "print(x, end='')")
                assert [getattr(output, "text", None) for output in outputs] == ["42"]
                async with kernel_of(runtime) as later:
                    assert (await run(later, "1"))[1].status is Status.OK
                assert host.zygotes() != [victim]

    async def test_without_its_zygote_a_sandbox_still_gets_its_next_kernel(self, root: None) -> None:
        async with opened() as runtime:
            [victim] = Embedded.below(os.getpid()).zygotes()
            async with kernel_of(runtime) as kernel:
                await run(kernel, "open('/mnt/data/kept', 'w').write('x')")
                os.kill(victim, signal.SIGKILL)
                await ended(victim)
                _, end = await run(kernel, "import os; os._exit(1)")
                assert end.status is Status.KILLED
                _, end = await run(kernel, "open('/mnt/data/kept').read()", 50.0)
                assert end.status is Status.OK

    async def test_the_launcher_takes_everything_along_and_all_are_told_and_it_is_replaced(self, root: None) -> None:
        async with opened() as runtime:
            host = Embedded.below(os.getpid())
            instance, everything = host.instance, []
            kernel = await Kernel.start(runtime, SPEC)
            async with running(kernel):
                everything = [*host.contained(), *host.zygotes()]
                assert len(everything) == 3
                os.kill(host.launcher, signal.SIGKILL)
            assert endings.pop(kernel).status is Status.KILLED
            await ended(*everything)
            with pytest.raises(SessionClosed):
                await run(kernel, "1")
            await kernel.stop()
            another = await Kernel.start(runtime, SPEC)
            _, end = await run(another, "1")
            assert end.status is Status.OK
            assert groups(instance) == [] or Embedded.below(os.getpid()).instance == instance
            await another.stop()
        async with opened():
            assert groups(instance) == []

    async def test_the_server_leaves_no_orphan_and_no_directory(self, root: None, python_image: Image) -> None:
        server = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SERVER, stdout=asyncio.subprocess.PIPE, start_new_session=True
        )
        assert server.stdout is not None
        assert await server.stdout.readline() == b"busy\n"
        host = Embedded.below(server.pid)
        instance, stage = host.instance, host.stage
        everything = [host.launcher, *host.zygotes(), *host.contained()]
        assert len(everything) >= 1 + 1 + 2 * 3
        assert groups(instance)
        server.kill()
        await server.wait()
        await ended(*everything)
        assert groups(instance) == []
        assert not stage.exists()

    async def test_server_and_launcher_at_once_leave_only_what_the_next_engine_removes(
        self, root: None, python_image: Image
    ) -> None:
        server = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SERVER, stdout=asyncio.subprocess.PIPE, start_new_session=True
        )
        assert server.stdout is not None
        assert await server.stdout.readline() == b"busy\n"
        host = Embedded.below(server.pid)
        instance, stage = host.instance, host.stage
        everything = [*host.zygotes(), *host.contained()]
        os.kill(host.launcher, signal.SIGKILL)
        server.kill()
        await server.wait()
        await ended(*everything)
        async with Engine.open(Settings(pool_size=0)) as engine:
            assert (await engine.run("1")).status is Status.OK
            assert groups(instance) == [] or Embedded.below(os.getpid()).instance == instance
        assert groups(instance) == []
        assert not stage.exists()


SERVER = """
import asyncio
from sandbox.config import Settings
from sandbox.engine import Engine

async def main():
    async with Engine.open(Settings(pool_size=1)) as engine, engine.session() as one, engine.session() as other:
        await engine.pool.fill()
        async def busy(session):
            async for output in session.stream("import subprocess; subprocess.Popen(['sleep', '1000']); print(1)\\n"
                                               "while True: pass", 600):
                yield output
        streams = [busy(one), busy(other)]
        for stream in streams:
            await anext(stream)
        print("busy", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


class TestClose:
    async def test_closing_ends_every_sandbox_and_every_process(self, root: None) -> None:
        async with opened() as runtime:
            host = Embedded.below(os.getpid())
            instance, stage = host.instance, host.stage
            kernels = [await Kernel.start(runtime, SPEC) for _ in range(3)]
            everything = [host.launcher, *host.zygotes(), *host.contained()]
            assert len(everything) == 2 + 2 * 3
        assert not any(alive(pid) for pid in everything)
        assert groups(instance) == []
        assert not stage.exists()
        for kernel in kernels:
            assert kernel.sandbox.exited() is not None
            await kernel.stop()

    async def test_closing_twice_is_closing_once(self, root: None) -> None:
        async with opened() as runtime:
            await runtime.aclose()

    async def test_nothing_of_the_server_is_open_or_set_in_its_helpers(self, runtime: Runtime, host: Embedded) -> None:
        for pid in (host.launcher, *host.zygotes()):
            environment = dict(line.split("=", 1) for line in command_environment(pid))
            assert "PYTEST_CURRENT_TEST" in os.environ
            assert not {name for name in environment if name.startswith("PYTEST")}
            assert status(pid)["Threads"] == ["1"]


def command_environment(pid: int) -> list[str]:
    with open(f"/proc/{pid}/environ") as file:
        return file.read().split("\0")[:-1]


def namespace(pid: int) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/pid")
    return f"{pid} is gone ({command(pid)})"
