"""What this host offers the runtime in use: findings with a grade, and the fix for each.

A: as it should be. B: works and contains, but a recommended lock of the host is open. C: works, with a weakness to
know about before strangers' code runs. Fail: nothing can run until it is fixed. Everything here only reads, and
takes milliseconds. What is asked for is what the launcher needs, plus the hardening that a host of untrusted code
should have whoever contains it. (Long, because it is a flat list: each probe stands alone.)
"""

import contextlib
import os
import platform
import re
import resource
import socket
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox import image as images
from sandbox.config import Settings
from sandbox.errors import HostUnfit, ImageNotBuilt, NotFound
from sandbox.runtime.docker import image as docker_images
from sandbox.runtime.docker.daemon import DEFAULT_ADDRESS, client_for
from sandbox.runtime.embedded import linux, seccomp
from sandbox.runtime.embedded.cgroup import Layout, NoCgroups
from sandbox.runtime.embedded.instance import FIRST_HOST_ID, IDS_PER_INSTANCE, MAX_INSTANCES

if TYPE_CHECKING:
    from docker import APIClient

MIB = 1 << 20

_CAPABILITIES = {"DAC_OVERRIDE": 1, "SETGID": 6, "SETUID": 7, "SYS_PTRACE": 19, "SYS_ADMIN": 21}
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
_OLDEST_KERNEL, _GOOD_KERNEL = (5, 13), (6, 12)
_GOOD_DOCKER, _GOOD_RUNC = (29, 5, 1), (1, 2, 8)
_SCOPING_ABI = 6
_ZYGOTE_MB, _WARM_MB, _WARM_CONTAINER_MB = 250, 35, 120
_BUILD_MB, _BUILD_INODES = 3072, 60_000
_DESCRIPTORS_PER_SANDBOX = 4
# Leaks across processes and from the kernel, against which a sandbox has no means of its own.
_GRAVE = {"l1tf", "mds", "meltdown", "retbleed", "srbds"}


class Grade(StrEnum):
    """From good to bad; the worst finding grades the host."""

    A = "A"
    B = "B"
    C = "C"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    name: str
    grade: Grade
    found: str
    fix: str = ""
    """A shell line or a sentence; empty where nothing needs fixing."""


@dataclass(frozen=True, slots=True)
class Host:
    """What can be asked of a host. Its files are found below `root`, so that another one's can be examined."""

    root: Path = Path("/")
    euid: int = field(default_factory=os.geteuid)
    machine: str = field(default_factory=platform.machine)
    release: str = field(default_factory=platform.release)
    landlock_abi: int = field(default_factory=linux.landlock_abi)
    memory_mb: int = field(default_factory=lambda: os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB)
    descriptors: int = field(default_factory=lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[1])

    def path(self, path: str) -> Path:
        """Where a file of the host is."""
        return self.root / path.lstrip("/")

    def read(self, path: str) -> str:
        """A small text file, stripped; empty when it is not there or not readable."""
        try:
            return self.path(path).read_text(errors="replace").strip()
        except OSError:
            return ""

    def mounts(self) -> Iterator[tuple[str, str]]:
        """Mount point and file system of every mount."""
        for line in self.read("/proc/self/mountinfo").splitlines():
            before, _, after = line.partition(" - ")
            yield before.split()[4], after.split()[0]


Probe = Callable[[Host, Settings], Iterable[Finding]]


def examine(settings: Settings, host: Host | None = None) -> tuple[Finding, ...]:
    """All findings, in the order in which to fix them. Never raises for what it finds."""
    host = host or Host()
    if settings.runtime == "docker":
        return _examine(_DOCKER_PROBES, settings, host)
    findings = _examine(_PROBES, settings, host)
    if settings.runtime == "auto" and overall(findings) is Grade.FAIL:
        containers = _examine(_DOCKER_PROBES, settings, host)
        if overall(containers) is not Grade.FAIL:
            missing = ", ".join(finding.name for finding in findings if finding.grade is Grade.FAIL)
            found = f"docker, because the embedded one lacks: {missing}"
            return (Finding("runtime", Grade.A, found), *containers)
    return findings


