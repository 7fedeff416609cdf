"""The doctor on this host, and on directories that look like other hosts."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.config import Settings
from sandbox.doctor import Finding, Grade, Host, examine, overall, runtime_of
from sandbox.doctor.server import examine_server
from sandbox.keys import KeyLimits, new_key
from sandbox.runtime.docker.image import Built
from sandbox.runtime.embedded.footing import FIRST_HOST_ID
from sandbox.store import Store
from tests.docker import Docker

CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", pool_size=4, runtime="embedded")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host without a fault, as files."""
    root = tmp_path / "host"
    unified = root / "sys/fs/cgroup"
    files = {
        "proc/self/status": "CapEff:\t000001ffffffffff\n",
        "proc/self/attr/current": "unconfined",
        "proc/self/mountinfo": f"30 1 0:26 / {unified} rw - cgroup2 cgroup2 rw\n",
        "proc/filesystems": "nodev\toverlay\n",
        "proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 12000000 kB\n",
        "proc/swaps": "Filename Type Size Used Priority\n",
        "proc/sys/kernel/seccomp/actions_avail": "kill_process kill_thread trap errno log allow",
        "proc/sys/kernel/core_pattern": "core",
        "proc/sys/kernel/randomize_va_space": "2",
        "proc/sys/kernel/unprivileged_bpf_disabled": "2",
        "proc/sys/kernel/kptr_restrict": "1",
        "proc/sys/kernel/dmesg_restrict": "1",
        "proc/sys/kernel/io_uring_disabled": "2",
        **{f"proc/sys/fs/protected_{name}": "1" for name in ("symlinks", "hardlinks", "fifos", "regular")},
        **{f"proc/sys/user/max_{name}_namespaces": "9000" for name in ("user", "pid", "mnt", "net")},
        **{f"proc/self/ns/{name}": "" for name in ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")},
        "sys/kernel/mm/ksm/run": "0",
        "sys/devices/system/cpu/smt/active": "0",
        "sys/devices/system/cpu/vulnerabilities/mds": "Not affected",
        "sys/fs/cgroup/cgroup.controllers": "cpu memory pids",
        "etc/passwd": "root:x:0:0::/root:/bin/sh\n",
        "etc/subuid": "ubuntu:100000:65536\n",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Host(root, 0, "x86_64", "6.18.4", 7, 16_000, 20_000)


async def test_what_keeps_a_server_from_starting_is_found(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await examine_server(settings) == []
    public = settings.model_copy(update={"host": "0.0.0.0"})
    (found,) = await examine_server(public)
    assert (found.name, found.grade, found.fix) == ("server", Grade.C, "sandbox key create NAME")
    assert not settings.data_dir.exists(), "it only looks"
    async with Store.open(settings.database) as store:
        await store.add_key(new_key("ann", KeyLimits(), 0.0)[1])
    assert await examine_server(public) == []
    monkeypatch.setenv("OPENAI_BASE_URL", "localhost:8080/v1")
    (found,) = await examine_server(settings)
    assert (found.name, found.grade) == ("models", Grade.C)
    assert "must begin with http://" in found.found


def finding(host: Host, settings: Settings, name: str) -> Finding:
    return next(found for found in examine(settings, host) if found.name == name)


def test_how_kernels_come_to_be_is_said_with_what_it_means(host: Host, settings: Settings) -> None:
    assert "have their zygote's address layout" in finding(host, settings, "start").found
    fresh = finding(host, settings.model_copy(update={"start": "exec"}), "start")
    assert (fresh.grade, "no zygote" in fresh.found) == (Grade.A, True)


def test_this_host_is_examined_without_a_failing_probe(settings: Settings) -> None:
    findings = examine(settings)
    assert not [found for found in findings if "could not be examined" in found.found]
    assert all(found.found for found in findings)


def test_whatever_is_not_an_a_has_a_fix(settings: Settings) -> None:
    assert all(found.fix for found in examine(settings) if found.grade is not Grade.A)


def test_a_host_of_which_nothing_can_be_read_is_examined_to_the_end(tmp_path: Path, settings: Settings) -> None:
    findings = examine(settings, Host(tmp_path / "nothing"))
    assert overall(findings) is Grade.FAIL
    assert not [found for found in findings if "could not be examined" in found.found]


def test_a_host_without_a_fault_fails_only_for_the_missing_image(host: Host, settings: Settings) -> None:
    assert [found.name for found in examine(settings, host) if found.grade is not Grade.A] == ["image"]
    assert finding(host, settings, "image").fix == "sandbox image build python"


def test_the_worst_finding_grades_the_host() -> None:
    grades = [Grade.A, Grade.C, Grade.B]
    assert overall([Finding("x", grade, "y") for grade in grades]) is Grade.C
    assert overall([*(Finding("x", grade, "y") for grade in grades), Finding("x", Grade.FAIL, "y")]) is Grade.FAIL


@pytest.mark.parametrize(
    ("change", "name", "grade", "fix"),
    [
        (lambda host: replace(host, euid=1000), "privileges", Grade.C, "apt install uidmap"),
        (lambda host: replace(host, euid=1000), "cgroups", Grade.C, "docs/deploy.md"),
        (lambda host: replace(host, euid=1000, release="5.13.0"), "kernel", Grade.FAIL, "5.14"),
        (lambda host: replace(host, machine="riscv64"), "processor", Grade.FAIL, "x86_64"),
        (lambda host: replace(host, release="5.4.0"), "kernel", Grade.FAIL, "5.13"),
        (lambda host: replace(host, release="6.1.0-32-amd64"), "kernel", Grade.B, "6.12"),
        (lambda host: replace(host, landlock_abi=0), "landlock", Grade.FAIL, "lsm="),
        (lambda host: replace(host, landlock_abi=4), "landlock", Grade.B, "6.12"),
        (lambda host: replace(host, descriptors=128), "open files", Grade.C, "ulimit"),
    ],
)
def test_what_the_host_is_decides_the_grade(
    change: Callable[[Host], Host], name: str, grade: Grade, fix: str, host: Host, settings: Settings
) -> None:
    found = finding(change(host), settings, name)
    assert (found.grade, fix in found.fix) == (grade, True)


@pytest.mark.parametrize(
    ("file", "text", "name", "grade", "fix"),
    [
        ("proc/self/status", "CapEff: 00000000a80425fb", "privileges", Grade.FAIL, "CAP_SYS_ADMIN"),
        ("proc/self/status", "CapEff: 000001fff7ffffff", "devices", Grade.B, "MKNOD"),
        ("proc/self/attr/current", "docker-default (enforce)", "apparmor", Grade.FAIL, "apparmor=unconfined"),
        ("proc/sys/user/max_user_namespaces", "0", "namespaces", Grade.FAIL, "user.max_user_namespaces=10000"),
        ("proc/filesystems", "ext4", "overlayfs", Grade.FAIL, "CONFIG_OVERLAY_FS"),
        ("proc/sys/kernel/seccomp/actions_avail", "", "seccomp", Grade.FAIL, "CONFIG_SECCOMP_FILTER"),
        ("etc/subuid", f"me:{FIRST_HOST_ID - 5}:10", "user ids", Grade.C, "/etc/subuid"),
        ("etc/passwd", f"me:x:{FIRST_HOST_ID + 5}:5::/:/bin/sh", "user ids", Grade.C, "/etc/passwd"),
        ("proc/meminfo", "MemAvailable: 500000 kB", "memory", Grade.C, "SANDBOX_POOL_SIZE"),
        ("proc/swaps", "Filename\n/dev/sda2 partition 1 0 -2", "swap", Grade.B, "swapoff"),
        ("sys/kernel/mm/ksm/run", "1", "same-page merging", Grade.B, "ksm/run"),
        ("proc/sys/kernel/randomize_va_space", "0", "kernel.randomize_va_space", Grade.C, "=2"),
        ("proc/sys/fs/protected_regular", "0", "fs.protected_regular", Grade.B, "sysctl -w fs.protected_regular=1"),
        ("proc/sys/kernel/core_pattern", "|/usr/lib/dump %P", "kernel.core_pattern", Grade.B, "core_pattern=core"),
        ("sys/devices/system/cpu/smt/active", "1", "SMT", Grade.B, "nosmt"),
        ("sys/devices/system/cpu/vulnerabilities/l1tf", "Vulnerable", "processor flaws", Grade.C, "microcode"),
        ("sys/devices/system/cpu/vulnerabilities/srso", "Vulnerable: no", "processor flaws", Grade.B, "microcode"),
    ],
)
def test_what_a_file_says_decides_the_grade(
    file: str, text: str, name: str, grade: Grade, fix: str, host: Host, settings: Settings
) -> None:
    host.path(file).write_text(text)
    found = finding(host, settings, name)
    assert (found.grade, fix in found.fix) == (grade, True)


def an_ordinary_users(host: Host) -> Host:
    """The same host, with all that an ordinary user can be given."""
    group = host.path("sys/fs/cgroup/user.slice/run-1.scope")
    group.mkdir(parents=True)
    for name in ("cgroup.procs", "cgroup.subtree_control"):
        (group / name).touch()
    (group / "cgroup.controllers").write_text("cpu memory pids")
    host.path("proc/self/cgroup").write_text("0::/user.slice/run-1.scope")
    host.path("usr/bin").mkdir(parents=True)
    for name in ("newuidmap", "newgidmap"):
        host.path(f"usr/bin/{name}").touch(mode=0o755)
    for kind in ("uid", "gid"):
        host.path(f"etc/sub{kind}").write_text("4242:100000:65536\n")
    return replace(host, euid=4242)


def test_an_ordinary_user_with_ids_and_groups_is_as_well_off_as_root(host: Host, settings: Settings) -> None:
    found = examine(settings, an_ordinary_users(host))
    assert [finding.name for finding in found if finding.grade is not Grade.A] == ["image"]


@pytest.mark.parametrize(
    ("file", "text", "name", "grade", "fix"),
    [
        ("etc/subuid", "", "privileges", Grade.C, "usermod --add-subuids"),
        ("sys/fs/cgroup/user.slice/run-1.scope/cgroup.controllers", "memory pids", "cgroups", Grade.B, "Delegate=cpu"),
        ("proc/sys/kernel/unprivileged_userns_clone", "0", "namespaces", Grade.FAIL, "unprivileged_userns_clone=1"),
        ("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "namespaces", Grade.FAIL, "profile"),
    ],
)
def test_what_an_ordinary_user_lacks_is_named_with_its_fix(
    file: str, text: str, name: str, grade: Grade, fix: str, host: Host, settings: Settings
) -> None:
    user = an_ordinary_users(host)
    user.path(file).write_text(text)
    found = finding(user, settings, name)
    assert (found.grade, fix in found.fix) == (grade, True)


def test_a_systemd_of_the_users_own_is_asked_for_groups(host: Host, settings: Settings) -> None:
    user = replace(an_ordinary_users(host), euid=4242)
    host.path("proc/self/cgroup").write_text("0::/system.slice")
    service = host.path("sys/fs/cgroup/user.slice/user-4242.slice/user@4242.service")
    service.mkdir(parents=True)
    (service / "cgroup.controllers").write_text("cpu memory pids")
    assert finding(user, settings, "cgroups").grade is Grade.C
    for path in ("run/user/4242/systemd/private", "usr/bin/systemd-run"):
        host.path(path).parent.mkdir(parents=True, exist_ok=True)
        host.path(path).touch()
    assert finding(user, settings, "cgroups").grade is Grade.A


def test_version_1_controllers_beside_an_empty_version_2_tree_are_usable(host: Host, settings: Settings) -> None:
    roots = {name: host.path(f"sys/fs/cgroup/{name}") for name in (*CONTROLLERS, "unified")}
    for root in roots.values():
        root.mkdir()
    lines = [f"30 1 0:26 / {roots[name]} rw - cgroup cgroup rw,{name}" for name in CONTROLLERS]
    lines.append(f"31 1 0:27 / {roots['unified']} rw - cgroup2 cgroup2 rw")
    host.path("proc/self/mountinfo").write_text("\n".join(lines))
    found = finding(host, settings, "cgroups")
    assert (found.grade, found.found.split(":")[0]) == (Grade.B, "hybrid")


def test_missing_controllers_are_fatal(host: Host, settings: Settings) -> None:
    host.path("sys/fs/cgroup/cgroup.controllers").write_text("cpu")
    assert finding(host, settings, "cgroups").grade is Grade.FAIL


def test_a_container_whose_processes_occupy_its_only_group_is_told_so(host: Host, settings: Settings) -> None:
    group = host.path("sys/fs/cgroup")
    for name, text in {"type": "domain", "subtree_control": "", "procs": "1\n"}.items():
        (group / f"cgroup.{name}").write_text(text)
    found = finding(host, settings, "cgroups")
    assert (found.grade, "--cgroupns=host" in found.fix) == (Grade.FAIL, True)


def test_a_covered_proc_is_fatal(host: Host, settings: Settings) -> None:
    with host.path("proc/self/mountinfo").open("a") as file:
        file.write("40 1 0:5 / /proc/kcore ro - tmpfs tmpfs ro\n")
    assert finding(host, settings, "proc").fix.endswith("systempaths=unconfined")


def test_a_device_open_to_everybody_is_named(host: Host, settings: Settings) -> None:
    device = host.path("dev/kvm")
    device.parent.mkdir()
    device.touch(0o666)
    device.chmod(0o666)
    assert finding(host, settings, "/dev/kvm").grade is Grade.B
    device.chmod(0o660)
    assert finding(host, settings, "/dev/kvm").grade is Grade.A


def test_an_unknown_image_is_fatal_and_the_known_ones_are_named(host: Host, tmp_path: Path) -> None:
    found = finding(host, Settings(data_dir=tmp_path, image="fortran"), "image")
    assert (found.grade, found.fix) == (Grade.FAIL, "set SANDBOX_IMAGE to one of: python")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_data_directory_that_cannot_be_written_is_fatal(host: Host) -> None:
    assert finding(host, Settings(data_dir="/usr/share/sandbox"), "data directory").grade is Grade.FAIL


def test_a_data_directory_below_a_file_is_fatal(host: Host, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert finding(host, Settings(data_dir=tmp_path / "file"), "data directory").grade is Grade.FAIL


def test_a_docker_socket_without_a_daemon_is_no_fault(
    host: Host, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    path = host.path("var/run/docker.sock")
    path.parent.mkdir(parents=True)
    path.touch()
    found = finding(host, settings, "docker")
    assert (found.grade, "does not answer" in found.found) == (Grade.A, True)


def test_without_a_daemon_the_docker_runtime_fails_with_the_way_to_one(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, runtime="docker", docker_host=f"unix://{tmp_path}/none.sock")
    found = next(found for found in examine(settings) if found.name == "docker")
    assert (found.grade, "no Docker daemon answers" in found.found) == (Grade.FAIL, True)


def test_a_daemon_is_graded_with_its_image_and_what_runs_containers(
    tmp_path: Path, docker: Docker, docker_image: Built
) -> None:
    settings = Settings(data_dir=tmp_path, runtime="docker", docker_host=docker.address)
    found = {found.name: found for found in examine(settings)}
    assert {"docker", "oci runtime", "user namespace", "image", "memory"} <= found.keys()
    assert (found["image"].grade, docker_image.reference in found["image"].found) == (Grade.A, True)
    assert "privileges" not in found, "what the daemon does is not asked of us"


def test_caps_of_all_containers_together_are_made_or_asked_for(tmp_path: Path, docker: Docker) -> None:
    settings = Settings(data_dir=tmp_path, runtime="docker", docker_host=docker.address)
    chosen = settings.model_copy(update={"docker_cgroup_parent": "nonesuch.slice"})
    ours, theirs = (
        next(found for found in examine(each) if found.name == "all sandboxes together") for each in (settings, chosen)
    )
    assert (ours.grade, "at most" in ours.found) == (Grade.A, True)
    assert (theirs.grade, "nonesuch.slice, which has no cap" in theirs.found) == (Grade.B, True)


def test_a_runtime_that_the_daemon_does_not_have_fails(tmp_path: Path, docker: Docker) -> None:
    settings = Settings(data_dir=tmp_path, runtime="docker", docker_host=docker.address, oci_runtime="kata")
    found = next(found for found in examine(settings) if found.name == "oci runtime")
    assert (found.grade, "kata" in found.found) == (Grade.FAIL, True)


@pytest.fixture
def unfit(host: Host) -> Host:
    """One whose kernel has no overlays, which the embedded runtime cannot do without."""
    (host.root / "proc/filesystems").write_text("nodev\ttmpfs\n")
    return host


def test_what_cannot_contain_by_itself_uses_the_daemon(
    tmp_path: Path, unfit: Host, docker: Docker, docker_image: Built
) -> None:
    settings = Settings(data_dir=tmp_path, docker_host=docker.address)
    first, *_ = examine(settings, unfit)
    assert (first.name, first.grade) == ("runtime", Grade.A)
    assert first.found == "docker, because the embedded one lacks: overlayfs"
    assert runtime_of(settings, unfit) == "docker"


def test_a_daemon_that_only_lacks_an_image_is_used_all_the_same(tmp_path: Path, unfit: Host, docker: Docker) -> None:
    settings = Settings(data_dir=tmp_path, docker_host=docker.address, image="none")
    assert [found.name for found in examine(settings, unfit) if found.grade is Grade.FAIL] == ["image"]
    assert runtime_of(settings, unfit) == "docker"


def test_a_host_that_only_lacks_an_image_is_not_sent_to_a_daemon(tmp_path: Path, host: Host, docker: Docker) -> None:
    settings = Settings(data_dir=tmp_path, images_dir=tmp_path, docker_host=docker.address)
    assert examine(settings, host)[0].name != "runtime"
    assert runtime_of(settings, host) == "embedded"


def test_where_nothing_can_contain_the_embedded_runtime_is_meant(tmp_path: Path, unfit: Host) -> None:
    settings = Settings(data_dir=tmp_path, docker_host=f"unix://{tmp_path}/none")
    assert runtime_of(settings, unfit) == "embedded"
    assert runtime_of(Settings(runtime="docker"), unfit) == "docker"
