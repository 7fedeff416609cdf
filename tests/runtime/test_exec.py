"""Kernels without a zygote: what one has is no other's, and nothing stands where they come from."""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sandbox.engine import Engine
from sandbox.errors import SandboxError
from sandbox.execution import Limits, Output, Spec, Status, Stream
from sandbox.image import Image
from sandbox.kernel import Kernel
from sandbox.runtime import Runtime
from sandbox.session import Session
from tests.host import WAIT_SECONDS, Embedded, alive, children, command, ended, status
from tests.runtime.escape.probes import pid_of
from tests.runtime.escape.test_process import holds
from tests.runtime.kernels import kernel_of, run
from tests.runtime.test_contract import Ground, of_ordinary_user, of_root

AT_RANDOM = 25
"""In the auxiliary vector: where the sixteen bytes are that C makes its canaries of."""


@pytest.fixture(params=["root", pytest.param("subordinate", marks=pytest.mark.nightly), "single"], scope="module")
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


@dataclass(frozen=True, slots=True)
class Pair:
    """Two sandboxes, the second made when the launcher knew what the first was started with."""

    secret: str
    first: Kernel
    first_pid: int
    second: Kernel
    second_pid: int


@pytest.fixture(scope="class")
async def pair(ground: Ground) -> AsyncIterator[Pair]:
    secret = secrets.token_hex(16)
    async with kernel_of(ground.runtime, replace(Spec(), env=(("CANARY", secret),))) as first:
        [first_pid] = ground.house.kernels()
        async with kernel_of(ground.runtime, Spec()) as second:
            [second_pid] = set(ground.house.kernels()) - {first_pid}
            yield Pair(secret, first, first_pid, second, second_pid)