def _examine(probes: Iterable[Probe], settings: Settings, host: Host) -> tuple[Finding, ...]:
    findings: list[Finding] = []
    for probe in probes:
        try:
            findings += probe(host, settings)
        except (OSError, ValueError, IndexError) as error:
            name = probe.__name__.strip("_").replace("_", " ")
            findings.append(Finding(name, Grade.B, f"could not be examined: {error}", "look at it by hand"))
    return tuple(findings)


def overall(findings: Sequence[Finding]) -> Grade:
    """The host's grade: the worst of the findings."""
    order = list(Grade)
    return max((finding.grade for finding in findings), key=order.index, default=Grade.A)


# What the launcher needs.


def _platform(host: Host, settings: Settings) -> Iterator[Finding]:
    if host.machine in seccomp.ARCHITECTURES:
        yield Finding("processor", Grade.A, host.machine)
    else:
        known = ", ".join(seccomp.ARCHITECTURES)
        yield Finding("processor", Grade.FAIL, f"no seccomp table for {host.machine}", f"use a host with {known}")
    digits = re.match(r"(\d+)\.(\d+)", host.release)
    version = (int(digits[1]), int(digits[2])) if digits else (0, 0)
    if version < _OLDEST_KERNEL:
        yield Finding("kernel", Grade.FAIL, f"{host.release} is too old", "upgrade to Linux 5.13 or newer")
    elif version < _GOOD_KERNEL:
        found = f"{host.release}: peak memory cannot be measured per execution in cgroup v2"
        yield Finding("kernel", Grade.B, found, "upgrade to Linux 6.12 or newer")
    else:
        yield Finding("kernel", Grade.A, host.release)


def _privileges(host: Host, settings: Settings) -> Iterator[Finding]:
    if host.euid != 0:
        yield Finding("privileges", Grade.FAIL, f"running as user {host.euid}", "run as root: sudo sandbox …")
        return
    status = dict(line.split(":", 1) for line in host.read("/proc/self/status").splitlines() if ":" in line)
    held = int(status["CapEff"], 16) if "CapEff" in status else -1
    missing = [f"CAP_{name}" for name, number in _CAPABILITIES.items() if not held >> number & 1]
    if missing:
        fix = f"in a container add --cap-add for {', '.join(missing)}, or run on the host itself"
        yield Finding("privileges", Grade.FAIL, f"root without {', '.join(missing)}", fix)
    else:
        yield Finding("privileges", Grade.A, "root with the capabilities that containing takes")
    profile = host.read("/proc/self/attr/current")
    if profile.endswith("(enforce)") and profile.startswith(("docker-", "cri-", "lxc-")):
        fix = "start the container with --security-opt apparmor=unconfined"
        yield Finding("apparmor", Grade.FAIL, f"the profile {profile} forbids mounts", fix)


def _cgroups(host: Host, settings: Settings) -> Iterator[Finding]:
    needed = "boot with the memory, pids and cpu controllers (systemd.unified_cgroup_hierarchy=1)"
    try:
        layout = Layout.detect(host.read("/proc/self/mountinfo"))
    except NoCgroups as error:
        yield Finding("cgroups", Grade.FAIL, str(error), needed)
        return
    closed = sorted({str(root) for root in layout.roots.values() if not os.access(root, os.W_OK)})
    if closed and host.euid == 0:
        fix = "mount them read-write; in a container use the flags of compose.yaml, whose entrypoint does it"
        yield Finding("cgroups", Grade.FAIL, f"not writable: {', '.join(closed)}", fix)
    elif layout.version == 2:
        yield _unified(layout.roots["unified"])
    else:
        kind = "hybrid" if any(kind == "cgroup2" for _, kind in host.mounts()) else "version 1"
        found = f"{kind}: caps are hard, but memory of a dead program's files stays charged longer"
        yield Finding("cgroups", Grade.B, found, "boot with systemd.unified_cgroup_hierarchy=1 for version 2")


