"""Containers as sandboxes: what they are created with, who survives whom, and who is left alone."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from docker import APIClient

from sandbox.config import Settings
from sandbox.engine import Engine
from sandbox.errors import HostUnfit, SandboxFailed, SessionClosed
from sandbox.execution import Spec, Status, Stream
from sandbox.kernel import Kernel
from sandbox.pool import Pool
from sandbox.runtime.docker import sandbox as sandboxes
from sandbox.runtime.docker.attachment import Attachment
from sandbox.runtime.docker.daemon import Daemon, Gone
from sandbox.runtime.docker.image import Built
from sandbox.runtime.docker.instance import LABEL, Instance
from sandbox.runtime.docker.meters import DaemonMeters, group_of
from sandbox.runtime.docker.profile import profile
from sandbox.runtime.docker.runtime import DockerRuntime
from sandbox.runtime.docker.sandbox import DockerSandbox
from sandbox.runtime.embedded import seccomp
from tests.containers import Containers
from tests.docker import Docker
from tests.host import WAIT_SECONDS, alive, command, ended, named, pids, status, until
from tests.runtime.kernels import endings, kernel_of, run, running

SPEC = Spec(env=(("SECRET", "in no listing"),))


@pytest.fixture(scope="module")
async def runtime(
    docker: Docker, docker_image: Built, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[DockerRuntime]:
    async with DockerRuntime.open(tmp_path_factory.mktemp("docker"), address=docker.address) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def house(docker_client: APIClient, runtime: DockerRuntime) -> Containers:
    return Containers.of(docker_client, runtime)


@pytest.fixture(scope="module")
async def kernel(runtime: DockerRuntime) -> AsyncIterator[Kernel]:
    """One for programs that only look."""
    async with kernel_of(runtime, SPEC) as kernel:
        yield kernel


async def said(kernel: Kernel, code: str) -> str:
    """What a program that ends well printed."""
    outputs, end = await run(kernel, code)
    assert end.status is Status.OK, outputs
    return "".join(output.text for output in outputs if isinstance(output, Stream)).strip()


class TestCreation:
    """A container as the daemon says that it is, not as we asked."""

    @pytest.fixture
    def container(self, kernel: Kernel, house: Containers, docker_client: APIClient) -> dict[str, Any]:
        [found] = house.ids()
        inspected: dict[str, Any] = docker_client.inspect_container(found)
        return inspected

    @pytest.mark.attack("J01")
    def test_it_has_no_right_no_network_and_no_writable_root(self, container: dict[str, Any]) -> None:
        host = container["HostConfig"]
        assert (host["CapDrop"], host["CapAdd"], host["Privileged"]) == (["ALL"], None, False)
        assert (host["NetworkMode"], host["IpcMode"], host["PidMode"], host["UTSMode"]) == ("none", "private", "", "")
        assert (host["ReadonlyRootfs"], host["CgroupnsMode"]) == (True, "private")
        assert not host["Devices"]
        assert container["Config"]["User"].split(":")[0] not in ("", "0")

    @pytest.mark.attack("J01", "J08")
    def test_its_filter_of_system_calls_is_ours(self, container: dict[str, Any]) -> None:
        options = container["HostConfig"]["SecurityOpt"]
        assert "no-new-privileges:true" in options
        assert f"seccomp={profile()}" in options

    @pytest.mark.attack("J01")
    def test_its_caps_are_hard(self, container: dict[str, Any]) -> None:
        host = container["HostConfig"]
        assert host["Memory"] == host["MemorySwap"] == 512 << 20
        assert (host["PidsLimit"], host["NanoCpus"], host["OomKillDisable"] or False) == (128, 10**9, False)
        limits = {limit["Name"]: (limit["Soft"], limit["Hard"]) for limit in host["Ulimits"]}
        assert limits["core"] == limits["memlock"] == limits["msgqueue"] == limits["rtprio"] == (0, 0)
        workspace = host["Tmpfs"]["/mnt/data"]
        assert all(option in workspace for option in ("nosuid", "nodev", "noexec", "size=", "nr_inodes="))

    @pytest.mark.attack("J01", "J07")
    def test_it_is_kept_nowhere_and_told_to_nobody(self, container: dict[str, Any]) -> None:
        host = container["HostConfig"]
        assert host["LogConfig"]["Type"] == "none"
        assert host["RestartPolicy"]["Name"] == "no"
        assert "in no listing" not in json.dumps(container)

    @pytest.mark.attack("J01")
    def test_it_sees_one_directory_of_the_host_and_cannot_write_there(self, container: dict[str, Any]) -> None:
        mounts = [mount for mount in container["Mounts"] if mount["Type"] != "tmpfs"]
        assert [(mount["Destination"], mount["RW"]) for mount in mounts] == [("/run/sandbox", False)]

    @pytest.mark.attack("J01")
    async def test_no_two_have_the_same_user(self, runtime: DockerRuntime, kernel: Kernel, house: Containers) -> None:
        async with kernel_of(runtime, SPEC) as other:
            code = "import os; print(os.getuid())"
            assert await said(kernel, code) != await said(other, code)


class TestInside:
    """What a program in a container can do to what holds it there."""

    async def test_it_has_no_capability_and_a_filter(self, kernel: Kernel) -> None:
        status = await said(kernel, "print(open('/proc/self/status').read())")
        fields = {key: value.split() for key, _, value in (line.partition(":") for line in status.splitlines())}
        assert {fields[f"Cap{name}"][0] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
        assert (fields["NoNewPrivs"], fields["Seccomp"]) == (["1"], ["2"])
        assert set(fields["Groups"]) <= set(fields["Gid"]), "a group of somebody else"

    async def test_what_its_zygote_imports_comes_from_one_file_and_all_else_from_where_it_usually_does(
        self, kernel: Kernel
    ) -> None:
        code = """
