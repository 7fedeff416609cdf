"""The aggregate group: a control group above all containers, with caps for all of them together.

Each container has caps of its own, but more may be promised than the machine has. The way: may it be made from here? ─
it is, with its caps, before the first container ─ the daemon is told to make every container's group below it ─ the
last engine that makes containers removes it.

Where it cannot be made (the server is not root, or not on the daemon's host) the daemon's own choice stands; the log
and `sandbox doctor` say why, and somebody else may make one and name it in the settings.
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from sandbox import logs
from sandbox.errors import HostUnfit
from sandbox.runtime import locks
from sandbox.runtime.docker.daemon import About
from sandbox.runtime.docker.vicinity import why_elsewhere
from sandbox.runtime.embedded import cgroup

_logger = logs.logger(__name__)
_GROUP = "/sandbox/docker"
"""Beside those of the embedded runtime's engines, below the same one."""
_SLICE = "sandboxes.slice"
"""Where systemd has all groups. It stays, empty, until the host is started anew."""
_WEIGHT = 25
"""Of the slice, beside the 100 of system.slice, which our server and the daemon are in."""
_SYSTEMCTL_S = 10.0


def name(about: About) -> str:
    """Of the one that we make, in the words of the daemon."""
    return _SLICE if about.cgroup_driver == "systemd" else _GROUP


def check_named(about: About, chosen: str) -> None:
    """Raises `HostUnfit` for what the daemon would refuse, with each container."""
    if chosen and about.cgroup_driver == "systemd" and not chosen.endswith(".slice"):
        raise HostUnfit(f"docker_cgroup_parent is {chosen}, but systemd has the control groups here; name a slice")


def obstacle(about: About, address: str) -> str:
    """Why it cannot be made from here; empty where it should be possible."""
    if os.geteuid() != 0:
        return "only root may make control groups"
    if about.rootless:
        return "the daemon is an ordinary user's"
    if elsewhere := why_elsewhere(about, address):
        return elsewhere
    if about.cgroup_driver == "systemd":
        return "" if shutil.which("systemctl") else "there is no systemctl to tell systemd by"
    if about.cgroup_driver != "cgroupfs":
        return "the daemon uses no control groups"
    try:
        layout = _layout()
    except cgroup.NoCgroups as error:
        return str(error)
    closed = [str(root) for root in layout.roots.values() if not os.access(root, os.W_OK)]
    return f"{', '.join(closed)} cannot be written to" if closed else ""


def cap_of(about: About, chosen: str) -> int | None:
    """Of the memory of one that somebody else has made on this host, in bytes; None where there is none."""
    if about.cgroup_driver == "systemd":
        show = ["systemctl", "show", "--property=MemoryMax", "--value", chosen]
        try:
            said = subprocess.run(show, capture_output=True, text=True, timeout=_SYSTEMCTL_S).stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            return None
        return int(said) if said.isdigit() else None
    try:
        return cgroup.Group(_layout(), chosen.strip("/")).memory_cap()
    except (OSError, cgroup.NoCgroups):
        return None


@contextlib.asynccontextmanager
async def made(about: About, address: str) -> AsyncIterator[str]:
    """Its name while the block lasts, for `CgroupParent`; empty where there is none."""
    async with contextlib.AsyncExitStack() as stack:
        if not (why := obstacle(about, address)):
            try:
                if about.cgroup_driver == "systemd":
                    await _tell_systemd()
                else:
                    stack.enter_context(_below_the_root())
            except OSError as error:
                why = str(error) or type(error).__name__
        if why:
            _logger.warning("no caps for all containers together", why=why, advice="set docker_cgroup_parent")
        yield "" if why else name(about)


async def _tell_systemd() -> None:
    """systemd makes a slice when the first container is in it, with what it was told before. Raises `OSError`."""
    caps = cgroup.aggregate_caps()
    properties = (f"MemoryMax={caps.memory_bytes}", f"TasksMax={caps.processes}", f"CPUWeight={_WEIGHT}")
    systemctl = await asyncio.create_subprocess_exec(
        *("systemctl", "set-property", "--runtime", _SLICE, *properties),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_SYSTEMCTL_S):
            _, said = await systemctl.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            systemctl.kill()
        await systemctl.wait()
        raise
    if systemctl.returncode != 0:
        raise OSError(f"systemctl: {said.decode(errors='replace').strip()}")


@contextlib.contextmanager
def _below_the_root() -> Iterator[None]:
    """Raises `OSError`."""
    locks.DIRECTORY.mkdir(mode=0o700, exist_ok=True)
    with open(locks.DIRECTORY / "docker.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        try:
            with _groups_locked():
                cgroup.open_parent(_layout(), _GROUP.strip("/"))
            yield
        finally:
            with contextlib.suppress(OSError):  # other engines live, or a container that is still to be removed
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove()


def _remove() -> None:
    """From every hierarchy: the OCI runtime has made it in those, too, that we need not."""
    with _groups_locked():
        for hierarchy in cgroup.hierarchies(_mountinfo()):
            for group in (_GROUP, os.path.dirname(_GROUP)):
                with contextlib.suppress(OSError):
                    os.rmdir(f"{hierarchy}{group}")


def _groups_locked() -> contextlib.AbstractContextManager[None]:
    return locks.held(locks.DIRECTORY / "groups.lock")


def _layout() -> cgroup.Layout:
    return cgroup.Layout.detect(_mountinfo())


def _mountinfo() -> str:
    return Path("/proc/self/mountinfo").read_text()
