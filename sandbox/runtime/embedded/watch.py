"""The soft caps of a sandbox without control groups: what it holds is looked at again and again, from outside.

Counted are the anonymous memory of every process of the sandbox, each page divided by those who share it (so that a
fork costs what it changes), less what it shares with the zygote, and the files of its writable mounts. Who
is above the cap loses its largest process, as to the kernel's own hand, only later: between two looks a program can
take what the machine gives it in that time.

Everything is read below the sandbox's own `/proc`, which shows all of its processes and nobody else. All of it is the
kernel's word, but for the names of processes, which nothing here reads.
"""

import contextlib
import os
import signal
import time
from dataclasses import dataclass, field

_PERIOD_SECONDS, _GROWING_SECONDS = 0.05, 0.01
"""Between two rounds; the second while a sandbox grows."""
_PAUSE, _GROWING_PAUSE = 20, 2
"""How many times its own length at least is the pause after a round, so that many sandboxes do not cost a core."""
_LONGEST_PAUSE = 0.5
"""Seconds, whatever a round has taken: a program can make it long."""
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_WRITABLE = ("mnt/data", "tmp", "dev/shm")
_NOTICEABLE = 256
"""Pages and page faults below which a sandbox is taken to hold what it held."""
_SIZES = frozenset({b"VmHWM", b"VmRSS", b"VmPTE", b"Anonymous", b"Private_Dirty", b"Pss_Anon", b"Pss_Shmem"})
"""What is read of a process. Another field is its name, which may look like a size."""
_FORGET_PEAK = b"5"
"""What the kernel wants to be written to `clear_refs` to start a process's peak anew."""


@dataclass(frozen=True, slots=True)
class Glance:
    """What is cheap to see of one process."""

    faults: int
    pages: int
    ticks: int
    """Processor time, its own and that of children that it has waited for."""
    headless: bool
    """Whether its first thread has ended and others have not: what it holds is to be seen of those only."""


@dataclass(frozen=True, slots=True)
class Held:
    """What one process holds, in bytes."""

    anonymous: int
    private: int
    unnamed: int
    """Shared memory that is in no writable mount."""
    tables: int
    """Of pages, which can be many times what they lead to."""
    excess: int
    """How far below its peak it is."""

    @property
    def total(self) -> int:
        return self.anonymous + self.unnamed + self.tables


