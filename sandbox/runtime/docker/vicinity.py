"""Where the daemon is, as seen from here: on the host that we see, or elsewhere."""

import contextlib
import os
import re
from pathlib import Path

from sandbox.runtime.docker.daemon import About, Daemon, Refused


def why_elsewhere(about: About, address: str) -> str:
    """Why what the daemon calls its host need not be ours; empty where it is."""
    if not address.startswith("unix://"):
        return "the daemon may be another host's"
    if _own_container() is not None:
        return "this server is in a container"
    ours = os.uname()
    return "" if about.host == f"{ours.nodename} {ours.release}" else f"the daemon's host is another one ({about.host})"


async def shown(daemon: Daemon, directory: Path) -> Path | None:
    """What the daemon's host calls a directory of ours; None where that is not to be known."""
    if not daemon.address.startswith("unix://"):
        return None
    container = _own_container()
    if container is None:
        return directory
    with contextlib.suppress(Refused):
        return await daemon.mounted_at(container, directory)
    return None


def _own_container() -> str | None:
    """The id of the container that we run in, if Docker made it; it mounts files that bear the id."""
    mounts = Path("/proc/self/mountinfo").read_text()
    found = re.search(r"/containers/([0-9a-f]{64})/(?:hostname|hosts|resolv\.conf) ", mounts)
    return found[1] if found else None
