"""What a container has used: from its control group where we can see that, else from the daemon."""

import contextlib
from pathlib import Path
from typing import Protocol

from sandbox.runtime.docker.daemon import Daemon, Gone, Refused
from sandbox.runtime.embedded import cgroup
from sandbox.runtime.embedded.cgroup import Reading


class Meters(Protocol):
    """The counters of one container."""

    async def read(self) -> Reading:
        """All counters. Raises `OSError` when the container is gone."""

    def reset_peak(self) -> None:
        """Start the peak anew, where that can be done."""

    def held_bytes(self) -> int:
        """Memory held now; 0 where that cannot be told."""

    def close(self) -> None:
        """Give the descriptors back. May be called twice."""


def group_of(pid: int, container: str) -> cgroup.Group | None:
    """That of the container whose PID 1 is `pid` on this host; None where its groups cannot be seen.

    The container's id must be part of the group's name: else the pid is of another machine.
    """
    with contextlib.suppress(OSError, cgroup.NoCgroups):
        layout = cgroup.Layout.detect(Path("/proc/self/mountinfo").read_text())
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            wanted = "memory" if layout.version == 1 else ""
            if wanted in controllers.split(",") and container in path:
                return cgroup.Group(layout, path.lstrip("/"))
    return None


class GroupMeters:
    """The files of the control group. Raises `OSError` when they cannot be opened."""

    def __init__(self, group: cgroup.Group) -> None:
        self._files = cgroup.Meters(group.open_meters())
        self._group = group

    async def read(self) -> Reading:
        """See `Meters`."""
        return self._files.read()

    def reset_peak(self) -> None:
        """See `Meters`."""
        self._files.reset_peak()

    def held_bytes(self) -> int:
        """See `Meters`."""
        try:
            return self._group.held_bytes()
        except OSError:
            return 0

    def close(self) -> None:
        """See `Meters`."""
        self._files.close()


class DaemonMeters:
    """The daemon's statistics. Its peak is that of the container's life, or (cgroup version 2) what is held now."""

    def __init__(self, daemon: Daemon, container: str) -> None:
        self._daemon = daemon
        self._container = container
        self._held = 0
        self.oom_kills = 0
        """Counted by whoever hears the daemon's events; its statistics do not have it."""

    async def read(self) -> Reading:
        """See `Meters`."""
        try:
            stats = await self._daemon.stats(self._container)
            memory = stats["memory_stats"]
            self._held = int(memory["usage"])
            cpu_ns = int(stats["cpu_stats"]["cpu_usage"]["total_usage"])
        except (Refused, Gone, KeyError) as error:
            raise OSError(f"no statistics of container {self._container[:12]}: {error}") from error
        return Reading(cpu_ns, int(memory.get("max_usage", self._held)), self.oom_kills)

    def reset_peak(self) -> None:
        """See `Meters`."""

    def held_bytes(self) -> int:
        """See `Meters`."""
        return self._held

    def close(self) -> None:
        """See `Meters`."""
