"""An ordinary user of this machine, and programs that run as it.

Run as a program, `NAME GROUP PATH… -- COMMAND…` becomes that user, in that control group (`-`: where it is), and then
the command. On a machine where only root may walk to the interpreter or the checkout, they are laid open at the same
places, in a mount namespace of the program's own; nothing of the machine is changed.

`--without-user-namespaces COMMAND…` becomes the command on what looks like a host that has them disabled.
"""

import contextlib
import grp
import os
import pwd
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox.runtime.embedded import linux
from sandbox.runtime.embedded.cgroup import Layout

CHECKOUT = Path(__file__).parents[1]
_NOBODY_ELSES = 0x20000000
"""Where no range of subordinate ids of a real user is."""


@dataclass(frozen=True, slots=True)
class User:
    """Made for a test."""

    name: str
    uid: int
    home: Path
    group: str = "-"
    """A control group that root has given it."""

    def through(self, *paths: Path) -> list[str]:
        """What makes a command, which is to follow, this user's. paths: what it must be able to walk to."""
        needed = [CHECKOUT, Path(sys.base_prefix), *paths]
        return [sys.executable, "-P", "-m", "tests.ordinary", self.name, self.group, *map(str, needed), "--"]


@contextlib.contextmanager
def user(*, subordinate: bool, group: bool = False) -> Iterator[User]:
    """A user who exists while the block lasts.

    subordinate: whether it may use ids besides its own. group: whether root gives it a part of the control groups.
    """
    name = f"sandbox-{uuid.uuid4().hex[:8]}"
    home = Path(f"/tmp/{name}")
    _run("useradd", "--no-create-home", "--home-dir", str(home), "--no-log-init", name)
    try:
        entry = pwd.getpwnam(name)
        _set_subordinate(name, subordinate)
        home.mkdir(mode=0o700)
        os.chown(home, entry.pw_uid, entry.pw_gid)
        if group:
            _give_group(name, entry.pw_uid)
        yield User(name, entry.pw_uid, home, name if group else "-")
    finally:
        for root in _groups(name):
            with contextlib.suppress(FileNotFoundError):
                root.rmdir()
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(f"/tmp/sandbox-{pwd.getpwnam(name).pw_uid}", ignore_errors=True)
        _run("userdel", name)


def _groups(name: str) -> list[Path]:
    roots = Layout.detect(Path("/proc/self/mountinfo").read_text()).roots
    return [root / name for root in roots.values()]


def _give_group(name: str, uid: int) -> None:
    for group in _groups(name):
        if (group.parent / "cgroup.controllers").exists():
            (group.parent / "cgroup.subtree_control").write_text("+memory +pids +cpu")
        group.mkdir()
        for path in (group, group / "cgroup.procs", group / "cgroup.subtree_control"):
            if path.exists():
                os.chown(path, uid, -1)


def _set_subordinate(name: str, wanted: bool) -> None:
    for kind in ("uids", "gids"):
        for line in Path(f"/etc/sub{kind[:-1]}").read_text().splitlines():
            who, first, count = line.split(":")
            if who == name:
                _run("usermod", f"--del-sub{kind}", f"{first}-{int(first) + int(count) - 1}", name)
        if wanted:
            _run("usermod", f"--add-sub{kind}", f"{_NOBODY_ELSES}-{_NOBODY_ELSES + 65_535}", name)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def _lay_open(paths: Sequence[Path]) -> None:
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    held = {path: os.open(path, os.O_PATH) for path in paths}
    for closed in sorted({closed for path in paths if (closed := _closed(path)) is not None}):
        if _closed(closed / "x") == closed:
            linux.mount("open", str(closed), "tmpfs", 0, "mode=755,size=1m")
    for path, fd in held.items():
        if not path.exists():
            path.mkdir(parents=True)
            linux.mount(f"/proc/self/fd/{fd}", str(path), None, linux.MS_BIND | linux.MS_REC)
        os.close(fd)


def _forbid_user_namespaces() -> None:
    """In a namespace that has every id of the host's, and its own limit of namespaces below it."""
    reader, writer = os.pipe()
    launcher, mapper = os.getpid(), os.fork()
    if mapper == 0:
        os.close(writer)
        os.read(reader, 1)  # until there is a namespace to map
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{launcher}/{name}").write_text("0 0 4294967295\n")
        os._exit(0)
    linux.unshare(linux.CLONE_NEWUSER)
    os.close(writer)
    assert os.waitpid(mapper, 0)[1] == 0
    os.close(reader)
    Path("/proc/sys/user/max_user_namespaces").write_text("0")


def _closed(path: Path) -> Path | None:
    """The highest directory on the way that others may not walk through."""
    ways = [parent for parent in reversed(path.parents) if parent.exists() and not parent.stat().st_mode & 0o001]
    return ways[0] if ways else None


def main() -> None:
    """See the module."""
    if sys.argv[1] == "--without-user-namespaces":
        _forbid_user_namespaces()
        os.execvp(sys.argv[2], sys.argv[2:])
    name, group, *rest = sys.argv[1:]
    split = rest.index("--")
    if group != "-":
        for root in _groups(group):
            (root / "cgroup.procs").write_text(str(os.getpid()))
    _lay_open([Path(path) for path in rest[:split]])
    entry = pwd.getpwnam(name)
    os.setgroups([group.gr_gid for group in grp.getgrall() if name in group.gr_mem])
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    command = rest[split + 1 :]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
