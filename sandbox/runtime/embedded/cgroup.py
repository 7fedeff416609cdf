"""Memory, CPU and process limits, what was used of them, and how a sandbox died.

Version 1 hierarchies, a pure version 2 tree, and hybrid hosts (version 1 controllers beside an empty version 2
tree) are the same three verbs here: create with every limit before any process enters, attach, remove. Where an
ordinary user was given no part of them there is a layout without any, in which a group is a name and nothing else;
`watch` stands in.
"""

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
_PERIOD_US = 100_000
_SOCKETS_SHARE = 8
"""What part of its memory a sandbox may have in sockets besides, with version 1."""
_RECEDED_SHARES, _RECEDED_WEIGHT = "8", "1"
"""Of a group that nobody waits for, where others have 256 and 50 (containers 10): it still gets done beside programs
that compute for ever."""
_NO_CAP = 1 << 62
"""Of memory, in version 1: what stands for none is a little less than twice this."""
_CONTROLLERS_V1 = ("memory", "pids", "cpu", "cpuacct")
SPARED_PERCENT, SPARED_MIB = 15, 1024
"""How much of the machine's memory, the larger of both, all sandboxes together leave to others."""
MOST_PROCESSES = 32_768
"""All sandboxes together, and three quarters of what the machine has numbers for at most."""
SERVER_GROUP = "server"
"""Where processes go that were in a group which has to hand out controllers."""


class NoCgroups(Exception):
    """The controllers that a hard cap needs are not there."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where this host keeps its controllers."""

    version: int
    """0 where there is nothing to write to."""
    roots: Mapping[str, Path]
    """Controller to the directory below which our groups are. Version 2 has one entry, `unified`."""
    cpu: bool = True
    """Whether processor time can be capped. systemd gives it to users since version 252."""

    @property
    def handed_down(self) -> str:
        """What is written so that the groups below a group have controllers."""
        return "+memory +pids +cpu" if self.cpu else "+memory +pids"

    @property
    def soft(self) -> tuple[str, ...]:
        """The limits that no group holds."""
        return ("memory", "cpu") if self.version == 0 else () if self.cpu else ("cpu",)

    @classmethod
    def none(cls) -> "Layout":
        """No groups."""
        return cls(0, {}, cpu=False)

    @classmethod
    def detect(cls, mountinfo: str) -> "Layout":
        """From the text of `/proc/self/mountinfo`. Raises `NoCgroups`."""
        v1: dict[str, Path] = {}
        unified: Path | None = None
        for line in mountinfo.splitlines():
            before, _, after = line.partition(" - ")
            mount_point = Path(before.split()[4])
            kind, _, options = after.split(maxsplit=2)
            if kind == "cgroup2":
                unified = mount_point
            elif kind == "cgroup":
                v1 |= {name: mount_point for name in options.split(",") if name in _CONTROLLERS_V1}
        if {"memory", "pids", "cpu", "cpuacct"} <= v1.keys():
            return cls(1, v1)
        if unified is not None and {"memory", "pids", "cpu"} <= _words(unified / "cgroup.controllers"):
            return cls(2, {"unified": unified})
        found = sorted(v1) or ["none"]
        raise NoCgroups(f"the memory, pids and cpu controllers are needed; found: {', '.join(found)}")

    @classmethod
    def delegated(cls, mountinfo: str, membership: str) -> "Layout":
        """The part of the hierarchies that our user may write to: the groups that we are in.

        From the texts of `/proc/self/mountinfo` and `/proc/self/cgroup`. Raises `NoCgroups` when there is none.
        """
        own = _own_groups(mountinfo, membership)
        if own.keys() >= set(_CONTROLLERS_V1):
            roots = {controller: own[controller] for controller in _CONTROLLERS_V1}
            closed = sorted(str(path) for path in roots.values() if not _is_ours(path))
            if not closed:
                return cls(1, roots)
            raise NoCgroups(f"the control groups {', '.join(closed)} belong to somebody else")
        if "unified" not in own:
            raise NoCgroups("no control groups are mounted")
        root = own["unified"]
        if root.name == SERVER_GROUP and _is_ours(root.parent):
            root = root.parent  # where the engine that was here first has put everybody
        if not _is_ours(root) or not os.access(root / "cgroup.subtree_control", os.W_OK):
            raise NoCgroups(f"the control group {root} belongs to somebody else")
        controllers = _words(root / "cgroup.controllers")
        if not {"memory", "pids"} <= controllers:
            raise NoCgroups(f"the control group {root} has no memory and pids controllers")
        return cls(2, {"unified": root}, cpu="cpu" in controllers)

    def settle(self) -> None:
        """In version 2 only a group without processes hands out controllers, so ours move to one below."""
        if self.version == 2:
            root = self.roots["unified"]
            group = root / SERVER_GROUP
            while pids := _words(root / "cgroup.procs"):
                group.mkdir(exist_ok=True)
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        _write(group / "cgroup.procs", pid)


