"""Where controllers are found, and what is written for version 2, which no kernel of the test machines offers."""

from pathlib import Path

import pytest

from sandbox.runtime.embedded.cgroup import Caps, Group, Layout, Meters, NoCgroups

V1 = "".join(
    f"{number} 20 0:{number} / /sys/fs/cgroup/{name} rw,relatime - cgroup cgroup rw,{name}\n"
    for number, name in enumerate(("cpu,cpuacct", "memory", "pids", "devices"), 30)
)
_KNOBS = [
    "memory.max",
    "memory.swap.max",
    "memory.zswap.max",
    "pids.max",
    "cpu.max",
    "cpu.weight",
    "cgroup.max.descendants",
    "cgroup.procs",
    "cgroup.subtree_control",
    "memory.peak",
    "memory.events",
    "cpu.stat",
]


def unified(root: Path, controllers: str = "cpuset cpu io memory pids") -> str:
    """A line of mountinfo for a version 2 tree at `root`."""
    (root / "cgroup.controllers").write_text(controllers)
    return f"40 20 0:40 / {root} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def knobs(directory: Path) -> Path:
    directory.mkdir()
    for name in _KNOBS:
        (directory / name).touch()
    return directory


def test_version_1_is_found_by_its_controllers() -> None:
    layout = Layout.detect(V1)
    assert layout.version == 1
    assert layout.roots["cpuacct"] == Path("/sys/fs/cgroup/cpu,cpuacct")


def test_a_pure_version_2_tree_is_found(tmp_path: Path) -> None:
    assert Layout.detect(unified(tmp_path)) == Layout(2, {"unified": tmp_path})


def test_on_a_hybrid_host_the_side_with_the_controllers_is_taken(tmp_path: Path) -> None:
    assert Layout.detect(V1 + unified(tmp_path, "")).version == 1


def test_without_controllers_it_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NoCgroups, match="memory, pids and cpu"):
        Layout.detect(unified(tmp_path, "io"))


def test_version_2_gets_every_limit_before_anybody_enters(tmp_path: Path) -> None:
    layout = Layout.detect(unified(tmp_path))
    leaf = knobs(tmp_path / "box")
    group = Group(layout, "box")
    group.create(Caps(512 << 20, 128, 1.5), leaf=True)
    written = {name: (leaf / name).read_text() for name in _KNOBS if (leaf / name).read_text()}
    assert written == {
        "memory.max": str(512 << 20),
        "memory.swap.max": "0",
        "memory.zswap.max": "0",
        "pids.max": "128",
        "cpu.max": "150000 100000",
        "cpu.weight": "50",
        "cgroup.max.descendants": "0",
    }


def test_a_parent_group_hands_its_controllers_down(tmp_path: Path) -> None:
    layout = Layout.detect(unified(tmp_path))
    parent = knobs(tmp_path / "sandbox")
    Group(layout, "sandbox").create(Caps(1 << 30, 1000), leaf=False)
    assert (parent / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"
    assert (parent / "cpu.max").read_text() == ""


def test_of_the_groups_with_numbers_the_lowest_is_first(tmp_path: Path) -> None:
    layout = Layout.detect(unified(tmp_path))
    for name in ("10", "9", "server"):
        (tmp_path / "sandbox" / name).mkdir(parents=True)
    assert Group(layout, "sandbox/9").is_first()
    assert not Group(layout, "sandbox/10").is_first()


def test_version_2_meters_are_read(tmp_path: Path) -> None:
    layout = Layout.detect(unified(tmp_path))
    leaf = knobs(tmp_path / "box")
    (leaf / "memory.peak").write_text("4096\n")
    (leaf / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n")
    (leaf / "cpu.stat").write_text("usage_usec 2500\nuser_usec 2000\nsystem_usec 500\n")
    meters = Meters(Group(layout, "box").open_meters())
    try:
        reading = meters.read()
    finally:
        meters.close()
        meters.close()
    assert (reading.cpu_ns, reading.peak_bytes, reading.oom_kills) == (2_500_000, 4096, 1)