import inspect, pandas, scipy.stats, sys
print(*(type(module.__loader__).__module__ for module in (pandas, scipy.stats)))
print(inspect.getsource(pandas.DataFrame.items).split()[0], {type(finder).__module__ for finder in sys.meta_path})
"""
        loaders, rest = (await said(kernel, code)).splitlines()
        assert loaders == "sandbox.guest.pack _frozen_importlib_external"
        assert rest.startswith("def {")
        assert "sandbox" not in rest

    @pytest.mark.attack("D05")
    @pytest.mark.parametrize(
        "attempt",
        [
            "open('/proc/1/environ').read()",
            "open('/proc/1/mem', 'rb')",
            "os.listdir('/proc/1/fd')",
            "resource.prlimit(1, resource.RLIMIT_NOFILE, (3, 3))",
            "os.sched_setaffinity(1, {0})",
            "os.setpriority(os.PRIO_PROCESS, 1, 19)",
            "os.setpriority(os.PRIO_USER, os.getuid(), 19)",
            "open('/proc/1/oom_score_adj', 'w').write('1000')",
            "os.kill(1, 19)",
            "fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, 1)",
            "fcntl.fcntl(os.pipe()[0], fcntl.F_SETSIG, 19)",
            "fcntl.ioctl(os.pipe()[0], 0x8901, (1).to_bytes(4, 'little'))",
        ],
    )
    async def test_init_is_out_of_its_reach(self, kernel: Kernel, attempt: str) -> None:
        code = f"import fcntl, os, resource\ntry:\n    {attempt}\nexcept PermissionError:\n    print('refused')"
        assert await said(kernel, code) == "refused"

    @pytest.mark.attack("D04", "D05")
    async def test_no_signal_stops_init(self, kernel: Kernel) -> None:
        code = """
import os, signal
for number in signal.valid_signals() - {32, 33}:
    try:
        os.kill(1, number)
    except PermissionError:
        print(end=".")
"""
        assert await said(kernel, code) == "." * len(signal.valid_signals() - {32, 33})
        assert await said(kernel, "print('alive')") == "alive"

    async def test_nobody_listens_where_init_dialled(self, kernel: Kernel) -> None:
        assert await said(kernel, "import os; print(os.path.exists('/run/sandbox/channel'))") == "False"

    @pytest.mark.attack("J08")
    async def test_a_system_call_off_the_table_is_refused(self, kernel: Kernel) -> None:
        listed = sorted({*seccomp.ALLOWED.values(), 335, 336})
        code = f"""
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
passed = []
for number in sorted(set(range(520)) - set({listed})):
    if os.fork() == 0:
        libc.syscall(number, -1, -1, -1, -1, -1, -1)
        os._exit(ctypes.get_errno())
    code = os.waitstatus_to_exitcode(os.wait()[1])
    if code not in (errno.EPERM, errno.ENOSYS):
        passed.append((number, code))
