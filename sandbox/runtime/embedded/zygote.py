"""The zygote of embedded sandboxes: `guest.zygote` with the jail around every fork.

Run as `python -m sandbox.runtime.embedded.zygote FD PRELOAD EXTENT single|many` by the launcher, inside the same root
that sandboxes have; the last is how many ids there are.
"""

import socket
import sys
from typing import TYPE_CHECKING, cast

from sandbox.guest import birth, zygote
from sandbox.runtime.embedded import entrance, jail

if TYPE_CHECKING:
    from sandbox.guest.preload import Extent


def _contain(request: birth.Request, fds: list[int]) -> socket.socket:
    gate = entrance.enter(request, fds)
    gate.send(b"J")
    return gate


def main() -> None:
    """Confine ourselves, then serve."""
    link_fd, script, extent, ids = sys.argv[1:]
    jail.confine_zygote(single=ids == "single")
    link = socket.socket(fileno=int(link_fd))
    zygote.main(link, script, entrance.join, _contain, extent=cast("Extent", extent))


if __name__ == "__main__":
    main()
