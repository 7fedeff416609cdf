"""What the embedded runtime's launcher needs of a host, and the image that its sandboxes run on."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from sandbox import image as images
from sandbox.config import Settings
from sandbox.doctor.finding import Finding, Grade, Host, Probe
from sandbox.errors import ImageNotBuilt, NotFound
from sandbox.runtime.embedded import footing, scope, seccomp
from sandbox.runtime.embedded.cgroup import Layout, NoCgroups
from sandbox.runtime.embedded.footing import FIRST_HOST_ID, IDS_PER_INSTANCE, MAX_INSTANCES

_CAPABILITIES = {"DAC_OVERRIDE": 1, "SETGID": 6, "SETUID": 7, "SYS_PTRACE": 19, "SYS_ADMIN": 21}
_MKNOD = 27
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
_OLDEST_KERNEL, _GOOD_KERNEL = (5, 13), (6, 12)
_COUNTS_BY_NAMESPACE = (5, 14)
_SCOPING_ABI = 6


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
    elif version < _COUNTS_BY_NAMESPACE and host.euid != 0:
        found = f"{host.release} counts all processes of a user together, whoever's sandbox they are in"
        yield Finding("kernel", Grade.FAIL, found, "upgrade to Linux 5.14 or newer, or run as root")
    elif version < _GOOD_KERNEL:
        found = f"{host.release}: peak memory cannot be measured per execution in cgroup v2"
        yield Finding("kernel", Grade.B, found, "upgrade to Linux 6.12 or newer")
    else:
        yield Finding("kernel", Grade.A, host.release)


def _privileges(host: Host, settings: Settings) -> Iterator[Finding]:
    if host.euid != 0:
        yield _ordinary(host)
        return
    status = dict(line.split(":", 1) for line in host.read("/proc/self/status").splitlines() if ":" in line)
    held = int(status["CapEff"], 16) if "CapEff" in status else -1
    missing = [f"CAP_{name}" for name, number in _CAPABILITIES.items() if not held >> number & 1]
    if missing:
        fix = f"in a container add --cap-add for {', '.join(missing)}, or run on the host itself"
        yield Finding("privileges", Grade.FAIL, f"root without {', '.join(missing)}", fix)
    else:
        yield Finding("privileges", Grade.A, "root with the capabilities that containing takes")
        if not held >> _MKNOD & 1:
            found = "root without CAP_MKNOD: sandboxes show this host's device nodes, and a lock on one is felt by all"
            yield Finding("devices", Grade.B, found, "in a container add --cap-add for MKNOD; in a unit, CAP_MKNOD")
    profile = host.read("/proc/self/attr/current")
    if profile.endswith("(enforce)") and profile.startswith(("docker-", "cri-", "lxc-")):
        fix = "start the container with --security-opt apparmor=unconfined"
        yield Finding("apparmor", Grade.FAIL, f"the profile {profile} forbids mounts", fix)


def _ordinary(host: Host) -> Finding:
    count, why = footing.subordinate_ids(host.read, host.euid, host.root)
    if count:
        return Finding("privileges", Grade.A, f"user {host.euid} with {count} subordinate ids, some for each sandbox")
    found = f"user {host.euid} with no other id: only namespaces tell sandboxes apart, from each other and from you"
    return Finding("privileges", Grade.C, found, why)


def _delegated(host: Host) -> Finding:
    """The control groups of an ordinary user."""
    try:
        layout = Layout.delegated(host.read("/proc/self/mountinfo"), host.read("/proc/self/cgroup"))
    except NoCgroups as error:
        manager = f"user.slice/user-{host.euid}.slice/user@{host.euid}.service"
        points = [point for point, kind in host.mounts() if kind == "cgroup2"]
        held = _controllers(Path(points[0]) / manager) if points else set()
        if {"memory", "pids"} <= held and scope.answers(host.euid, host.root):
            return _capped(cpu="cpu" in held, found="version 2, in a scope that your systemd gives to sandboxes")
        found = f"{error}: memory caps are soft, a program above its own is ended a moment later, not at once; "
        fix = "run in a group of your own: as a user of a systemd with version 2, or see docs/deploy.md"
        return Finding("cgroups", Grade.C, f"{found}processor time is not capped", fix)
    return _capped(cpu=layout.cpu, found=f"a part of version {layout.version} that is yours")


def _controllers(group: Path) -> set[str]:
    try:
        return set((group / "cgroup.controllers").read_text().split())
    except OSError:
        return set()


def _capped(*, cpu: bool, found: str) -> Finding:
    if cpu:
        return Finding("cgroups", Grade.A, found)
    fix = "sudo systemctl edit user@.service, there [Service] and Delegate=cpu memory pids; then log in anew"
    return Finding("cgroups", Grade.B, f"{found}, without the cpu controller: processor time is not capped", fix)


def _cgroups(host: Host, settings: Settings) -> Iterator[Finding]:
    if host.euid != 0:
        yield _delegated(host)
        return
    needed = "boot with the memory, pids and cpu controllers (systemd.unified_cgroup_hierarchy=1)"
    try:
        layout = Layout.detect(host.read("/proc/self/mountinfo"))
    except NoCgroups as error:
        yield Finding("cgroups", Grade.FAIL, str(error), needed)
        return
    closed = sorted({str(root) for root in layout.roots.values() if not os.access(root, os.W_OK)})
    if closed:
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
    elif host.euid != 0 and (forbidden := footing.forbids_user_namespaces(host.read)) is not None:
        yield Finding("namespaces", Grade.FAIL, *forbidden)
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
    if host.euid != 0:
        return  # theirs were given to the user for it, or are the user's
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


def _start(host: Host, settings: Settings) -> Iterator[Finding]:
    if settings.start == "exec":
        found = "exec: no zygote; each kernel's addresses and hashes are its own, and it takes about a second to start"
    else:
        found = "fork: kernels have their zygote's address layout and hash seed; SANDBOX_START=exec gives each its own"
    yield Finding("start", Grade.A, found)


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


PROBES: tuple[Probe, ...] = (
    _platform,
    _privileges,
    _cgroups,
    _namespaces,
    _overlay,
    _landlock,
    _seccomp,
    _user_ids,
    _start,
    _image,
)