@dataclass(slots=True)
class Watched:
    """One sandbox's meters."""

    cap: int
    processes: int
    """The sandbox's `/proc`, as a descriptor."""
    mounts: tuple[int, ...]
    peak: int = 0
    kills: int = 0
    ticks: int = 0
    ended_ticks: int = 0
    """Of kernels that have ended."""
    kernel: int = 0
    """Its pid inside."""
    seen: dict[int, Glance] = field(default_factory=dict)
    known_peaks: dict[int, int] = field(default_factory=dict)
    """Of processes whose peak the kernel would not forget: what it was then."""
    held: int = 0
    files: int = 0
    grows: bool = False

    @classmethod
    def open(cls, init: int, cap: int) -> "Watched":
        """Of the sandbox whose PID 1 is `init` to us, when its mounts are ready."""
        root = f"/proc/{init}/root"
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        return cls(cap, os.open(f"{root}/proc", flags), tuple(os.open(f"{root}/{name}", flags) for name in _WRITABLE))

    def close(self) -> None:
        """Let go of the sandbox's mounts."""
        for fd in (self.processes, *self.mounts):
            os.close(fd)

    def reading(self) -> dict[str, int]:
        """For the server: fields of `cgroup.Reading`. Processor time comes in ticks of `/proc`, 10 ms as a rule."""
        return {"cpu_ns": self.ticks * (1_000_000_000 // _TICKS), "peak_bytes": self.peak, "oom_kills": self.kills}

    def kernel_is(self, pid: int) -> None:
        """Another kernel has taken the place of the one before."""
        if self.kernel in self.seen:
            self.ended_ticks += self.seen[self.kernel].ticks
        self.kernel = pid

    def look(self, shared: int, *, thoroughly: bool = False) -> None:
        """See what it holds, and kill its largest process when that is too much.

        Sets `grows`. shared: bytes that it shares with its zygote. thoroughly: even if nothing seems to have changed.
        """
        glances = self._glances()
        files = sum(_used(fd) for fd in self.mounts)
        self._count_time(glances)
        self.grows = False
        if thoroughly or files != self.files or self._has_changed(glances):
            self._weigh(glances, files, shared)

    def forget_peak(self, shared: int) -> None:
        """Start the peak anew."""
        self.known_peaks.clear()
        for pid in self._pids():
            with contextlib.suppress(OSError):
                self._forget_peak_of(pid)
        self.peak = 0
        self.look(shared, thoroughly=True)

    def _forget_peak_of(self, pid: int) -> None:
        try:
            fd = os.open(f"{pid}/clear_refs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.processes)
        except PermissionError:
            # Executed in a user namespace without a root, and not to be looked into: nobody owns its files.
            self.known_peaks[pid] = _sizes(self._read(str(pid), "status")).get(b"VmHWM", 0)
            return
        try:
            os.write(fd, _FORGET_PEAK)
        finally:
            os.close(fd)

    def _pids(self) -> list[int]:
        return [int(name) for name in os.listdir(self.processes) if name.isdigit()]

    def _glances(self) -> dict[int, Glance]:
        glances = {}
        for pid in self._pids():
            with contextlib.suppress(OSError):
                # After the name, which is the program's to choose and may hold anything.
                fields = self._read(str(pid), "stat").rpartition(b")")[2].split()
                faults, ticks = int(fields[7]) + int(fields[9]), sum(int(word) for word in fields[11:15])
                glances[pid] = Glance(faults, int(fields[21]), ticks, fields[0] == b"Z" and int(fields[17]) > 1)
        return glances

    def _count_time(self, glances: dict[int, Glance]) -> None:
        if self.kernel in self.seen and self.kernel not in glances:
            self.ended_ticks += self.seen[self.kernel].ticks
        self.ticks = max(self.ticks, self.ended_ticks + sum(glance.ticks for glance in glances.values()))

    def _has_changed(self, glances: dict[int, Glance]) -> bool:
        if glances.keys() != self.seen.keys():
            return True
        faults = sum(glance.faults for glance in glances.values()) - sum(glance.faults for glance in self.seen.values())
        pages = sum(glance.pages for glance in glances.values()) - sum(glance.pages for glance in self.seen.values())
        return faults >= _NOTICEABLE or abs(pages) >= _NOTICEABLE

    def _weigh(self, glances: dict[int, Glance], files: int, shared: int) -> None:
        self.seen, self.files = glances, files
        held: dict[int, Held] = {}
        for pid, glance in glances.items():
            with contextlib.suppress(OSError):
                held[pid] = self._held(pid, self._thread_of(pid) if glance.headless else str(pid))
        whole = sum(each.total for each in held.values())
        own = sum(each.private + each.unnamed + each.tables for each in held.values())
        before, self.held = self.held, max(whole - shared, own) + files
        self.grows = self.held - before >= _NOTICEABLE * _PAGE
        self.peak = max(self.peak, self.held + max((each.excess for each in held.values()), default=0))
        held.pop(1, None)
        if self.held > self.cap and held:
            self._kill(max(held, key=lambda pid: held[pid].total))

    def _thread_of(self, pid: int) -> str:
        """Where one of its threads is that has not ended; all that there are see the same memory."""
        fd = os.open(f"{pid}/task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.processes)
        try:
            return f"{pid}/task/{max(os.listdir(fd), key=int)}"
        finally:
            os.close(fd)

    def _held(self, pid: int, where: str) -> Held:
        rollup, status = _sizes(self._read(where, "smaps_rollup")), _sizes(self._read(where, "status"))
        unnamed = self._unnamed(where) if rollup.get(b"Pss_Shmem", 0) >= 1 << 20 else 0
        anonymous, peak = rollup.get(b"Pss_Anon", 0), status.get(b"VmHWM", 0)
        private = min(rollup.get(b"Private_Dirty", 0), anonymous)
        excess = peak - status.get(b"VmRSS", 0) if peak > self.known_peaks.get(pid, 0) else 0
        return Held(anonymous, private, unnamed, status.get(b"VmPTE", 0), max(excess, 0))

    def _unnamed(self, where: str) -> int:
        """Shared memory of mappings that have no file in a mount of the sandbox's."""
        total, counts = 0, False
        for line in self._read(where, "smaps").splitlines():
            word, _, rest = line.partition(b" ")
            if b"-" in word:
                counts = rest.split(maxsplit=4)[4:5] == [b"/dev/zero (deleted)"] or b" /memfd:" in rest
            elif counts and word == b"Pss:":
                total += int(rest.split()[0]) << 10
        return total

    def _kill(self, pid: int) -> None:
        with contextlib.suppress(OSError):  # it may be dead already
            # A directory of /proc does for a pidfd, and the number means nobody else while it is open.
            fd = os.open(str(pid), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.processes)
            try:
                self.kills += 1  # before whoever sees the death can ask
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            finally:
                os.close(fd)

    def _read(self, where: str, name: str) -> bytes:
        fd = os.open(f"{where}/{name}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.processes)
        with open(fd, "rb", buffering=0) as file:
            return file.read()


def anonymous_of(pid: int) -> tuple[int, int]:
    """Bytes of anonymous memory of a process of ours: all, and its part of them where others share."""
    with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        rollup = _sizes(file.read())
    return rollup.get(b"Anonymous", 0), rollup.get(b"Pss_Anon", 0)


def _sizes(text: bytes) -> dict[bytes, int]:
    """What is read of a `smaps_rollup` or `status`, in bytes."""
    lines = (line.partition(b":") for line in text.splitlines())
    return {name: int(rest.split()[0]) << 10 for name, _, rest in lines if name in _SIZES}


def _used(mount: int) -> int:
    size = os.fstatvfs(mount)
    return (size.f_blocks - size.f_bfree) * size.f_frsize


@dataclass(slots=True)
class Rounds:
    """When to look next."""

    due: float = 0.0

    def wait(self) -> float:
        """Seconds until then."""
        return max(0.0, self.due - time.monotonic())

    def done(self, began: float, *, grows: bool) -> None:
        """A round that began then (monotonic) is over. grows: whether it has seen a sandbox grow."""
        now = time.monotonic()
        period, pause = (_GROWING_SECONDS, _GROWING_PAUSE) if grows else (_PERIOD_SECONDS, _PAUSE)
        self.due = now + max(period, min(pause * (now - began), _LONGEST_PAUSE))
