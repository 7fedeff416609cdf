"""The embedded runtime's own parts, killed and looked at: launcher, zygotes, inits."""

import asyncio
import contextlib
import functools
import os
import signal
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox.config import Settings
from sandbox.ending import Ending
from sandbox.engine import Engine
from sandbox.errors import SessionClosed
from sandbox.execution import Limits, Spec, Status, Stream
from sandbox.image import Image
from sandbox.kernel import Kernel
from sandbox.runtime.embedded.jail import ZYGOTE_CAPABILITIES
from sandbox.runtime.embedded.runtime import EmbeddedRuntime
from tests.host import Embedded, alive, children, ended, groups, status, until
from tests.runtime.kernels import endings, kernel_of, run, running

SPEC = Spec()


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[EmbeddedRuntime]:
    # What is looked at does not depend on how much the zygote imports.
    async with EmbeddedRuntime.open(Settings.load().images_dir, shared=False) as runtime:
        await runtime.prepare(SPEC.image)
        yield runtime


@pytest.fixture(scope="module")
async def runtime(root: None, python_image: Image) -> AsyncIterator[EmbeddedRuntime]:
    """One that lives through these tests; whoever kills a part of it opens another."""
    async with opened() as runtime:
        yield runtime


@pytest.fixture
def host(runtime: EmbeddedRuntime) -> Embedded:
    """The same runtime as the machine sees it."""
    return Embedded.below(os.getpid())


async def said(kernel: Kernel, code: str) -> str:
    """What a program prints."""
    outputs, _ = await run(kernel, code)
    return "".join(output.text for output in outputs if isinstance(output, Stream)).strip()


def _is_after(moment: float) -> bool:
    return time.monotonic() > moment


def group_of(pid: int) -> Path:
    """A file in the control group in which a process has its share of the processors."""
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    v1 = [path for _, controllers, path in lines if "cpu" in controllers.split(",")]
    mount, name = ("cpu", "cpu.shares") if v1 else ("", "cpu.weight")
    return Path("/sys/fs/cgroup", mount, (v1 or [lines[0][2]])[0].lstrip("/"), name)


@dataclass(frozen=True)
class Standing:
    """Of a control group among others."""

    idle: bool
    share: int


def precedence(pid: int) -> Standing:
    file = group_of(pid)
    return Standing(file.with_name("cpu.idle").read_text().strip() == "1", int(file.read_text()))


def library(pid: int) -> str:
    """Where a process has the C library."""
    return next(line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "libc.so" in line).split("-")[0]


@pytest.mark.attack("E01", "D02")
async def test_success_that_init_hears_of_too_late_is_none(runtime: EmbeddedRuntime, host: Embedded) -> None:
    """As where a program's children keep init from its turn: when that comes, the reply is there already."""
    async with kernel_of(runtime, SPEC) as kernel:
        [init] = host.inits()
        ending = None
        async for item in kernel.stream("exe_1", "print('on', flush=True); import time; time.sleep(0.6)", 0.3):
            if isinstance(item, Stream):
                os.kill(init, signal.SIGSTOP)
                try:
                    await until(functools.partial(_is_after, time.monotonic() + 0.8))
                finally:
                    os.kill(init, signal.SIGCONT)
            elif isinstance(item, Ending):
                ending = item
        assert ending is not None
        assert (ending.status, ending.state_lost) == (Status.TIMEOUT, False)
        assert await said(kernel, "print('on')") == "on"


