"""An ordinary user's way to control groups: a scope of their own systemd, which owns a part of version 2's tree.

A shell of a login is in a group of root's, out of which its user may move nothing. The user's systemd can be asked to
run the launcher in a group that is the user's.
"""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from sandbox.runtime.embedded.cgroup import Layout, NoCgroups

_ANSWER_SECONDS = 5.0
_PROGRAM = "/usr/bin/systemd-run"


async def way() -> Sequence[str]:
    """What to start the launcher through; nothing for root, who has the groups, and where there is no such systemd."""
    uid = os.geteuid()
    if uid == 0 or not answers(uid) or _has_groups():
        return ()
    scope = [_PROGRAM, "--user", "--scope", "--quiet", "--collect", "--property=Delegate=yes", "--"]
    # The launcher gets an environment of its own making, so what systemd-run has to know is said here.
    through = ["/usr/bin/env", f"XDG_RUNTIME_DIR=/run/user/{uid}", *scope, "/usr/bin/env", "-u", "XDG_RUNTIME_DIR"]
    return through if await _works([*through, "true"]) else ()


def answers(uid: int, root: Path = Path("/")) -> bool:
    """Whether the user has a systemd of its own. root: where the host's files are."""
    paths = (f"run/user/{uid}/systemd/private", _PROGRAM.lstrip("/"))
    return all((root / path).exists() for path in paths)


def _has_groups() -> bool:
    try:
        Layout.delegated(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    except (NoCgroups, OSError):
        return False
    return True


async def _works(command: Sequence[str]) -> bool:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            return await process.wait() == 0
    except TimeoutError:
        process.kill()
        await process.wait()
        return False
