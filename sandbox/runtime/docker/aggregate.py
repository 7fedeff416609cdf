"""The aggregate group: a control group above all containers, with caps for all of them together.

Each container has caps of its own, but more may be promised than the machine has. The way: may it be made from here? ─
it is, with its caps, before the first container ─ the daemon is told to make every container's group below it ─ the
last engine removes it.

Where it cannot be made (the server is not root, or not on the daemon's host) the daemon's own choice stands; the log
and `sandbox doctor` say why, and somebody else may make one and name it in the settings.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from sandbox import logs
from sandbox.runtime import locks
from sandbox.runtime.docker.daemon import About
from sandbox.runtime.docker.vicinity import why_elsewhere
from sandbox.runtime.embedded import cgroup

_logger = logs.logger(__name__)
GROUP = "/sandbox/docker"
"""Beside those of the embedded runtime's engines, below the same one."""
SLICE = "sandboxes.slice"
"""Where systemd has all groups. It stays, empty, until the host is started anew."""
_SYSTEMCTL_S = 10.0


def named(about: About) -> str:
    """How it is called where we make it, in the words of the daemon."""
    return SLICE if about.cgroup_driver == "systemd" else GROUP


def obstacle(about: About, address: str) -> str:
    """Why it cannot be made from here; empty where it should be possible."""
    if os.geteuid() != 0:
        return "only root may make control groups"
    if about.rootless:
        return "the daemon is an ordinary user's"
    if about.cgroup_driver not in ("cgroupfs", "systemd"):
        return "the daemon uses no control groups"
    return why_elsewhere(about, address)


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
            except (OSError, cgroup.NoCgroups) as error:
                why = str(error) or type(error).__name__
        if why:
            _logger.warning("no caps for all containers together", why=why, advice="set docker_cgroup_parent")
        yield "" if why else named(about)


async def _tell_systemd() -> None:
    """systemd makes a slice when the first container is in it, with what it was told before. Raises `OSError`."""
    caps = cgroup.aggregate_caps()
    properties = (f"MemoryMax={caps.memory_bytes}", f"TasksMax={caps.processes}")
    systemctl = await asyncio.create_subprocess_exec(
        *("systemctl", "set-property", "--runtime", SLICE, *properties),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_SYSTEMCTL_S):
            _, said = await systemctl.communicate()
    except BaseException:
        systemctl.kill()
        await systemctl.wait()
        raise
    if systemctl.returncode != 0:
        raise OSError(f"systemctl: {said.decode(errors='replace').strip()}")


@contextlib.contextmanager
def _below_the_root() -> Iterator[None]:
    """Raises `OSError`, `NoCgroups`."""
    layout = cgroup.Layout.detect(_mountinfo())
    locks.DIRECTORY.mkdir(mode=0o700, exist_ok=True)
    with open(locks.DIRECTORY / "docker.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        with _groups_locked():
            cgroup.open_parent(layout, GROUP.strip("/"))
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # other engines live, or a container that is still to be removed
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove()


def _remove() -> None:
    """From every hierarchy: the OCI runtime has made it in those, too, that we need not."""
    with _groups_locked():
        for hierarchy in cgroup.hierarchies(_mountinfo()):
            for group in (GROUP, str(Path(GROUP).parent)):
                with contextlib.suppress(OSError):
                    os.rmdir(f"{hierarchy}{group}")


def _groups_locked() -> contextlib.AbstractContextManager[None]:
    return locks.held(locks.DIRECTORY / "groups.lock")


def _mountinfo() -> str:
    return Path("/proc/self/mountinfo").read_text()