print(passed)
"""
        assert await said(kernel, code) == "[]"

    @pytest.mark.attack("J08")
    async def test_sockets_come_in_three_families_only(self, kernel: Kernel) -> None:
        code = """
import contextlib, socket
made = set()
for family in range(46):
    for kind in (1, 2, 3, 5):
        with contextlib.suppress(OSError):
            socket.socket(family, kind).close()
            made.add(family)
print(sorted(made))
"""
        assert await said(kernel, code) == "[1, 2, 10]"

    async def test_there_is_nowhere_to_connect_to(self, kernel: Kernel) -> None:
        code = """
import errno, socket
for address in ("8.8.8.8", "172.17.0.1", "169.254.169.254"):
    with socket.socket() as connection:
        connection.settimeout(2)
        print(errno.errorcode[connection.connect_ex((address, 80))])
"""
        assert set((await said(kernel, code)).split()) == {"ENETUNREACH"}

    async def test_nothing_can_be_written_but_its_own_directories(self, kernel: Kernel) -> None:
        code = """
import os
for directory, _, _ in os.walk("/"):
    if not directory.startswith(("/proc", "/sys")) and os.access(directory, os.W_OK):
        print(directory)
"""
        found = {path.split("/")[1] for path in (await said(kernel, code)).split()}
        assert found <= {"mnt", "tmp", "dev"}

    async def test_a_zygote_that_a_program_kills_is_replaced(self, runtime: DockerRuntime) -> None:
        async with kernel_of(runtime, SPEC) as kernel:
            await run(kernel, "open('kept', 'w').write('x'); import os; os.kill(-1, 9)")
            status = None
            while status is not Status.OK:  # how the kernel ended, whose zygote is gone, is told once
                outputs, end = await run(kernel, "print(open('kept').read(), end='')", 50.0)
                status = end.status
                assert status in (Status.OK, Status.KILLED)
            assert outputs == [Stream("stdout", "x")]

    async def test_what_a_program_left_for_it_to_read_does_not_keep_it_from_starting(
        self, runtime: DockerRuntime
    ) -> None:
        code = "import os, time\nos.symlink('/dev/ptmx', 'matplotlibrc')\nos.kill(os.getppid(), 9)\ntime.sleep(30)"
        async with kernel_of(runtime, SPEC) as kernel:
            _, end = await run(kernel, code, 50.0)
            assert end.status is Status.KILLED
            assert await said(kernel, "import os; print(os.getcwd())") == "/mnt/data"

    @pytest.mark.attack("D05")
    async def test_who_stops_it_and_kills_the_kernel_keeps_nobody_waiting(
        self, runtime: DockerRuntime, house: Containers
    ) -> None:
        async with kernel_of(runtime, SPEC) as kernel:
            init = house.init_of(container_of(kernel))
            [zygote] = [pid for pid in house.zygotes() if status(pid)["PPid"] == [str(init)]]
            [victim] = [pid for pid in house.kernels() if status(pid)["PPid"] == [str(zygote)]]
            _, end = await run(kernel, STOPPED_AND_KILLED)
            assert end.status is Status.OK
            await until(lambda: status(victim)["State"][0] == "Z")
            _, end = await run(kernel, "print('on')")
            assert (end.status, end.state_lost) == (Status.OK, True)

    @pytest.mark.attack("A13")
    async def test_nobody_who_lives_can_write_into_the_next_zygote(self, runtime: DockerRuntime) -> None:
        async with kernel_of(runtime, SPEC) as kernel:
            _, end = await run(kernel, INTO_THE_NEXT, 50.0)
            assert end.status is Status.KILLED
            assert await said(kernel, "import os; print(os.listdir())") == "[]"


STOPPED_AND_KILLED = """
import os, signal, time

kernel, zygote = os.getpid(), os.getppid()
if os.fork() == 0:
    time.sleep(0.5)
    os.kill(zygote, signal.SIGSTOP)
    os.kill(kernel, signal.SIGKILL)
    while True:
        pass
"""
"""Once this has ended: nobody tells of the kernel's death, and its link is still open."""

