"""Kernels without a zygote: what one has is no other's, and nothing stands where they come from."""

import asyncio
import contextlib
import os
import secrets
import signal
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sandbox.errors import SandboxError
from sandbox.execution import Limits, Output, Spec, Status, Stream
from sandbox.image import Image
from sandbox.kernel import Kernel
from sandbox.runtime import Runtime
from sandbox.session import Session
from tests.host import WAIT_SECONDS, Embedded, alive, children, command, status
from tests.runtime.escape.probes import pid_of
from tests.runtime.escape.test_process import holds
from tests.runtime.kernels import kernel_of, run
from tests.runtime.test_contract import Ground, of_ordinary_user, of_root

AT_RANDOM = 25
"""In the auxiliary vector: where the sixteen bytes are that C makes its canaries of."""


@pytest.fixture(params=["root", "subordinate", "single"], scope="module")
async def ground(
    request: pytest.FixtureRequest, root: None, python_image: Image, nothing_left: None
) -> AsyncIterator[Ground]:
    opened = of_root("exec") if request.param == "root" else of_ordinary_user(request.param, "exec")
    async with opened as ground:
        yield ground


@pytest.fixture
def runtime(ground: Ground) -> Runtime:
    return ground.runtime


@pytest.fixture
def house(ground: Ground) -> Embedded:
    assert isinstance(ground.house, Embedded)
    return ground.house


@dataclass(frozen=True, slots=True)
class Marks:
    """What the system draws for a process when its program is executed, and every fork of it has, too."""

    libc: int
    stack: int
    canary: bytes

    @classmethod
    def of(cls, pid: int) -> "Marks":
        maps = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
        first = {words[-1]: int(words[0].split("-")[0], 16) for words in reversed(maps)}
        [libc] = [address for path, address in first.items() if path.endswith("/libc.so.6")]
        vector = dict(struct.iter_unpack("QQ", Path(f"/proc/{pid}/auxv").read_bytes()))
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            memory.seek(vector[AT_RANDOM])
            return cls(libc, first["[stack]"], memory.read(16))

    def shared(self, other: "Marks") -> list[str]:
        """Names of those that both have."""
        return [name for name in ("libc", "stack", "canary") if getattr(self, name) == getattr(other, name)]


def text(outputs: list[Output]) -> str:
    return "".join(output.text for output in outputs if isinstance(output, Stream))


