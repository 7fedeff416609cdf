"""The zygote's protocol, spoken by a test: who hears of what, and when."""

import json
import os
import signal
import socket
from collections.abc import Iterator

import pytest

from sandbox.guest.birth import Request
from sandbox.guest.kernel import Kernel
from sandbox.guest.rehearsal import check_descriptors
from sandbox.guest.zygote import Zygote

WAIT_SECONDS = 30.0


class Nursery:
    """A zygote whose forks wait until they are told to go, as at a sandbox's gate."""

    def __init__(self) -> None:
        self.link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.link.settimeout(WAIT_SECONDS)
        self._gate, self._inner_gate = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self.link.close()
                self._gate.close()
                Zygote(theirs, Kernel(), lambda request, fds: None, self._wait).run()
            finally:
                os._exit(1)
        theirs.close()
        self._inner_gate.close()
        assert self.hear() == {"ready": self.pid}

    def _wait(self, request: Request, fds: list[int]) -> socket.socket:
        self._inner_gate.recv(1)
        os._exit(7)

    def hear(self) -> object:
        """The next that it says; None when nobody is there any more."""
        packet = self.link.recv(4096)
        return json.loads(packet) if packet else None

    def fork(self, name: str) -> int:
        """Ask for one; its pid."""
        self.link.send(json.dumps({"fork": name}).encode())
        told = self.hear()
        assert isinstance(told, dict)
        assert told["fork"] == name
        return int(told["pid"])

    def open_gate(self) -> None:
        """Let the forks go."""
        self._gate.close()

    def close(self) -> None:
        """End it, and its forks."""
        self.open_gate()
        self.link.close()
        os.waitpid(self.pid, 0)


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    try:
        yield nursery
    finally:
        nursery.close()


def test_a_fork_is_told_and_so_is_its_end(nursery: Nursery) -> None:
    pid = nursery.fork("one")
    nursery.open_gate()
    told = nursery.hear()
    assert isinstance(told, dict)
    assert (told["exit"], os.waitstatus_to_exitcode(told["status"])) == (pid, 7)


def test_the_death_of_a_zygote_is_heard_of_while_a_fork_of_its_waits(nursery: Nursery) -> None:
    pid = nursery.fork("one")
    os.kill(nursery.pid, signal.SIGKILL)
    assert nursery.hear() is None
    os.kill(pid, 0)  # it waits still


class Held:
    """A descriptor that is closed with it, which only a collection of garbage finds."""

    def __init__(self, fd: int) -> None:
        self.itself = self
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


def test_a_descriptor_that_every_fork_would_share_is_named_and_one_that_is_garbage_is_closed() -> None:
    asked = os.open(os.devnull, os.O_RDONLY)
    allowed = {int(each) for each in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{each}")}
    check_descriptors(allowed)
    Held(os.dup(asked))
    check_descriptors(allowed)
    left = os.dup(asked)
    try:
        with pytest.raises(RuntimeError, match=rf"has descriptors \[{left}\]"):
            check_descriptors(allowed)
    finally:
        os.close(left)
        os.close(asked)