class TestPrecedence:
    """Who has the processors first, where the host's kernel knows such a thing."""

    @pytest.fixture(autouse=True)
    def knows(self, runtime: EmbeddedRuntime, host: Embedded) -> None:
        if not group_of(host.launcher).with_name("cpu.idle").exists() or (os.cpu_count() or 1) < 2:
            pytest.skip("this host's kernel has no cpu.idle, or one processor")

    async def test_who_computes_goes_behind_and_is_as_all_others_afterwards(
        self, runtime: EmbeddedRuntime, host: Embedded
    ) -> None:
        async with kernel_of(runtime, SPEC) as kernel:
            [init] = host.inits()
            [process] = host.kernels()
            before = precedence(init)
            async with running(kernel, "print(1)\nwhile True: pass"):
                await until(lambda: precedence(init).idle)
                await kernel.interrupt()
            await until(lambda: precedence(init) == before)
            # Of several engines on this host only the first has taken one from it.
            await until(lambda: os.sched_getaffinity(process) == os.sched_getaffinity(0))
            assert not before.idle

    async def test_who_may_use_all_processors_is_kept_off_none(self, runtime: EmbeddedRuntime, host: Embedded) -> None:
        spec = Spec(limits=Limits(cpus=float(os.cpu_count() or 1)))
        async with kernel_of(runtime, spec) as kernel, running(kernel, "print(1)\nwhile True: pass"):
            [init] = host.inits()
            await until(lambda: precedence(init).idle)
            await until(functools.partial(_is_after, time.monotonic() + 0.2))  # it has been looked at again
            assert os.sched_getaffinity(init) == os.sched_getaffinity(0)
            await kernel.interrupt()

    async def test_who_uses_half_a_processor_is_as_all_others_even_after_more(
        self, runtime: EmbeddedRuntime, host: Embedded
    ) -> None:
        code = """
            import time
            print(1)
            start = time.perf_counter()
            while time.perf_counter() < start + 0.7: pass
            while True:
                pause = time.perf_counter() + 0.01
                while time.perf_counter() < pause: pass
                time.sleep(0.01)
        """
        async with kernel_of(runtime, SPEC) as kernel, running(kernel, textwrap.dedent(code)):
            [init] = host.inits()
            await until(lambda: precedence(init).idle)
            await until(lambda: not precedence(init).idle)
            seen = set[bool]()

            def looked_at_for_a_second() -> bool:
                seen.add(precedence(init).idle)
                return is_past()

            is_past = functools.partial(_is_after, time.monotonic() + 1)
            await until(looked_at_for_a_second)
            assert seen == {False}
            await kernel.interrupt()

    async def test_who_dies_of_it_is_as_all_others_afterwards(self, runtime: EmbeddedRuntime, host: Embedded) -> None:
        async with kernel_of(runtime, SPEC) as kernel:
            [init] = host.inits()
            [process] = host.kernels()
            async with running(kernel, "print(1)\nwhile True: pass"):
                await until(lambda: precedence(init).idle)
                os.kill(process, signal.SIGKILL)
            await until(lambda: not precedence(init).idle)

    async def test_who_sleeps_is_as_all_others(self, runtime: EmbeddedRuntime, host: Embedded) -> None:
        async with kernel_of(runtime, SPEC) as sleeper, running(sleeper):
            [sleeps] = host.inits()
            async with kernel_of(runtime, SPEC) as kernel, running(kernel, "print(1)\nwhile True: pass"):
                [computes] = set(host.inits()) - {sleeps}
                await until(lambda: precedence(computes).idle)
                assert not precedence(sleeps).idle
                await kernel.interrupt()
            await sleeper.interrupt()


