"""The caps of all containers together, which keep the host breathing when more was promised than there is."""

import contextlib
import dataclasses
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker import APIClient

from sandbox.config import Settings
from sandbox.errors import HostUnfit
from sandbox.execution import Limits, Spec, Status
from sandbox.image import Image
from sandbox.runtime.docker import aggregate
from sandbox.runtime.docker.daemon import About, Daemon, address_of
from sandbox.runtime.docker.image import Built
from sandbox.runtime.docker.runtime import DockerRuntime
from sandbox.runtime.embedded import cgroup
from sandbox.runtime.embedded.runtime import EmbeddedRuntime
from tests import systemd
from tests.containers import Containers
from tests.docker import ROOT, Docker
from tests.host import Embedded, groups_named, locked, until
from tests.needs import missing
from tests.runtime.kernels import endings, kernel_of, run, running

MIB = 1 << 20
PAGE = os.sysconf("SC_PAGE_SIZE")
LIMITS = {"memory.limit_in_bytes", "memory.max", "pids.max"}
PROCESSES = min(32_768, int(Path("/proc/sys/kernel/pid_max").read_text()) * 3 // 4)
TOGETHER = 1200 * MIB
HOLD = "held = bytearray(600 << 20); held[::4096] = bytes(len(held[::4096])); print('held')"


@pytest.fixture(params=["runc", "runsc"])
def oci_runtime(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if shutil.which(name) is None:
        missing(f"needs {name}: apt-get install {name}")
    return name


@pytest.fixture
def group(root: None) -> Iterator[cgroup.Group]:
    """For all sandboxes of a test, with little for all of them."""
    name = f"together-{os.getpid()}"
    mountinfo = Path("/proc/self/mountinfo").read_text()
    group = cgroup.Group(cgroup.Layout.detect(mountinfo), name)
    try:
        group.create(cgroup.Caps(TOGETHER, 1000), leaf=False)
        yield group
    finally:
        for hierarchy in cgroup.hierarchies(mountinfo):
            with contextlib.suppress(OSError):
                (hierarchy / name).rmdir()
    assert groups_named(name) == []


@pytest.mark.attack("C02")
async def test_what_all_take_together_has_a_bound_and_who_dies_of_it_is_told(
    docker: Docker, docker_image: Built, group: cgroup.Group, oci_runtime: str, tmp_path: Path
) -> None:
    spec = Spec(oci_runtime=oci_runtime, limits=Limits(memory_mb=1024))
    opening = DockerRuntime.open(tmp_path, address=docker.address, cgroup_parent=f"/{group.name}")
    async with opening as runtime, kernel_of(runtime, spec) as one, kernel_of(runtime, spec) as other:
        async with running(one, f"{HOLD}; import time; time.sleep(60)"):
            _, end = await run(other, HOLD)
            await one.stop()
        with contextlib.closing(cgroup.Meters(group.open_meters())) as meters:
            # The kernel lets some of its own allocations through, by a page or two.
            assert TOGETHER // 2 < meters.read().peak_bytes < TOGETHER + MIB
    killed = [ending for ending in (end, endings[one]) if ending.status is Status.OOM]
    # Linux cannot take the memory of gVisor's sandboxes before they have ended: it may go on to the next one meanwhile.
    assert len(killed) in ({1, 2} if oci_runtime == "runsc" else {1})
    assert all("or others had left less" in ending.reason for ending in killed)
    assert {end.status, endings[one].status} <= {Status.OOM, Status.OK, Status.CANCELLED}


@pytest.fixture
async def about(docker: Docker) -> About:
    async with Daemon.open(docker.address) as daemon:
        return await daemon.about()


async def test_a_container_is_below_the_aggregate_group_which_goes_with_the_last_engine(
    docker: Docker, docker_client: APIClient, docker_image: Built, about: About, root: None, tmp_path: Path
) -> None:
    name = aggregate.name(about).strip("/")
    async with DockerRuntime.open(tmp_path / "neighbour", address=docker.address):
        async with DockerRuntime.open(tmp_path / "one", address=docker.address) as runtime, kernel_of(runtime, Spec()):
            [init] = Containers.of(docker_client, runtime).inits()
            assert f"/{name}" in _parents(init)
        assert _limits(name) == {str(_memory() // PAGE * PAGE), str(PROCESSES)}, "another engine lives"
    if about.cgroup_driver == "cgroupfs" and not locked("docker"):  # somebody else's engine, beside these tests
        assert groups_named(name) == []


def _parents(pid: int) -> set[str]:
    """Of its groups, in all hierarchies."""
    return {os.path.dirname(line.split(":", 2)[2]) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()}


def _limits(group: str) -> set[str]:
    """In all hierarchies."""
    return {(each / name).read_text().strip() for each in groups_named(group) for name in LIMITS & {*os.listdir(each)}}


def _memory() -> int:
    """Most that all may have."""
    total = os.sysconf("SC_PHYS_PAGES") * PAGE
    return total - max(1 << 30, total * 15 // 100)


async def test_the_embedded_runtime_has_the_same_caps_above_its_sandboxes(root: None, python_image: Image) -> None:
    async with EmbeddedRuntime.open(Settings.load().images_dir, shared=False):
        instance = Embedded.below(os.getpid()).instance
        assert _limits(f"sandbox/{instance}") == _limits("sandbox") == {str(_memory() // PAGE * PAGE), str(PROCESSES)}


async def test_where_it_cannot_be_made_it_says_why(
    docker: Docker, about: About, root: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = address_of(docker.address)

    def why(address: str = address, **differs: Any) -> str:
        return aggregate.obstacle(dataclasses.replace(about, **differs), address)

    assert why() == ""
    assert "another one (other 6.1)" in why(host="other 6.1")
    assert "another host" in why("tcp://127.0.0.1:1")
    assert "outside of the container" in why("unix:///none.sock")
    assert "ordinary user" in why(rootless=True)
    assert "no control groups" in why(cgroup_driver="none")
    async with aggregate.made(dataclasses.replace(about, rootless=True), address) as parent:
        assert parent == ""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "only root" in why()


def test_a_name_that_systemd_does_not_know_is_refused_at_once(about: About) -> None:
    of_systemd = dataclasses.replace(about, cgroup_driver="systemd")
    with pytest.raises(HostUnfit, match="name a slice"):
        aggregate.check_named(of_systemd, "/mine")
    aggregate.check_named(of_systemd, "mine.slice")
    aggregate.check_named(of_systemd, "")


def test_a_group_that_somebody_has_made_is_looked_at(about: About, group: cgroup.Group) -> None:
    of_files = dataclasses.replace(about, cgroup_driver="cgroupfs")
    assert aggregate.cap_of(of_files, f"/{group.name}") == TOGETHER
    assert aggregate.cap_of(of_files, "/none") is aggregate.cap_of(of_files, "/") is None


TELL_SYSTEMD = """
import asyncio, os, socket, subprocess
from sandbox.runtime.docker import aggregate
from sandbox.runtime.docker.daemon import About

async def main():
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind("daemon")
        daemon.listen()
        about = About.of({"CgroupDriver": "systemd", "Name": os.uname().nodename, "KernelVersion": os.uname().release})
        for _ in range(2):  # as servers come and go
            async with aggregate.made(about, "unix://daemon") as parent:
                pass
    subprocess.run(["systemctl", "start", parent], check=True)  # as the first container does
    show = ["systemctl", "show", "--property=MemoryMax,TasksMax,CPUWeight,ControlGroup", parent]
    with open("said.part", "w") as said:
        subprocess.run(show, stdout=said, check=True)
        print("Seen", aggregate.cap_of(about, parent), sep="=", file=said)
        print("Numbers", open("/proc/sys/kernel/pid_max").read().strip(), sep="=", file=said)
    os.rename("said.part", "said")

asyncio.run(main())
"""


async def test_systemd_is_told_of_the_caps_before_the_first_container(root: None, tmp_path: Path) -> None:
    said, program = tmp_path / "said", tmp_path / "program.py"
    program.write_text(TELL_SYSTEMD)
    service = ["Type=exec", f"ExecStart={sys.executable} {program}", f"Environment=PYTHONPATH={ROOT}"]
    with systemd.booted(tmp_path, [*service, f"WorkingDirectory={tmp_path}"]):
        await until(said.exists)
    told = dict(line.split("=") for line in said.read_text().split())
    tasks = min(32_768, int(told.pop("Numbers")) * 3 // 4)  # systemd may give its machine more than there were
    assert sorted("=".join(each) for each in told.items()) == [
        "CPUWeight=25",
        "ControlGroup=/sandboxes.slice",
        f"MemoryMax={_memory()}",
        f"Seen={_memory()}",
        f"TasksMax={tasks}",
    ]
