"""Sandboxes with a kernel of their own, near their memory cap: they lose what runs in them, and live."""

import asyncio
import contextlib
import os
import shutil
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sandbox.execution import Limits, Spec, Status, Stream
from sandbox.kernel import Kernel
from sandbox.runtime.docker.headroom import Fill, Headroom, container_bytes
from sandbox.runtime.docker.image import Built
from sandbox.runtime.docker.options import Place, has_own_kernel, options
from sandbox.runtime.docker.runtime import DockerRuntime
from sandbox.runtime.embedded import cgroup
from tests.docker import Docker
from tests.host import WAIT_SECONDS, until
from tests.needs import missing
from tests.runtime.kernels import kernel_of, run

MIB = 1 << 20
CAP = 128 * MIB


@pytest.fixture
async def kernel(docker: Docker, docker_image: Built, tmp_path: Path) -> AsyncIterator[Kernel]:
    """On gVisor, with a file."""
    if shutil.which("runsc") is None:
        missing("needs runsc: apt-get install runsc")
    async with (
        DockerRuntime.open(tmp_path, address=docker.address) as runtime,
        kernel_of(runtime, Spec(oci_runtime="runsc")) as kernel,
    ):
        await run(kernel, "x = 1; open('kept', 'w').write('x')")
        yield kernel


class TestOnGVisor:
    @pytest.mark.attack("C01")
    async def test_who_takes_all_memory_keeps_its_files(self, kernel: Kernel) -> None:
        _, end = await run(kernel, "held = []\nwhile True: held.append(bytearray(b'x') * (16 << 20))")
        assert (end.status, end.state_lost) == (Status.OOM, True)
        outputs, end = await run(kernel, "print(open('kept').read(), 'x' in globals(), end='')")
        assert (outputs, end.status) == ([Stream("stdout", "x False")], Status.OK)

    @pytest.mark.attack("C10")
    @pytest.mark.parametrize(
        "code",
        [
            pytest.param("while True:\n    try: os.fork()\n    except OSError: pass", id="a fork bomb"),
            pytest.param("for _ in range(6): os.fork()\nwhile True: pass", id="64 processes that compute"),
        ],
    )
    async def test_who_forks_a_lot_does_so_too_unless_init_has_no_turn(self, kernel: Kernel, code: str) -> None:
        _, end = await run(kernel, f"import os\n{code}")
        if not kernel.alive:  # among so many, on a busy machine
            assert (end.status, "the sandbox died of it" in end.reason) == (Status.OOM, True)
            return
        lost = end.state_lost
        assert end.status is Status.OOM or (end.status is Status.TIMEOUT and not lost), "or there is room for so many"
        outputs, end = await run(kernel, "print(open('kept').read(), 'x' in globals(), end='')")
        assert (outputs, end.status) == ([Stream("stdout", f"x {not lost}")], Status.OK)

    @pytest.mark.attack("C01")
    async def test_what_is_taken_between_two_executions_is_told_with_the_next(self, kernel: Kernel) -> None:
        hoard = "import threading, time\ndef hoard():\n    time.sleep(1)\n    held = bytearray(b'x') * (2 << 30)\n"
        _, end = await run(kernel, f"{hoard}threading.Thread(target=hoard).start()")
        assert end.status is Status.OK
        async with asyncio.timeout(WAIT_SECONDS):
            while not (await kernel.sandbox.usage()).oom_kills:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        outputs, end = await run(kernel, "print('x' in globals(), end='')")
        assert (outputs, end.status, end.state_lost) == ([Stream("stdout", "False")], Status.OK, True)

    @pytest.mark.attack("C02", "C10")
    async def test_it_counts_the_processes_itself_and_the_host_what_it_makes_of_them(self, kernel: Kernel) -> None:
        outputs, _ = await run(kernel, "import resource; print(resource.getrlimit(resource.RLIMIT_NPROC), end='')")
        assert outputs == [Stream("stdout", "(128, 128)")]


class Holder:
    """A process that holds what it is told to, in a group of its own."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def does(self, code: str) -> None:
        """Returns when it has."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{code}\n".encode())
        assert await stdout.readline() == b"done\n"


class LookedAt(cgroup.Group):
    """Knows how often it was."""

    looks = 0

    def held_bytes(self) -> int:
        self.looks += 1
        return super().held_bytes()

    async def is_seen(self) -> None:
        """As it is from now on. A look may read it twice."""
        looks = self.looks
        await until(lambda: self.looks > looks + 2)


@pytest.fixture
def group(root: None) -> Iterator[LookedAt]:
    name = f"headroom-{os.getpid()}"
    group = LookedAt(cgroup.Layout.detect(Path("/proc/self/mountinfo").read_text()), name)
    try:
        group.create(cgroup.Caps(8 * CAP, 100), leaf=True)
        yield group
    finally:
        assert group.remove()


@pytest.fixture
async def holder(group: LookedAt) -> AsyncIterator[Holder]:
    loop = "held = {}\nwhile True:\n    exec(input())\n    print('done', flush=True)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", loop, stdin=PIPE, stdout=PIPE)
    try:
        group.attach(process.pid)
        yield Holder(process)
    finally:
        process.kill()
        await process.wait()


class Kills:
    """What was held whenever somebody was to be killed; nobody is, here."""

    def __init__(self) -> None:
        self._kills = asyncio.Queue[int]()

    def note(self, held: int) -> None:
        self._kills.put_nowait(held)

    async def get(self) -> int:
        """Raises `TimeoutError`."""
        async with asyncio.timeout(WAIT_SECONDS):
            return await self._kills.get()


