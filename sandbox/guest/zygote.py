"""A process that has imported the image's libraries and does nothing but fork.

Rules: exactly one thread, no ZMQ context, no randomness used, nothing secret in its memory, exec'ed and never forked
from the server. The protocol is one JSON message per packet: `{"fork": id, …}` with descriptors in, `{"ready"}`,
`{"fork": id, "pid": …}` (or `"failed"`) and `{"exit": pid, "status": …}` out.
"""

import gc
import json
import os
import select
import signal
import socket
from collections.abc import Callable
from typing import NoReturn

from sandbox.guest import birth
from sandbox.guest.kernel import Kernel, serve
from sandbox.guest.preload import Extent, preload

MAX_FDS = 16

Contain = Callable[[birth.Request, list[int]], socket.socket]
"""Runs in the fork: takes the request and its descriptors, returns the link to init once contained."""


class Zygote:
    """The fork loop."""

    def __init__(self, link: socket.socket, kernel: Kernel, prepare: birth.Prepare, contain: Contain) -> None:
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
        answer = birth.bear(json.loads(packet), fds, self._prepare, self._become_kernel)
        for fd in fds:
            os.close(fd)
        self._link.send(json.dumps(answer).encode())

    def _become_kernel(self, request: birth.Request, fds: list[int]) -> NoReturn:
        signal.set_wakeup_fd(-1)
        # At once: as long as anybody has it open, nobody hears of the zygote's death, and a fork may wait for a word
        # that only comes when its zygote has told of it.
        for sock in (self._link, self._wakeup, self._signalled):
            sock.close()
        link = self._contain(request, fds)
        gc.enable()
        serve(self._kernel, link)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._link.send(json.dumps({"exit": pid, "status": status}).encode())


def main(link: socket.socket, script: str, prepare: birth.Prepare, contain: Contain, *, extent: Extent) -> NoReturn:
    """Preload and fork for ever."""
    kernel = preload(script, {0, 1, 2, link.fileno()}, extent)
    Zygote(link, kernel, prepare, contain).run()
