"""Sandboxes as containers: start, watch, stop, and reconcile with what the daemon has.

The way of a sandbox:

    start ─ a slot, a uid, a socket that listens ─ create ─ (attach) ─ start ─ init dials ─ BEGIN ─ meters ─ … init's
    zygote imports, forks a kernel, READY ─ … ─ stop, or the daemon says that it died ─ how? ─ removed ─ gone

A failure at any step removes the container. The daemon may go away at any moment and come back: then all that it has
with our label is looked at, what no live sandbox of ours is is removed, and what it no longer has is told gone.

(Long for one file: it is the seam, and what it asks of the daemon is easier to follow in one place.)
"""

import asyncio
import base64
import contextlib
import random
import socket
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

from sandbox import logs
from sandbox.errors import HostUnfit, ImageNotBuilt, SandboxFailed, UnknownImage
from sandbox.execution import MIB, Spec
from sandbox.guest.frames import Frame, encode_json
from sandbox.image import Manifest, sources
from sandbox.runtime import terms
from sandbox.runtime.channel import SocketChannel
from sandbox.runtime.docker import aggregate, vicinity
from sandbox.runtime.docker import image as images
from sandbox.runtime.docker import inheritance as inheritances
from sandbox.runtime.docker.daemon import About, Daemon, Found, Gone, Refused, client_for
from sandbox.runtime.docker.fdstore import FdStore
from sandbox.runtime.docker.headroom import Headroom, container_bytes
from sandbox.runtime.docker.instance import LABEL, Instance
from sandbox.runtime.docker.meters import DaemonMeters, GroupMeters, group_of
from sandbox.runtime.docker.options import Place, has_own_kernel, options
from sandbox.runtime.docker.sandbox import DockerSandbox
from sandbox.runtime.embedded import seccomp
from sandbox.runtime.embedded.cgroup import Group
from sandbox.runtime.embedded.precedence import Precedence, release

_logger = logs.logger(__name__)
ChannelKind = Literal["auto", "socket", "stdio"]

_DIAL_SECONDS = 30.0
_RECONNECT_FIRST_S, _RECONNECT_MAX_S = 0.1, 2.0
_LINGER_S = 4.0, 8.0
"""When an unused sandbox ends whose engine was killed, somewhere between: all at once they would keep the daemon, and
every core, from the next engine's first ones. That one removes them one by one."""
_CLEAR_AFTER_S = 2.0
"""When what the dead left begins to be removed: by then our first sandbox is on its own way."""
_LEAVE_SECONDS = 5.0
"""How long a removal waits for a daemon that does not answer; what is left then is removed when it is back."""


