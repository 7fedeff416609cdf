"""A kernel whose interpreter was executed for it alone, in its sandbox, after everything that contains it.

Run as `python -m sandbox.guest.fresh FD PRELOAD`. It shares with no other process what every fork of a zygote shares:
where things are in memory, the seed of string hashes, the canaries of C. All that was done to contain the process
outlives the execution, but for one thing, which comes first. Then whoever is at the other end of FD looks at it from
outside, and only after that a library is imported.

It begins where a program may have been before it, whose files are still there. They have no part in how it begins.
"""

import contextlib
import gc
import os
import shutil
import signal
import socket
import sys
from typing import NoReturn

from sandbox.guest import birth, process
from sandbox.guest.kernel import serve
from sandbox.guest.preload import preload

_WORKSPACE = "/mnt/data"
_READ_AT_IMPORT = ("MPLCONFIGDIR", "IPYTHONDIR", "JUPYTER_CONFIG_DIR")
"""Variables that name directories where libraries look for settings and caches, which a program can write to."""


def main(link: socket.socket, script: str) -> NoReturn:
    """Say that we are there, and become a kernel. The working directory must be one that no program can write to."""
    process.forbid_dumps()  # an execution allows them again
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # nobody means us before we are ready
    link.set_inheritable(False)
    link.send(b"J")
    for name in _READ_AT_IMPORT:
        _clear(os.environ[name])
    try:
        _spare_a_file(os.environ["IPYTHONDIR"])
    except OSError:  # there is no room for another name
        for name in os.listdir("/tmp"):
            _clear(f"/tmp/{name}")
        _spare_a_file(os.environ["IPYTHONDIR"])
    kernel = preload(script, {0, 1, 2, link.fileno()}, "common")
    os.chdir(_WORKSPACE)
    gc.enable()
    serve(kernel, link)


def _clear(path: str) -> None:
    """Whatever the program before has put there goes: a name in the way, a font list of its own, a tree without end."""
    aside = f"{path}.{os.urandom(8).hex()}"
    with contextlib.suppress(OSError):  # that it is not there, as a rule
        os.rename(path, aside)
        if os.path.isdir(aside) and not os.path.islink(aside):
            with contextlib.suppress(RecursionError):
                shutil.rmtree(aside, ignore_errors=True)
        else:
            os.unlink(aside)


def _spare_a_file(ipython: str) -> None:
    """IPython explains its directory in a file, for which there may be no room: one that is there is left alone."""
    os.makedirs(f"{ipython}/profile_default/startup")
    os.close(os.open(f"{ipython}/profile_default/startup/README", os.O_CREAT | os.O_WRONLY, 0o644))


if __name__ == "__main__":
    birth.live(lambda: main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2]))
