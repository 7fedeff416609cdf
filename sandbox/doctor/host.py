"""What a host of untrusted code should have, whoever contains it: room, and locks of its own."""

import os
import re
import resource
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from sandbox.config import Settings
from sandbox.doctor.finding import Finding, Grade, Host, Probe
from sandbox.execution import MIB

_ZYGOTE_MB, _WARM_MB, _WARM_EXEC_MB, _WARM_CONTAINER_MB, _STANDBY_MB = 250, 35, 120, 120, 3
_BUILD_MB, _BUILD_INODES = 3072, 60_000
_DESCRIPTORS_PER_SANDBOX = 8
"""Of the launcher, which has most: PID 1's namespaces, its socket, a kernel on its way. The server has four."""
# Leaks across processes and from the kernel, against which a sandbox has no means of its own.
_GRAVE = {"l1tf", "mds", "meltdown", "retbleed", "srbds"}


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


def _memory(host: Host, settings: Settings) -> Iterator[Finding]:
    available = re.search(r"^MemAvailable:\s+(\d+) kB", host.read("/proc/meminfo"), re.MULTILINE)
    available_mb = int(available[1]) // 1024 if available else host.memory_mb
    pool_mb = _ZYGOTE_MB + settings.pool_size * _WARM_MB + settings.standing_by * _STANDBY_MB
    if settings.start == "exec":
        pool_mb = settings.pool_size * _WARM_EXEC_MB + settings.standing_by * _STANDBY_MB
    if settings.runtime == "docker":
        pool_mb = settings.pool_size * _WARM_CONTAINER_MB
    wanted = pool_mb + settings.memory_mb
    found = f"{available_mb} of {host.memory_mb} MiB available; a pool of {settings.pool_size} takes about {pool_mb}"
    if wanted > available_mb:
        fix = f"lower SANDBOX_POOL_SIZE or SANDBOX_MEMORY_MB, or free memory: {wanted} MiB are wanted"
        yield Finding("memory", Grade.C, found, fix)
    else:
        yield Finding("memory", Grade.A, found)
    needed = 256 + (settings.pool_size + settings.standing_by) * _DESCRIPTORS_PER_SANDBOX
    endless = host.descriptors == resource.RLIM_INFINITY
    if endless or host.descriptors >= needed:
        yield Finding("open files", Grade.A, "no limit" if endless else f"{host.descriptors} allowed")
    else:
        found = f"{host.descriptors} allowed; the pool wants {needed}"
        yield Finding("open files", Grade.C, found, "raise the hard limit: ulimit -Hn 65536, or LimitNOFILE= in a unit")


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


PROBES: tuple[Probe, ...] = (
    _data_dir,
    _memory,
    _swap,
    _same_page_merging,
    _sysctls,
    _core_pattern,
    _devices,
    _processor,
)
