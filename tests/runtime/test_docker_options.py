"""What a container is asked for, without a daemon: nothing that an image says about itself, and no second life."""

import re
from pathlib import Path
from typing import Any

import pytest

import sandbox.runtime.docker
from sandbox.execution import Limits, Spec
from sandbox.runtime.docker.options import Place, options

SOURCES = sorted(Path(str(sandbox.runtime.docker.__file__)).parent.glob("*.py"))


@pytest.fixture(params=[Path("/run/x"), None], ids=["socket", "stdio"])
def asked(request: pytest.FixtureRequest) -> dict[str, Any]:
    image = "sha256:" + "0" * 64
    place = Place(image, 20_001, {}, request.param, 2, "/all", own_kernel=False, sees_groups=True)
    return options(Spec(env=(("SECRET", "word"),)), place)


@pytest.mark.attack("J02")
def test_what_the_image_says_of_itself_is_overridden(asked: dict[str, Any]) -> None:
    assert asked["Image"].startswith("sha256:"), "a name may be another image tomorrow"
    assert asked["Entrypoint"][1:] == ["-P", "-m", "sandbox.guest.container.init"]
    assert asked["Entrypoint"][0].startswith("/")
    assert (asked["Cmd"], asked["WorkingDir"], asked["User"]) == ([], "/mnt/data", "20001:20001")
    assert asked["HostConfig"]["ReadonlyRootfs"] is True, "a volume of the image is read-only, or one of our tmpfs"


@pytest.mark.attack("J03")
def test_a_container_is_started_once(asked: dict[str, Any]) -> None:
    assert asked["HostConfig"]["RestartPolicy"] == {"Name": "no"}
    called = {
        name for path in SOURCES for name in re.findall(r"\.(restart|unpause|update_container)\(", path.read_text())
    }
    assert called == set()


@pytest.mark.attack("J01", "B25")
def test_a_live_container_is_never_entered_or_copied_from() -> None:
    verbs = r"\.(exec_create|exec_start|put_archive|get_archive|copy|commit|export|logs)\("
    used = {(path.name, verb) for path in SOURCES for verb in re.findall(verbs, path.read_text())}
    # The image's files, from a container that was never started.
    assert {name for name, _ in used} <= {"image.py"}, used


@pytest.mark.attack("J01", "J07")
def test_nothing_is_left_to_the_daemons_defaults(asked: dict[str, Any]) -> None:
    host = asked["HostConfig"]
    assert (host["CapDrop"], host.get("CapAdd"), host["Privileged"]) == (["ALL"], None, False)
    assert (host["NetworkMode"], host["IpcMode"], host["CgroupnsMode"]) == ("none", "private", "private")
    assert host["CgroupParent"] == "/all"
    assert (host["LogConfig"], host["Memory"]) == ({"Type": "none"}, host["MemorySwap"])
    assert {option.partition("=")[0] for option in host["SecurityOpt"]} == {"no-new-privileges:true", "seccomp"}
    masked = {"/proc/kcore", "/proc/keys", "/proc/kallsyms", "/proc/sysrq-trigger", "/proc/timer_list", "/sys/firmware"}
    assert masked <= set(host["MaskedPaths"])
    assert set(host["ReadonlyPaths"]) == {"/proc/fs", "/proc/irq", "/proc/sys"}
    for target, words in host["Tmpfs"].items():
        assert {"nosuid", "nodev", "noexec"} <= set(words.split(",")), target
    assert [mount["ReadOnly"] for mount in host.get("Mounts", ())] in ([], [True])
    assert "word" not in str(asked), "whoever may list containers could read it"


@pytest.mark.attack("J01")
def test_limits_are_passed_on_as_they_are() -> None:
    limits = Limits(memory_mb=300, cpus=0.5, processes=20, disk_mb=100, files=50)
    place = Place("sha256:0", 1, {}, None, cgroup_version=1, cgroup_parent="", own_kernel=False, sees_groups=True)
    host = options(Spec(limits=limits), place)["HostConfig"]
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (300 << 20, 500_000_000, 20)
    assert f"size={100 << 20},nr_inodes=50" in host["Tmpfs"]["/mnt/data"]
    assert host["MemorySwappiness"] == 0
