"""The embedded runtime of an ordinary user: what holds it up, what is weaker there, and who is told."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.config import Settings
from sandbox.errors import HostUnfit, SandboxFailed, SessionClosed
from sandbox.execution import Error, Result, Status, Stream
from sandbox.health import Checkup, Memory
from sandbox.image import Image
from sandbox.pool import Pool
from sandbox.runtime.embedded import footing
from sandbox.runtime.embedded.cgroup import Layout, NoCgroups
from sandbox.runtime.embedded.footing import SUBORDINATE_IDS_PER_INSTANCE, Footing, Standing
from sandbox.runtime.embedded.runtime import EmbeddedRuntime
from sandbox.store import Store
from tests import ordinary
from tests.host import Watched, alive, ended, status
from tests.ordinary import CHECKOUT, User
from tests.runtime.kernels import endings, kernel_of, run, running
from tests.runtime.test_contract import Ground, of_ordinary_user

USERNS, CLONE = "/proc/sys/user/max_user_namespaces", "/proc/sys/kernel/unprivileged_userns_clone"
APPARMOR, PROFILE = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "/proc/self/attr/current"


class TestForbidden:
    @pytest.mark.parametrize(
        ("files", "fix"),
        [
            ({USERNS: "0"}, "sysctl -w user.max_user_namespaces="),
            ({CLONE: "0", USERNS: "9000"}, "sysctl -w kernel.unprivileged_userns_clone=1"),
            ({APPARMOR: "1", PROFILE: "unconfined"}, "kernel.apparmor_restrict_unprivileged_userns=0"),
            ({APPARMOR: "1"}, "`userns,`"),
        ],
    )
    def test_what_forbids_user_namespaces_is_named_with_its_fix(self, files: dict[str, str], fix: str) -> None:
        forbidden = footing.forbids_user_namespaces(lambda path: files.get(path, ""))
        assert forbidden is not None
        assert fix in forbidden[1]

    @pytest.mark.parametrize(
        "files",
        [{}, {USERNS: "9000", CLONE: "1", APPARMOR: "0"}, {APPARMOR: "1", PROFILE: "sandbox (unconfined)"}],
    )
    def test_what_does_not_is_not(self, files: dict[str, str]) -> None:
        assert footing.forbids_user_namespaces(lambda path: files.get(path, "")) is None

    async def test_a_host_without_them_is_unfit_and_says_how_to_allow_them(self, root: None) -> None:
        # The limit is one of the namespace that it is written in: there, and only there, nobody can make another.
        with ordinary.user(subordinate=False) as user:
            shut = [sys.executable, "-P", "-m", "tests.ordinary", "--without-user-namespaces", *user.through()]
            with pytest.raises(HostUnfit, match=r"sysctl -w user\.max_user_namespaces=10000"):
                async with EmbeddedRuntime.open(Path("/nonesuch"), through=shut):
                    pass


class TestIds:
    def read(self, text: str) -> tuple[int, str]:
        return footing.subordinate_ids(lambda path: text, 4242)

    def test_enough_of_both_kinds_are_used(self, root: None) -> None:
        assert self.read("other:1:65536\n4242:300000:65536\n") == (65_536, "")

    @pytest.mark.parametrize("text", ["", "other:100000:65536\n", "4242:100000:100\n", "nonsense"])
    def test_too_few_say_how_to_get_more(self, text: str) -> None:
        count, why = self.read(text)
        assert count == 0
        assert "usermod --add-subuids" in why

    def test_without_the_programs_the_package_is_named(self, tmp_path: Path) -> None:
        assert "apt install uidmap" in footing.subordinate_ids(lambda path: "4242:1:65536", 4242, tmp_path)[1]

    def test_no_two_sandboxes_share_an_id_whatever_their_engine(self, tmp_path: Path) -> None:
        stands = Footing(Standing.SUBORDINATE, tmp_path, 65_536 // SUBORDINATE_IDS_PER_INSTANCE)
        seen = set[int]()
        for number in range(stands.instances):
            share = stands.share(number)
            for slot in range(share.slots):
                ids = share.ids(slot)
                assert 0 < ids.kernel < share.count
                assert 0 < ids.init < share.count
                seen |= {share.first + ids.kernel, share.first + ids.init}
        assert len(seen) == 2 * stands.instances * 1000
        assert max(seen) <= 65_536


class TestGroups:
    def given(self, root: Path, controllers: str = "memory pids") -> tuple[str, str]:
        """What a user sees whose systemd has given it a group."""
        group = root / "user.slice" / "run-1.scope"
        for directory in (group, group / "server"):
            directory.mkdir(parents=True)
            for name in ("cgroup.procs", "cgroup.subtree_control"):
                (directory / name).touch()
        (group / "cgroup.controllers").write_text(controllers)
        return f"40 20 0:40 / {root} rw - cgroup2 cgroup2 rw\n", "0::/user.slice/run-1.scope\n"

    def test_the_group_that_we_are_in_is_ours(self, tmp_path: Path) -> None:
        layout = Layout.delegated(*self.given(tmp_path, "cpu memory pids"))
        assert (layout.version, layout.roots["unified"].name, layout.soft) == (2, "run-1.scope", ())

    def test_without_the_cpu_controller_that_limit_is_soft(self, tmp_path: Path) -> None:
        layout = Layout.delegated(*self.given(tmp_path))
        assert (layout.soft, layout.handed_down) == (("cpu",), "+memory +pids")

    def test_who_was_moved_by_an_engine_before_finds_the_same_group(self, tmp_path: Path) -> None:
        mountinfo, _ = self.given(tmp_path)
        assert Layout.delegated(mountinfo, "0::/user.slice/run-1.scope/server\n").roots["unified"].name == "run-1.scope"

    def test_a_group_without_the_memory_controller_is_of_no_use(self, tmp_path: Path) -> None:
        with pytest.raises(NoCgroups, match="no memory and pids"):
            Layout.delegated(*self.given(tmp_path, "pids"))

    def test_a_group_that_cannot_be_written_to_is_not_ours(self, tmp_path: Path) -> None:
        mountinfo, _ = self.given(tmp_path)
        with pytest.raises(NoCgroups, match="belongs to somebody else"):
            Layout.delegated(mountinfo, "0::/user.slice\n")


@pytest.fixture(scope="module", params=["subordinate", "single"])
async def ground(
    request: pytest.FixtureRequest, root: None, python_image: Image, nothing_left: None
) -> AsyncIterator[Ground]:
    async with of_ordinary_user(request.param) as ground:
        yield ground


FORKS = """
import os, signal, sys
made = []
try:
    while len(made) < 1000:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        made.append(pid)
