"""Where the daemon is, as seen from here: on the host that we see, or elsewhere."""

import contextlib
import os
import re
import socket
import struct
from pathlib import Path

from sandbox.runtime.docker.daemon import About, Daemon, Refused

_PEER = struct.Struct("3i")
"""`struct ucred`, of which the first is the pid."""


def why_elsewhere(about: About, address: str) -> str:
    """Why the control groups that we see need not be the daemon's; empty where they are."""
    if not address.startswith("unix://"):
        return "the daemon may be another host's"
    try:
        listener = os.stat(f"/proc/{_listener(address.removeprefix('unix://'))}/ns/cgroup")
    except OSError:  # nobody whom we see
        return "the daemon is outside of the container that this server is in"
    if listener.st_ino != os.stat("/proc/self/ns/cgroup").st_ino:
        return "the daemon has control groups of its own"
    # Who listens may only pass it on to another host.
    ours = os.uname()
    return "" if about.host == f"{ours.nodename} {ours.release}" else f"the daemon's host is another one ({about.host})"


def _listener(path: str) -> int:
    """The pid of whoever has begun to listen there: the daemon, or systemd for it; 0 for one whom we do not see.

    Raises `OSError`.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        pid: int = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[0]
    return pid


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
