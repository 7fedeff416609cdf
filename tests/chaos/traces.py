"""What the lives of a server leave on the host, and who of theirs can be killed there.

A sandbox may be a process of the host's or a container; what belonged to one is remembered while it is there, because
afterwards nothing says whose it was.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from docker import APIClient

from sandbox.runtime.docker.instance import Instance
from tests.containers import Containers
from tests.host import Embedded, alive, groups, groups_named, locked, pids, status

_GROUPS = Path("/sys/fs/cgroup")

Found = Mapping[str, Callable[[], list[int]]]
"""Who is there to be killed, by what he is; each looks when it is asked."""


class Traces(Protocol):
    """Of all lives of one server."""

    parts: Mapping[str, int]
    """Who can be killed besides the server, and how often of a hundred deaths."""
    spared: Mapping[str, str]
    """Who cannot be, and why."""
    inherited: bool
    """Whether what is left of a life that was cut off is the next one's to remove."""

    def look(self, server: int) -> Found:
        """Remember what there is of the life of this process."""

    def left(self) -> list[str]:
        """What there still is of any."""


class Processes:
    """Some that were seen, by number and time of birth: on a busy machine the number alone is soon somebody else's."""

    def __init__(self) -> None:
        self._births: set[tuple[int, int]] = set()

    def add(self, found: Iterable[int]) -> None:
        """Remember those of them that are still there, and nobody who is gone."""
        self._reap()
        self._births.update((pid, birth) for pid in found if (birth := _birth(pid)) is not None)

    def left(self) -> list[str]:
        """Those that live, in words."""
        self._reap()
        return [f"process {pid}" for pid, _ in self._births if alive(pid)]

    def _reap(self) -> None:
        # Who loses its parent becomes ours; and the PID 1 of a sandbox cannot end before its kernel has been reaped,
        # which may have come and gone without being seen.
        for pid in [*(pid for pid, _ in self._births), *_dead_in_sandboxes()]:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        self._births = {(pid, birth) for pid, birth in self._births if _birth(pid) == birth}


def _dead_in_sandboxes() -> list[int]:
    """Children of ours, adopted ones that is, which have ended in pid namespaces of their own."""
    found = ((pid, status(pid)) for pid in pids())
    ours = [str(os.getpid())]
    return [pid for pid, told in found if told and told["PPid"] == ours and len(told["NSpid"]) > 1 and not alive(pid)]


def _birth(pid: int) -> int | None:
    """When it was started, in ticks of the machine's life; None for a process that is gone."""
    with contextlib.suppress(OSError, IndexError):
        # After the name, which may hold anything.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return None


class EmbeddedTraces:
    """Processes, control groups, stages and their mounts."""

    parts: Mapping[str, int] = {"kernel": 40, "init": 25, "zygote": 10, "launcher": 10}
    spared: Mapping[str, str] = {}
    inherited = False

    def __init__(self) -> None:
        self._processes = Processes()
        self._instances: set[str] = set()

    def look(self, server: int) -> Found:
        """See `Traces`. Nobody while the runtime is on its way."""
        with contextlib.suppress(ValueError, StopIteration, OSError, KeyError, IndexError):
            host = Embedded.below(server)
            self._instances.add(host.instance)
            self._processes.add((server, host.launcher, *host.zygotes(), *host.contained()))
            launcher = host.launcher
            return {
                "kernel": host.kernels,
                "init": host.inits,
                "zygote": host.zygotes,
                "launcher": lambda: [launcher],
            }
        return {}

    def left(self) -> list[str]:
        """See `Traces`."""
        cgroups = [str(group) for instance in self._instances for group in groups(instance)]
        stages = [path for instance in self._instances if os.path.exists(path := f"/run/sandbox/{instance}")]
        table = Path("/proc/self/mounts").read_text().splitlines()
        mounts = [line for line in table if any(f"/run/sandbox/{each}/" in line for each in self._instances)]
        return [*self._processes.left(), *cgroups, *stages, *mounts]


class ContainerTraces:
    """Containers, their processes, control groups and mounts, and the directories of the sockets into them."""

    inherited = True

    def __init__(self, client: APIClient, data_dir: Path, *, hidden: bool) -> None:
        """data_dir: the server's. hidden: whether the host does not see who is in a container, as with gVisor."""
        self.parts: Mapping[str, int] = {"init": 25} if hidden else {"kernel": 40, "init": 25, "zygote": 10}
        self.spared: Mapping[str, str] = {"launcher": "the daemon starts containers"}
        if hidden:
            self.spared |= dict.fromkeys(("kernel", "zygote"), "gVisor's kernel keeps its processes to itself")
        self._directory = data_dir / "docker"
        with Instance.open(self._directory) as instance:
            self._house = Containers(client, instance.owner)
        self._processes = Processes()
        self._ids: set[str] = set()

    def look(self, server: int) -> Found:
        """See `Traces`."""
        self._ids.update(self._house.ids())
        self._processes.add((server, *self._house.contained()))
        return {"kernel": self._house.kernels, "init": self._house.inits, "zygote": self._house.zygotes}

    def left(self) -> list[str]:
        """See `Traces`."""
        cgroups = [str(path) for path in _GROUPS.rglob("*/") if any(each in path.name for each in self._ids)]
        sockets = [str(path) for path in self._directory.iterdir() if path.is_dir()]
        mounts = [line for line in _mounts() if any(each in line for each in self._ids)]
        above = [] if locked("docker") else [str(path) for path in groups_named("sandbox/docker")]
        return [*self._processes.left(), *self._house.left(), *cgroups, *above, *sockets, *mounts]


def _mounts() -> set[str]:
    """Of every mount namespace that a process is in: a daemon may have one of its own."""
    tables = {}
    for pid in pids():
        with contextlib.suppress(OSError):
            tables[os.readlink(f"/proc/{pid}/ns/mnt")] = Path(f"/proc/{pid}/mounts")
    lines: set[str] = set()
    for table in tables.values():
        with contextlib.suppress(OSError):
            lines.update(table.read_text().splitlines())
    return lines
