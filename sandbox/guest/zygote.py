"""A process that has imported the image's libraries and does nothing but fork.

Rules: exactly one thread, no ZMQ context, no randomness used, nothing secret in its memory, exec'ed and never forked
from the server. The protocol is one JSON message per packet: `{"fork": id, …}` with descriptors in, `{"ready"}`,
`{"fork": id, "pid": …}` (or `"failed"`) and `{"exit": pid, "status": …}` out.
"""

import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from sandbox.guest.kernel import Kernel, link_font_cache, serve
from sandbox.guest.randomness import generators
from sandbox.guest.rehearsal import check_descriptors, rehearse

MAX_FDS = 16

Contain = Callable[[dict[str, Any], list[int]], socket.socket]
"""Runs in the fork: takes the request and its descriptors, returns the link to init once contained."""
Prepare = Callable[[dict[str, Any], list[int]], None]
"""Runs in the zygote right before each fork."""


def preload(script: str, descriptors: set[int], *, shared: bool) -> Kernel:
    """Import what `script` imports, build the kernel that all forks will share, and rehearse.

    The script is told whether many sandboxes share this zygote as `SHARED`, and may name cells to be rehearsed, as
    `REHEARSAL`; a zygote that few will fork from rehearses nothing. Raises `RuntimeError` if a thread, or a
    descriptor beyond `descriptors`, is left over.
    """
    gc.disable()
    link_font_cache()
    cells = runpy.run_path(script, {"SHARED": shared}).get("REHEARSAL", ())
    kernel = Kernel.prepare()
    if shared:
        rehearse(kernel, cells)
    check_descriptors(descriptors)
    if threading.active_count() != 1:
        names = ", ".join(thread.name for thread in threading.enumerate())
        raise RuntimeError(f"the zygote must have one thread, and has: {names}")
    kernel.generators = generators()
    # Objects alive now are never traced again, so a fork's collections do not copy their pages.
    gc.freeze()
    return kernel


class Zygote:
    """The fork loop."""

    def __init__(self, link: socket.socket, kernel: Kernel, prepare: Prepare, contain: Contain) -> None:
        self._link = link
        self._kernel = kernel
        self._prepare = prepare
        self._contain = contain
        self._wakeup, self._signalled = socket.socketpair()
        for sock in (self._wakeup, self._signalled):
            sock.setblocking(False)
        signal.set_wakeup_fd(self._signalled.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def run(self) -> NoReturn:
        """Fork on request and report every child's end, until the other side goes away."""
        self._link.send(json.dumps({"ready": os.getpid()}).encode())
        while True:
            readable, _, _ = select.select([self._link, self._wakeup], [], [])
            if self._wakeup in readable:
                self._wakeup.recv(4096)
                self._reap()
            if self._link in readable:
                self._on_request()

    def _on_request(self) -> None:
        packet, fds, _, _ = socket.recv_fds(self._link, 65536, MAX_FDS)
        if not packet:
            os._exit(0)
        request = json.loads(packet)
        answer = {"fork": request["fork"]}
        try:
            self._prepare(request, fds)
            pid = os.fork()
            if pid == 0:
                self._become_kernel(request, fds)
            answer["pid"] = pid
        except OSError as error:  # the sandbox may have ended meanwhile
            answer["failed"] = f"{type(error).__name__}: {error}"
        for fd in fds:
            os.close(fd)
        self._link.send(json.dumps(answer).encode())

    def _become_kernel(self, request: dict[str, Any], fds: list[int]) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            link = self._contain(request, fds)
            gc.enable()
            serve(self._kernel, link)
        except BaseException as error:
            # 2 is the launcher's log until the kernel has pipes of its own.
            os.write(2, f"kernel failed to start: {type(error).__name__}: {error}\n".encode())
            os._exit(70)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._link.send(json.dumps({"exit": pid, "status": status}).encode())


def main(link: socket.socket, script: str, prepare: Prepare, contain: Contain, *, shared: bool) -> NoReturn:
    """Preload and fork for ever."""
    sys.argv = [""]
    # Put there by `-m`: the directory this process was started in is no place to import from.
    if os.getcwd() in sys.path:
        sys.path.remove(os.getcwd())
    kernel = preload(script, {0, 1, 2, link.fileno()}, shared=shared)
    Zygote(link, kernel, prepare, contain).run()