class DockerRuntime:
    """Sandboxes of a Docker daemon. Use `open`."""

    def __init__(
        self, daemon: Daemon, instance: Instance, about: About, sockets: Path | None, store: FdStore, parent: str
    ) -> None:
        self._daemon = daemon
        self._instance = instance
        self._store = store
        self._inheritance = inheritances.Inheritance(store.inherited, instance, self._sandbox)
        self._about = about
        self._sockets = sockets
        """What the daemon's host calls the instance's directory; None where it cannot be shown to containers."""
        self._parent = parent
        """The control group of all containers; empty for the daemon's own choice."""
        self._sees_groups = not vicinity.why_elsewhere(about, daemon.address)
        """Whether containers' control groups are where we see them."""
        self._looked_above = False
        self._sandboxes: dict[str, DockerSandbox] = {}
        self._left: dict[str, int] = {}
        """The slots of containers that could not be removed yet."""
        self._images: dict[str, images.Built] = {}
        self._answers = asyncio.Event()
        self._clearing: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()
        """Whoever waits for a better time to remove something has no more."""
        self._cleared = asyncio.Event()
        """What the dead left was removed, or tried to."""
        self._filter = _filter()
        self._closed = False

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        directory: Path,
        *,
        address: str | None = None,
        channel: ChannelKind = "auto",
        cgroup_parent: str = "",
    ) -> AsyncIterator[Self]:
        """Connect, and begin to remove what dead engines left; at the end, end everything.

        directory: where this runtime keeps its locks and sockets; engines that use the same one clean up after each
        other. address: of the daemon. channel: how inits are talked to. cgroup_parent: what containers' control groups
        are made below; empty is `aggregate`'s. Raises `HostUnfit`, `Unready`.
        """
        async with contextlib.AsyncExitStack() as stack:
            daemon = await stack.enter_async_context(Daemon.open(address))
            instance = stack.enter_context(Instance.open(directory))
            about = await daemon.about()
            sockets = None if channel == "stdio" else await vicinity.shown(daemon, instance.directory)
            if sockets is None and channel == "socket":
                raise HostUnfit(f"the daemon cannot show {directory} to containers; set docker_channel to stdio")
            aggregate.check_named(about, cgroup_parent)
            parent = cgroup_parent or await stack.enter_async_context(aggregate.made(about, daemon.address))
            store = await stack.enter_async_context(FdStore.open(instance.fdstore))
            runtime = cls(daemon, instance, about, sockets, store, parent)
            watching = asyncio.Event()
            watcher = asyncio.create_task(runtime._watch(watching), name="docker events")
            order = asyncio.create_task(runtime._keep_order(), name="precedence")
            try:
                await watching.wait()
                yield runtime
            finally:
                order.cancel()
                try:
                    await runtime.aclose()
                finally:
                    await runtime._end(watcher)
                    await asyncio.wait((order,))

    @property
    def name(self) -> str:
        """See `runtime.Runtime`."""
        return "docker"

    @property
    def soft(self) -> Mapping[str, str]:
        """See `runtime.Runtime`."""
        return {}

    @property
    def owner(self) -> str:
        """What its containers' label says; engines with the same directory share it."""
        return self._instance.owner

    async def manifest(self, image: str) -> Manifest:
        """See `runtime.Runtime`."""
        return (await self._image(image)).manifest

    async def manifests(self) -> list[Manifest]:
        """See `runtime.Runtime`. Images of older sources are not among them."""
        found = []
        for name in sources():
            with contextlib.suppress(ImageNotBuilt, UnknownImage):
                found.append(await self.manifest(name))
        return found

    async def prepare(self, image: str) -> None:
        """See `runtime.Runtime`. Sandboxes share the image's files and nothing else."""
        await self._image(image)

    def whole(self, image: str) -> bool:
        """See `runtime.Runtime`."""
        return True

    def generation(self, image: str) -> int:
        """See `runtime.Runtime`."""
        return 0

    async def renewed(self, image: str, generation: int) -> None:
        """See `runtime.Runtime`. Never: a container has a zygote of its own."""
        await asyncio.get_running_loop().create_future()

    async def _image(self, name: str) -> images.Built:
        if name not in self._images:
            self._images[name] = await asyncio.to_thread(_load, self._daemon.address, name)
        return self._images[name]

    async def stand_by(self, spec: Spec, count: int) -> bool:
        """See `runtime.Runtime`."""
        return False

    def used_bytes(self) -> int:
        """See `runtime.Runtime`."""
        return sum(sandbox.meters.held_bytes() for sandbox in self._sandboxes.values() if sandbox.meters is not None)

    # The way in.

    async def start(self, spec: Spec, *, awaited: bool = False, defers: bool = False) -> DockerSandbox:
        """See `runtime.Runtime`."""
        image = await self._image(spec.image)
        if spec.oci_runtime and spec.oci_runtime not in self._about.runtimes:
            known = ", ".join(self._about.runtimes)
            raise HostUnfit(f"the Docker daemon has no runtime {spec.oci_runtime!r}; it has {known}")
        kind = self._kind(spec, image.id)
        if (left := await self._inherited(kind, spec)) is not None:
            return left
        slot = self._instance.take_slot()
        if slot is None or self._closed:
            raise SandboxFailed("every slot is taken" if slot is None else "this runtime is closed; open a new engine")
        sandbox = self._sandbox(uuid.uuid4().hex, slot)
        sandbox.kind = kind
        work = self._make(sandbox, spec, image.id, awaited=awaited, defers=defers)
        making = asyncio.create_task(work, name=f"start {sandbox.id}")
        try:
            await asyncio.shield(making)
        except BaseException as error:
            # Cancelled, or failed: in either case nobody will ever hold it, so nobody else could stop it.
            await asyncio.shield(self._undo(sandbox, making))
            if isinstance(error, Refused | Gone | OSError):
                raise SandboxFailed(f"a sandbox could not be made: {error}") from error
            raise
        return sandbox

    def _sandbox(self, sandbox_id: str, slot: int) -> DockerSandbox:
        sandbox = self._sandboxes[sandbox_id] = DockerSandbox(sandbox_id, slot, self._bury, self._store)
        return sandbox

    def _kind(self, spec: Spec, image: str) -> str:
        """Empty for one with secrets, which ends with its engine."""
        if spec.env:
            return ""
        place = self._place(spec, image)
        policy = terms.policy(spec, awaited=False)
        return inheritances.kind(options(spec, place), self._about.default_runtime, policy, self._filter)

    def _place(self, spec: Spec, image: str) -> Place:
        """What is the same for all containers of a kind."""
        own_kernel = self._has_own_kernel(spec)
        return Place(image, 0, {}, None, self._about.cgroup_version, self._parent, own_kernel, self._sees_groups)

    def _has_own_kernel(self, spec: Spec) -> bool:
        return has_own_kernel(spec.oci_runtime or self._about.default_runtime)

    async def _inherited(self, kind: str, spec: Spec) -> DockerSandbox | None:
        while not self._closed and (sandbox := await self._inheritance.take(kind)) is not None:
            sandbox.cpus = spec.limits.cpus
            try:
                await self._find_group(sandbox, spec)
                if sandbox.group is not None:
                    with contextlib.suppress(OSError):
                        release(sandbox.group)
                return sandbox
            except (SandboxFailed, Refused):
                self._inheritance.refuse(sandbox)
            except BaseException as error:
                self._inheritance.refuse(sandbox)
                if isinstance(error, Gone):  # the others may be taken when it is back
                    raise SandboxFailed(f"a sandbox could not be taken over: {error}") from error
                raise
        return None

    async def _undo(self, sandbox: DockerSandbox, making: "asyncio.Task[None]") -> None:
        await asyncio.gather(making, return_exceptions=True)
        await sandbox.stop()

    async def _make(self, sandbox: DockerSandbox, spec: Spec, image: str, *, awaited: bool, defers: bool) -> None:
        reaches_us = spec.oci_runtime in ("", "runc", "crun") and not self._has_own_kernel(spec)
        sockets = self._sockets if reaches_us else None
        async with contextlib.AsyncExitStack() as stack:
            shown, listener = None, None
            if sockets is not None:
                directory, listener = self._instance.listen(sandbox.id)
                stack.callback(self._instance.unlisten, directory)
                stack.callback(listener.close)
                shown = sockets / directory.name
            user = self._instance.user(sandbox.slot, mapped=self._about.maps_ids)
            labels = self._instance.labels(sandbox.id) | inheritances.labels(sandbox, attached=listener is None)
            place = replace(self._place(spec, image), user=user, labels=labels, socket_directory=shown)
            sandbox.container = await self._daemon.create(f"sandbox-{sandbox.id}", options(spec, place))
            if listener is None:
                sandbox.connect(await self._daemon.attach(sandbox.container))
            await self._daemon.start(sandbox.container)
            if listener is not None:
                sandbox.connect(await _accept(listener, sandbox))
        linger_s = 0.0 if awaited or spec.env else random.uniform(*_LINGER_S)
        begin = {"policy": terms.policy(spec, awaited=awaited, linger_s=linger_s), "filter": self._filter}
        await sandbox.channel.write(encode_json(Frame.BEGIN, begin))
        sandbox.cpus = spec.limits.cpus
        await self._find_group(sandbox, spec)
        if defers:
            sandbox.recede()
        sandbox.started = True

    async def _find_group(self, sandbox: DockerSandbox, spec: Spec) -> None:
        state = await self._daemon.state(sandbox.container)
        if state is None or not state.running:
            raise SandboxFailed("the container ended at once")
        sandbox.meters = DaemonMeters(self._daemon, sandbox.container)
        if (group := group_of(state.pid, sandbox.container)) is not None:
            with contextlib.suppress(OSError):  # the daemon's will do
                sandbox.meters = GroupMeters(group)
            sandbox.group = group
            cap = spec.limits.memory_mb * MIB
            if self._has_own_kernel(spec) and self._sees_groups and container_bytes(cap) > cap:
                sandbox.headroom = Headroom(group, cap)
            self._look_above(group)

    def _look_above(self, group: Group) -> None:
        """Say so, once, should containers be elsewhere than where we want them."""
        if not self._looked_above and self._parent.strip("/") not in group.name:
            _logger.warning("containers are without their caps for all together", wanted=self._parent, found=group.name)
        self._looked_above = True

    # The way out.

    async def _bury(self, sandbox: DockerSandbox, reason: str) -> None:
        """How it ended, then nothing of it left."""
        oom_killed = False
        is_removed = not sandbox.container
        try:
            async with asyncio.timeout(_LEAVE_SECONDS):
                while sandbox.container:
                    try:
                        if reason != "stopped":
                            reason, oom_killed = await self._how(sandbox, reason)
                        await self._daemon.remove(sandbox.container)
                        is_removed = True
                        break
                    except Gone:
                        # Our own watcher hears when it is back.
                        self._answers.clear()
                        await self._answers.wait()
                    except Refused as error:
                        # Somebody else removes it at this moment; or it cannot be removed, which its listing will show.
                        is_removed = "already in progress" in str(error)
                        reason = reason if is_removed else f"{reason}; {error}"
                        break
        except TimeoutError:
            reason = f"{reason}; its container is removed when the Docker daemon answers again"
        self._sandboxes.pop(sandbox.id, None)
        if is_removed:
            self._instance.free_slot(sandbox.slot)
        else:  # its processes may still run under that id, which is nobody else's until it is gone
            self._left[sandbox.container] = sandbox.slot
        sandbox.on_gone(reason, oom_killed=oom_killed)

    async def _how(self, sandbox: DockerSandbox, reason: str) -> tuple[str, bool]:
        """The words for an end that we did not bring about, and whether it was the memory cap."""
        await sandbox.usage()
        state = await self._daemon.state(sandbox.container)
        if state is None or state.running:
            return reason, False
        words = sandbox.last_words() or f"its container ended with code {state.exit_code}"
        return words, state.oom_killed

    async def _keep_order(self) -> None:
        """See `Precedence`; of those whose group we see."""
        precedence = Precedence()
        while (patience := precedence.wait()) is not None:
            await asyncio.sleep(patience)
            seen = [each for each in self._sandboxes.values() if each.claimed or each.recedes]
            all_of_them = {each.group: each.cpus for each in seen if each.group}
            starting = {each.group for each in seen if each.group and each.recedes}
            try:
                await asyncio.to_thread(precedence.look, all_of_them, starting)
            except RuntimeError as error:  # no more threads
                _logger.warning("precedence not kept", why=str(error))
                await asyncio.sleep(_RECONNECT_MAX_S)

    # The daemon.

    async def _watch(self, watching: asyncio.Event) -> None:
        """Follow what happens to our containers; again and again, for the daemon may be restarted."""
        pause = _RECONNECT_FIRST_S
        while True:
            try:
                async with self._daemon.events(f"{LABEL}={self._instance.owner}") as events:
                    await self._reconcile()
                    self._answers.set()
                    watching.set()
                    pause = _RECONNECT_FIRST_S
                    async for event in events:
                        self._on_event(event.container, event.action)
            except (Gone, Refused):
                pass  # it is on its way down, or up
            self._answers.clear()
            self._images.clear()  # another daemon may have other images
            watching.set()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _RECONNECT_MAX_S)

    def _on_event(self, container: str, action: str) -> None:
        for sandbox in self._sandboxes.values():
            if sandbox.container == container:
                if action == "oom":
                    sandbox.on_oom()
                else:
                    sandbox.end("its container is gone")
                return

    async def _reconcile(self) -> None:
        """End what the daemon no longer has, and begin to remove what the dead left."""
        found = await self._daemon.labelled(f"{LABEL}={self._instance.owner}")
        await self._inheritance.receive(found)
        if self._clearing is not None:
            self._clearing.cancel()
        self._cleared.clear()
        for container in self._left.keys() - {each.id for each in found}:
            self._instance.free_slot(self._left.pop(container))
        left = [each for each in found if not self._is_ours(each)]
        self._clearing = asyncio.create_task(self._clear(left), name="remove what the dead left")
        living = {each.id for each in found if each.running}
        for sandbox in list(self._sandboxes.values()):
            if sandbox.started and sandbox.container not in living:
                sandbox.end("the Docker daemon was restarted")

    def _is_ours(self, container: Found) -> bool:
        ours = {sandbox.container for sandbox in self._sandboxes.values()}
        return container.id in ours or self._instance.made(container.labels) in self._sandboxes

    async def _clear(self, containers: Sequence[Found]) -> None:
        """Remove those that the dead left. One that cannot be removed never blocks the rest.

        Later, and one by one: what they ran ended with their engine, and our first sandbox needs the daemon more.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLEAR_AFTER_S):
                await self._ending.wait()
        while True:
            containers = [each for each in containers if not await self._remove_left(each)]
            self._cleared.set()
            if not containers:
                return
            await asyncio.sleep(_RECONNECT_MAX_S)

    async def _remove_left(self, container: Found) -> bool:
        """Whether it is gone, or not to be removed by us."""
        with contextlib.suppress(Gone, Refused, OSError), self._instance.inherits(container.labels) as left:
            if left:
                await self._daemon.remove(container.id)
                if (slot := self._left.pop(container.id, None)) is not None:
                    self._instance.free_slot(slot)
            return True
        return False

    async def _end(self, watcher: "asyncio.Task[None]") -> None:
        """Of what goes on in the background. What the dead left is removed before, unless that takes long."""
        self._ending.set()
        watcher.cancel()
        await asyncio.wait((watcher,))
        if (clearing := self._clearing) is not None:
            try:
                async with asyncio.timeout(_LEAVE_SECONDS):
                    await self._cleared.wait()
            except TimeoutError:
                pass
            finally:
                clearing.cancel()
                await asyncio.gather(clearing, return_exceptions=True)

    async def aclose(self) -> None:
        """See `runtime.Runtime`."""
        self._closed = True
        stops = (sandbox.stop() for sandbox in list(self._sandboxes.values()))
        await asyncio.gather(*stops, return_exceptions=True)
        await self._inheritance.aclose()


async def _accept(listener: socket.socket, sandbox: DockerSandbox) -> SocketChannel:
    """The first to dial is init: nothing else runs in the container before it has."""
    listener.setblocking(False)
    loop = asyncio.get_running_loop()
    dialled = asyncio.ensure_future(loop.sock_accept(listener))
    ended = asyncio.ensure_future(sandbox.wait())
    try:
        async with asyncio.timeout(_DIAL_SECONDS):
            await asyncio.wait((dialled, ended), return_when=asyncio.FIRST_COMPLETED)
    except TimeoutError as error:
        words = "if the daemon shares no file system with this server, set docker_channel to stdio"
        raise SandboxFailed(f"init did not dial within {_DIAL_SECONDS:g} s; {words}") from error
    finally:
        ended.cancel()
        if not dialled.done():
            dialled.cancel()
    if not dialled.done() or dialled.cancelled():
        end = sandbox.exited()
        raise SandboxFailed(f"the container ended before init dialled: {end.reason if end else 'unknown'}")
    connection, _ = dialled.result()
    return SocketChannel(connection)


def _load(address: str, name: str) -> images.Built:
    with contextlib.closing(client_for(address)) as client:
        return images.load(client, name)


def _filter() -> str | None:
    """The kernels' own filter; where there is no table of numbers, Docker's is alone."""
    try:
        return base64.b64encode(seccomp.program()).decode()
    except NotImplementedError:
        return None
