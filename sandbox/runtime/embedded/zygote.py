"""The zygote of embedded sandboxes: `guest.zygote` with the jail around every fork.

Run as `python -m sandbox.runtime.embedded.zygote FD PRELOAD shared|alone single|many` by the launcher, inside the same
root that sandboxes have; the last is how many ids there are.
"""

import os
import socket
import sys
from typing import Any

from sandbox.guest import zygote
from sandbox.runtime.embedded import jail, linux


def _join_pids(request: dict[str, Any], fds: list[int]) -> None:
    # Affects children only; the next request names another namespace, so there is no way back to restore.
    linux.setns(fds[0], linux.CLONE_NEWPID)


def _contain(request: dict[str, Any], fds: list[int]) -> socket.socket:
    _, gate_fd, *namespaces = fds
    gate = socket.socket(fileno=gate_fd)
    if gate.recv(1) != b"G":
        os._exit(0)
    jail.contain_kernel(jail.Cell(**request["cell"]), namespaces, keep={gate_fd})
    gate.send(b"J")
    return gate


def main() -> None:
    """Confine ourselves, then serve."""
    link_fd, script, users, ids = sys.argv[1:]
    jail.confine_zygote(single=ids == "single")
    zygote.main(socket.socket(fileno=int(link_fd)), script, _join_pids, _contain, shared=users == "shared")


if __name__ == "__main__":
    main()
