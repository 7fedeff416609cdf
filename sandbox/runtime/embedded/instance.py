"""One engine's share of this host: a number, and by it a lock, a range of ids, control groups and a directory.

Everything is named by the number, so what a dead engine left can be found and ended by the next one without any
record that a crash could have lost: whose lock is free is dead.
"""

import contextlib
import os
import socket
import time
from pathlib import Path

from sandbox.runtime import locks
from sandbox.runtime.embedded import cgroup, linux
from sandbox.runtime.embedded.footing import Footing, Standing, Unfit

_REMOVE_SECONDS = 10.0


class Instance:
    """What one launcher owns. `open` takes it, `close` gives it back."""

    def __init__(self, footing: Footing) -> None:
        self.number = -1
        self._footing = footing
        self._run_directory = footing.run_directory
        self.staged = 0
        """Images staged so far, which is the next one's directory."""

    def open(self) -> None:
        """Lock, end what dead instances left, make control groups and the user namespace. Raises `Unfit`.

        The caller is in a mount namespace of its own.
        """
        self.layout, self.why_soft = self._find_layout()
        self.number = self._lock_number()
        self.share = self._footing.share(self.number)
        self.group = f"sandbox/{self.number}"
        cgroup.Group(self.layout, self.group).destroy(time.monotonic() + _REMOVE_SECONDS)
        self._reconcile()
        self.stage = self._run_directory / str(self.number)
        _remove_stage(self.stage)
        self.stage.mkdir(mode=0o700)
        with self._groups_locked():
            cgroup.open_parent(self.layout, self.group)
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
        with contextlib.suppress(OSError), self._groups_locked():
            cgroup.Group(self.layout, self.group.split("/")[0]).remove()  # goes with the last engine, stays for others

    def _lock_number(self) -> int:
        self._run_directory.mkdir(mode=0o700, exist_ok=True)
        taken = locks.take(self._run_directory, self._footing.instances)
        if taken is None:
            raise Unfit(
                f"{self._footing.instances} engines run on this machine already, which is all there are ids for"
            )
        number, self._lock = taken  # held until we end: the lock is what says that we live
        return number

    def _reconcile(self) -> None:
        """End what dead instances left. A failure on one never blocks the others, or us."""
        stages = {entry.name for entry in self._run_directory.iterdir() if entry.is_dir()}
        for name in stages | cgroup.Group(self.layout, "sandbox").children():
            if not name.isdigit() or int(name) == self.number:
                continue
            with contextlib.suppress(OSError), locks.of_the_dead(self._run_directory, int(name)) as dead:
                if dead:
                    cgroup.Group(self.layout, f"sandbox/{name}").destroy(time.monotonic() + _REMOVE_SECONDS)
                    _remove_stage(self._run_directory / name)

    def _make_user_namespace(self) -> int:
        """One user namespace owns everything in every sandbox; its root is nobody outside, or where ids are single
        the user."""
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
            mapping = f"0 {self.share.first} {self.share.count}\n"
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{pid}/{name}").write_text(mapping)
            return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            ours.close()
            os.waitpid(pid, 0)

    def _groups_locked(self) -> contextlib.AbstractContextManager[None]:
        """No other engine makes or removes the common parent groups meanwhile."""
        return locks.held(self._run_directory / "groups.lock")

    def _find_layout(self) -> tuple[cgroup.Layout, str]:
        """The control groups that are ours to use; for an ordinary user maybe none, and why."""
        mountinfo = Path("/proc/self/mountinfo").read_text()
        try:
            if self._footing.standing is Standing.ROOT:
                return cgroup.Layout.detect(mountinfo), ""
            layout = cgroup.Layout.delegated(mountinfo, Path("/proc/self/cgroup").read_text())
            layout.settle()
        except cgroup.NoCgroups as error:
            if self._footing.standing is Standing.ROOT:
                raise Unfit(f"{error}. Boot with cgroups enabled, or use the docker runtime") from error
            return cgroup.Layout.none(), str(error)
        return layout, ""


def _remove_stage(directory: Path) -> None:
    """Remove the mount points of an instance; its mounts ended with the mount namespaces they were in."""
    if directory.is_dir():
        for entry in directory.iterdir():
            entry.rmdir()
        directory.rmdir()
