"""The runtime's side of the launcher: start, watch, stop.

The server may be unprivileged once the launcher runs: it holds sockets and meters, never a namespace or a cgroup.
"""

import asyncio
import contextlib
import json
import os
import resource
import socket
import sys
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from sandbox import image as images
from sandbox.errors import HostUnfit, ImageNotBuilt, SandboxFailed
from sandbox.execution import MIB, Spec
from sandbox.runtime import Exit, Usage, terms
from sandbox.runtime.channel import SocketChannel
from sandbox.runtime.embedded import scope
from sandbox.runtime.embedded.cgroup import Meters, Reading
from sandbox.runtime.embedded.generations import Generations

_PACKAGE = Path(__file__).parents[2]
_PREPARE_SECONDS = 120.0
_STOP_SECONDS = 15.0

Start = Literal["fork", "exec"]
"""How kernels come to be: forks of a zygote, or interpreters that are executed each for itself."""


class EmbeddedSandbox:
    """One sandbox of the launcher."""

    def __init__(self, sandbox_id: str, launcher: "Launcher") -> None:
        self.id = sandbox_id
        self._launcher = launcher
        self._meters: Meters | None = None
        self._asked: deque[asyncio.Future[None]] = deque()
        """Who waits for the launcher's own measurements, which come in the order of the questions."""
        self._last = Reading(0, 0, 0)
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._channel: SocketChannel | None = None

    @property
    def channel(self) -> SocketChannel:
        """See `runtime.Sandbox`."""
        assert self._channel is not None, "`start` hands out what has started only"
        return self._channel

    def on_started(self, fds: list[int]) -> None:
        """The launcher made it: the channel and the meters."""
        self._channel = SocketChannel(socket.socket(fileno=fds[0]))
        if fds[1:]:
            self._meters = Meters(fds[1:])
        if not self.started.done():
            self.started.set_result(None)

    def on_failed(self, reason: str) -> None:
        """The launcher could not make it."""
        if not self.started.done():
            self.started.set_exception(SandboxFailed(f"a sandbox could not be made: {reason}"))
        self.on_gone(reason)

    def on_measured(self, reading: dict[str, int] | None) -> None:
        """The launcher has looked, as it was asked to, if there was anything to look at yet."""
        if reading is not None:
            self._last = Reading(**reading)
        if self._asked:
            self._answer(self._asked.popleft())

    def _answer(self, asked: asyncio.Future[None]) -> None:
        if not asked.done():
            asked.set_result(None)

    def on_gone(self, reason: str, reading: dict[str, int] | None = None) -> None:
        """Nothing of it is left. reading: the launcher's last, where it measures."""
        if reading is not None:
            self._last = Reading(**reading)
        while self._asked:
            self._answer(self._asked.popleft())
        if not self._exit.done():
            self._exit.set_result(Exit(reason))
        if self._meters is not None:
            self._meters.close()
            self._meters = None

    def exited(self) -> Exit | None:
        """See `runtime.Sandbox`."""
        return self._exit.result() if self._exit.done() else None

    async def wait(self) -> Exit:
        """See `runtime.Sandbox`."""
        return await asyncio.shield(self._exit)

    async def usage(self) -> Usage:
        """See `runtime.Sandbox`."""
        if self._meters is not None:
            with contextlib.suppress(OSError):  # the group may be gone before we are told
                self._last = self._meters.read()
        elif self._launcher.watches and not self._exit.done():
            asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._asked.append(asked)
            self._launcher.tell({"verb": "measure", "sandbox": self.id})
            await asked
        return Usage(self._last.cpu_ns, self._last.peak_bytes, self._last.oom_kills)

    def reset_peak(self) -> None:
        """See `runtime.Sandbox`."""
        if self._meters is not None:
            with contextlib.suppress(OSError):
                self._meters.reset_peak()
        elif self._launcher.watches and not self._exit.done():
            self._launcher.tell({"verb": "forget_peak", "sandbox": self.id})

    async def stop(self) -> None:
        """See `runtime.Sandbox`."""
        if not self._exit.done():
            self._launcher.tell({"verb": "stop", "sandbox": self.id})
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self.wait()
        except TimeoutError as error:
            raise SandboxFailed(f"sandbox {self.id} did not end within {_STOP_SECONDS:g} s") from error
        finally:
            if self._channel is not None:
                await self._channel.aclose()


