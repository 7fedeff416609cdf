"""PID 1 of a container.

The way in: init dials the host (the socket at `SOCKET`, else its own stdin and stdout), starts a zygote, reads the
frame BEGIN, and relays. Host and runtime have contained the whole container before its first instruction; here is
only what tells init from the program, for both have one uid: init cannot be dumped or traced, as PID 1 it is not even
sent what it does not handle, and the kernels' filter of system calls keeps a program from changing its limits.

Where it can fail: the host does not speak (the container ends, as when the host goes away later); the zygote dies,
which a program can bring about (all that runs is ended with it, and another zygote is started).
"""

import contextlib
import json
import os
import signal
import socket
import sys
from typing import Any, NoReturn

from sandbox.guest import init, process, variables
from sandbox.guest.frames import HEADER, MAX_BODY, SOCKET, BadFrame, Frame, decode_json

_ZYGOTE = "sandbox.guest.container.zygote"
_KILLED = signal.SIGKILL.value
"""A wait status. How a kernel ended whose zygote died first, nobody can tell; it was killed in any case."""


class ZygoteSpawner:
    """Init's way to a kernel: a zygote of our own, started anew when it dies."""

    def __init__(self) -> None:
        self.filter: str | None = None
        self._wanted = False
        """Whether init waits for a kernel that could not be asked for yet."""
        self._ready = False
        self._kernel = 0
        """The pid of the last kernel, while it lives."""
        self._gate: socket.socket | None = None
        """Our end of the next kernel's link, once it has been asked for."""
        self._pid = 0
        self._link = self._start()

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            os.set_inheritable(theirs.fileno(), True)
            arguments = [sys.executable, "-P", "-m", _ZYGOTE, str(theirs.fileno())]
            environment = variables.ZYGOTE | {"PYTHONPATH": os.environ["PYTHONPATH"]}
            self._pid = os.posix_spawn(sys.executable, arguments, environment, setsid=True)
        return ours

    def fileno(self) -> int:
        return self._link.fileno()

    def needed(self) -> set[int]:
        return {self._pid}

    def request(self) -> None:
        self._wanted = True
        self._ask()

    def _ask(self) -> None:
        if not self._wanted or not self._ready:
            return
        self._wanted = False
        self._gate, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        packet = json.dumps({"fork": "kernel", "filter": self.filter}).encode()
        with theirs, contextlib.suppress(ConnectionError):  # its end will be read
            socket.send_fds(self._link, [packet], [theirs.fileno()])

    def news(self) -> init.Born | init.Died | None:
        try:
            packet = self._link.recv(4096)
        except ConnectionError:
            packet = b""
        if not packet:
            return self._renew()
        message = json.loads(packet)
        if "ready" in message:
            self._ready = True
            self._ask()
        elif "pid" in message and self._gate is not None:
            self._kernel, gate, self._gate = message["pid"], self._gate, None
            return init.Born(self._kernel, gate)
        elif "failed" in message:
            return init.Died(_KILLED)
        elif message.get("exit") == self._kernel:
            self._kernel = 0
            return init.Died(message["status"])
        return None

    def _renew(self) -> init.Died | None:
        # One that never became ready would be started for ever; without it there will be no kernel.
        if not self._ready:
            raise EOFError
        # Whoever lives could write into the next one before that forbids it, for all have one uid; and then what runs
        # without a kernel's filter is the program's. With the zygote the kernel's state is lost in any case.
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        self._link.close()
        self._link, self._ready = self._start(), False
        if not self._kernel:
            self._wanted = True
            return None
        self._kernel = 0
        return init.Died(_KILLED)


def main() -> NoReturn:
    """Be PID 1 of this container. The environment must have `PYTHONPATH`."""
    process.forbid_dumps()
    process.name_process("sandbox-init")
    # Python's own handler would let a program end us; PID 1 does not even get what it does not handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o022)
    source, sink = _dial()
    spawner = ZygoteSpawner()
    try:
        begin = _first(source)
    except (EOFError, BadFrame):
        os._exit(0)
    spawner.filter = begin["filter"]
    init.run(source, sink, spawner, init.Policy(**begin["policy"]))


def _dial() -> tuple[int, int]:
    """Descriptors to read from and write to. 0 and 1 are then as harmless as in any program without a terminal."""
    if os.path.exists(SOCKET):
        channel = socket.socket(socket.AF_UNIX)
        channel.connect(SOCKET)
        source = sink = channel.detach()
    else:
        source, sink = os.dup(0), os.dup(1)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(2, 1)
    for fd in (source, sink):
        os.set_inheritable(fd, False)
    return source, sink


def _first(source: int) -> dict[str, Any]:
    """The frame BEGIN, and nothing of what may follow it."""
    length, kind = HEADER.unpack(_read(source, HEADER.size))
    if kind != Frame.BEGIN or length > MAX_BODY:
        raise BadFrame(f"a frame of type {kind} came before BEGIN")
    return decode_json(_read(source, length - 1))[0]


def _read(source: int, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = os.read(source, length - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


if __name__ == "__main__":
    main()
