"""What the host sees of sandboxes: the judge of tests that must not take a sandbox's word for anything."""

import asyncio
import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

WAIT_SECONDS = 90.0
"""Ends a wait for something that never comes; nothing healthy takes nearly as long."""


def pids() -> list[int]:
    """Every process of the machine."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def status(pid: int) -> dict[str, list[str]]:
    """`/proc/PID/status`, each field's words; empty for a process that is gone."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
    return {}


def alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    fields = status(pid)
    return bool(fields) and fields["State"][0] != "Z"


def children(parent: int) -> list[int]:
    """The live processes whose parent it is."""
    return [pid for pid in pids() if status(pid).get("PPid") == [str(parent)] and alive(pid)]


def command(pid: int) -> list[str]:
    """Its command line; empty for a process that is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    return []


def named(comm: str) -> list[int]:
    """Processes that call themselves so."""
    return [pid for pid in pids() if status(pid).get("Name") == [comm]]


async def ended(*waited: int) -> None:
    """Wait until all of these processes have ended. Raises `TimeoutError`."""
    await asyncio.to_thread(wait_for_end, *waited)


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that only looking can tell. Raises `TimeoutError`."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def wait_for_end(*waited: int) -> None:
    """The same, blocking."""
    deadline = time.monotonic() + WAIT_SECONDS
    with contextlib.ExitStack() as stack:
        left = {}
        for pid in waited:
            with contextlib.suppress(ProcessLookupError):
                left[os.pidfd_open(pid)] = pid
                stack.callback(os.close, next(reversed(left)))
        while left:
            ended, _, _ = select.select([*left], [], [], 0.05)
            for pidfd in ended:
                del left[pidfd]
            # Orphans are ours to reap, as conftest has it, from the moment their parent is gone, which may be after
            # their own end; and the PID 1 of a sandbox cannot end before its kernel has been reaped.
            for pid in waited:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            if left and time.monotonic() > deadline:
                names = ", ".join(f"{pid} ({' '.join(command(pid))})" for pid in left.values())
                raise TimeoutError(f"these do not end: {names}")


class House(Protocol):
    """A runtime's sandboxes as the host sees them."""

    def contained(self) -> list[int]:
        """Everybody in a sandbox, inits included."""

    def inits(self) -> list[int]:
        """One for each sandbox; with it the sandbox dies."""

    def kernels(self) -> list[int]:
        """The kernel of each sandbox."""

    def left(self) -> list[str]:
        """Whatever there is of sandboxes besides processes."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """The processes, groups and directories of one server's embedded runtime, while its launcher lives."""

    launcher: int
    parent_group: str = ""
    """The control group that its user was given; root's is the topmost."""

    @classmethod
    def below(cls, server: int, parent_group: str = "") -> Self:
        """The runtime that was opened last in this server process."""
        started = {pid: int(Path(f"/proc/{pid}/stat").read_text().split()[21]) for pid in _launchers(server)}
        return cls(max(started, key=started.__getitem__), parent_group)

    @property
    def stage(self) -> Path:
        """Where its roots are put together."""
        return Path("/run/sandbox") / self.instance

    @property
    def instance(self) -> str:
        """The number that its lock, groups and ids have."""
        links = (os.readlink(fd) for fd in Path(f"/proc/{self.launcher}/fd").iterdir())
        for link in links:
            if link.endswith(".lock"):
                return Path(link).stem
        raise ProcessLookupError("the launcher has none yet, or is on its way out")

    def zygotes(self) -> list[int]:
        """One for each image."""
        return [pid for pid in children(self.launcher) if "sandbox.runtime.embedded.zygote" in command(pid)]

    def inits(self) -> list[int]:
        """One for each sandbox."""
        return [pid for pid in children(self.launcher) if status(pid).get("Name") == ["sandbox-init"]]

    def contained(self) -> list[int]:
        """Everybody in a sandbox, inits included."""
        found = []
        for pid in pids():
            with contextlib.suppress(OSError):
                if f"{self.parent_group}/sandbox/{self.instance}/" in Path(f"/proc/{pid}/cgroup").read_text():
                    found.append(pid)
        return found

    def kernels(self) -> list[int]:
        """The kernel of each sandbox: whose parent is outside."""
        inside = set(self.contained())
        others = {pid: status(pid) for pid in inside - set(self.inits())}
        return [pid for pid, told in others.items() if told and int(told["PPid"][0]) not in inside]

    def groups(self) -> list[Path]:
        """The control groups of its sandboxes."""
        return groups(self.instance, self.parent_group)

    def left(self) -> list[str]:
        """See `House`."""
        return [str(group) for group in self.groups()]


class Watched(Embedded):
    """The same of an ordinary user without control groups: there is nothing but processes and their namespaces."""

    def contained(self) -> list[int]:
        """Everybody in a sandbox: whose process namespace one of its inits has."""
        inside = {link for pid in self.inits() if (link := _process_namespace(pid))}
        return [pid for pid in pids() if _process_namespace(pid) in inside]

    def left(self) -> list[str]:
        """The namespaces and mounts of sandboxes that the launcher holds."""
        held = []
        for fd in Path(f"/proc/{self.launcher}/fd").iterdir():
            with contextlib.suppress(OSError):
                held.append(os.readlink(fd))
        own = set(_namespaces(self.launcher))
        return [link for link in held if ":[" in link and link.startswith(("pid:", "mnt:", "net:")) and link not in own]


def _namespaces(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return [os.readlink(link) for link in Path(f"/proc/{pid}/ns").iterdir()]
    return []


def _process_namespace(pid: int) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/pid")
    return ""


def _launchers(server: int) -> list[int]:
    return [pid for pid in children(server) if "sandbox.runtime.embedded.launcher" in command(pid)]


async def stopped_zygote(server: int) -> tuple[Embedded, int]:
    """The runtime that this server opens and its zygote, which stays on its way: it stops before it can be ready."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not (_launchers(server) and (zygotes := Embedded.below(server).zygotes())):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    os.kill(zygotes[0], signal.SIGSTOP)
    return Embedded.below(server), zygotes[0]


def groups(instance: str, parent_group: str = "") -> list[Path]:
    """The control groups of an instance's sandboxes, whether or not it lives."""
    roots = groups_named(f"{parent_group}/sandbox/{instance}".lstrip("/"))
    return [group for root in roots for group in root.iterdir() if group.is_dir()]


def groups_named(group: str) -> list[Path]:
    """The control group of this name, in each hierarchy that has it."""
    top = Path("/sys/fs/cgroup")
    return [*top.glob(f"*/{group}"), *top.glob(group)]


def locked(instance: str) -> bool:
    """Whether somebody's engine lives that has this number; "docker" is any that makes containers.

    By looking alone: whoever tried the lock would be in the way of an engine that does.
    """
    try:
        lock = os.stat(f"/run/sandbox/{instance}.lock")
    except FileNotFoundError:
        return False
    name = f"{os.major(lock.st_dev):02x}:{os.minor(lock.st_dev):02x}:{lock.st_ino}"
    return any(name in line.split() for line in Path("/proc/locks").read_text().splitlines())