def _own_groups(mountinfo: str, membership: str) -> dict[str, Path]:
    """The directories of the groups that we are in, by controller."""
    inside: dict[str, str] = {}
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        inside |= {controller or "unified": path for controller in controllers.split(",")}
    own: dict[str, Path] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        _, _, _, root, mount_point, *_ = before.split()
        kind, _, options = after.split(maxsplit=2)
        names = {"cgroup2": ["unified"], "cgroup": options.split(",")}.get(kind, [])
        for name in names:
            group = Path(inside.get(name, "/nonesuch"))
            if group.is_relative_to(root):
                own[name] = Path(mount_point) / group.relative_to(root)
    return own


def _is_ours(group: Path) -> bool:
    return os.access(group, os.W_OK | os.X_OK) and os.access(group / "cgroup.procs", os.W_OK)


def _words(path: Path) -> set[str]:
    try:
        return set(path.read_text().split())
    except OSError:
        return set()


def _write(path: Path, value: str) -> None:
    # One write(2) and no buffering, so that the kernel's verdict on the value is what raises here.
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    except OSError as error:
        raise OSError(error.errno, f"writing {value} to {path}: {error.strerror}") from None
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class Caps:
    """What one group may use."""

    memory_bytes: int
    processes: int
    cpus: float | None = None
    """None: no quota (the aggregate group)."""


