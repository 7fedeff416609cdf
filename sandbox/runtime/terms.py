"""What a spec comes to, on every runtime alike: sizes in bytes, and what init enforces and tells its kernels."""

from dataclasses import dataclass
from typing import Any

from sandbox.execution import MIB, Limits, Spec
from sandbox.guest import variables

WORKSPACE = "/mnt/data"
UNACCEPTED = 32
"""Connections that a listening socket of a program's may have waiting."""


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes of the file systems that a sandbox may write to; all of them count towards its memory cap."""

    workspace: int
    temporary: int
    """`/tmp`. With the workspace below the memory cap, so that a full disk leaves room for a kernel."""
    shared_memory: int
    """`/dev/shm`."""
    file_bytes: int
    """RLIMIT_FSIZE: no single file may be larger."""


def room(limits: Limits) -> Room:
    """The sizes that these limits allow."""
    disk = limits.disk * MIB
    small = min(64, limits.memory_mb // 8) * MIB
    return Room(disk, small, small, max(disk, 64 * MIB))


def policy(spec: Spec, *, awaited: bool, linger_s: float = 0.0) -> dict[str, Any]:
    """The fields of `guest.init.Policy`."""
    limits = spec.limits
    threads = str(max(1, int(limits.cpus)))
    thread_counts = {f"{name}_NUM_THREADS": threads for name in ("OPENBLAS", "OMP", "MKL", "NUMEXPR")}
    return {
        "workspace": WORKSPACE,
        "output_bytes": limits.output_bytes,
        "results": limits.results,
        "result_bytes": limits.result_bytes,
        "spill_bytes": limits.disk * MIB // 4,
        "env": variables.KERNEL | thread_counts | dict(spec.env),
        "awaited": awaited,
        "linger_s": linger_s,
    }
