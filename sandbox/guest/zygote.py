"""A process that has imported the image's libraries and does nothing but fork.

It forks as soon as it has what most programs import. What some do it adds while nobody asks it for anything, so that
the first sandboxes after a start are there seconds sooner, and later ones have it all.

Rules: exactly one thread, no ZMQ context, no randomness used, nothing secret in its memory, exec'ed and never forked
from the server. The protocol is one JSON message per packet. In: `{"fork": id, …}` with descriptors. Out: `{"ready":
pid, "whole": …}` when it forks and, if it was not whole by then, once more when it is; `{"fork": id, "pid": …}` (or
`"failed"`) and `{"exit": pid, "status": …}`.
"""

import gc
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import NoReturn

from sandbox.guest import birth
from sandbox.guest.kernel import serve
from sandbox.guest.preload import Preload

MAX_FDS = 16
_QUIET_S = 0.3
"""Without a request: then it has time for a step of its own. More than there is between the starts that fill a pool."""
_STEP_S = 5.0
"""But one in this time, however busy it is."""

Contain = Callable[[birth.Request, list[int]], socket.socket]
"""Runs in the fork: takes the request and its descriptors, returns the link to init once contained."""


class Zygote:
    """The fork loop."""

    def __init__(self, link: socket.socket, preload: Preload, prepare: birth.Prepare, contain: Contain) -> None:
        self._link = link
        self._kernel = preload.kernel
        self._whole = False
        self._asked_at = self._improved_at = time.monotonic()
        self._prepare = prepare
        self._contain = contain
        self._wakeup, self._signalled = socket.socketpair()
        for sock in (self._wakeup, self._signalled):
            sock.setblocking(False)
        signal.set_wakeup_fd(self._signalled.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._rest = preload.rest({0, 1, 2, *(sock.fileno() for sock in (link, self._wakeup, self._signalled))})

    def run(self) -> NoReturn:
        """Fork on request and report every child's end, until the other side goes away."""
        self._tell_ready()
        while True:
            readable, _, _ = select.select([self._link, self._wakeup], [], [], self._patience())
            if self._wakeup in readable:
                self._wakeup.recv(4096)
                self._reap()
            if self._link in readable:
                self._asked_at = time.monotonic()
                self._on_request()
            if self._patience() == 0.0:
                self._improve()

    def _tell_ready(self) -> None:
        self._link.send(json.dumps({"ready": os.getpid(), "whole": self._whole}).encode())

    def _patience(self) -> float | None:
        """Seconds until a step may be made; None when there is none left."""
        if self._whole:
            return None
        due = min(self._asked_at + _QUIET_S, self._improved_at + _STEP_S)
        return max(0.0, due - time.monotonic())

    def _improve(self) -> None:
        try:
            next(self._rest)
        except StopIteration:
            self._whole = True
            self._tell_ready()
        self._improved_at = time.monotonic()

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


def main(
    link: socket.socket, script: str, prepare: birth.Prepare, contain: Contain, *, common: bool, shared: bool
) -> NoReturn:
    """Preload and fork for ever. common, shared: see `Preload`."""
    preload = Preload(script, {0, 1, 2, link.fileno()}, common=common, shared=shared)
    Zygote(link, preload, prepare, contain).run()