class Launcher:
    """The launcher process and our end of its socket."""

    def __init__(
        self, process: asyncio.subprocess.Process, sock: socket.socket, on_renewed: Callable[[str], None]
    ) -> None:
        self._process = process
        self._on_renewed = on_renewed
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
    async def spawn(cls, through: Sequence[str], on_renewed: Callable[[str], None]) -> Self:
        """Start the launcher. Raises `HostUnfit` with what the host lacks.

        through: a program and its arguments that end by executing what follows them. on_renewed: called with an image
        whose sandboxes begin otherwise from now on.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
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
                env={"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONPATH": str(_PACKAGE.parent)},
                start_new_session=True,
            )
        launcher = cls(process, ours, on_renewed)
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
        self._unsent.append(json.dumps(message).encode())
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
                packet, fds, _, _ = socket.recv_fds(self._socket, 65536, 8)
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
            if event["renewed"]:
                self._on_renewed(event["image"])
            self._settle(event["image"], None)
        elif kind == "unprepared":
            self._settle(event["image"], SandboxFailed(f"image {event['image']} cannot be used: {event['reason']}"))
        elif kind == "started":
            self.sandboxes[event["sandbox"]].on_started(fds)
        elif kind == "failed":
            self.sandboxes.pop(event["sandbox"]).on_failed(event["reason"])
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
            sandbox.on_failed(reason)
        self.sandboxes.clear()

    def _forget_socket(self) -> None:
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


class EmbeddedRuntime:
    """Sandboxes from namespaces, without a daemon. Use `open`."""

    def __init__(
        self,
        launcher: Launcher,
        generations: Generations,
        images_dir: Path,
        *,
        start: Start,
        shared: bool,
        through: Sequence[str],
        zygote_age: float,
    ) -> None:
        self._launcher = launcher
        self._generations = generations
        self._zygote_age = zygote_age
        self._through = through
        self._images_dir = images_dir
        self._start = start
        self._shared = shared
        self._closed = False
        self._reviving = asyncio.Lock()
        self._manifests: dict[str, images.Manifest] = {}
        """Of images as they were when they were prepared."""

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        images_dir: Path,
        *,
        start: Start = "fork",
        shared: bool = True,
        through: Sequence[str] | None = None,
        zygote_age: float = 0.0,
    ) -> AsyncIterator[Self]:
        """Start the launcher; at the end, end everything.

        start: how kernels come to be. shared: whether many sandboxes will be forked from a zygote, so that another one
        with all libraries, which takes seconds, is to follow the first; see `zygotes`. through: see `Launcher.spawn`;
        default is whatever gives an ordinary user control groups. zygote_age: seconds after which another zygote takes
        over; 0 is never. Raises `HostUnfit`.
        """
        _raise_descriptor_limit()
        through = await scope.way() if through is None else through
        generations = Generations()
        launcher = await Launcher.spawn(through, generations.begin)
        runtime = cls(
            launcher, generations, images_dir, start=start, shared=shared, through=through, zygote_age=zygote_age
        )
        try:
            yield runtime
        finally:
            await runtime.aclose()

    @property
    def name(self) -> str:
        """See `runtime.Runtime`."""
        return "embedded"

    @property
    def soft(self) -> Mapping[str, str]:
        """See `runtime.Runtime`. An ordinary user's without control groups, or without the cpu controller."""
        hello = self._launcher.hello.result()
        why = hello["why_soft"] or "the control groups of this user are without the cpu controller"
        return dict.fromkeys(hello["soft"], why)

    async def manifest(self, image: str) -> images.Manifest:
        """See `runtime.Runtime`. Of an image in use, what its sandboxes show; every model's call asks for it."""
        if image in self._launcher.prepared:
            return self._manifests[image]
        return (await asyncio.to_thread(images.load, image, self._images_dir)).manifest

    async def manifests(self) -> list[images.Manifest]:
        """See `runtime.Runtime`. Roots of older sources are not among them."""
        return await asyncio.to_thread(_manifests, self._images_dir)

    async def prepare(self, image: str) -> None:
        """See `runtime.Runtime`. The first call for an image starts its zygote, if it gets one, which takes seconds."""
        await self._revive()
        future = self._launcher.prepared.get(image)
        if future is None:
            built = images.load(image, self._images_dir)
            self._manifests[image] = built.manifest
            future = asyncio.get_running_loop().create_future()
            self._launcher.ask(
                {
                    "verb": "prepare",
                    "image": image,
                    "root": str(built.root),
                    "system": str(built.system),
                    "prefix": built.manifest.base_prefix,
                    "python": "/opt/venv/bin/python",
                    "code": str(_PACKAGE),
                    "start": self._start,
                    "shared": self._shared,
                    "zygote_age_s": self._zygote_age,
                }
            )
            self._launcher.prepared[image] = future
        try:
            async with asyncio.timeout(_PREPARE_SECONDS):
                await asyncio.shield(future)
        except TimeoutError as error:
            raise SandboxFailed(f"image {image} was not ready within {_PREPARE_SECONDS:g} s; see the log") from error

    async def _revive(self) -> None:
        """A launcher that died took every sandbox with it; those to come get a new one. Raises `HostUnfit`."""
        async with self._reviving:
            if self._launcher.gone and not self._closed:
                await self._launcher.aclose()
                self._launcher = await Launcher.spawn(self._through, self._generations.begin)

    def used_bytes(self) -> int:
        """See `runtime.Runtime`."""
        if self._launcher.watches:
            return 0  # the launcher looks at each by itself
        try:
            return int(Path(self._launcher.hello.result()["memory"]).read_text())
        except OSError:
            return 0

    def whole(self, image: str) -> bool:
        """See `runtime.Runtime`."""
        return image in self._launcher.whole

    def generation(self, image: str) -> int:
        """See `runtime.Runtime`."""
        return self._generations.current(image)

    async def renewed(self, image: str, generation: int) -> None:
        """See `runtime.Runtime`."""
        await self._generations.another(image, generation)

    async def start(self, spec: Spec) -> EmbeddedSandbox:
        """See `runtime.Runtime`."""
        await self.prepare(spec.image)
        sandbox = EmbeddedSandbox(uuid.uuid4().hex, self._launcher)
        self._launcher.ask({"verb": "start", "sandbox": sandbox.id, **_request(spec)})
        self._launcher.sandboxes[sandbox.id] = sandbox
        try:
            await asyncio.shield(sandbox.started)
        except asyncio.CancelledError:
            # Nobody will ever hold it, so nobody else could stop it.
            await asyncio.shield(sandbox.stop())
            raise
        return sandbox

    async def aclose(self) -> None:
        """See `runtime.Runtime`."""
        if not self._closed:
            self._closed = True
            await self._launcher.aclose()


def _manifests(images_dir: Path) -> list[images.Manifest]:
    found = []
    for name in images.names(images_dir):
        with contextlib.suppress(ImageNotBuilt):
            found.append(images.load(name, images_dir).manifest)
    return found


def _request(spec: Spec) -> dict[str, Any]:
    """A spec in the launcher's words: integers and strings, nothing to be interpreted."""
    limits = spec.limits
    room = terms.room(limits)
    return {
        "image": spec.image,
        "memory_bytes": limits.memory_mb * MIB,
        "processes": limits.processes,
        "cpus": limits.cpus,
        "file_bytes": room.file_bytes,
        "sizes": {
            "workspace": room.workspace,
            "files": limits.files,
            "temporary": room.temporary,
            "shared_memory": room.shared_memory,
        },
        "policy": terms.policy(spec),
    }


def _raise_descriptor_limit() -> None:
    """Four descriptors per sandbox: take what the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
