"""What host and daemon see of a Docker runtime's sandboxes."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker import APIClient

from sandbox.runtime.docker.instance import LABEL
from sandbox.runtime.docker.runtime import DockerRuntime
from tests.host import pids, status


@dataclass(frozen=True, slots=True)
class Containers:
    """The containers with one runtime's label. See `host.House`."""

    client: APIClient
    owner: str

    @classmethod
    def of(cls, client: APIClient, runtime: DockerRuntime) -> "Containers":
        """Those of this runtime, by a client of its daemon."""
        return cls(client, runtime.owner)

    def listed(self) -> list[dict[str, Any]]:
        """Every container, whatever its state, as the daemon lists it."""
        found: list[dict[str, Any]] = self.client.containers(all=True, filters={"label": [f"{LABEL}={self.owner}"]})
        return found

    def ids(self) -> list[str]:
        """Of every container."""
        return [container["Id"] for container in self.listed()]

    def contained(self) -> list[int]:
        """See `host.House`."""
        found, ids = [], self.ids()
        for pid in pids():
            with contextlib.suppress(OSError):
                groups = Path(f"/proc/{pid}/cgroup").read_text()
                if any(container in groups for container in ids):
                    found.append(pid)
        return found

    def inits(self) -> list[int]:
        """See `host.House`."""
        return [pid for container in self.ids() if (pid := self.init_of(container))]

    def init_of(self, container: str) -> int:
        """0 for one that does not run."""
        return int(self._inspect(container)["State"]["Pid"])

    def _inspect(self, container: str) -> Any:
        return self.client.inspect_container(container)

    def kernels(self) -> list[int]:
        """See `host.House`. A kernel's parent is the zygote, whose parent is init."""
        parents, zygotes = self._parents(), self.zygotes()
        return [pid for pid, parent in parents.items() if parent in zygotes]

    def zygotes(self) -> list[int]:
        """One for each container: init's only child."""
        inits = self.inits()
        return [pid for pid, parent in self._parents().items() if parent in inits]

    def _parents(self) -> dict[int, int]:
        inside = {pid: status(pid) for pid in self.contained()}
        return {pid: int(fields["PPid"][0]) for pid, fields in inside.items() if fields}

    def left(self) -> list[str]:
        """See `host.House`."""
        return self.ids()
