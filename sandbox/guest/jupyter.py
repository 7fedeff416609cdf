"""Serves a Jupyter connection file, so that any Jupyter client can talk to the kernel that sandboxes have.

`python -m sandbox.guest.jupyter -f FILE`. Nothing in a sandbox uses this: init speaks `link` to its kernel.
"""

import asyncio
import contextvars
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

import zmq
from ipykernel.heartbeat import Heartbeat
from ipykernel.ipkernel import IPythonKernel
from jupyter_client.session import Session
from tornado.ioloop import IOLoop
from zmq.eventloop.zmqstream import ZMQStream

from sandbox.guest.adoption import adopt_process
from sandbox.guest.kernel import Kernel, insist
from sandbox.guest.link import KernelEnd

_SEND_QUEUE = 64
"""IOPub messages that may wait for a slow reader before the writer blocks."""


class JupyterKernel(Kernel):
    """The kernel over Jupyter's own sockets."""

    @classmethod
    def prepare(cls) -> "JupyterKernel":
        """The kernel, without its sockets."""
        publisher = Publisher()
        kernel = cls._build(Session(key=b""), publisher, KernelEnd())
        assert isinstance(kernel, cls)
        kernel.publisher = publisher
        kernel._execute_sleep = 0.0
        return kernel

    publisher: "Publisher"
    subscriptions: ZMQStream
    """Who begins to listen to the publisher's socket."""

    def start(self) -> None:
        """Register the dispatchers; both channels are served by the main thread's loop."""
        self.io_loop = IOLoop.current()
        self._cell_context = contextvars.copy_context()
        self._control_lock = asyncio.Lock()
        self.control_stream.on_recv(self.dispatch_control, copy=False)
        self.shell_stream.on_recv(self._on_shell, copy=False)
        self.subscriptions.flush(zmq.POLLIN)  # who listens already is told of that before anything else
        self._publish_status("starting", "shell")

    def _on_shell(self, message: Any) -> None:
        self._cell = asyncio.create_task(self.shell_main(None, message), context=self._cell_context)
        self._cell.add_done_callback(insist)

    def _abort_queues(self, subshell_id: str | None = None) -> None:
        # A client that wants it: requests that are already here when one fails are answered, not run.
        self._aborting = True
        self.shell_stream.flush()
        self.io_loop.add_callback(self._stop_aborting)

    def _stop_aborting(self) -> None:
        self._aborting = False

    def _publish_status(self, status: str, channel: str, parent: Any = None) -> None:
        IPythonKernel._publish_status(self, status, channel, parent)

    def publish_text(self, stream: str, start: int, data: bytes, parent: Any) -> None:
        """A stream message on behalf of the execution in `parent`."""
        content = {"name": stream, "text": data.decode("utf-8", "backslashreplace")}
        self.session.send(self.publisher, "stream", content, parent, ident=b"stream." + stream.encode())

    def on_sigint(self, number: int, frame: FrameType | None) -> None:
        """Signal handler, while a cell runs."""
        if not self.publisher.puts_off():
            super().on_sigint(number, frame)

    def do_shutdown(self, restart: bool) -> dict[str, Any]:
        self.io_loop.call_later(0.05, self.io_loop.stop)
        return {"status": "ok", "restart": restart}


class Publisher:
    """The IOPub socket. Sends are serialised, block when the reader is slow, and are never cut by a SIGINT."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._socket: zmq.Socket[bytes] | None = None
        self._interrupted = False
        self._sending = False

    def attach(self, socket: "zmq.Socket[bytes]") -> None:
        """From here on messages go to `socket`."""
        self._socket = socket

    def detach(self) -> None:
        """Drop everything from now on: in a forked child the socket belongs to its parent."""
        self._lock = threading.RLock()
        self._socket = None

    def send_multipart(self, parts: Sequence[bytes], copy: bool = True, track: bool = False) -> None:
        """The one method of a socket that jupyter_client's Session calls."""
        with self._lock:
            if self._socket is None:
                return
            self._sending = threading.current_thread() is threading.main_thread()
            try:
                self._socket.send_multipart(parts, copy=copy)
            finally:
                self._sending = False
        if self._interrupted:
            self._interrupted = False
            signal.raise_signal(signal.SIGINT)

    def puts_off(self) -> bool:
        """Whether an interrupt comes later instead: between the parts of a message it would garble the next one."""
        self._interrupted |= self._sending
        return self._sending


def _bind(kernel: JupyterKernel, context: "zmq.Context[zmq.Socket[bytes]]", endpoints: dict[str, str]) -> None:
    loop = IOLoop.current()
    sockets = {}
    for name, kind in (("shell", zmq.ROUTER), ("control", zmq.ROUTER), ("iopub", zmq.XPUB)):
        sockets[name] = context.socket(kind)
        sockets[name].linger = 1000
        if name == "iopub":
            # Block rather than drop: lost output, or a lost `idle`, would be a lie.
            sockets[name].setsockopt(zmq.XPUB_NODROP, 1)
            sockets[name].setsockopt(zmq.SNDHWM, _SEND_QUEUE)
        sockets[name].bind(endpoints[name])
    kernel.publisher.attach(sockets["iopub"])
    kernel.shell_stream = ZMQStream(sockets["shell"], loop)
    kernel.control_stream = ZMQStream(sockets["control"], loop)
    kernel.subscriptions = ZMQStream(sockets["iopub"], loop)
    kernel.subscriptions.on_recv(lambda frames: _welcome(kernel, frames))


def _welcome(kernel: JupyterKernel, frames: list[bytes]) -> None:
    """Tell a new subscriber that it is subscribed: what is published from now on reaches it."""
    for frame in frames:
        if frame[:1] == b"\x01":
            kernel.session.send(
                kernel.publisher, "iopub_welcome", {"subscription": frame[1:].decode()}, ident=frame[1:] or None
            )


def main(argv: list[str]) -> None:
    """Serve a Jupyter connection file: `-f FILE`."""
    with open(argv[argv.index("-f") + 1]) as file:
        connection = json.load(file)
    kernel = JupyterKernel.prepare()
    kernel.session.key = connection["key"].encode()
    adopt_process(kernel)
    os.register_at_fork(after_in_child=kernel.publisher.detach)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    address = f"{connection['transport']}://{connection['ip']}:"
    _bind(kernel, context, {name: address + str(connection[f"{name}_port"]) for name in ("shell", "control", "iopub")})
    heartbeat = Heartbeat(zmq.Context(), (connection["transport"], connection["ip"], connection["hb_port"]))
    heartbeat.start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kernel.start()
    # A subscription that came while we published is known to the socket, but its descriptor no longer says so.
    kernel.io_loop.add_callback(kernel.subscriptions.flush, zmq.POLLIN)
    kernel.io_loop.start()


if __name__ == "__main__":
    main(sys.argv)