class TestParts:
    def test_the_launcher_has_loaded_nothing_but_the_standard_library(self, host: Embedded) -> None:
        mapped = Path(f"/proc/{host.launcher}/maps").read_text()
        assert "lib-dynload" in mapped
        assert "site-packages" not in mapped

    async def test_a_zygote_keeps_the_five_capabilities_that_forking_takes(self, host: Embedded) -> None:
        five = sum(1 << number for number in ZYGOTE_CAPABILITIES)
        [zygote] = host.zygotes()
        assert {name: int(status(zygote)[f"Cap{name}"][0], 16) for name in ("Prm", "Eff", "Bnd")} == {
            "Prm": five,
            "Eff": five,
            "Bnd": five,
        }

    async def test_no_verb_is_lost_while_the_runtime_is_slow(self, runtime: EmbeddedRuntime, host: Embedded) -> None:
        sandbox = await runtime.start(SPEC)
        os.kill(host.launcher, signal.SIGSTOP)
        stops = [asyncio.create_task(sandbox.stop()) for _ in range(3000)]
        start = asyncio.create_task(runtime.start(SPEC))
        await asyncio.sleep(0)  # lets them all ask
        os.kill(host.launcher, signal.SIGCONT)
        await asyncio.gather(*stops)
        await (await start).stop()

    @pytest.mark.attack("K07")
    async def test_a_zygote_hurts_no_live_kernel_and_another_takes_its_place(self, root: None) -> None:
        async with opened() as runtime:
            host = Embedded.below(os.getpid())
            async with kernel_of(runtime, SPEC) as kernel:
                await run(kernel, "x = 6")
                async with running(kernel, "print('on'); import time; time.sleep(0.5); x *= 7"):
                    [victim] = host.zygotes()
                    os.kill(victim, signal.SIGKILL)
                    await ended(victim)
                assert endings.pop(kernel).status is Status.OK
                outputs, _ = await run(kernel, "print(x, end='')")
                assert [getattr(output, "text", None) for output in outputs] == ["42"]
                async with kernel_of(runtime, SPEC) as later:
                    assert (await run(later, "1"))[1].status is Status.OK
                assert host.zygotes() != [victim]

    @pytest.mark.attack("K07")
    async def test_without_its_zygote_a_sandbox_still_gets_its_next_kernel(self, root: None) -> None:
        async with opened() as runtime:
            [victim] = Embedded.below(os.getpid()).zygotes()
            async with kernel_of(runtime, SPEC) as kernel:
                await run(kernel, "open('/mnt/data/kept', 'w').write('x')")
                os.kill(victim, signal.SIGKILL)
                await ended(victim)
                _, end = await run(kernel, "import os; os._exit(1)")
                assert end.status is Status.KILLED
                _, end = await run(kernel, "open('/mnt/data/kept').read()", 50.0)
                assert end.status is Status.OK

    @pytest.mark.attack("K08", "F10")
    async def test_a_zygote_that_has_served_its_time_is_followed_by_another_and_ends_with_its_last_kernel(
        self, root: None, python_image: Image
    ) -> None:
        async with EmbeddedRuntime.open(Settings.load().images_dir, shared=False, zygote_age=0.001) as runtime:
            await runtime.prepare(SPEC.image)
            host = Embedded.below(os.getpid())
            [first] = host.zygotes()
            async with kernel_of(runtime, SPEC) as old:
                await run(old, "x = 6")
                [old_pid] = host.kernels()
                while True:
                    async with kernel_of(runtime, SPEC) as young:
                        [young_pid] = {*host.kernels()} - {old_pid}
                        if status(young_pid)["PPid"] != [str(first)]:
                            assert library(young_pid) != library(old_pid), "an address layout of its own"
                            assert await said(young, "print(hash('x'))") != await said(old, "print(hash('x'))")
                            break
                        assert library(young_pid) == library(old_pid)
                assert len(host.zygotes()) == 2, "one that has retired, and never two"
                assert await said(old, "print(x * 7)") == "42"
                await run(old, "import os; os._exit(1)")
                # Its next kernel is of the new generation, and nobody is left of the old one.
                assert await said(old, "print('x' in globals())") == "False"
                await ended(first)
                assert alive(host.kernels()[0])

    async def test_a_kernel_that_is_killed_before_it_has_come_in_costs_no_sandbox(self, root: None) -> None:
        async with opened() as runtime:
            host = Embedded.below(os.getpid())
            [zygote] = host.zygotes()
            async with kernel_of(runtime, SPEC) as kernel:
                await run(kernel, "open('/mnt/data/kept', 'w').write('x')")
                [first] = host.kernels()
                # A second zygote, so that the launcher itself hears of the kernel's end while that one is stopped.
                os.kill(zygote, signal.SIGKILL)
                await ended(zygote)
                async with kernel_of(runtime, SPEC):
                    [zygote] = set(host.zygotes()) - {first}  # an orphan by now, and the launcher's
                descriptors = len(os.listdir(f"/proc/{host.launcher}/fd"))
                os.kill(zygote, signal.SIGSTOP)
                os.kill(first, signal.SIGKILL)
                await until(lambda: len(os.listdir(f"/proc/{host.launcher}/fd")) == descriptors + 1)  # the gate
                os.kill(host.launcher, signal.SIGSTOP)
                os.kill(zygote, signal.SIGCONT)
                await until(lambda: children(zygote) != [])
                [newborn] = children(zygote)
                restart = asyncio.create_task(kernel.restart())
                await until(lambda: not alive(newborn))
                os.kill(host.launcher, signal.SIGCONT)
                await restart
                assert (await run(kernel, "open('/mnt/data/kept').read()"))[1].status is Status.OK

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

    @pytest.mark.attack("D09")
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

    @pytest.mark.attack("D09")
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

    async def test_nothing_of_the_server_is_open_or_set_in_its_helpers(
        self, runtime: EmbeddedRuntime, host: Embedded
    ) -> None:
        for pid in (host.launcher, *host.zygotes()):
            environment = dict(line.split("=", 1) for line in command_environment(pid))
            assert "PYTEST_CURRENT_TEST" in os.environ
            assert not {name for name in environment if name.startswith("PYTEST")}
            assert status(pid)["Threads"] == ["1"]


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


def command_environment(pid: int) -> list[str]:
    with open(f"/proc/{pid}/environ") as file:
        return file.read().split("\0")[:-1]