def _unified(root: Path) -> Finding:
    # Only a group below the real root has a type; it may not hold processes and hand out controllers at once.
    nested = (root / "cgroup.type").exists()
    if nested and "memory" not in (root / "cgroup.subtree_control").read_text() and (root / "cgroup.procs").read_text():
        found = "version 2, but this container's own processes occupy the group whose controllers are needed"
        return Finding(
            "cgroups", Grade.FAIL, found, "start it with --cgroupns=host, or move its processes to a child group"
        )
    return Finding("cgroups", Grade.A, "version 2 with the memory, pids and cpu controllers")


def _namespaces(host: Host, settings: Settings) -> Iterator[Finding]:
    absent = [name for name in _NAMESPACES if not os.path.lexists(host.path(f"/proc/self/ns/{name}"))]
    limits = {name: host.read(f"/proc/sys/user/max_{name}_namespaces") for name in _NAMESPACES}
    zero = [name for name, limit in limits.items() if limit == "0"]
    if absent:
        found = f"the kernel has no {', '.join(absent)} namespaces"
        yield Finding("namespaces", Grade.FAIL, found, "use a kernel with all of CONFIG_NAMESPACES")
    elif zero:
        fix = "sysctl -w " + " ".join(f"user.max_{name}_namespaces=10000" for name in zero)
        yield Finding("namespaces", Grade.FAIL, f"disabled: {', '.join(zero)}", fix)
    elif host.euid != 0 and (reason := _unprivileged(host)):
        yield Finding("namespaces", Grade.FAIL, "ordinary users may not make user namespaces", f"sysctl -w {reason}")
    else:
        yield Finding("namespaces", Grade.A, "all seven kinds, user namespaces included")
    covered = sorted(point for point, _ in host.mounts() if _covers_proc(point))
    if covered and not _has_whole_proc(host):
        found = f"parts of /proc are covered ({', '.join(covered[:3])} …), which forbids a sandbox a /proc of its own"
        fix = "start the container with --security-opt systempaths=unconfined"
        yield Finding("proc", Grade.FAIL, found, fix)


def _covers_proc(point: str) -> bool:
    # The kernel forgives a mount on a directory that is always empty.
    return point.startswith("/proc/") and point != "/proc/sys/fs/binfmt_misc"


def _has_whole_proc(host: Host) -> bool:
    """The kernel lets a sandbox mount a /proc of its own where any whole one is to be seen."""
    points = [point for point, _ in host.mounts()]
    procs = (point for point, kind in host.mounts() if kind == "proc" and point != "/proc")
    return any(not any(other.startswith(f"{proc}/") for other in points) for proc in procs)


