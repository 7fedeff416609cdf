"""The launcher: makes namespaces, cgroups and uids; forks inits; has kernels made. Small, one thread, no user data.

Run as `python -m sandbox.runtime.embedded.launcher FD` by the runtime, and for an ordinary user once more by itself.
It speaks JSON packets over FD, a SOCK_SEQPACKET socket. In: `prepare` (an image), `start`, `stop`. Out: `hello`,
`prepared` (again, when sandboxes begin with more from now on, or elsewhere in memory), `started` (with the channel and
the meters as descriptors), `gone`, `failed`. Where sandboxes are watched for want of control groups also `measure`,
answered with `measured`, and `forget_peak`. A start may ask for a vacant sandbox, whose kernel is on its way from
`occupy` on. When the other side goes away every sandbox is ended.

The way of a sandbox:

    start ─ cgroups with limits ─ fork set-up process ─ it reports PID 1 ─ the image's zygote, or a child of ours,
    forks a kernel into its pid namespace ─ kernel into the cgroups, mounts ready ─ gate opens ─ kernel contains
    itself ─ verified from outside ─ init is given the kernel ─ … ─ stop or PID 1's end ─ cgroups removed ─ gone

`entrance` is the kernel's side of it, `zygotes` what it comes from. A failure at any step kills PID 1 and with it
everything; nothing unverified ever reaches init. (Long for one file: it is one state machine, and the way of a sandbox
is easier to follow in one place.)
"""

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from sandbox.guest import process
from sandbox.runtime import terms
from sandbox.runtime.embedded import cgroup, entrance, footing, init, jail, linux, mounts, watch, zygotes
from sandbox.runtime.embedded.footing import Footing, Standing, Unfit
from sandbox.runtime.embedded.instance import Instance
from sandbox.runtime.embedded.precedence import Precedence
from sandbox.runtime.embedded.zygotes import Image, Zygote

_REMOVE_SECONDS = 10.0


class _ServerGone(Exception):
    """The server ended, so everything ends."""


@dataclass(slots=True)
class Sandbox:
    """One sandbox on its way from start to gone."""

    id: str
    slot: int
    image: str
    ids: mounts.Ids
    group: cgroup.Group
    cell: jail.Cell
    control: socket.socket
    """To init: it reports its progress and asks for kernels here."""
    memory_bytes: int
    cpus: float
    """How many processors it may use."""
    vacant: bool
    """Whether a kernel is not wanted yet."""
    setup_pid: int = 0
    init_pid: int = 0
    namespaces: list[int] = field(default_factory=list)
    """Open `/proc/PID/ns` files of PID 1: pid first, then the others."""
    mounted: bool = False
    gate: socket.socket | None = None
    """To a kernel on its way in."""
    kernel_pid: int = 0
    entered: bool = False
    reason: str = ""
    stopping: bool = False
    watched: watch.Watched | None = None
    parent: Zygote | None = None
    """Whom its kernel was asked of, or is from."""