class TestTwo:
    async def test_two_have_no_address_no_canary_and_no_hash_in_common(self, pair: Pair) -> None:
        assert Marks.of(pair.first_pid).shared(Marks.of(pair.second_pid)) == []
        hashes = {text((await run(kernel, "print(hash('x'))"))[0]) for kernel in (pair.first, pair.second)}
        assert len(hashes) == 2

    async def test_what_the_launcher_knows_of_others_is_not_in_it(self, pair: Pair) -> None:
        assert holds(pair.first_pid, pair.secret)
        assert not holds(pair.second_pid, pair.secret)

    async def test_nothing_stands_between_the_launcher_and_its_sandboxes(self, pair: Pair, house: Embedded) -> None:
        assert house.zygotes() == []
        assert set(children(house.launcher)) == {*house.inits(), pair.first_pid, pair.second_pid}
        assert len(house.inits()) == 2
        for pid in (pair.first_pid, pair.second_pid):
            assert "sandbox.guest.fresh" in command(pid)

    async def test_it_is_contained_as_forks_are(self, pair: Pair) -> None:
        fields = status(pair.second_pid)
        assert {fields[f"Cap{name}"][0] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
        assert (fields["NoNewPrivs"], fields["Seccomp"]) == (["1"], ["2"])

    async def test_its_own_child_cannot_look_into_it(self, pair: Pair) -> None:
        # An execution allows that again, and by default a child of the same id may.
        look = "import os, subprocess\nask = ['cat', f'/proc/{os.getpid()}/environ']\n"
        outputs, _ = await run(pair.second, f"{look}print(subprocess.run(ask, capture_output=True).returncode)")
        assert text(outputs) == "1\n"

    async def test_a_program_finds_its_environment_and_nothing_of_how_its_kernel_began(self, pair: Pair) -> None:
        outputs, _ = await run(
            pair.second, "import os, sys; print({'PYTHONPATH', 'HOME'} & {*os.environ}, sys.argv, os.getcwd())"
        )
        assert text(outputs) == "{'HOME'} [''] /mnt/data\n"

    async def test_its_peak_of_memory_is_forgotten_when_it_is_told_to(self, pair: Pair) -> None:
        await run(pair.second, "x = bytearray(200 << 20); del x")
        assert (await pair.second.sandbox.usage()).peak_bytes >= 200 << 20
        pair.second.sandbox.reset_peak()
        assert (await pair.second.sandbox.usage()).peak_bytes < 200 << 20


async def test_two_forks_of_a_zygote_have_all_of_it_in_common(embedded_engine: Engine, session: Session) -> None:
    # The control: what is told apart above is the same where there is a zygote, so looking at it proves something.
    async with embedded_engine.session() as other:
        marks = [Marks.of(await pid_of(each)) for each in (session, other)]
        assert marks[0].shared(marks[1]) == ["libc", "stack", "canary"]


class TestNext:
    async def test_the_next_kernel_of_a_sandbox_has_nothing_of_the_one_before(
        self, runtime: Runtime, house: Embedded
    ) -> None:
        async with kernel_of(runtime, Spec()) as kernel:
            [before] = house.kernels()
            marks = Marks.of(before)
            await run(kernel, "x = 1")
            os.kill(before, signal.SIGKILL)
            await ended(before)
            _, end = await run(kernel, "1")
            assert (end.status, end.state_lost) == (Status.OK, True)
            [after] = house.kernels()
            assert marks.shared(Marks.of(after)) == []


@pytest.mark.parametrize("ground", ["root"], indirect=True, scope="module")
class TestBirth:
    async def test_a_start_leaves_no_descriptor_and_no_process_with_the_launcher(
        self, runtime: Runtime, house: Embedded
    ) -> None:
        before = len(os.listdir(f"/proc/{house.launcher}/fd")), children(house.launcher)
        async with kernel_of(runtime, Spec()):
            pass
        assert (len(os.listdir(f"/proc/{house.launcher}/fd")), children(house.launcher)) == before

    async def test_one_that_is_killed_at_any_moment_of_its_way_costs_no_sandbox(
        self, runtime: Runtime, house: Embedded
    ) -> None:
        async with kernel_of(runtime, Spec()) as kernel:
            await run(kernel, "open('kept', 'w').write('x')")
            for _ in range(2):
                [before] = house.kernels()
                os.kill(before, signal.SIGKILL)
                await ended(before)
                os.kill(await seen(house.kernels, before), signal.SIGKILL)
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


def test_what_cannot_be_sent_is_told(root: None) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            command = [sys.executable, "-c", SEND_NOBODY, str(theirs.fileno())]
            assert subprocess.run(command, pass_fds=[theirs.fileno()], timeout=WAIT_SECONDS).returncode == 0
        answer = json.loads(ours.recv(4096))
        assert ours.recv(4096) == b""
    assert answer["fork"] == "x"
    assert "setns" in answer["failed"]


SEND_NOBODY = """
import os, socket, sys
from sandbox.runtime.embedded import entrance
namespace = os.open("/proc/self/ns/user", os.O_RDONLY)  # which nobody can join who is in it
entrance.execute(socket.socket(fileno=int(sys.argv[1])), {"fork": "x"}, [], "/nonesuch", namespace, single=False)
"""


async def seen(look: Callable[[], Iterable[int]], known: int = 0) -> int:
    """The first process that is seen and is not the known one."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            if fresh := [pid for pid in look() if pid != known and alive(pid)]:
                return fresh[0]
            await asyncio.sleep(0)


LEAVE = """
import glob, os, shutil, sys
site = f"/tmp/.local/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
for name in (".matplotlib", ".ipython", ".jupyter"):
    shutil.rmtree(f"/tmp/{name}", ignore_errors=True)
os.makedirs(site)
open("/tmp/.ipython", "w").close()
os.mkdir("/tmp/.matplotlib")
for path in ("/tmp/.matplotlib/matplotlibrc", "matplotlibrc"):
    open(path, "wb").write(b"\\xff\\xfe")
for directory in ("/mnt/data", "/tmp", site):
    for name in ("runpy", "sandbox", "encodings", "sitecustomize", "usercustomize", "numpy", "IPython"):
        open(f"{directory}/{name}.py", "w").write("open('/dev/shm/ran', 'w')")
os.chdir("/tmp/.matplotlib")
for _ in range(2000):
    os.mkdir("d")
    os.chdir("d")
try:
    with open("/tmp/full", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
except OSError:
    pass
"""
FILL = """
import contextlib, os, shutil
for name in (".matplotlib", ".ipython", ".jupyter"):
    shutil.rmtree(f"/tmp/{name}", ignore_errors=True)
with contextlib.suppress(OSError):
    while True:
        os.close(os.open(f"/tmp/{os.urandom(8).hex()}", os.O_CREAT))
"""
LOOK = """
import os, sys
print(os.path.exists("/dev/shm/ran"), os.getcwd(), "numpy" in sys.modules)
import matplotlib
print(matplotlib.get_backend(), matplotlib.rcParams["lines.linewidth"])
"""


@pytest.mark.parametrize("ground", ["root"], indirect=True, scope="module")
class TestBegins:
    @pytest.mark.parametrize("leave", [LEAVE, FILL])
    async def test_what_a_program_leaves_has_no_part_in_how_the_next_kernel_begins(
        self, runtime: Runtime, leave: str
    ) -> None:
        async with kernel_of(runtime, Spec()) as kernel:
            assert (await run(kernel, leave))[1].status is Status.OK
            await kernel.restart()
            outputs, end = await run(kernel, LOOK)
            assert (end.status, text(outputs)) == (Status.OK, "False /mnt/data True\ninline 1.5\n")

    async def test_the_smallest_sandbox_holds_it(self, runtime: Runtime) -> None:
        async with kernel_of(runtime, replace(Spec(), limits=Limits(memory_mb=192))) as kernel:
            outputs, end = await run(kernel, "import pandas\nprint(pandas.DataFrame({'a': [1, 2]}).a.sum())")
            assert (end.status, text(outputs)) == (Status.OK, "3\n")