class Group:
    """One directory in every hierarchy of the layout."""

    def __init__(self, layout: Layout, name: str) -> None:
        self._layout = layout
        self.name = name
        self._paths = {controller: root / name for controller, root in layout.roots.items()}
        self._usual = ""
        """What stood where `recede` wrote."""
        self._idle = False
        self._share = ""
        """What it had before it was idle."""

    def create(self, caps: Caps, *, leaf: bool) -> None:
        """Make the directories and write every limit. `leaf` groups hold processes, the others hold groups."""
        for controller, path in self._paths.items():
            path.mkdir(exist_ok=True)
            if self._layout.version == 1:
                self._limit_v1(controller, path, caps)
        if self._layout.version == 2:
            self._limit_v2(self._paths["unified"], caps, leaf=leaf)

    def _limit_v1(self, controller: str, path: Path, caps: Caps) -> None:
        if controller == "memory":
            _write(path / "memory.limit_in_bytes", str(caps.memory_bytes))
            if (path / "memory.memsw.limit_in_bytes").exists():
                _write(path / "memory.memsw.limit_in_bytes", str(caps.memory_bytes))
            _write(path / "memory.swappiness", "0")
            # Version 1 counts what waits in TCP's and UDP's sockets apart from all other memory; without a limit of its
            # own it is the host's that is used up.
            if (path / "memory.kmem.tcp.limit_in_bytes").exists():
                _write(path / "memory.kmem.tcp.limit_in_bytes", str(caps.memory_bytes // _SOCKETS_SHARE))
        elif controller == "pids":
            _write(path / "pids.max", str(caps.processes))
        elif controller == "cpu" and caps.cpus is not None:
            _write(path / "cpu.cfs_period_us", str(_PERIOD_US))
            _write(path / "cpu.cfs_quota_us", str(int(caps.cpus * _PERIOD_US)))
            _write(path / "cpu.shares", "256")

    def _limit_v2(self, path: Path, caps: Caps, *, leaf: bool) -> None:
        _write(path / "memory.max", str(caps.memory_bytes))
        for name in ("memory.swap.max", "memory.zswap.max"):
            if (path / name).exists():
                _write(path / name, "0")
        _write(path / "pids.max", str(caps.processes))
        if caps.cpus is not None and self._layout.cpu:
            _write(path / "cpu.max", f"{int(caps.cpus * _PERIOD_US)} {_PERIOD_US}")
            _write(path / "cpu.weight", "50")
        if leaf:
            _write(path / "cgroup.max.descendants", "0")
        else:
            _write(path / "cgroup.subtree_control", self._layout.handed_down)

    def give(self, owner: int) -> None:
        """Let processes of this uid be moved in, by `attach` with it as `mover`."""
        if self._layout.version == 1:
            for path in self._paths.values():
                os.chown(path / "cgroup.procs", owner, -1)

    def attach(self, pid: int, mover: int = 0) -> None:
        """Move a process in; its later children are born inside.

        mover: version 1 lets nobody but the host's root move a process of another uid, so it is moved as its own.
        """
        as_another = mover != 0 and self._layout.version == 1
        if as_another:
            os.seteuid(mover)
        try:
            for path in self._paths.values():
                _write(path / "cgroup.procs", str(pid))
        finally:
            if as_another:
                os.seteuid(0)

    def holds(self, pid: int) -> bool:
        """Whether `/proc/PID/cgroup` names this group in every hierarchy of ours."""
        named: dict[str, str] = {}
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            named |= {controller or "unified": path for controller in controllers.split(",")}
        return all(named.get(controller, "").endswith(f"/{self.name}") for controller in self._paths)

    def processes(self) -> set[int]:
        """Everybody inside, by host pid."""
        pids: set[int] = set()
        for path in self._paths.values():
            pids |= {int(word) for word in _words(path / "cgroup.procs")}
        return pids

    def open_meters(self) -> list[int]:
        """Descriptors for `Meters`, so that a process without privileges can read and reset them."""
        if self._layout.version == 0:
            return []
        if self._layout.version == 2:
            path = self._paths["unified"]
            files = [(path, "memory.peak", os.O_RDWR), (path, "memory.events", os.O_RDONLY)]
            files.append((path, "cpu.stat", os.O_RDONLY))
        else:
            memory = self._paths["memory"]
            files = [(memory, "memory.max_usage_in_bytes", os.O_RDWR), (memory, "memory.oom_control", os.O_RDONLY)]
            files.append((self._paths["cpuacct"], "cpuacct.usage", os.O_RDONLY))
        opened: list[int] = []
        try:
            for path, name, flags in files:
                opened.append(os.open(path / name, flags | os.O_CLOEXEC))
        except OSError:
            for fd in opened:
                os.close(fd)
            raise
        return opened

    def memory_file(self) -> Path:
        """Holds the bytes that all below hold now."""
        if self._layout.version == 2:
            return self._paths["unified"] / "memory.current"
        return self._paths["memory"] / "memory.usage_in_bytes"

    def held_bytes(self) -> int:
        """What all below hold now. Raises `OSError`, `ValueError`."""
        return int(self.memory_file().read_text())

    def pinned_bytes(self) -> int:
        """Of that, what is no copy of files: it is free only when who has it gives it back or ends.

        Raises `OSError`, `ValueError`.
        """
        held = self.held_bytes()
        prefix = "total_" if self._layout.version == 1 else ""
        copies = {f"{prefix}active_file", f"{prefix}inactive_file"}
        for line in self.memory_file().with_name("memory.stat").read_text().splitlines():
            name, _, number = line.partition(" ")
            if name in copies:
                held -= int(number)
        return held

    def memory_cap(self) -> int | None:
        """Bytes that all below may hold. Raises `OSError`."""
        name = "memory.max" if self._layout.version == 2 else "memory.limit_in_bytes"
        cap = self.memory_file().with_name(name).read_text().strip()
        return None if cap == "max" or int(cap) >= _NO_CAP else int(cap)

    def recede(self) -> None:
        """Nobody waits for what its processes do: whoever has to answer somebody goes first, where we may say so."""
        if (share := self.share_file()) is not None:
            with contextlib.suppress(OSError):
                self.set_idle(idle=False)  # or the kernel would refuse
                self._usual = share.read_text()
                _write(share, _RECEDED_SHARES if self._layout.version == 1 else _RECEDED_WEIGHT)

    def advance(self) -> None:
        """Somebody does, after all."""
        if (share := self.share_file()) is not None and self._usual:
            with contextlib.suppress(OSError):
                _write(share, self._usual)

    def set_idle(self, *, idle: bool) -> None:
        """Whether all others beside it go first, at once. Raises `OSError`, before Linux 5.15 always."""
        share = self.share_file()
        if share is None or idle == self._idle:
            return
        if idle:
            self._share = self._share or share.read_text()
            _write(share.with_name("cpu.idle"), "1")
        else:  # which makes it as if it had just been created
            _write(share.with_name("cpu.idle"), "0")
            _write(share, self._share)
        self._idle = idle

    def cpu_ns(self) -> int:
        """Processor time used since it was made, by all below as well. Raises `OSError`."""
        if self._layout.version == 1:
            return int((self._paths["cpuacct"] / "cpuacct.usage").read_text())
        return _cpu_ns((self._paths["unified"] / "cpu.stat").read_text())

    def threads(self) -> set[int]:
        """Everybody's inside, by host tid. Raises `OSError`."""
        v1 = self._layout.version == 1
        file = self._paths["cpu"] / "tasks" if v1 else self._paths["unified"] / "cgroup.threads"
        return {int(word) for word in file.read_text().split()} - {0}  # who ends while it is listed

    def is_first(self) -> bool:
        """Of the groups that lie beside it and have numbers for names. Raises `OSError`."""
        directory, own = os.path.split(self.name)
        numbers = [int(name) for name in Group(self._layout, directory).children() if name.isdigit()]
        return bool(numbers) and own == str(min(numbers))

    def share_file(self) -> Path | None:
        """Says how much of the processors it gets beside others; None where that cannot be said."""
        if self._layout.version == 1:
            return self._paths["cpu"] / "cpu.shares"
        return self._paths["unified"] / "cpu.weight" if self._layout.cpu else None

    def remove(self) -> bool:
        """Remove the directories; False while a process or a dying mount still holds one. May be called again."""
        gone = True
        for path in self._paths.values():
            try:
                path.rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                gone = False
        return gone

    def children(self) -> set[str]:
        """Names of the groups directly below, over all hierarchies."""
        return {
            entry.name for path in self._paths.values() if path.is_dir() for entry in path.iterdir() if entry.is_dir()
        }

    def destroy(self, deadline: float) -> bool:
        """Kill everybody below and remove the whole subtree; False if something outlives `deadline` (monotonic)."""
        groups = [Group(self._layout, f"{self.name}/{child}") for child in sorted(self.children())]
        while True:
            for group in [*groups, self]:
                _kill(group.processes())
            groups = [group for group in groups if not group.remove()]
            if not groups and self.remove():
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def hierarchies(mountinfo: str) -> list[Path]:
    """Where each is mounted, whatever its controllers, from the text of `/proc/self/mountinfo`."""
    split = (line.partition(" - ") for line in mountinfo.splitlines())
    return [Path(before.split()[4]) for before, _, after in split if after.split()[0] in ("cgroup", "cgroup2")]


def aggregate_caps() -> Caps:
    """For all sandboxes together, so that the host keeps breathing."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    spared = max(SPARED_MIB * MIB, total * SPARED_PERCENT // 100)
    numbers = int(Path("/proc/sys/kernel/pid_max").read_text())
    return Caps(max(total - spared, 256 * MIB), min(MOST_PROCESSES, numbers * 3 // 4))


def open_parent(layout: Layout, name: str) -> Group:
    """Make the groups above all sandboxes of an instance, `name` like `sandbox/3`, with the aggregate caps."""
    if layout.version == 2:
        root = layout.roots["unified"]
        _write(root / "cgroup.subtree_control", layout.handed_down)
    caps = aggregate_caps()
    parent = Group(layout, name.split("/")[0])
    parent.create(caps, leaf=False)
    group = Group(layout, name)
    group.create(caps, leaf=False)
    return group


@dataclass(frozen=True, slots=True)
class Reading:
    """The meters of one group at one moment."""

    cpu_ns: int
    """Since the group was made."""
    peak_bytes: int
    """Since the last reset."""
    oom_kills: int
    """Since the group was made."""


def _cpu_ns(text: str) -> int:
    """From `cpuacct.usage`, or from `cpu.stat`."""
    words = text.split()
    return int(words[words.index("usage_usec") + 1]) * 1000 if "usage_usec" in words else int(text)


class Meters:
    """A group's counters through inherited descriptors."""

    def __init__(self, fds: list[int]) -> None:
        self._peak, self._oom, self._cpu = fds

    def reset_peak(self) -> None:
        """Start the peak anew. Kernels before 6.12 cannot in version 2; there it stays the peak since the start."""
        try:
            os.pwrite(self._peak, b"0", 0)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EBADF, errno.EACCES, errno.EPERM):
                raise

    def read(self) -> Reading:
        """All three counters. Raises `OSError` (ENODEV) when the group is gone."""
        cpu_ns = _cpu_ns(os.pread(self._cpu, 4096, 0).decode())
        peak = int(os.pread(self._peak, 64, 0))
        events = os.pread(self._oom, 4096, 0).decode().split()
        return Reading(cpu_ns, peak, int(events[events.index("oom_kill") + 1]) if "oom_kill" in events else 0)

    def close(self) -> None:
        """Give the descriptors back. May be called twice."""
        for fd in (self._peak, self._oom, self._cpu):
            if fd >= 0:
                os.close(fd)
        self._peak = self._oom = self._cpu = -1
