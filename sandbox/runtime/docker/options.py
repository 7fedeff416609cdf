"""What a sandbox's container is created with, in the words of the Docker Engine API.

Nothing of the daemon's defaults is relied on for containment: all capabilities dropped, no new privileges, our own
system call filter, a read-only root, no network, private namespaces, hard caps and a uid of its own.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox.execution import MIB, Spec
from sandbox.guest.frames import SOCKET
from sandbox.runtime import terms
from sandbox.runtime.docker.headroom import container_bytes
from sandbox.runtime.docker.profile import profile
from sandbox.runtime.embedded.cgroup import MOST_PROCESSES

PYTHON = "/opt/venv/bin/python"
CODE = "/opt/sandbox"
"""Where an image keeps `sandbox/guest`."""
_INODES = 4096
_OWN_TASKS, _TASKS_EACH = 64, 8
"""Of the host's, for a kernel of the sandbox's own, and for each process on it. gVisor, by `ptrace`, takes 33, and 5.3
for each of 64 or 128 that sleep; several times that when all have threads that compute, and then it dies.
"""
_MOST_TASKS = MOST_PROCESSES // 4
_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/buddyinfo",
    "/proc/bus",
    "/proc/cgroups",
    "/proc/cmdline",
    "/proc/config.gz",
    "/proc/diskstats",
    "/proc/driver",
    "/proc/interrupts",
    "/proc/iomem",
    "/proc/ioports",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/locks",
    "/proc/mdstat",
    "/proc/modules",
    "/proc/pagetypeinfo",
    "/proc/partitions",
    "/proc/pressure",
    "/proc/sched_debug",
    "/proc/schedstat",
    "/proc/scsi",
    "/proc/slabinfo",
    "/proc/softirqs",
    "/proc/swaps",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/vmallocinfo",
    "/proc/zoneinfo",
    "/sys/block",
    "/sys/bus",
    "/sys/class",
    "/sys/dev",
    "/sys/devices",
    "/sys/firmware",
    "/sys/fs/btrfs",
    "/sys/fs/ext4",
    "/sys/fs/xfs",
    "/sys/hypervisor",
    "/sys/kernel",
    "/sys/module",
    "/sys/power",
)
_READ_ONLY = ("/proc/fs", "/proc/irq", "/proc/sys")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sandbox is put."""

    image: str
    """The image's id."""
    user: int
    """Its uid and gid; no other live sandbox has it, because many of a kernel's pools are counted by uid."""
    labels: dict[str, str]
    socket_directory: Path | None
    """As the daemon's host names it; None for a channel over stdin and stdout."""
    cgroup_version: int
    cgroup_parent: str
    """See `aggregate`; empty for the daemon's own choice."""
    own_kernel: bool
    """See `has_own_kernel`."""
    sees_groups: bool
    """Whether the server sees its control group, and so what it holds."""


def has_own_kernel(oci_runtime: str) -> bool:
    """Whether it is gVisor, by its name: then programs run on a kernel of the sandbox's own, and not on the host's."""
    return oci_runtime.removeprefix("io.containerd.").startswith(("runsc", "gvisor"))


def options(spec: Spec, place: Place) -> dict[str, Any]:
    """The body of a create request."""
    attached = place.socket_directory is None
    return {
        "Image": place.image,
        "User": f"{place.user}:{place.user}",
        "Hostname": "sandbox",
        "WorkingDir": terms.WORKSPACE,
        # Nothing of the spec: whoever may list containers could read it.
        "Env": [f"PYTHONPATH={CODE}"],
        "Entrypoint": [PYTHON, "-P", "-m", "sandbox.guest.container.init"],
        "Cmd": [],
        "Labels": place.labels,
        "NetworkDisabled": True,
        "Tty": False,
        # Once: when we go, so does what listened to us.
        **dict.fromkeys(("OpenStdin", "StdinOnce", "AttachStdin", "AttachStdout", "AttachStderr"), attached),
        "StopSignal": "SIGKILL",
        "HostConfig": _host_config(spec, place),
    }


def _host_config(spec: Spec, place: Place) -> dict[str, Any]:
    limits, room = spec.limits, terms.room(spec.limits)
    memory = limits.memory_mb * MIB
    if place.own_kernel and place.sees_groups:
        memory = container_bytes(memory)
    tasks, ulimits = limits.processes, _ulimits(room)
    if place.own_kernel:
        # It counts the program's processes itself, by a limit that is nobody else's; the host, what it makes of them.
        ulimits["nproc"] = limits.processes
        tasks = min(_OWN_TASKS + _TASKS_EACH * limits.processes, _MOST_TASKS)
    config: dict[str, Any] = {
        "Init": False,  # PID 1 is ours
        "AutoRemove": False,  # how it ended is read first
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {"Type": "none"},
        "NetworkMode": "none",
        "Sysctls": {"net.core.somaxconn": str(terms.UNACCEPTED)},
        "IpcMode": "private",
        "CgroupParent": place.cgroup_parent,
        "CgroupnsMode": "private",
        "Privileged": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true", f"seccomp={profile()}"],
        "ReadonlyRootfs": True,
        "Tmpfs": {
            "/tmp": f"{_TIGHT},size={room.temporary},nr_inodes={_INODES},mode=1777",
            # Its directory is the kernel's own, as are the files that others of the same uid could read.
            terms.WORKSPACE: f"{_TIGHT},size={room.workspace},nr_inodes={limits.files},"
            f"mode=0700,uid={place.user},gid={place.user}",
        },
        "ShmSize": room.shared_memory,
        "Memory": memory,
        "MemorySwap": memory,  # the same: no swap
        "OomKillDisable": False,
        "OomScoreAdj": 800,
        "NanoCpus": int(limits.cpus * 1e9),
        "CpuShares": 256,
        "PidsLimit": tasks,
        "Ulimits": [{"Name": name, "Soft": value, "Hard": value} for name, value in ulimits.items()],
        "MaskedPaths": list(_MASKED),
        "ReadonlyPaths": list(_READ_ONLY),
    }
    if place.cgroup_version == 1:
        config["MemorySwappiness"] = 0
    if spec.oci_runtime:
        config["Runtime"] = spec.oci_runtime
    if place.socket_directory is not None:
        source = str(place.socket_directory)
        # Its propagation is the daemon's to choose: private, except that it refuses that for its own volumes.
        bind = {"Type": "bind", "Source": source, "Target": str(Path(SOCKET).parent), "ReadOnly": True}
        config["Mounts"] = [bind]
    return config


_TIGHT = "rw,nosuid,nodev,noexec"


def _ulimits(room: terms.Room) -> dict[str, int]:
    return {
        "core": 0,
        "fsize": room.file_bytes,
        "memlock": 0,
        "msgqueue": 0,
        "nofile": 1024,
        "rtprio": 0,
        "sigpending": 256,
    }
