"""The zygote of one container: it imports the libraries and forks every kernel of this sandbox.

Run as `python -m sandbox.guest.container.zygote FD` by init.
"""

import base64
import contextlib
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from sandbox.guest import pack, process

if TYPE_CHECKING:
    from sandbox.guest.kernel import Kernel

_WORKSPACE = "/mnt/data"
PRELOAD, MODULES = "/opt/image/preload.py", "/opt/image/modules"


def _contain(request: dict[str, Any], fds: list[int]) -> socket.socket:
    os.setsid()
    process.close_all_but({fds[0]})
    process.reset_signals()
    os.umask(0o077)
    os.chmod(_WORKSPACE, 0o700)  # a program before may have shut it
    process.allow_dumps()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # before zygote and init
    if request["filter"] is not None:
        process.load_seccomp(base64.b64decode(request["filter"]))
    return socket.socket(fileno=fds[0])


def prepared(descriptors: set[int]) -> "Kernel":
    """A kernel, with what is imported for it. Raises what `preload` does: these descriptors may be open."""
    with pack.importing(MODULES) as ours:
        from sandbox.guest.preload import preload  # most of what is packed

        return preload(PRELOAD, descriptors | ours, "common")


def main(link_fd: int) -> NoReturn:
    """Serve init, at the other end of this descriptor."""
    process.forbid_dumps()
    process.close_all_but({link_fd})
    # An interrupt is for everybody in the sandbox, and must not reach us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    link = socket.socket(fileno=link_fd)
    link.set_inheritable(False)
    # Imports read settings from where they are, which is the program's directory by the time of a second zygote.
    os.chdir("/")
    kernel = prepared({0, 1, 2, link_fd})
    os.chmod(_WORKSPACE, 0o700)
    os.chdir(_WORKSPACE)
    from sandbox.guest.zygote import Zygote

    Zygote(link, kernel, lambda request, fds: None, _contain).run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
