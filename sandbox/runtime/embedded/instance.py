"""One engine's share of this host: a number, and by it a lock, a range of ids, control groups and a directory.

Everything is named by the number, so what a dead engine left can be found and ended by the next one without any
record that a crash could have lost: whose lock is free is dead.
"""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from sandbox.runtime import locks
from sandbox.runtime.embedded import cgroup, linux

IDS_PER_INSTANCE = 65_536
FIRST_HOST_ID = 0x70000000
"""systemd's table of uid ranges leaves 0x70000000 to 0x7FFFFFFE unused."""
MAX_INSTANCES = 4096
_RUN_DIRECTORY = Path("/run/sandbox")
_REMOVE_SECONDS = 10.0


class Unfit(Exception):
    """This host cannot contain anything; the text says what is missing."""


class Instance:
    """What one launcher owns. `open` takes it, `close` gives it back."""

    def __init__(self) -> None:
        self.number = -1
        self.staged = 0
        """Images staged so far, which is the next one's directory."""

    def open(self) -> None:
        """Lock, end what dead instances left, make control groups and the user namespace. Raises `Unfit`.

        The caller is in a mount namespace of its own.
        """
        if os.geteuid() != 0:
            raise Unfit("the embedded runtime needs root for now; run as root, or use the docker runtime")
        try:
            self.layout = cgroup.Layout.detect(Path("/proc/self/mountinfo").read_text())
        except cgroup.NoCgroups as error:
            raise Unfit(f"{error}. Boot with cgroups enabled, or use the docker runtime") from error
        self.number = self._lock_number()
        self.group = f"sandbox/{self.number}"
        cgroup.Group(self.layout, self.group).destroy(time.monotonic() + _REMOVE_SECONDS)
        self._reconcile()
        self.stage = _RUN_DIRECTORY / str(self.number)
        _remove_stage(self.stage)
        self.stage.mkdir(mode=0o700)
        with _groups_locked():
            cgroup.open_parent(self.layout, self.group)
        self.first_id = FIRST_HOST_ID + self.number * IDS_PER_INSTANCE
        self.user_namespace = self._make_user_namespace()

    def next_stage(self) -> Path:
        """A new directory to stage an image in."""
        directory = self.stage / str(self.staged)
        self.staged += 1
        directory.mkdir()
        return directory

    def close(self) -> None:
        """End every process in the groups, remove them and the stages."""
        deadline = time.monotonic() + _REMOVE_SECONDS
        cgroup.Group(self.layout, self.group).destroy(deadline)
        # Kernels are ours now that their zygote is dead, and a PID 1 cannot end before its kernel has been reaped.
        with contextlib.suppress(ChildProcessError):
            while time.monotonic() < deadline:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    time.sleep(0.002)
        for number in range(self.staged):
            with contextlib.suppress(OSError):
                linux.umount(str(self.stage / str(number)))
        with contextlib.suppress(OSError):
            _remove_stage(self.stage)
        with contextlib.suppress(OSError), _groups_locked():
            cgroup.Group(self.layout, self.group.split("/")[0]).remove()  # goes with the last engine, stays for others

    def _lock_number(self) -> int:
        _RUN_DIRECTORY.mkdir(mode=0o700, exist_ok=True)
        taken = locks.take(_RUN_DIRECTORY, MAX_INSTANCES)
        if taken is None:
            raise Unfit(f"{MAX_INSTANCES} engines run on this machine already")
        number, self._lock = taken  # held until we end: the lock is what says that we live
        return number

    def _reconcile(self) -> None:
        """End what dead instances left. A failure on one never blocks the others, or us."""
        stages = {entry.name for entry in _RUN_DIRECTORY.iterdir() if entry.is_dir()}
        for name in stages | cgroup.Group(self.layout, "sandbox").children():
            if not name.isdigit() or int(name) == self.number:
                continue
            with contextlib.suppress(OSError), locks.of_the_dead(_RUN_DIRECTORY, int(name)) as dead:
                if dead:
                    cgroup.Group(self.layout, f"sandbox/{name}").destroy(time.monotonic() + _REMOVE_SECONDS)
                    _remove_stage(_RUN_DIRECTORY / name)

    def _make_user_namespace(self) -> int:
        """One user namespace owns everything in every sandbox; its root is nobody outside."""
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            try:
                ours.close()  # or our own copy would keep us from ever seeing the launcher let go
                linux.unshare(linux.CLONE_NEWUSER)
                theirs.send(b"U")
                theirs.recv(1)
            finally:
                os._exit(0)
        theirs.close()
        try:
            if ours.recv(1) != b"U":
                raise Unfit("user namespaces are disabled; set sysctl user.max_user_namespaces to 10000")
            mapping = f"0 {self.first_id} {IDS_PER_INSTANCE}\n"
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{pid}/{name}").write_text(mapping)
            return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            ours.close()
            os.waitpid(pid, 0)


@contextlib.contextmanager
def _groups_locked() -> Iterator[None]:
    """No other engine makes or removes the common parent groups meanwhile."""
    with open(_RUN_DIRECTORY / "groups.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_stage(directory: Path) -> None:
    """Remove the mount points of an instance; its mounts ended with the mount namespaces they were in."""
    if directory.is_dir():
        for entry in directory.iterdir():
            entry.rmdir()
        directory.rmdir()