INTO_THE_NEXT = """
import os, signal, time

zygote = os.getppid()
newest, watchers = int(open("/proc/loadavg").read().split()[-1]), 16
for number in range(watchers):
    if os.fork() == 0:
        if number == 0:
            time.sleep(0.3)
            os.kill(zygote, signal.SIGKILL)
        end = time.monotonic() + 5
        while time.monotonic() < end:
            for pid in range(newest + watchers + 1, newest + watchers + 8):
                try:
                    os.close(os.open(f'/proc/{pid}/mem', os.O_RDWR))
                except OSError:
                    continue
                os.close(os.open('/mnt/data/written', os.O_CREAT | os.O_WRONLY))
                os._exit(0)
        os._exit(0)
time.sleep(30)
"""
"""Kills its zygote, and tries to open the memory of whoever is started next."""


class TestPrecedence:
    """Who has the processors first, of containers whose control groups we see."""

    async def test_all_but_the_pools_first_let_others_go_first_until_they_are_warm(
        self, runtime: DockerRuntime, house: Containers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sandboxes, "_RECEDES_SECONDS", 600.0)
        before, on_warm = list[int](), DockerSandbox.on_warm

        def note(sandbox: DockerSandbox) -> None:
            before.append(shares(house, sandbox.container))
            on_warm(sandbox)

        monkeypatch.setattr(DockerSandbox, "on_warm", note)
        async with Pool.open(runtime, SPEC, 2) as pool:
            await pool.fill()
            first, second = before
            assert first > second
            for kernel in (await pool.claim(SPEC), await pool.claim(SPEC)):
                assert shares(house, container_of(kernel)) == first
                await kernel.stop()

    async def test_who_is_claimed_on_its_way_does_so_no_longer(
        self, runtime: DockerRuntime, house: Containers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sandboxes, "_RECEDES_SECONDS", 600.0)
        async with kernel_of(runtime, SPEC) as other:
            kernel = await Kernel.start(runtime, SPEC, defers=True)
            assert shares(house, container_of(kernel)) < shares(house, container_of(other))
            kernel.sandbox.on_claimed()
            assert shares(house, container_of(kernel)) == shares(house, container_of(other))
            await kernel.stop()

    async def test_who_starts_for_nobody_leaves_others_a_processor_until_it_is_warm(
        self, runtime: DockerRuntime, house: Containers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        processors = os.sched_getaffinity(0)
        if len(processors) == 1:
            pytest.skip("there is one processor")
        monkeypatch.setattr(sandboxes, "_RECEDES_SECONDS", 600.0)
        kernel = await Kernel.start(runtime, SPEC, defers=True)
        init = house.init_of(container_of(kernel))
        try:
            await until(lambda: os.sched_getaffinity(init) < processors)
            kernel.sandbox.on_warm()
            await until(lambda: os.sched_getaffinity(init) == processors)
        finally:
            await kernel.stop()

    async def test_who_computes_goes_behind_and_is_as_all_others_afterwards(
        self, runtime: DockerRuntime, house: Containers
    ) -> None:
        async with kernel_of(runtime, SPEC) as kernel:
            file = share_file(house, container_of(kernel))
            idle, usual = file.with_name("cpu.idle"), file.read_text()
            if not idle.exists() or os.cpu_count() == 1:
                pytest.skip("this host's kernel has no cpu.idle, or one processor")
            init = house.init_of(container_of(kernel))
            processors = os.sched_getaffinity(init)
            kernel.sandbox.on_claimed()
            async with running(kernel, "print(1)\nwhile True: pass"):
                await until(lambda: idle.read_text() == "1\n")
                await until(lambda: os.sched_getaffinity(init) < processors)
                await kernel.interrupt()
            await until(lambda: idle.read_text() == "0\n")
            await until(lambda: file.read_text() == usual)
            await until(lambda: os.sched_getaffinity(init) == processors)

    async def test_nobody_does_for_long(
        self, runtime: DockerRuntime, house: Containers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with kernel_of(runtime, SPEC) as kernel:
            usual = shares(house, container_of(kernel))
        monkeypatch.setattr(sandboxes, "_RECEDES_SECONDS", 0.0)
        kernel = await Kernel.start(runtime, SPEC, defers=True)
        assert shares(house, container_of(kernel)) == usual
        await kernel.stop()


def container_of(kernel: Kernel) -> str:
    assert isinstance(kernel.sandbox, DockerSandbox)
    return kernel.sandbox.container


def shares(house: Containers, container: str) -> int:
    """Of the processors, beside others; as the kernel has them."""
    return int(share_file(house, container).read_text())


def share_file(house: Containers, container: str) -> Path:
    group = group_of(house.init_of(container), container)
    assert group is not None
    file = group.share_file()
    assert file is not None
    return file


class TestAttached:
    """The channel over stdin and stdout, as for a daemon that shares no file system with us."""

    async def test_it_carries_all_that_a_socket_does(
        self, docker: Docker, docker_client: APIClient, docker_image: Built, tmp_path: Path
    ) -> None:
        async with DockerRuntime.open(tmp_path, address=docker.address, channel="stdio") as runtime:
            async with kernel_of(runtime, SPEC) as kernel:
                assert isinstance(kernel.sandbox.channel, Attachment)
                big = await said(kernel, "print('x' * 500_000)")
                assert len(big) == 500_000
                assert (
                    await said(kernel, "import subprocess; subprocess.run(['echo', 'from a child'])") == "from a child"
                )
            assert Containers.of(docker_client, runtime).left() == []

    async def test_the_daemon_counts_where_we_cannot(
        self, docker: Docker, docker_image: Built, runtime: DockerRuntime
    ) -> None:
        async with kernel_of(runtime, SPEC) as kernel:
            sandbox = kernel.sandbox
            meters = DaemonMeters(runtime._daemon, sandbox.container)  # type: ignore[attr-defined]
            before = await meters.read()
            await run(kernel, "import time\nwhile time.process_time() < 0.5: pass")
            after = await meters.read()
            assert after.cpu_ns - before.cpu_ns >= 0.3e9
            assert meters.held_bytes() > 10 << 20


SERVER = """
import asyncio, os, sys
from sandbox.config import Settings
from sandbox.engine import Engine
from sandbox.runtime.docker import fdstore

async def main():
    fdstore.HOLD_S = 0.1
    settings = Settings(runtime="docker", data_dir=sys.argv[1], pool_size=1)
    async with Engine.open(settings) as engine, engine.session() as session:
        await engine.pool.fill()
        async for output in session.stream("print('busy')\\nwhile True: pass", 600):
            print(engine.runtime.owner, session._kernel.sandbox.container, flush=True)

asyncio.run(main())
"""


class TestLeft:
    """What the dead leave, and what is not ours."""

    @pytest.mark.attack("D09", "J04")
    async def test_a_killed_server_leaves_no_process_and_the_next_one_removes_the_rest(
        self, docker: Docker, docker_client: APIClient, docker_image: Built, tmp_path: Path
    ) -> None:
        server = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SERVER, tmp_path, stdout=asyncio.subprocess.PIPE, env=docker.env
        )
        assert server.stdout is not None
        owner, busy = (await server.stdout.readline()).decode().split()
        async with DockerRuntime.open(tmp_path / "docker", address=docker.address) as neighbour:
            assert neighbour.owner == owner
        house = Containers(docker_client, owner)
        inside, inits = house.contained(), house.inits()
        assert all(alive(pid) for pid in inits), "a neighbour with the same directory has ended what lives"
        working: int = docker_client.inspect_container(busy)["State"]["Pid"]
        (unused,) = {*inits} - {working}
        server.kill()
        await server.wait()
        await ended(working)
        assert alive(unused), "it holds nobody's program, and leaves the next server's start the machine"
        await ended(*inside)
        assert len(house.left()) == 2
        async with DockerRuntime.open(tmp_path / "docker", address=docker.address):
            async with asyncio.timeout(WAIT_SECONDS):
                while house.left():  # noqa: ASYNC110
                    await asyncio.sleep(0.1)  # it removes them meanwhile

    @pytest.mark.attack("D09")
    async def test_only_who_was_never_asked_for_anything_outlives_its_engine_a_little(
        self, runtime: DockerRuntime, docker_client: APIClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sandbox.runtime.docker.runtime._LINGER_S", (3600.0, 3600.0))
        spec = Spec()
        async with (
            kernel_of(runtime, spec) as unused,
            kernel_of(runtime, spec) as used,
            kernel_of(runtime, spec, awaited=True) as awaited,
            kernel_of(runtime, SPEC) as told_secrets,
        ):
            await run(used, "1")
            container: str = unused.sandbox.container  # type: ignore[attr-defined]
            at_rest: int = docker_client.inspect_container(container)["State"]["Pid"]
            for kernel in (unused, used, awaited, told_secrets):
                hang_up(kernel)  # what init hears of an engine that was killed
            async with asyncio.timeout(WAIT_SECONDS):
                await asyncio.gather(*(each.sandbox.wait() for each in (used, awaited, told_secrets)))
            assert alive(at_rest)

    @pytest.mark.attack("J05")
    @pytest.mark.parametrize(
        "count", [pytest.param(2, id="2"), pytest.param(1000, id="1000", marks=pytest.mark.nightly)]
    )
    async def test_containers_that_come_and_go_leave_nothing_of_theirs(
        self, runtime: DockerRuntime, docker_client: APIClient, count: int
    ) -> None:
        async with kernel_of(runtime, SPEC):
            pass  # what is opened for the first of them is for all
        stock, descriptors = _stock(docker_client), len(os.listdir("/proc/self/fd"))
        seen: list[str] = []
        for _ in range(count):
            async with kernel_of(runtime, SPEC) as kernel:
                container: str = kernel.sandbox.container  # type: ignore[attr-defined]
                assert len(_traces(container)) >= 3, "a shim, a control group and a mount at least"
            seen.append(container)
        async with asyncio.timeout(WAIT_SECONDS):
            while any(_traces(container) for container in seen):  # noqa: ASYNC110
                await asyncio.sleep(0.1)  # a shim ends after its container
        assert _stock(docker_client) == stock
        assert len(os.listdir("/proc/self/fd")) <= descriptors

    @pytest.mark.attack("J06")
    async def test_what_is_labelled_like_ours_by_somebody_else_is_left_alone(
        self, docker: Docker, docker_client: APIClient, docker_image: Built, tmp_path: Path
    ) -> None:
        with Instance.open(tmp_path) as instance:
            labels = instance.labels("0" * 32) | {"sandbox.instance": "7"}
        assert labels[LABEL] == instance.owner
        options = {"Image": docker_image.id, "Labels": labels, "HostConfig": {"NetworkMode": "none"}}
        foreign = docker_client.create_container_from_config(options)["Id"]  # type: ignore[no-untyped-call]
        try:
            async with DockerRuntime.open(tmp_path, address=docker.address) as runtime:
                assert foreign in Containers.of(docker_client, runtime).ids()
        finally:
            docker_client.remove_container(foreign)

    async def test_a_container_that_somebody_removes_is_told_and_replaced(
        self, runtime: DockerRuntime, house: Containers, docker_client: APIClient
    ) -> None:
        async with kernel_of(runtime, SPEC) as kernel:
            async with running(kernel):
                docker_client.remove_container(kernel.sandbox.container, force=True)  # type: ignore[attr-defined]
            assert endings.pop(kernel).status is Status.KILLED
            with pytest.raises(SessionClosed):
                await run(kernel, "1")


def hang_up(kernel: Kernel) -> None:
    assert isinstance(kernel.sandbox, DockerSandbox)
    with socket.socket(fileno=os.dup(kernel.sandbox.channel.fileno())) as channel:
        channel.shutdown(socket.SHUT_RDWR)


def _stock(client: APIClient) -> set[str]:
    """What a daemon keeps besides containers, and those."""
    kept = [*client.containers(all=True), *client.networks()]
    return {each["Id"] for each in kept} | {each["Name"] for each in client.volumes()["Volumes"] or ()}


def _traces(container: str) -> list[str]:
    """Processes, control groups and mounts that bear a container's id."""
    processes = [" ".join(command(pid)) for pid in pids()]
    tables = {Path(f"/proc/{pid}/mountinfo").read_text() for name in ("dockerd", "containerd") for pid in named(name)}
    mounts = [line for table in tables for line in table.splitlines()]
    groups = [
        str(path) for depth in ("*", "*/*", "*/*/*") for path in Path("/sys/fs/cgroup").glob(f"{depth}/{container}")
    ]
    return groups + [told for told in processes + mounts if container in told]


class TestDaemon:
    async def test_without_one_it_says_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(HostUnfit, match=r"no Docker daemon answers .* start one"):
            async with DockerRuntime.open(tmp_path, address=f"unix://{tmp_path}/none.sock"):
                pass

    @pytest.mark.parametrize(
        ("answer", "is_gone"),
        [
            (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nForbidden", True),
            (b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"Actor":', False),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}\n", False),
        ],
    )
    async def test_who_does_not_tell_what_happens_is_a_daemon_that_is_away(
        self, tmp_path: Path, answer: bytes, is_gone: bool
    ) -> None:
        async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked = await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" if b"/_ping" in asked else answer)
            writer.close()
            await writer.wait_closed()

        async with (
            await asyncio.start_unix_server(speak, tmp_path / "docker.sock"),
            Daemon.open(f"unix://{tmp_path}/docker.sock") as daemon,
        ):
            with pytest.raises(Gone) if is_gone else contextlib.nullcontext():
                async with daemon.events("label") as events:
                    assert [event async for event in events] == []

    async def test_a_runtime_that_it_does_not_have_is_refused(self, runtime: DockerRuntime) -> None:
        with pytest.raises(HostUnfit, match="no runtime 'kata'"):
            await runtime.start(Spec(oci_runtime="kata"))

    @pytest.mark.attack("J04")
    @pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
    async def test_restarted_under_load_everybody_is_told_and_the_pool_fills_again(
        self, docker: Docker, docker_client: APIClient, docker_image: Built, tmp_path: Path, kill: bool
    ) -> None:
        if docker.daemon is None:
            pytest.skip("the daemon that runs here is not the tests' to restart")
        settings = Settings(runtime="docker", docker_host=docker.address, data_dir=tmp_path, pool_size=1)
        async with Engine.open(settings) as engine:
            house = Containers.of(docker_client, engine.runtime)  # type: ignore[arg-type]
            session = await engine.open_session()
            await engine.pool.fill()
            busy = asyncio.create_task(session.execute("while True: pass", 300))
            await asyncio.to_thread(docker.daemon.restart, kill=kill)
            execution = await asyncio.wait_for(busy, 120)
            assert (execution.status, execution.state_lost) == (Status.KILLED, True)
            with pytest.raises((SessionClosed, SandboxFailed)):
                await session.execute("1")
            await session.close()
            status = Status.KILLED
            for _ in range(3):  # what was warm may be claimed in the moment before the daemon ends it, too
                async with engine.session() as later:
                    status = (await later.execute("print(1)", 60)).status
                    assert status in (Status.OK, Status.KILLED)
            assert status is Status.OK
        assert house.left() == []

    @pytest.mark.attack("J04")
    async def test_while_it_is_away_who_was_talked_to_through_it_is_told_gone(
        self,
        docker: Docker,
        docker_client: APIClient,
        docker_image: Built,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        if docker.daemon is None:
            pytest.skip("the daemon that runs here is not the tests' to end")
        monkeypatch.setattr("sandbox.kernel._PARTING_SECONDS", 0.5)
        async with DockerRuntime.open(tmp_path, address=docker.address, channel="stdio") as runtime:
            house = Containers.of(docker_client, runtime)
            async with kernel_of(runtime, SPEC) as kernel:
                execution = contextlib.AsyncExitStack()
                await execution.enter_async_context(running(kernel))
                await asyncio.to_thread(docker.daemon.leave, kill=True)
                try:
                    await execution.aclose()
                finally:
                    await asyncio.to_thread(docker.daemon.start)
                end = endings.pop(kernel)
                assert (end.status, end.reason) == (Status.KILLED, "the sandbox ended: the way to it was lost")
                assert not kernel.alive
            async with asyncio.timeout(WAIT_SECONDS):
                while house.left():  # noqa: ASYNC110
                    await asyncio.sleep(0.1)  # it is removed when the daemon is back


def test_only_the_owner_may_read_the_secret(tmp_path: Path) -> None:
    with Instance.open(tmp_path) as instance:
        assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
        assert instance.directory.stat().st_mode & 0o777 == 0o700
    assert not instance.directory.exists()


def test_engines_that_share_a_directory_have_numbers_of_their_own(tmp_path: Path) -> None:
    with Instance.open(tmp_path) as one, Instance.open(tmp_path) as other:
        assert one.owner == other.owner
        assert one.number != other.number
        with other.inherits(one.labels("0" * 32)) as left:
            assert not left, "what lives is nobody's inheritance"
    with Instance.open(tmp_path / "elsewhere") as stranger, stranger.inherits(one.labels("0" * 32)) as left:
        assert not left