class Launcher:
    """The event loop: every step of every sandbox is the answer to one readable descriptor."""

    def __init__(self, server: socket.socket, stands: Footing) -> None:
        self._server = server
        self._footing = stands
        self._selector = selectors.DefaultSelector()
        self._sandboxes: dict[str, Sandbox] = {}
        self._kernels: dict[int, Sandbox] = {}
        self._inits: dict[int, Sandbox] = {}
        self._setups: dict[int, Sandbox] = {}
        """By the set-up process, until that is known to have ended."""
        self._images: dict[str, Image] = {}
        self._births: set[socket.socket] = set()
        """To children of ours that send a kernel on its way, each until we know which process it is."""
        self._removing: list[tuple[Sandbox, float]] = []
        self._free_slots: list[int] = []
        self._rounds = watch.Rounds()

    def open(self) -> None:
        """Own mount namespace, our share of the host, signals. Raises `Unfit`."""
        linux.become_subreaper()
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
        self._instance = Instance(self._footing)
        self._instance.open()
        self._share = self._instance.share
        self._free_slots += range(self._share.slots)
        self._precedence = Precedence(cgroup.Group(self._instance.layout, self._instance.group))
        # What moves others' processes into groups: whose zygote's ids they have until they have their own.
        self._mover = self._share.first if self._footing.standing is Standing.SUBORDINATE else 0
        self._groups = jail.status_of(os.getpid())["Groups"] if self._share.single else []
        self._wakeup, self._signalled = socket.socketpair()
        for sock in (self._wakeup, self._signalled):
            sock.setblocking(False)
        signal.set_wakeup_fd(self._signalled.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._selector.register(self._server, selectors.EVENT_READ, self._on_server)
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._on_child)

    # The loop.

    def run(self) -> NoReturn:
        """Serve until the server goes away, then end everything."""
        try:
            self._tell({"event": "hello", **self._told()})
            while True:
                for key, _ in self._selector.select(self._patience()):
                    # An earlier answer of this round may have closed this one's descriptor.
                    if self._selector.get_map().get(key.fd) is key:
                        key.data()
                self._remove_groups()
                self._watch()
                if self._sandboxes and self._precedence.wait() == 0:
                    living = (each for each in self._sandboxes.values() if each.kernel_pid and not each.stopping)
                    self._precedence.look({each.group: each.cpus for each in living})
        except _ServerGone:
            self._close()
        os._exit(0)

    def _told(self) -> dict[str, Any]:
        """What the server has to know of us."""
        layout = self._instance.layout
        memory = cgroup.Group(layout, self._instance.group).memory_file() if layout.version else ""
        return {
            "instance": self._instance.number,
            "memory": str(memory),
            "standing": self._footing.standing,
            "why_single": self._footing.why,
            "soft": layout.soft,
            "why_soft": self._instance.why_soft,
        }

    def _patience(self) -> float | None:
        if self._removing:
            return 0.002
        if not self._sandboxes:
            return None
        return self._rounds.wait() if self._watched() else self._precedence.wait()

    def _close(self) -> None:
        for image in self._images.values():
            for zygote in image.zygotes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(zygote.pid, signal.SIGKILL)
        for link in self._births:
            link.close()
        # Control groups end everybody at once; where there are none, every PID 1 takes its sandbox along.
        for pid in self._inits:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._instance.close()

    def _tell(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        try:
            socket.send_fds(self._server, [json.dumps(message).encode()], list(fds))
        except ConnectionError as error:
            raise _ServerGone from error

    def _on_server(self) -> None:
        try:
            packet = self._server.recv(65536)
        except ConnectionError:
            packet = b""
        if not packet:
            raise _ServerGone
        request = json.loads(packet)
        if request["verb"] == "prepare":
            self._prepare(request)
        elif request["verb"] == "start":
            self._start(request)
        elif sandbox := self._sandboxes.get(request["sandbox"]):
            if request["verb"] == "stop":
                sandbox.stopping = True
                self._look_thoroughly(sandbox)
                self._kill(sandbox, "stopped")
            elif request["verb"] == "occupy":
                sandbox.vacant = False
                self._request_kernel(sandbox)
            elif request["verb"] == "measure":
                self._measure(sandbox)
            elif request["verb"] == "forget_peak" and sandbox.watched is not None:
                sandbox.watched.forget_peak(self._shared_with_zygote(sandbox))

    def _on_child(self) -> None:
        self._wakeup.recv(4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._inits:
                self._gone(self._inits.pop(pid))
            elif pid in self._setups:
                self._setups.pop(pid).setup_pid = 0  # the number may soon be another process's
            elif pid in self._kernels:  # whose parent ended before it did
                self._kernel_ended(pid, status)

    # Where there are no control groups.

    def _watched(self) -> list[Sandbox]:
        return [sandbox for sandbox in self._sandboxes.values() if sandbox.watched is not None]

    def _watch(self) -> None:
        if self._rounds.wait() > 0:
            return
        began, shared = time.monotonic(), dict[int, int]()
        for sandbox in self._watched():
            parent = sandbox.parent.pid if sandbox.parent is not None else 0
            if parent not in shared:
                shared[parent] = self._shared_with_zygote(sandbox)
            self._look(sandbox, shared[parent])
        grows = any(sandbox.watched.grows for sandbox in self._sandboxes.values() if sandbox.watched is not None)
        self._rounds.done(began, grows=grows)

    def _look(self, sandbox: Sandbox, shared: int, *, thoroughly: bool = False) -> None:
        if sandbox.watched is not None:
            try:
                sandbox.watched.look(shared, thoroughly=thoroughly)
            except OSError:
                pass  # it ends just now; its own end will say so
            except ValueError as error:  # nobody else is to end of what can be seen of it
                self._kill(sandbox, f"it cannot be watched: {error}")

    def _look_thoroughly(self, sandbox: Sandbox) -> None:
        if sandbox.watched is not None:  # what is shared takes 10 ms to find out
            self._look(sandbox, self._shared_with_zygote(sandbox), thoroughly=True)

    def _measure(self, sandbox: Sandbox) -> None:
        self._look_thoroughly(sandbox)
        self._tell({"event": "measured", "sandbox": sandbox.id, "reading": self._reading(sandbox)})

    def _reading(self, sandbox: Sandbox) -> dict[str, int] | None:
        return None if sandbox.watched is None else sandbox.watched.reading()

    def _shared_with_zygote(self, sandbox: Sandbox) -> int:
        """What each kernel of a zygote holds together with it, on average; 0 without one."""
        zygote = sandbox.parent
        kernels = sum(1 for other in self._sandboxes.values() if other.parent is zygote and other.kernel_pid)
        if zygote is None or not kernels:
            return 0
        try:
            whole, part = watch.anonymous_of(zygote.pid)
        except OSError:  # dead; its link will say so
            return 0
        return (whole - part) // kernels

    # Images.

    def _prepare(self, request: dict[str, Any], retired: Zygote | None = None) -> None:
        """Stage an image, and start its zygote where kernels are to be forked. retired: one that still has kernels."""
        name, system, prefix = request["image"], Path(request["system"]), Path(request["prefix"])
        stage = self._instance.next_stage()
        try:
            mounts.stage(stage, Path(request["root"]), system, prefix, Path(request["code"]))
            image = Image(request, str(stage), mounts.layers(system, prefix), retired=retired)
            if request["start"] == "exec":
                image.layers += mounts.FRESH_LAYERS
            else:
                image.zygote = self._spawn_zygote(image)
        except OSError as error:
            self._tell({"event": "unprepared", "image": name, "reason": str(error)})
            return
        self._images[name] = image
        if image.zygote is None:
            self._tell_prepared(image)

    def _spawn_zygote(self, image: Image, *, heir: bool = False) -> Zygote:
        zygote = zygotes.spawn(image, self._instance.user_namespace, self._share, heir=heir)
        name = image.request["image"]
        self._selector.register(zygote.link, selectors.EVENT_READ, lambda: self._on_zygote(name, zygote))
        return zygote

    def _renew(self, image: Image) -> None:
        if image.wants_heir:
            with contextlib.suppress(OSError):  # the next fork tries again
                image.heir = self._spawn_zygote(image, heir=True)

    def _tell_prepared(self, image: Image, *, renewed: bool = False) -> None:
        """renewed: whether sandboxes begin otherwise from now on. They will once more, if there is an heir."""
        name, whole = image.request["image"], image.heir is None
        self._tell({"event": "prepared", "image": name, "whole": whole, "renewed": renewed})

    def _on_zygote(self, name: str, zygote: Zygote) -> None:
        try:
            packet = zygote.link.recv(65536)
        except ConnectionError:
            packet = b""
        if not packet:
            self._zygote_died(name, zygote)
            return
        message = json.loads(packet)
        if "ready" in message:
            self._zygote_ready(name, zygote)
        elif "exit" in message:
            zygote.living -= 1
            self._kernel_ended(message["exit"], message["status"])
        else:
            zygote.asked -= 1
            zygote.living += "failed" not in message
            self._on_answer(message)
        image = self._images.get(name)
        if image is not None and (released := image.released()) is not None:  # it ends when it hears so
            self._silence(released)

    def _zygote_ready(self, name: str, zygote: Zygote) -> None:
        zygote.begin()
        image = self._images[name]
        if renewed := image.heir is zygote:
            image.inherit()
        elif not image.begins_small:
            image.settle()
        if image.begins_small and image.is_settled:
            with contextlib.suppress(OSError):  # its forks take longer then
                zygote.compact()
        self._renew(image)
        self._tell_prepared(image, renewed=renewed)
        for sandbox_id in zygote.waiting:
            self._request_kernel(self._sandboxes.get(sandbox_id))
        zygote.waiting.clear()

    def _zygote_died(self, name: str, zygote: Zygote) -> None:
        """Live kernels go on, as our children now; another zygote takes its place, unless this one never was ready."""
        self._silence(zygote)
        image = self._images.get(name)
        if image is not None and not image.lost(zygote):
            del self._images[name]
            if zygote.ready:
                self._prepare(image.request, image.retired)
            else:
                self._tell({"event": "unprepared", "image": name, "reason": "the zygote died; see the log"})
        elif image is not None and image.zygote is not None and image.zygote.ready:
            self._tell_prepared(image)
        for sandbox in list(self._sandboxes.values()):
            if sandbox.parent is zygote and not sandbox.kernel_pid:
                # Its fork was asked for and never came.
                self._close_gate(sandbox)
                self._request_kernel(sandbox)

    def _silence(self, zygote: Zygote) -> None:
        self._selector.unregister(zygote.link)
        zygote.link.close()

    # The way in.

    def _start(self, request: dict[str, Any]) -> None:
        sandbox_id, image = request["sandbox"], self._images.get(request["image"])
        if image is None or not self._free_slots:
            reason = "every slot is taken" if image else f"image {request['image']} is not prepared"
            self._tell({"event": "failed", "sandbox": sandbox_id, "reason": reason})
            return
        slot = self._free_slots.pop(0)
        try:
            self._begin(request, image, slot)
        except OSError as error:
            self._free_slots.append(slot)
            self._tell({"event": "failed", "sandbox": sandbox_id, "reason": str(error)})

    def _begin(self, request: dict[str, Any], image: Image, slot: int) -> None:
        """Raises `OSError` when the host has no room for it; then nothing of it is left."""
        sandbox_id, ids = request["sandbox"], self._share.ids(slot)
        group = cgroup.Group(self._instance.layout, f"{self._instance.group}/{slot}")
        readable = mounts.readable(image.layers)
        soft = "memory" in self._instance.layout.soft
        cell = jail.Cell(ids.kernel, request["file_bytes"], request["processes"], readable, ids.shown, soft)
        memory_bytes, cpus, vacant = request["memory_bytes"], request["cpus"], request["vacant"]
        with contextlib.ExitStack() as others, contextlib.ExitStack() as undo:
            control, inner_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.enter_context(control)
            others.enter_context(inner_control)
            channel, inner_channel = (others.enter_context(end) for end in socket.socketpair())
            sandbox = Sandbox(sandbox_id, slot, request["image"], ids, group, cell, control, memory_bytes, cpus, vacant)
            self._selector.register(control, selectors.EVENT_READ, lambda: self._on_init(sandbox))
            undo.callback(self._selector.unregister, control)
            undo.callback(group.remove)
            group.create(cgroup.Caps(memory_bytes, request["processes"], cpus), leaf=True)
            if self._mover:
                group.give(self._mover)
            meters = group.open_meters()
            for fd in meters:
                others.callback(os.close, fd)
            self._fork_setup(sandbox, image, request, inner_channel, inner_control)
            undo.pop_all()
            self._sandboxes[sandbox_id] = sandbox
            try:
                self._tell({"event": "started", "sandbox": sandbox_id}, (channel.fileno(), *meters))
            except OSError as error:
                self._kill(sandbox, f"it could not be handed over: {error}")

    def _fork_setup(
        self,
        sandbox: Sandbox,
        image: Image,
        request: dict[str, Any],
        channel: socket.socket,
        control: socket.socket,
    ) -> None:
        sandbox.setup_pid = os.fork()
        if sandbox.setup_pid == 0:
            try:
                process.reset_signals()
                process.close_all_but({channel.fileno(), control.fileno(), self._instance.user_namespace})
                sandbox.group.attach(os.getpid())
                os.chdir(image.stage)
                nodes = mounts.devices()  # by who may still make some
                jail.enter_namespaces(self._instance.user_namespace, single=self._share.single)
                with contextlib.suppress(OSError):
                    linux.bound_unaccepted(terms.UNACCEPTED)
                pid = os.fork()
                if pid == 0:
                    devices = mounts.WATCHED_DEVICES if sandbox.cell.soft else mounts.DEVICES
                    init.become(sandbox.ids, image.layers, request, channel, control, nodes, devices)
                control.send(json.dumps({"init": pid}).encode())
            except BaseException as error:
                control.send(json.dumps({"failed": f"{type(error).__name__}: {error}"}).encode())
            finally:
                os._exit(0)
        self._setups[sandbox.setup_pid] = sandbox

    def _on_init(self, sandbox: Sandbox) -> None:
        try:
            packet = sandbox.control.recv(4096)
        except ConnectionError:
            packet = b""
        if not packet:
            self._selector.unregister(sandbox.control)
            if not sandbox.init_pid:
                self._gone(sandbox)
            return
        try:
            message = json.loads(packet)
        except ValueError:
            self._kill(sandbox, "init spoke nonsense")
            return
        if "init" in message and not sandbox.init_pid:  # from the set-up process; never from an init that lives
            self._init_born(sandbox, int(message["init"]))
        elif "mounted" in message:
            sandbox.mounted = True
            self._open_gate(sandbox)
        elif "failed" in message:
            self._kill(sandbox, str(message["failed"]))
        elif "kernel" in message and sandbox.kernel_pid == 0 and sandbox.gate is None:
            self._request_kernel(sandbox)

    def _init_born(self, sandbox: Sandbox, pid: int) -> None:
        sandbox.init_pid = pid
        self._inits[pid] = sandbox
        try:
            names = ["pid", *[name for name in jail.NAMESPACES if name != "pid"]]
            for name in names:
                sandbox.namespaces.append(os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            self._kill(sandbox, f"init died early: {error}")
            if not Path(f"/proc/{pid}").exists():
                self._gone(self._inits.pop(pid))  # reaped before it was known whose it was
            return
        if sandbox.stopping:
            self._kill(sandbox, sandbox.reason)
            return
        self._request_kernel(sandbox)

    def _request_kernel(self, sandbox: Sandbox | None) -> None:
        if sandbox is None or sandbox.stopping or not sandbox.namespaces or sandbox.gate is not None or sandbox.vacant:
            return
        image = self._images.get(sandbox.image)
        if image is None:
            self._kill(sandbox, "its zygote died")
            return
        sandbox.parent = image.zygote
        if image.zygote is not None and not self._may_fork(image.zygote, sandbox):
            return
        try:
            sandbox.gate, inner_gate = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            self._kill(sandbox, f"no kernel could be asked for: {error}")
            return
        sandbox.entered = False
        self._selector.register(sandbox.gate, selectors.EVENT_READ, lambda: self._on_gate(sandbox))
        request = {"fork": sandbox.id, "cell": asdict(sandbox.cell)}
        with inner_gate:
            fds = entrance.descriptors(sandbox.namespaces, inner_gate)
            if image.zygote is None:
                self._send_kernel(sandbox, image, request, fds)
                return
            try:
                image.zygote.ask(request, fds)
            except ConnectionError:
                pass  # it is dead: its link will say so
            except OSError as error:  # others of our id have too many descriptors on their way
                self._kill(sandbox, f"no kernel could be asked for: {error}")
                return
        self._renew(image)

    def _may_fork(self, zygote: Zygote, sandbox: Sandbox) -> bool:
        """Whether it can be asked now; if not, the sandbox waits for it or ends."""
        if not zygote.ready:
            zygote.waiting.append(sandbox.id)
            return False
        try:
            zygote.check()
        except FileNotFoundError:
            return False  # its link will say so, and who takes its place is asked again
        except zygotes.Crowded as error:
            self._kill(sandbox, str(error))
            return False
        return True

    def _send_kernel(self, sandbox: Sandbox, image: Image, request: dict[str, Any], fds: list[int]) -> None:
        """Without a zygote: a child of ours sends it on its way."""
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            self._on_answer(request | {"failed": str(error)})
            return
        with theirs:
            try:
                pid = os.fork()
            except OSError as error:
                ours.close()
                self._on_answer(request | {"failed": str(error)})
                return
            if pid == 0:
                namespace, python = self._instance.user_namespace, image.request["python"]
                entrance.execute(theirs, request, fds, python, namespace, single=self._share.single)
        self._births.add(ours)
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._on_birth(ours, sandbox.id))

    def _on_birth(self, link: socket.socket, sandbox_id: str) -> None:
        try:
            packet = link.recv(4096)
        except ConnectionError:
            packet = b""
        self._on_answer(json.loads(packet) if packet else {"fork": sandbox_id, "failed": "whoever was to do it died"})
        # Which lets its parent go: it is ours from now on, and so is the news of its end.
        self._selector.unregister(link)
        self._births.remove(link)
        link.close()

    def _on_answer(self, message: dict[str, Any]) -> None:
        """A kernel is on its way, or will not come."""
        sandbox = self._sandboxes.get(message["fork"])
        if sandbox is None:
            return  # stopped meanwhile; the kernel died with its pid namespace
        if "failed" in message:
            self._kill(sandbox, f"no kernel could be forked: {message['failed']}")
        else:
            self._forked(sandbox, message["pid"])

    def _forked(self, sandbox: Sandbox, pid: int) -> None:
        sandbox.kernel_pid = pid
        self._kernels[pid] = sandbox
        try:
            sandbox.group.attach(pid, self._mover)
            Path(f"/proc/{pid}/oom_score_adj").write_text("1000")
        except (ProcessLookupError, FileNotFoundError):
            return  # killed already, by a restart for one; how it ended is reported by its parent
        except OSError as error:
            self._kill(sandbox, f"the kernel could not be put into its cgroups: {error}")
            return
        sandbox.entered = True
        self._open_gate(sandbox)

    def _open_gate(self, sandbox: Sandbox) -> None:
        if sandbox.mounted and sandbox.entered and sandbox.gate is not None:
            try:
                if sandbox.cell.soft and sandbox.watched is None:
                    sandbox.watched = watch.Watched.open(sandbox.init_pid, sandbox.memory_bytes)
            except OSError as error:
                self._kill(sandbox, f"it cannot be watched: {error}")
                return
            with contextlib.suppress(ConnectionError):
                sandbox.gate.send(b"G")

    def _on_gate(self, sandbox: Sandbox) -> None:
        """The kernel says that it is contained, or is gone."""
        gate, sandbox.gate = sandbox.gate, None
        assert gate is not None
        self._selector.unregister(gate)
        try:
            word = gate.recv(1)
        except ConnectionError:
            word = b""
        with gate:
            if word != b"J":
                return  # its end is reported by its parent
            try:
                uid = self._share.first + sandbox.ids.kernel
                inner_pid = jail.verify(sandbox.kernel_pid, uid, sandbox.group, groups=self._groups)
            except (OSError, AssertionError, KeyError, IndexError) as error:
                if jail.lives(sandbox.kernel_pid):  # else a restart has killed it; its end is reported by its parent
                    self._kill(sandbox, f"containment could not be verified: {error}")
                return
            if sandbox.watched is not None:
                sandbox.watched.kernel_is(inner_pid)
            # Init asks to die with its parent when it hears of the kernel, so the set-up process must be gone by then.
            if sandbox.setup_pid:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(sandbox.setup_pid, 0)
                self._setups.pop(sandbox.setup_pid, None)
                sandbox.setup_pid = 0
            message = json.dumps({"kernel": inner_pid}).encode()
            try:
                socket.send_fds(sandbox.control, [message], [gate.fileno()])
            except ConnectionError:
                pass  # init is dead, which its own end says
            except OSError as error:  # as where a kernel is asked for
                self._kill(sandbox, f"its kernel could not be handed over: {error}")

    # The way out.

    def _kernel_ended(self, pid: int, status: int) -> None:
        sandbox = self._kernels.pop(pid, None)
        if sandbox is None or sandbox.kernel_pid != pid:
            return
        sandbox.kernel_pid = 0
        self._close_gate(sandbox)
        with contextlib.suppress(OSError):
            sandbox.control.send(json.dumps({"died": status}).encode())

    def _close_gate(self, sandbox: Sandbox) -> None:
        if sandbox.gate is not None:
            self._selector.unregister(sandbox.gate)
            sandbox.gate.close()
            sandbox.gate = None

    def _kill(self, sandbox: Sandbox, reason: str) -> None:
        if not sandbox.reason:
            sandbox.reason = reason
        sandbox.stopping = True
        if sandbox.init_pid in self._inits:
            sandbox.group.recede()
            with contextlib.suppress(ProcessLookupError):
                os.kill(sandbox.init_pid, signal.SIGKILL)
        else:
            # No PID 1 yet, or none that is known. Whoever is on the way ends itself when it finds that we say nothing
            # any more; we go on listening, because the last of them to let go of the socket is the end of it all.
            with contextlib.suppress(OSError):
                sandbox.control.shutdown(socket.SHUT_WR)

    def _gone(self, sandbox: Sandbox) -> None:
        """PID 1 was reaped, so every process of its namespace is dead."""
        self._sandboxes.pop(sandbox.id, None)
        self._kernels.pop(sandbox.kernel_pid, None)
        for sock in (sandbox.control, sandbox.gate):
            if sock is not None and sock.fileno() >= 0:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(sock)
                sock.close()
        for fd in sandbox.namespaces:
            os.close(fd)
        sandbox.namespaces.clear()
        if sandbox.watched is not None:
            sandbox.watched.close()
        self._removing.append((sandbox, time.monotonic() + _REMOVE_SECONDS))
        self._remove_groups()

    def _remove_groups(self) -> None:
        """A slot is free again when its cgroups are gone; what will not go stays out of circulation and is told."""
        left = []
        for sandbox, deadline in self._removing:
            if sandbox.group.remove():
                self._free_slots.append(sandbox.slot)
                self._tell_gone(sandbox, sandbox.reason or "init ended")
            elif time.monotonic() > deadline:
                self._tell_gone(
                    sandbox, f"cgroup {sandbox.group.name} cannot be removed; slot {sandbox.slot} is quarantined"
                )
            else:
                left.append((sandbox, deadline))
        self._removing = left

    def _tell_gone(self, sandbox: Sandbox, reason: str) -> None:
        self._tell({"event": "gone", "sandbox": sandbox.id, "reason": reason, "reading": self._reading(sandbox)})


def _stand(server: str) -> Footing:
    """Where we stand, if it is where we began; else we begin there anew.

    What a process may be asked by whom goes by the namespace in which its program was started, and our children's
    program is ours.
    """
    stands = footing.take()
    if stands.standing is not Standing.ROOT:
        module = ["-P", "-m", "sandbox.runtime.embedded.launcher"]
        os.execv(sys.executable, [sys.executable, *module, server, stands.words()])
    return stands


def main() -> None:
    """Open, say hello, serve."""
    fd, *stands = sys.argv[1:]
    server = socket.socket(fileno=int(fd))
    process.close_all_but({server.fileno()})
    os.umask(0o022)  # what is staged for sandboxes is read under other ids than ours
    if os.getpriority(os.PRIO_PROCESS, 0) < 0:
        os.setpriority(os.PRIO_PROCESS, 0, 0)  # a server's precedence is not for what it starts
    try:
        launcher = Launcher(server, Footing.told(stands[0]) if stands else _stand(fd))
        launcher.open()
    except (Unfit, OSError) as error:
        server.send(json.dumps({"event": "unfit", "reason": str(error)}).encode())
        sys.exit(1)
    gc.freeze()  # what lives now is never traced again, so a fork's collections do not copy its pages
    launcher.run()


if __name__ == "__main__":
    main()