except BlockingIOError:
    sys.stdout.write(str(20 < len(made) < 32))
    for pid in made[20:]:  # room for the kernel's own threads; the others stay
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
"""


class TestWalls:
    async def test_from_outside_a_kernel_has_no_right_and_no_namespace_of_the_host(self, ground: Ground) -> None:
        async with kernel_of(ground.runtime, ground.spec):
            [kernel] = ground.house.kernels()
            fields = status(kernel)
            for name in ("Inh", "Prm", "Eff", "Bnd", "Amb"):
                assert fields[f"Cap{name}"] == ["0" * 16]
            assert (fields["NoNewPrivs"], fields["Seccomp"]) == (["1"], ["2"])
            for name in ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts"):
                assert os.readlink(f"/proc/{kernel}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}")

    async def test_two_sandboxes_have_an_id_of_their_own_or_else_a_namespace(self, ground: Ground) -> None:
        async with kernel_of(ground.runtime, ground.spec), kernel_of(ground.runtime, ground.spec):
            kernels = ground.house.kernels()
            uids = {status(kernel)["Uid"][0] for kernel in kernels}
            spaces = {os.readlink(f"/proc/{kernel}/ns/user") for kernel in kernels}
            assert (len(kernels), len(uids) * len(spaces)) == (2, 2)

    async def test_a_program_is_nobody_special_to_itself(self, ground: Ground) -> None:
        async with kernel_of(ground.runtime, ground.spec) as kernel:
            code = (
                "import os, pwd\n(os.getuid() > 0, pwd.getpwuid(os.getuid()).pw_name, os.access('/mnt/data', os.W_OK))"
            )
            outputs, _ = await run(kernel, code)
            assert [output.data["text/plain"] for output in outputs if isinstance(output, Result)] == [
                "(True, 'sandbox', True)"
            ]

    async def test_it_cannot_end_its_own_init(self, ground: Ground) -> None:
        async with kernel_of(ground.runtime, ground.spec) as kernel:
            code = (
                "import os, signal\nfor n in signal.valid_signals():\n    try: os.kill(1, n)\n    except OSError: pass"
            )
            await run(kernel, code)
            assert (await run(kernel, "1"))[1].status is Status.OK

    async def test_its_processes_are_counted_apart_from_its_neighbours(self, ground: Ground) -> None:
        few = replace(ground.spec, limits=replace(ground.spec.limits, processes=32))
        async with kernel_of(ground.runtime, few) as one, kernel_of(ground.runtime, few) as two:
            for kernel in (one, two):
                assert (await run(kernel, FORKS))[0] == [Stream("stdout", "True")]

    async def test_the_launcher_takes_everything_along(self, python_image: Image, root: None) -> None:
        async with of_ordinary_user("single") as ground, kernel_of(ground.runtime, ground.spec) as kernel:
            house = ground.house
            assert isinstance(house, Watched)
            inside = [*house.contained(), *house.zygotes()]
            async with running(kernel):
                os.kill(house.launcher, signal.SIGKILL)
            assert endings.pop(kernel).status is Status.KILLED
            await ended(*inside)
            assert not any(alive(pid) for pid in inside)


@pytest.mark.parametrize("ground", ["single"], indirect=True, scope="module")
class TestSoftCap:
    def test_it_is_told(self, ground: Ground) -> None:
        assert ground.runtime.soft.keys() == {"memory", "cpu"}
        assert "belong" in ground.runtime.soft["memory"]

    @pytest.mark.parametrize(
        "take",
        [
            pytest.param(
                "import ctypes, os, threading, time\n"
                "def hold():\n    x = bytearray(b'1') * (1 << 30)\n    time.sleep(60)\n"
                "if os.fork() == 0:\n    threading.Thread(target=hold).start()\n    ctypes.CDLL(None).syscall(60, 0)\n"
                "os.wait()",
                id="a thread whose first one has ended",
            ),
            pytest.param(
                "import mmap\nm = mmap.mmap(-1, 400 << 30, mmap.MAP_PRIVATE | 0x4000, mmap.PROT_READ)\nm.madvise(15)\n"
                "for i in range(0, 400 << 30, 2 << 20): m[i]",
                id="tables of pages that are not there",
            ),
            pytest.param("x = bytearray(1 << 30)", id="heap"),
            pytest.param(
                "import os, time\nx = bytearray(400 << 20)\nif os.fork() == 0:\n    x[::4096] = b'1' * len(x[::4096])\n"
                "    time.sleep(60)\nos.wait()\nraise SystemExit",
                id="a fork that writes to what it shares",
            ),
            pytest.param(
                "x = bytearray(300 << 20)\nopen('f', 'wb').write(bytes(250 << 20))\ny = bytearray(x)", id="files"
            ),
        ],
    )
    async def test_no_kind_of_memory_escapes_the_look(self, ground: Ground, take: str) -> None:
        async with kernel_of(ground.runtime, ground.spec) as kernel:
            await run(kernel, take, 30.0)
            usage = await kernel.sandbox.usage()
            assert usage.oom_kills >= 1
            assert usage.peak_bytes <= (512 << 20) + ground.slack_bytes

    async def test_the_health_page_says_so(self, ground: Ground, tmp_path: Path) -> None:
        settings = Settings(data_dir=tmp_path)
        async with Store.open(settings.database) as store, Pool.open(ground.runtime, ground.spec, 0) as pool:
            await pool.fill()
            found = await Checkup(settings, store, pool, Memory(), dict).health()
        assert found.ready
        assert "the memory limit of sandboxes is soft" in [reason.words for reason in found.reasons]

    @pytest.mark.parametrize(
        ("take", "words"),
        [
            ("import os; os.memfd_create('x')", "not implemented"),
            ("import mmap; mmap.mmap(-1, 4096)", "not permitted"),
            ("open('/dev/zero')", "No such file"),
        ],
    )
    async def test_memory_that_no_process_maps_cannot_be_had(self, ground: Ground, take: str, words: str) -> None:
        async with kernel_of(ground.runtime, ground.spec) as kernel:
            [error], _ = await run(kernel, take)
            assert isinstance(error, Error)
            assert words in error.value

    async def test_nobody_ends_another_by_a_name_that_looks_like_a_size(self, ground: Ground) -> None:
        name = "import ctypes; ctypes.CDLL(None).prctl(15, b'abc kB', 0, 0, 0)"
        async with kernel_of(ground.runtime, ground.spec) as kernel, kernel_of(ground.runtime, ground.spec) as other:
            _, end = await run(kernel, f"{name}\nx = bytearray(b'1') * (40 << 20)")
            assert end.status is Status.OK
            assert (await kernel.sandbox.usage()).peak_bytes >= 40 << 20
            assert (await run(other, "1"))[1].status is Status.OK

    async def test_descriptors_on_their_way_end_nobody_who_has_begun(self, ground: Ground) -> None:
        fill = (
            "import contextlib, socket\na, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
            "a.setblocking(False)\nwith contextlib.suppress(OSError):\n"
            "    while True: socket.send_fds(a, [b'x'], [0] * 250)"
        )
        async with kernel_of(ground.runtime, ground.spec) as other, kernel_of(ground.runtime, ground.spec) as kernel:
            await run(kernel, fill)
            with contextlib.suppress(SandboxFailed, SessionClosed):  # they count for all who have the same id
                async with kernel_of(ground.runtime, ground.spec):
                    pass
            assert (await run(other, "1"))[1].status is Status.OK

    async def test_what_is_shared_is_counted_once(self, ground: Ground) -> None:
        async with kernel_of(ground.runtime, ground.spec) as kernel:
            code = (
                "import os\nx = bytearray(300 << 20)\nfor _ in range(3):\n    if os.fork() == 0: os._exit(len(x) < 0)\n"
            )
            _, end = await run(kernel, f"{code}for _ in range(3): os.wait()")
            assert end.status is Status.OK
            assert (await kernel.sandbox.usage()).oom_kills == 0


@pytest.mark.parametrize("subordinate", [True, False])
def test_the_command_runs_a_program(root: None, python_image: Image, subordinate: bool) -> None:
    images = Settings.load().images_dir
    with ordinary.user(subordinate=subordinate) as user:
        ran = _sandbox(user, images, "run", "-c", "import os; print(os.getuid() > 0, 6 * 7)")
        assert (ran.returncode, ran.stdout) == (0, "True 42\n"), ran.stderr
        doctor = _sandbox(user, images, "doctor")
        assert doctor.returncode == 0, doctor.stdout
        assert "memory caps are soft" in doctor.stdout
        assert ("with 65536 subordinate ids" in doctor.stdout) is subordinate


def _sandbox(user: User, images: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"HOME": str(user.home), "PATH": os.defpath, "SANDBOX_IMAGES_DIR": str(images), "COLUMNS": "200"}
    command = [*user.through(images), str(CHECKOUT / ".venv/bin/python"), "-P", "-m", "sandbox", *words]
    return subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=120)