def _unprivileged(host: Host) -> str:
    """The sysctl that keeps ordinary users from making user namespaces, set right; empty when none does."""
    if host.read("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        return "kernel.unprivileged_userns_clone=1"
    if host.read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return "kernel.apparmor_restrict_unprivileged_userns=0"
    return ""


def _overlay(host: Host, settings: Settings) -> Iterator[Finding]:
    if "overlay" in host.read("/proc/filesystems").split():
        yield Finding("overlayfs", Grade.A, "in the kernel")
        return
    modules = host.path(f"/lib/modules/{host.release}/kernel/fs/overlayfs")
    found = "a module that is not loaded" if modules.is_dir() else "not in this kernel"
    fix = "modprobe overlay" if modules.is_dir() else "use a kernel with CONFIG_OVERLAY_FS"
    yield Finding("overlayfs", Grade.FAIL, found, fix)


def _landlock(host: Host, settings: Settings) -> Iterator[Finding]:
    abi = host.landlock_abi
    if abi == 0:
        yield Finding("landlock", Grade.FAIL, "not enabled", "add landlock to lsm= on the kernel command line")
    elif abi < _SCOPING_ABI:
        found = f"ABI {abi}: files are locked; signals and abstract sockets are left to the namespaces"
        yield Finding("landlock", Grade.B, found, "upgrade to Linux 6.12 or newer")
    else:
        yield Finding("landlock", Grade.A, f"ABI {abi}")


def _seccomp(host: Host, settings: Settings) -> Iterator[Finding]:
    actions = host.read("/proc/sys/kernel/seccomp/actions_avail").split()
    if {"kill_process", "errno", "allow"} <= set(actions):
        yield Finding("seccomp", Grade.A, "filters with all actions")
    else:
        found = f"actions: {' '.join(actions) or 'none'}"
        yield Finding("seccomp", Grade.FAIL, found, "use a kernel with CONFIG_SECCOMP_FILTER")


def _user_ids(host: Host, settings: Settings) -> Iterator[Finding]:
    """Sandboxes use host ids that must belong to nobody."""
    end = FIRST_HOST_ID + IDS_PER_INSTANCE * MAX_INSTANCES
    taken = set()
    for line in host.read("/etc/passwd").splitlines():
        name, _, uid, *_ = [*line.split(":"), "", "", ""]
        if uid.isdigit() and FIRST_HOST_ID <= int(uid) < end:
            taken.add(name)
    for file in ("/etc/subuid", "/etc/subgid"):
        for line in host.read(file).splitlines():
            name, first, count, *_ = [*line.split(":"), "", "", ""]
            if first.isdigit() and count.isdigit() and int(first) < end and int(first) + int(count) > FIRST_HOST_ID:
                taken.add(name)
    if taken:
        found = f"{', '.join(sorted(taken))} own ids from {FIRST_HOST_ID} to {end - 1}, which sandboxes use"
        yield Finding(
            "user ids", Grade.C, found, "give those accounts other ids in /etc/passwd, /etc/subuid, /etc/subgid"
        )
    else:
        yield Finding("user ids", Grade.A, f"nobody owns {FIRST_HOST_ID} to {end - 1}")


# What is kept and what is needed to run.


def _data_dir(host: Host, settings: Settings) -> Iterator[Finding]:
    directory = settings.data_dir
    existing = next(parent for parent in (directory, *directory.parents) if parent.exists())
    free = os.statvfs(existing)
    free_mb, inodes = free.f_bavail * free.f_frsize // MIB, free.f_favail
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        fix = "set SANDBOX_DATA_DIR to a directory of yours, or run as root"
        yield Finding("data directory", Grade.FAIL, f"{existing} is not writable", fix)
    elif free.f_flag & os.ST_NOEXEC:
        fix = "set SANDBOX_DATA_DIR to a directory on another file system"
        yield Finding("data directory", Grade.FAIL, f"{directory} is mounted noexec, so no image can run there", fix)
    elif free_mb < _BUILD_MB or (free.f_files and inodes < _BUILD_INODES):
        fix = f"free {_BUILD_MB} MiB and {_BUILD_INODES} inodes, or set SANDBOX_DATA_DIR to another file system"
        yield Finding("data directory", Grade.C, f"{directory}: {free_mb} MiB and {inodes} inodes are free", fix)
    else:
        yield Finding("data directory", Grade.A, f"{directory}: {free_mb} MiB are free")


def _image(host: Host, settings: Settings) -> Iterator[Finding]:
    try:
        image = images.load(settings.image, settings.images_dir)
    except ImageNotBuilt as error:
        yield Finding("image", Grade.FAIL, str(error), f"sandbox image build {settings.image}")
        return
    except NotFound as error:
        yield Finding(
            "image",
            Grade.FAIL,
            str(error),
            f"set SANDBOX_IMAGE to one of: {', '.join(images.names(settings.images_dir))}",
        )
        return
    manifest = image.manifest
    found = f"{image.name} {image.digest[:12]}: Python {manifest.python}, {len(manifest.libraries)} libraries"
    if manifest.notes:
        fix = f"amend that and rebuild: rm -r {image.root} && sandbox image build {image.name}"
        yield Finding("image", Grade.B, f"{found}; {'; '.join(manifest.notes)}", fix)
    else:
        yield Finding("image", Grade.A, found)


def _memory(host: Host, settings: Settings) -> Iterator[Finding]:
    available = re.search(r"^MemAvailable:\s+(\d+) kB", host.read("/proc/meminfo"), re.MULTILINE)
    available_mb = int(available[1]) // 1024 if available else host.memory_mb
    pool_mb = _ZYGOTE_MB + settings.pool_size * _WARM_MB
    if settings.runtime == "docker":
        pool_mb = settings.pool_size * _WARM_CONTAINER_MB
    wanted = pool_mb + settings.memory_mb
    found = f"{available_mb} of {host.memory_mb} MiB available; a pool of {settings.pool_size} takes about {pool_mb}"
    if wanted > available_mb:
        fix = f"lower SANDBOX_POOL_SIZE or SANDBOX_MEMORY_MB, or free memory: {wanted} MiB are wanted"
        yield Finding("memory", Grade.C, found, fix)
    else:
        yield Finding("memory", Grade.A, found)
    needed = 256 + settings.pool_size * _DESCRIPTORS_PER_SANDBOX
    endless = host.descriptors == resource.RLIM_INFINITY
    if endless or host.descriptors >= needed:
        yield Finding("open files", Grade.A, "no limit" if endless else f"{host.descriptors} allowed")
    else:
        found = f"{host.descriptors} allowed; the pool wants {needed}"
        yield Finding("open files", Grade.C, found, "raise the hard limit: ulimit -Hn 65536, or LimitNOFILE= in a unit")


# The host's own locks.


def _swap(host: Host, settings: Settings) -> Iterator[Finding]:
    devices = [line.split()[0] for line in host.read("/proc/swaps").splitlines()[1:]]
    if devices:
        found = f"{', '.join(devices)}: memory of programs may be written to disk"
        yield Finding("swap", Grade.B, found, "swapoff -a, and remove it from /etc/fstab")
    else:
        yield Finding("swap", Grade.A, "off")


def _same_page_merging(host: Host, settings: Settings) -> Iterator[Finding]:
    if host.read("/sys/kernel/mm/ksm/run") not in ("", "0"):
        found = "on: programs can tell what pages others hold"
        yield Finding("same-page merging", Grade.B, found, "echo 2 > /sys/kernel/mm/ksm/run")
    else:
        yield Finding("same-page merging", Grade.A, "off")


@dataclass(frozen=True, slots=True)
class _Sysctl:
    key: str
    good: tuple[str, ...]
    """Values to be content with; the first is the one to set."""
    grade: Grade
    """When it has another."""
    why: str
    absent: Grade = Grade.B
    """When the kernel does not have it."""


_SYSCTLS = (
    _Sysctl("kernel.randomize_va_space", ("2",), Grade.C, "addresses can be guessed"),
    _Sysctl("kernel.unprivileged_bpf_disabled", ("1", "2"), Grade.B, "any user may load BPF", Grade.A),
    _Sysctl("kernel.kptr_restrict", ("1", "2"), Grade.B, "kernel addresses are shown"),
    _Sysctl("kernel.dmesg_restrict", ("1",), Grade.B, "any user may read the kernel's log"),
    _Sysctl("kernel.io_uring_disabled", ("1", "2"), Grade.B, "any user outside a sandbox may use io_uring", Grade.A),
    _Sysctl("fs.protected_symlinks", ("1",), Grade.B, "links in shared directories are followed"),
    _Sysctl("fs.protected_hardlinks", ("1",), Grade.B, "others' files can be hard-linked"),
    _Sysctl("fs.protected_fifos", ("1", "2"), Grade.B, "planted FIFOs are opened"),
    _Sysctl("fs.protected_regular", ("1", "2"), Grade.B, "planted files are opened"),
)


def _sysctls(host: Host, settings: Settings) -> Iterator[Finding]:
    for sysctl in _SYSCTLS:
        value = host.read(f"/proc/sys/{sysctl.key.replace('.', '/')}")
        if not value:
            fix = "" if sysctl.absent is Grade.A else f"outside the container: sysctl -w {sysctl.key}={sysctl.good[0]}"
            yield Finding(sysctl.key, sysctl.absent, "not known to this kernel, or hidden", fix)
        elif value in sysctl.good:
            yield Finding(sysctl.key, Grade.A, value)
        else:
            fix = f"sysctl -w {sysctl.key}={sysctl.good[0]}"
            yield Finding(sysctl.key, sysctl.grade, f"{value}: {sysctl.why}", fix)


def _core_pattern(host: Host, settings: Settings) -> Iterator[Finding]:
    pattern = host.read("/proc/sys/kernel/core_pattern")
    if pattern.startswith("|"):
        found = f"a crash anywhere starts {pattern[1:].split()[0] if pattern[1:].split() else 'a program'} as root"
        yield Finding("kernel.core_pattern", Grade.B, found, "sysctl -w kernel.core_pattern=core")
    else:
        yield Finding("kernel.core_pattern", Grade.A, pattern or "none")


def _devices(host: Host, settings: Settings) -> Iterator[Finding]:
    for device in ("/dev/kvm", "/dev/vsock"):
        try:
            mode = host.path(device).stat().st_mode
        except OSError:
            yield Finding(device, Grade.A, "not there")
            continue
        if mode & stat.S_IRWXO:
            yield Finding(device, Grade.B, "open to every user", f"chmod o-rwx {device}, and a udev rule to keep it")
        else:
            yield Finding(device, Grade.A, "closed to other users")


def _processor(host: Host, settings: Settings) -> Iterator[Finding]:
    if host.read("/sys/devices/system/cpu/smt/active") == "1":
        found = "on: threads of one core can watch each other"
        yield Finding("SMT", Grade.B, found, "echo off > /sys/devices/system/cpu/smt/control, or boot with nosmt")
    else:
        yield Finding("SMT", Grade.A, "off")
    directory = host.path("/sys/devices/system/cpu/vulnerabilities")
    if not directory.is_dir():
        yield Finding("processor flaws", Grade.B, "the kernel does not say", "mount /sys")
        return
    names = sorted(entry.name for entry in directory.iterdir())
    open_ = [name for name in names if host.read(f"{directory.relative_to(host.root)}/{name}").startswith("Vulnerable")]
    if open_:
        grade = Grade.C if _GRAVE & set(open_) else Grade.B
        fix = "update microcode and kernel, and boot with mitigations=auto; in a virtual machine, on its host"
        yield Finding("processor flaws", grade, f"vulnerable: {', '.join(open_)}", fix)
    else:
        yield Finding("processor flaws", Grade.A, f"none of {len(names)} known ones is open")


def _docker(host: Host, settings: Settings) -> Iterator[Finding]:
    """For information: the embedded runtime does not need it."""
    address = settings.docker_host or os.environ.get("DOCKER_HOST", DEFAULT_ADDRESS)
    path = host.path(address.removeprefix("unix://"))
    if not address.startswith("unix://"):
        found = f"the daemon is {address}, which was not asked"
    elif not path.exists():
        found = "no daemon; the embedded runtime needs none"
    else:
        found = _ping(path)
    yield Finding("docker", Grade.A, found)


def _ping(path: Path) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(0.5)
        try:
            connection.connect(str(path))
            connection.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            alive = b" 200 " in connection.recv(1024)
        except OSError as error:
            return f"{path} does not answer: {error.strerror or error}"
    return f"a daemon answers at {path}" if alive else f"{path} answers, but not as Docker does"


# What the Docker runtime needs.


def _daemon(host: Host, settings: Settings) -> Iterator[Finding]:
    try:
        with contextlib.closing(client_for(settings.docker_host)) as client:
            info, version = client.info(), client.version()
            yield from _containers(info, version, settings)
            yield from _docker_image(client, settings)
    except HostUnfit as error:
        yield Finding("docker", Grade.FAIL, str(error), "start a daemon, or set SANDBOX_RUNTIME=embedded")


def _containers(info: Mapping[str, Any], version: Mapping[str, Any], settings: Settings) -> Iterator[Finding]:
    number = str(info.get("ServerVersion", "unknown"))
    yield _dated("docker", number, _GOOD_DOCKER, "containers reach less of a newer daemon")
    parts = {str(part["Name"]): str(part["Version"]) for part in version.get("Components") or ()}
    runtimes, wanted = sorted(info.get("Runtimes") or ()), settings.oci_runtime or info.get("DefaultRuntime", "runc")
    if wanted not in runtimes:
        found = f"the daemon has no runtime {wanted}; it has {', '.join(runtimes)}"
        yield Finding("oci runtime", Grade.FAIL, found, f"register {wanted} in daemon.json, or set SANDBOX_OCI_RUNTIME")
    elif wanted == "runc":
        yield _dated("oci runtime", parts.get("runc", "unknown"), _GOOD_RUNC, "breakouts of 2025 are mended since")
    else:
        yield Finding("oci runtime", Grade.A, str(wanted))
    options = " ".join(info.get("SecurityOptions") or ())
    if "seccomp" not in options:
        fix = "use a kernel and a runc with seccomp; nothing else narrows what the kernel is asked"
        yield Finding("system calls", Grade.FAIL, "the daemon cannot filter them", fix)
    if "name=userns" in options or "name=rootless" in options:
        yield Finding("user namespace", Grade.A, "a container's ids are nobody's on the host")
    else:
        fix = 'set "userns-remap": "default" in daemon.json, which gives containers ids of their own'
        yield Finding("user namespace", Grade.B, "containers share the host's ids, though no two use the same", fix)


def _dated(name: str, found: str, good: tuple[int, int, int], why: str) -> Finding:
    digits = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", found)
    version = tuple(int(number or 0) for number in digits.groups()) if digits else (0, 0, 0)
    if version >= good:
        return Finding(name, Grade.A, found)
    return Finding(name, Grade.B, f"{found}: {why}", f"upgrade to {'.'.join(map(str, good))} or newer")


def _docker_image(client: "APIClient", settings: Settings) -> Iterator[Finding]:
    try:
        built = docker_images.load(client, settings.image)
    except ImageNotBuilt as error:
        fix = f"sandbox image build --runtime docker {settings.image}"
        yield Finding("image", Grade.FAIL, str(error), fix)
    except NotFound as error:
        yield Finding(
            "image",
            Grade.FAIL,
            str(error),
            f"set SANDBOX_IMAGE to one of: {', '.join(images.names(settings.images_dir))}",
        )
    else:
        manifest = built.manifest
        found = f"{built.reference}: Python {manifest.python}, {len(manifest.libraries)} libraries"
        yield Finding("image", Grade.A, found)


_DOCKER_PROBES: tuple[Probe, ...] = (
    _daemon,
    _data_dir,
    _memory,
    _swap,
    _same_page_merging,
    _sysctls,
    _core_pattern,
    _devices,
    _processor,
)
_PROBES: tuple[Probe, ...] = (
    _platform,
    _privileges,
    _cgroups,
    _namespaces,
    _overlay,
    _landlock,
    _seccomp,
    _user_ids,
    _data_dir,
    _image,
    _memory,
    _swap,
    _same_page_merging,
    _sysctls,
    _core_pattern,
    _devices,
    _processor,
    _docker,
)