@pytest.fixture
async def kills(group: LookedAt) -> AsyncIterator[Kills]:
    kills = Kills()

    async def kill() -> None:
        kills.note(group.pinned_bytes())

    keeper = asyncio.create_task(Headroom(group, CAP).keep(kill))
    yield kills
    keeper.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await keeper


class TestFill:
    """What is seen of a sandbox of 512 MiB, as (MiB, seconds), and at which of these somebody is killed."""

    @pytest.mark.parametrize(
        ("seen", "killed"),
        [
            pytest.param([(200, 0), (500, 1), (512, 2)], [], id="up to the cap"),
            pytest.param([(513, 0), (520, 0.01), (600, 0.3), (600, 0.9)], [513], id="it goes on before it dies"),
            pytest.param([(513, 0), (610, 0.3), (560, 0.4), (300, 0.5), (513, 0.6)], [513, 513], id="another one"),
            pytest.param([(513, 0), (610, 0.3), (580, 1.1), (590, 1.2), (560, 1.3), (580, 1.4)], [513], id="late"),
            pytest.param([(513, 0), (495, 0.1), (527, 0.2), (528, 0.3)], [513, 528], id="files stay, and one more"),
            pytest.param([(620, 0), (611, 0.1), (609, 0.2), (608, 0.3)], [620], id="it falls from above"),
            pytest.param([(513, 0), (608, 1.5), (640, 2.6)], [513, 608, 640], id="to the end"),
        ],
    )
    def test_it_is_full_once_for_each_program(self, seen: list[tuple[int, float]], killed: list[int]) -> None:
        fill = Fill(512 * MIB)
        assert [held for held, now in seen if fill.look(held * MIB, now)] == killed

    def test_who_is_not_full_any_more_has_all_of_its_cap(self) -> None:
        fill = Fill(512 * MIB)
        assert (fill.look(513 * MIB, 0), fill.kills, fill.most > 512 * MIB) == (True, 1, True)
        assert (fill.look(480 * MIB, 1), fill.kills, fill.most) == (False, 0, 512 * MIB)

    def test_the_smallest_has_room_for_another_kernel(self) -> None:
        fill = Fill(384 * MIB)
        assert [held for held, now in ((385, 0), (365, 0.5), (390, 0.6)) if fill.look(held * MIB, now)] == [385]


@pytest.mark.parametrize(("cap", "container"), [(192, 192), (383, 383), (384, 512), (512, 640), (4096, 5120)])
def test_a_container_has_room_where_its_sandbox_has_some(cap: int, container: int) -> None:
    assert container_bytes(cap * MIB) == container * MIB


class TestAGroup:
    async def test_who_is_below_the_cap_is_left_alone(self, holder: Holder, kills: Kills, group: LookedAt) -> None:
        await holder.does(f"held[0] = bytearray(b'x') * {CAP * 3 // 4}")
        await holder.does(f"held[1] = bytearray(b'x') * {CAP * 3 // 4}")
        assert await kills.get() > CAP

    async def test_who_stays_full_is_killed_again_when_it_has_given_back_and_takes_more(
        self, holder: Holder, kills: Kills, group: LookedAt
    ) -> None:
        await holder.does(f"held[0] = bytearray(b'x') * {CAP * 7 // 8}")  # as files would be, that a program left
        for _ in range(2):
            await holder.does(f"held[1] = bytearray(b'x') * {CAP // 2}")
            assert await kills.get() > CAP
            await group.is_seen()
            await holder.does("del held[1]")
            await group.is_seen()

    async def test_copies_of_files_count_for_nobody(self, holder: Holder, kills: Kills, group: LookedAt) -> None:
        # Not in a temporary directory, which may be memory.
        await holder.does("import tempfile; file = tempfile.TemporaryFile(dir='/var/tmp')")
        while group.held_bytes() <= CAP + 16 * MIB:
            await holder.does(f"file.write(bytes({8 * MIB}))")
        assert group.pinned_bytes() < CAP // 2
        await holder.does(f"held[0] = bytearray(b'x') * {CAP + 16 * MIB}")
        assert await kills.get() > CAP


@pytest.mark.parametrize(
    ("name", "has"),
    [
        ("runsc", True),
        ("runsc-kvm", True),
        ("io.containerd.runsc.v1", True),
        ("runc", False),
        ("nvidia", False),
        ("", False),
    ],
)
def test_gvisor_is_known_by_its_name(name: str, has: bool) -> None:
    assert has_own_kernel(name) is has


@pytest.mark.attack("J01")
@pytest.mark.parametrize(("sees_groups", "memory"), [(True, 640 * MIB), (False, 512 * MIB)])
def test_its_container_has_room_for_what_it_needs_itself_where_somebody_looks(sees_groups: bool, memory: int) -> None:
    place = Place("sha256:0", 1, {}, None, 1, "", own_kernel=True, sees_groups=sees_groups)
    host = options(Spec(limits=Limits(memory_mb=512, processes=100)), place)["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == memory
    assert host["PidsLimit"] > 8 * 100
    assert {"Name": "nproc", "Soft": 100, "Hard": 100} in host["Ulimits"]


@pytest.mark.attack("C10")
def test_no_container_has_all_of_the_hosts_tasks() -> None:
    place = Place("sha256:0", 1, {}, None, 1, "", own_kernel=True, sees_groups=True)
    limit = options(Spec(limits=Limits(processes=4096)), place)["HostConfig"]["PidsLimit"]
    assert limit <= cgroup.MOST_PROCESSES // 4
