"""The launcher's process and the server's end of its socket: verbs go out, events come in.

The server may be unprivileged once the launcher runs: it holds sockets and meters, never a namespace or a cgroup.
"""

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from sandbox.errors import HostUnfit, SandboxFailed
from sandbox.runtime.embedded.sandbox import EmbeddedSandbox

PACKAGE = Path(__file__).parents[2]
"""Ours, which the launcher's program is a part of."""
MAX_PACKET = 1 << 16
"""Bytes; the launcher reads no more at once."""


class Launcher:
    """The launcher, for as long as its process lives."""

    def __init__(
        self, process: asyncio.subprocess.Process, sock: socket.socket, on_prepared: Callable[[str, bool], None]
    ) -> None:
        self._process = process
        self._on_prepared = on_prepared
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self.hello: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self.sandboxes: dict[str, EmbeddedSandbox] = {}
        self.prepared: dict[str, asyncio.Future[None]] = {}
        self.whole: set[str] = set()
        """Images of which all is prepared that will be."""
        self._unsent: deque[bytes] = deque()
        """Verbs for which its socket had no room."""
        self._gone: str | None = None
        """Why it can no longer be asked anything."""
        self._loop.add_reader(sock.fileno(), self._on_packet)

    @classmethod
    async def spawn(cls, through: Sequence[str], on_prepared: Callable[[str, bool], None]) -> Self:
        """Start the launcher. Raises `HostUnfit` with what the host lacks.

        through: a program and its arguments that end by executing what follows them. on_prepared: called with an image
        of which more is known, and whether its sandboxes begin otherwise from now on.
        """
        try:
            process, ours = await _spawned(through)
        except OSError as error:
            raise HostUnfit(f"the launcher cannot be started: {error}") from error
        launcher = cls(process, ours, on_prepared)
        try:
            await launcher.hello
        except BaseException:
            await launcher.aclose()  # nobody will ever hold it, so nobody else could end it
            raise
        return launcher

    @property
    def watches(self) -> bool:
        """Whether it measures, and caps memory, itself."""
        return self.hello.done() and "memory" in self.hello.result()["soft"]

    @property
    def gone(self) -> bool:
        """Whether it can no longer be asked anything."""
        return self._gone is not None

    def ask(self, message: dict[str, Any]) -> None:
        """Send a verb that is answered with an event. Raises `SandboxFailed` when nobody is there to answer."""
        if self._gone is not None:
            raise SandboxFailed(self._gone)
        self.tell(message)

    def tell(self, message: dict[str, Any]) -> None:
        """Send one verb, after all earlier ones. A launcher that is gone has ended its sandboxes."""
        packet = json.dumps(message).encode()
        assert len(packet) <= MAX_PACKET, "what callers can make long has a bound of its own"
        if self._gone is None:
            self._unsent.append(packet)
            self._send()

    def _send(self) -> None:
        try:
            while self._unsent:
                self._socket.send(self._unsent[0])
                self._unsent.popleft()
        except BlockingIOError:
            self._loop.add_writer(self._socket.fileno(), self._send)
            return
        except OSError:
            self._unsent.clear()  # its end is noticed where it is read
        self._loop.remove_writer(self._socket.fileno())

    def _on_packet(self) -> None:
        while True:
            try:
                packet, fds, _, _ = socket.recv_fds(self._socket, MAX_PACKET, 8)
            except BlockingIOError:
                return
            except OSError:
                packet, fds = b"", []
            if not packet:
                self._on_death()
                return
            self._on_event(json.loads(packet), fds)

    def _on_event(self, event: dict[str, Any], fds: list[int]) -> None:
        kind = event["event"]
        if kind == "hello":
            self.hello.set_result(event)
        elif kind == "unfit":
            self.hello.set_exception(HostUnfit(f"{event['reason']}. `sandbox doctor` lists every finding"))
        elif kind == "prepared":
            (self.whole.add if event["whole"] else self.whole.discard)(event["image"])
            self._on_prepared(event["image"], event["renewed"])
            self._settle(event["image"], None)
        elif kind == "unprepared":
            self._settle(event["image"], SandboxFailed(f"image {event['image']} cannot be used: {event['reason']}"))
        elif kind == "started":
            self.sandboxes[event["sandbox"]].on_started(fds)
        elif kind == "failed":
            self.sandboxes.pop(event["sandbox"]).on_gone(event["reason"])
        elif kind == "gone":
            self.sandboxes.pop(event["sandbox"]).on_gone(event["reason"], event["reading"])
        elif kind == "measured":
            self.sandboxes[event["sandbox"]].on_measured(event["reading"])

    def _settle(self, image: str, error: Exception | None) -> None:
        future = self.prepared.get(image)
        if error is not None:
            self.prepared.pop(image, None)
        if future is None or future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
            future.exception()  # marked as seen: whoever had waited may be gone

    def _on_death(self) -> None:
        self._forget_socket()
        self._gone = "the launcher ended, and with it every sandbox; try again, which starts a new one"
        if not self.hello.done():
            self.hello.set_exception(HostUnfit("the launcher ended at once; its message is above"))
        self._fail_all(self._gone, "the launcher ended")

    def _fail_all(self, gone: str, reason: str) -> None:
        """Whoever waits for a zygote or a sandbox is told; nothing of either is left."""
        for image in list(self.prepared):
            self._settle(image, SandboxFailed(gone))
        for sandbox in self.sandboxes.values():
            sandbox.on_gone(reason)
        self.sandboxes.clear()

    def _forget_socket(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
        self._unsent.clear()

    async def aclose(self) -> None:
        """End the launcher, and with it every sandbox and zygote. May be called twice."""
        self._gone = "this runtime is closed; open a new engine"
        self._forget_socket()
        self._socket.close()
        await self._process.wait()
        self._fail_all(self._gone, "stopped")


async def _spawned(through: Sequence[str]) -> tuple[asyncio.subprocess.Process, socket.socket]:
    """Its process, and our end of the socket. Raises `OSError`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with theirs, contextlib.ExitStack() as stack:
        stack.enter_context(ours)
        process = await asyncio.create_subprocess_exec(
            *through,
            sys.executable,
            "-P",
            "-m",
            "sandbox.runtime.embedded.launcher",
            str(theirs.fileno()),
            pass_fds=[theirs.fileno()],
            stdin=asyncio.subprocess.DEVNULL,
            # Nothing of our environment: whatever it holds would be inherited by every sandbox.
            env={"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONPATH": str(PACKAGE.parent)},
            start_new_session=True,
        )
        stack.pop_all()
    return process, ours