class TestOwn:
    async def test_two_have_no_address_no_canary_and_no_hash_in_common(self, runtime: Runtime, house: Embedded) -> None:
        async with kernel_of(runtime, Spec()) as one, kernel_of(runtime, Spec()) as other:
            ours, theirs = (Marks.of(pid) for pid in house.kernels())
            assert ours.shared(theirs) == []
            hashes = [text((await run(kernel, "print(hash('x'))"))[0]) for kernel in (one, other)]
            assert len(set(hashes)) == 2

    async def test_two_forks_of_a_zygote_do(self, embedded_engine: object, session: Session) -> None:
        # The control: what is told apart above is the same where there is a zygote, so looking at it proves something.
        async with embedded_engine.session() as other:  # type: ignore[attr-defined]
            marks = [Marks.of(await pid_of(each)) for each in (session, other)]
            assert marks[0].shared(marks[1]) == ["libc", "stack", "canary"]

    async def test_the_next_kernel_of_a_sandbox_has_nothing_of_the_one_before(
        self, runtime: Runtime, house: Embedded
    ) -> None:
        async with kernel_of(runtime, Spec()) as kernel:
            [before] = house.kernels()
            marks = Marks.of(before)
            os.kill(before, signal.SIGKILL)
            _, end = await run(kernel, "1")
            assert (end.status, end.state_lost) == (Status.OK, True)
            [after] = house.kernels()
            assert marks.shared(Marks.of(after)) == []

    async def test_what_the_launcher_knows_of_others_is_not_in_it(self, runtime: Runtime, house: Embedded) -> None:
        secret = secrets.token_hex(16)
        async with kernel_of(runtime, replace(Spec(), env=(("CANARY", secret),))):
            [known] = house.kernels()
            async with kernel_of(runtime, Spec()):
                [fresh] = set(house.kernels()) - {known}
                assert holds(known, secret)
                assert not holds(fresh, secret)

    async def test_it_is_contained_and_cannot_be_looked_into_by_its_own_kind(
        self, runtime: Runtime, house: Embedded
    ) -> None:
        async with kernel_of(runtime, Spec()) as kernel:
            [pid] = house.kernels()
            fields = status(pid)
            assert {fields[f"Cap{name}"][0] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
            assert (fields["NoNewPrivs"], fields["Seccomp"]) == (["1"], ["2"])
            # An execution allows it again, and by default a child of the same id may look.
            look = "import os, subprocess\nask = ['cat', f'/proc/{os.getpid()}/environ']\n"
            outputs, _ = await run(kernel, f"{look}print(subprocess.run(ask, capture_output=True).returncode)")
            assert text(outputs) == "1\n"


class TestParts:
    async def test_nothing_stands_between_the_launcher_and_its_sandboxes(
        self, runtime: Runtime, house: Embedded
    ) -> None:
        async with kernel_of(runtime, Spec()), kernel_of(runtime, Spec()):
            assert house.zygotes() == []
            assert set(children(house.launcher)) == {*house.inits(), *house.kernels()}
            assert len(house.inits()) == len(house.kernels()) == 2
            for pid in house.kernels():
                assert "sandbox.guest.fresh" in command(pid)

    async def test_a_start_leaves_no_descriptor_with_the_launcher(self, runtime: Runtime, house: Embedded) -> None:
        before = len(os.listdir(f"/proc/{house.launcher}/fd"))
        async with kernel_of(runtime, Spec()) as kernel:
            await kernel.restart()
            await run(kernel, "1")
        assert len(os.listdir(f"/proc/{house.launcher}/fd")) == before

    async def test_one_that_is_killed_at_any_moment_of_its_way_costs_no_sandbox(
        self, runtime: Runtime, house: Embedded
    ) -> None:
        async with kernel_of(runtime, Spec()) as kernel:
            await run(kernel, "open('kept', 'w').write('x')")
            for _ in range(3):
                [before] = house.kernels()
                os.kill(before, signal.SIGKILL)
                os.kill(await another(house, before), signal.SIGKILL)
                outputs, end = await run(kernel, "print(open('kept').read())")
                assert (end.status, text(outputs)) == (Status.OK, "x\n")

    async def test_one_that_can_never_begin_ends_its_sandbox(self, runtime: Runtime, house: Embedded) -> None:
        start = asyncio.create_task(Kernel.start(runtime, Spec()))
        async with asyncio.timeout(WAIT_SECONDS):
            while not start.done():
                for pid in house.kernels():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                await asyncio.sleep(0)
        assert isinstance(start.exception(), SandboxError)
        assert house.contained() == []

    async def test_whoever_sends_it_may_die_and_the_start_ends_one_way_or_the_other(
        self, runtime: Runtime, house: Embedded
    ) -> None:
        for _ in range(3):
            start = asyncio.create_task(Kernel.start(runtime, Spec()))
            sender = await another(house, 0, inside=False)
            with contextlib.suppress(ProcessLookupError):
                os.kill(sender, signal.SIGKILL)
            try:
                kernel = await start
            except SandboxError:
                continue
            assert (await run(kernel, "1"))[1].status is Status.OK
            await kernel.stop()
        assert house.contained() == []


async def another(house: Embedded, known: int, *, inside: bool = True) -> int:
    """A kernel that is not this one; or, from outside, the next child of the launcher's, whatever it is."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            found = house.kernels() if inside else children(house.launcher)
            if fresh := [pid for pid in found if pid != known and alive(pid)]:
                return fresh[0]
            await asyncio.sleep(0)


LEAVE = """
import os, shutil
for name in (".matplotlib", ".ipython", ".jupyter"):
    shutil.rmtree(f"/tmp/{name}", ignore_errors=True)
open("/tmp/.ipython", "w").close()
os.mkdir("/tmp/.matplotlib")
for path in ("/tmp/.matplotlib/matplotlibrc", "matplotlibrc"):
    open(path, "wb").write(b"\\xff\\xfe")
os.makedirs("/tmp/.local/lib/python3.%d/site-packages" % __import__("sys").version_info.minor)
for directory in ("/mnt/data", "/tmp", os.path.dirname("/tmp/.local/lib/x"), *map(str, __import__("pathlib").Path(
        "/tmp/.local/lib").glob("*/site-packages"))):
    for name in ("runpy", "sandbox", "encodings", "sitecustomize", "usercustomize", "numpy", "IPython"):
        open(f"{directory}/{name}.py", "w").write("open('/dev/shm/ran', 'w')")
os.chdir("/tmp")
"""
FILL = """
try:
    with open("/tmp/full", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
except OSError:
    pass
"""


class TestLeftovers:
    async def test_what_a_program_leaves_has_no_part_in_how_the_next_kernel_begins(self, runtime: Runtime) -> None:
        async with kernel_of(runtime, Spec()) as kernel:
            assert (await run(kernel, LEAVE))[1].status is Status.OK
            assert (await run(kernel, FILL))[1].status is Status.OK
            await kernel.restart()
            outputs, end = await run(
                kernel,
                "import os, sys\nprint(os.path.exists('/dev/shm/ran'), os.getcwd(), 'numpy' in sys.modules)\n"
                "import matplotlib; print(matplotlib.get_backend(), matplotlib.rcParams['lines.linewidth'])",
            )
            assert (end.status, text(outputs)) == (Status.OK, "False /mnt/data True\ninline 1.5\n")

    async def test_a_tree_without_end_does_not_keep_it_from_beginning(self, runtime: Runtime) -> None:
        async with kernel_of(runtime, Spec()) as kernel:
            dig = "import os\nos.chdir('/tmp/.matplotlib')\nfor _ in range(2000): os.mkdir('d'); os.chdir('d')"
            assert (await run(kernel, dig))[1].status is Status.OK
            await kernel.restart()
            assert (await run(kernel, "1"))[1].status is Status.OK


class TestAlike:
    async def test_the_smallest_sandbox_holds_it(self, runtime: Runtime) -> None:
        async with kernel_of(runtime, replace(Spec(), limits=Limits(memory_mb=192))) as kernel:
            outputs, end = await run(kernel, "import pandas\nprint(pandas.DataFrame({'a': [1, 2]}).a.sum())")
            assert (end.status, text(outputs)) == (Status.OK, "3\n")

    async def test_its_environment_is_the_program_s_alone(self, runtime: Runtime) -> None:
        async with kernel_of(runtime, Spec()) as kernel:
            outputs, _ = await run(
                kernel, "import os, sys\nprint(sorted({'PYTHONPATH', 'HOME'} & {*os.environ}), sys.argv)"
            )
            assert text(outputs) == "['HOME'] ['']\n"
