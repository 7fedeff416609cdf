"""A root that lives: with init, mounts, devices, control groups and a name of its own, on this kernel and network.

Run as a program, `ROOT NAME GROUP…` is the machine's PID 1: it makes these control groups the whole tree, `ROOT` the
root, mounts what a stock init mounts, says `ready`, and then does nothing but bury orphans. It is started in namespaces
of its own; with it everything in the machine ends.
"""

import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox.runtime.embedded import linux
from tests.host import children, pids, wait_for_end

_START_SECONDS, COMMAND_SECONDS = 60, 900
_PASSED_ON = re.compile(r"(?i)(PIP_|UV_).*|.*_proxy|(SSL_CERT_FILE|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|GIT_SSL_CAINFO)")
_USERS_GROUP = "user.slice"
"""Where a stock init puts who logs in."""
_JOIN = 'while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done; shift; exec "$@"'
_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_LINKS = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Said:
    """A command that has ended."""

    code: int
    text: str
    """What it said on both streams."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A running one."""

    root: Path
    """Where the host finds its files."""
    init: int
    """Its PID 1, as the host counts."""
    groups: tuple[Path, ...]
    """What it takes for the tops of the trees of control groups."""

    def run(self, command: str, user: str = "root", through: Sequence[str] = ()) -> Said:
        """What a line says that this user types after logging in. through: what is to start the login."""
        login = [*through, "/usr/bin/su", "--login", user, "--command", command]
        enter = ["nsenter", f"--target={self.init}", "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--"]
        groups = [str(group / _USERS_GROUP) for group in self.groups]
        with subprocess.Popen(
            ["sh", "-c", _JOIN, "sh", *groups, "--", *enter, *login],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TERM": "dumb"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            try:
                said, _ = process.communicate("y\n", COMMAND_SECONDS)  # to whoever asks whether to go on
            except BaseException:
                # nsenter has to bury its child, or somebody else is left with it, and the machine cannot end before.
                os.kill(self.init, signal.SIGKILL)
                raise
        return Said(process.returncode, said)

    def left(self) -> list[str]:
        """What is in it besides its init: processes that do not end, and control groups of sandboxes."""
        namespace = os.readlink(f"/proc/{self.init}/ns/pid")
        living = []
        for pid in pids():
            with contextlib.suppress(OSError):
                if pid != self.init and os.readlink(f"/proc/{pid}/ns/pid") == namespace:
                    living.append(pid)
        try:
            wait_for_end(*living)
        except TimeoutError as error:
            return [str(error)]
        return [str(path) for group in self.groups for path in group.glob("sandbox/*/*/")]


def hide() -> None:
    """From here on what this process mounts is seen by its own children only, and ends with them."""
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory in memory, where many small files come and go faster than on a disk. For who is hidden."""
    with tempfile.TemporaryDirectory(prefix="fresh-") as made:
        linux.mount("fresh", made, "tmpfs", 0, "mode=755,size=90%")
        try:
            yield Path(made)
        finally:
            linux.umount(made)


@contextlib.contextmanager
def contained(command: Sequence[str], *, mount_proc: bool = False) -> Iterator["subprocess.Popen[str]"]:
    """A process with namespaces of its own for mounts, processes and names; with the block they end, and so do we."""
    spaces = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]
    spaces += ["--mount-proc"] if mount_proc else []
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig=KILL", "--", *spaces, "--", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            # The first in the namespace takes all others with it, and unshare hears of its end when they are gone.
            for first in children(process.pid):
                with contextlib.suppress(ProcessLookupError):  # it may be on its way out
                    os.kill(first, signal.SIGKILL)
            if process.poll() is None and not children(process.pid):
                process.terminate()


@contextlib.contextmanager
def started(root: Path, name: str) -> Iterator[Machine]:
    """A machine on this root while the block lasts."""
    _like_the_host(root)
    with _groups(f"fresh-{os.getpid()}-{next(_numbers)}") as groups:
        program = [sys.executable, "-P", "-m", "tests.fresh.machine", str(root), name, *map(str, groups)]
        with contained(program) as process:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError(f"the machine does not start: {process.stdout.read()}")
            [init] = children(process.pid)
            yield Machine(root, init, groups)


def _like_the_host(root: Path) -> None:
    """What its owner would have set up: where names are looked up, whom to trust, and how to reach package indexes."""
    for path in ("/etc/resolv.conf", "/etc/hosts", *map(str, Path("/usr/local/share/ca-certificates").glob("*.crt"))):
        _copy(path, root)
    with (root / "etc/environment").open("a") as file:
        for name, value in _passed_on(os.environ, root).items():
            file.write(f'{name}="{value}"\n')


def _passed_on(environment: Mapping[str, str], root: Path) -> dict[str, str]:
    """The variables that say so. Files that they name are copied; directories that only the host has are left out."""
    passed = {}
    for name, value in environment.items():
        if not _PASSED_ON.fullmatch(name) or '"' in value or "\n" in value:
            continue
        if value.startswith("/"):
            if os.path.isfile(value):
                _copy(value, root)
            elif not (root / value.lstrip("/")).exists():
                continue
        passed[name] = value
    return passed


def _copy(path: str, root: Path) -> None:
    copy = root / path.lstrip("/")
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.unlink(missing_ok=True)
    copy.write_bytes(Path(path).read_bytes())


@contextlib.contextmanager
def _groups(name: str) -> Iterator[tuple[Path, ...]]:
    """Control groups of this name in every tree of the host's."""
    groups = tuple(point / name for point, _, _ in _trees())
    try:
        for group in groups:
            if (group.parent / "cgroup.controllers").exists():
                _hand_down(group.parent)
            (group / _USERS_GROUP).mkdir(parents=True)
            _inherit_processors(group)
        yield groups
    finally:
        for group in groups:
            for directory, _, _ in os.walk(group, topdown=False):
                os.rmdir(directory)


def _hand_down(group: Path) -> None:
    offered = (group / "cgroup.controllers").read_text().split()
    for controller in {"memory", "pids", "cpu"} & set(offered):
        (group / "cgroup.subtree_control").write_text(f"+{controller}")


def _inherit_processors(group: Path) -> None:
    """Nobody may enter a group of version 1 that has no processors yet."""
    for part in (group, group / _USERS_GROUP):
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (part / name).exists() and not (part / name).read_text().strip():
                (part / name).write_text((part.parent / name).read_text())


def _trees() -> list[tuple[Path, str, str]]:
    """Every tree of control groups: where it is mounted, its kind, and the options to mount it with."""
    trees = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(maxsplit=2)
        if kind in ("cgroup", "cgroup2"):
            names = [name for name in options.split(",") if name not in ("rw", "ro", "xattr") and "agent" not in name]
            if any(name.startswith("name=") for name in names):
                names.insert(0, "none")
            trees.append((Path(before.split()[4]), kind, ",".join(names) if kind == "cgroup" else ""))
    return trees


def main() -> None:
    """See the module."""
    root, name, *groups = sys.argv[1:]
    trees = _trees()
    for group in groups:
        Path(group, "cgroup.procs").write_text("0")
    linux.unshare(linux.CLONE_NEWCGROUP)
    for group in groups:
        _make_room(Path(group))
    socket.sethostname(name)
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.mount(root, root, None, linux.MS_BIND)
    os.chdir(root)
    _mount_all(trees)
    linux.pivot_root(b".", b".")
    linux.umount(".")
    os.chdir("/")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    print("ready", flush=True)
    while True:
        signal.sigwait({signal.SIGCHLD})
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _make_room(group: Path) -> None:
    """As a stock init does: the top of a tree of version 2 hands out controllers, so nobody stays there."""
    if (group / "cgroup.controllers").exists():
        (group / "init.scope").mkdir()
        (group / "init.scope" / "cgroup.procs").write_text("0")
        _hand_down(group)


def _mount_all(trees: Sequence[tuple[Path, str, str]]) -> None:
    """Below the working directory."""
    closed = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    os.umask(0)
    linux.mount("proc", "proc", "proc", closed)
    linux.mount("sysfs", "sys", "sysfs", closed)
    linux.mount("dev", "dev", "tmpfs", linux.MS_NOSUID, "mode=755")
    for device, (major, minor) in _DEVICES.items():
        os.mknod(f"dev/{device}", 0o020666, os.makedev(major, minor))
    for link, target in _LINKS.items():
        os.symlink(target, f"dev/{link}")
    for directory in ("pts", "shm"):
        os.mkdir(f"dev/{directory}", 0o755)
    linux.mount("devpts", "dev/pts", "devpts", linux.MS_NOSUID | linux.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    linux.mount("shm", "dev/shm", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=1777")
    linux.mount("run", "run", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755")
    os.mkdir("run/lock", 0o1777)
    if not any(point == Path("/sys/fs/cgroup") for point, _, _ in trees):
        linux.mount("cgroup", "sys/fs/cgroup", "tmpfs", closed, "mode=755")
    for point, kind, options in trees:
        inside = str(point).lstrip("/")
        os.makedirs(inside, 0o755, exist_ok=True)
        linux.mount(kind, inside, kind, closed, options)
    os.umask(0o022)


if __name__ == "__main__":
    main()
