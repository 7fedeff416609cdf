"""The steps of containment, in order; any failure ends the process that fails.

Three processes go through here, and a fourth looks at the result. `enter_namespaces` is the short-lived set-up
process of a sandbox, still host root; `confine_init` is PID 1 after its mounts; `contain_kernel` is the fork that will
be a kernel on its way into a sandbox; `verify` is the launcher's look at it from outside. Read each from top to
bottom: that is the jail. Standard library only: the zygote runs this with the image's Python.
"""

import os
import resource
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox.guest import process
from sandbox.runtime.embedded import cgroup, linux, mounts, seccomp

NAMESPACES = {
    "mnt": linux.CLONE_NEWNS,
    "net": linux.CLONE_NEWNET,
    "ipc": linux.CLONE_NEWIPC,
    "uts": linux.CLONE_NEWUTS,
    "cgroup": linux.CLONE_NEWCGROUP,
    "pid": linux.CLONE_NEWPID,
}
"""Every namespace a sandbox has of its own, by its name in `/proc/PID/ns`."""

ZYGOTE_CAPABILITIES = {
    linux.CAP_SYS_ADMIN,
    linux.CAP_SYS_CHROOT,
    linux.CAP_SETUID,
    linux.CAP_SETGID,
    linux.CAP_SETPCAP,
}
"""What putting a child into a sandbox takes; all relative to the user namespace, none of it valid on the host."""

_FLAGS = 5
"""In `/proc/PID/stat`, of the numbers behind the state."""
_PF_EXITING = 0x4

_NR_OPENAT2 = 437
_NR_MEMFD_CREATE = seccomp.ALLOWED["memfd_create"]

# Built once: every fork of a launcher or a zygote finds them ready.
_INIT_FILTER = seccomp.program(also_allow=(_NR_OPENAT2, seccomp.ALLOWED["fcntl"]))
_KERNEL_FILTER = seccomp.program()
# Bytes of a memory file that nobody maps belong to no process, nor do those of shared memory that was mapped and let go
# of, so whoever watches processes would not see them.
_WATCHED_KERNEL_FILTER = seccomp.program(absent=(_NR_MEMFD_CREATE,), nameless=False)
_WATCHED_NICENESS = 5

_LANDLOCK_EXECUTE, _LANDLOCK_WRITE_FILE, _LANDLOCK_READ_FILE, _LANDLOCK_READ_DIR = 1, 2, 4, 8
_LANDLOCK_MAKE_CHAR, _LANDLOCK_MAKE_BLOCK = 1 << 6, 1 << 11
_LANDLOCK_REFER, _LANDLOCK_TRUNCATE, _LANDLOCK_IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_LANDLOCK_SCOPE_ABSTRACT_UNIX, _LANDLOCK_SCOPE_SIGNAL = 1, 2


@dataclass(frozen=True, slots=True)
class Cell:
    """What the kernel's way into one sandbox needs to know. Crosses to the zygote as JSON."""

    uid: int
    file_bytes: int
    """RLIMIT_FSIZE: no single file may be larger."""
    processes: int
    readable: Sequence[str]
    """Trees that may be read and executed from."""
    shown: int
    """The uid as a program sees it; another than `uid` in a further user namespace, with no other id in it."""
    soft: bool
    """Whether memory is watched, for want of control groups."""


def become_user_root(user_namespace: int, *, single: bool) -> None:
    """Join the user namespace of all sandboxes and become its root, which is nobody on the host.

    single: where it has one id only, its root is the user, and the user's groups cannot be dropped.
    """
    linux.setns(user_namespace, linux.CLONE_NEWUSER)
    if not single:
        os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def enter_namespaces(user_namespace: int, wanted: Sequence[str] = tuple(NAMESPACES), *, single: bool) -> None:
    """New namespaces, owned by the user namespace, for this process (pid: for its next child)."""
    become_user_root(user_namespace, single=single)
    flags = 0
    for name in wanted:
        flags |= NAMESPACES[name]
    linux.unshare(flags)


def confine_init(ids: mounts.Ids) -> None:
    """PID 1 keeps one capability, CAP_KILL, whose reach ends at its pid namespace.

    Its files are opened as the kernel's uid, so it can read what a program made with any umask, yet the program
    cannot signal or trace it. Where ids are single it has the program's: then a PID 1 is deaf to signals of its own
    namespace, cannot be dumped, and the program's filter knows no tracing.
    """
    linux.raise_loopback()
    socket.sethostname("sandbox")
    keep = {linux.CAP_KILL, linux.CAP_SETUID, linux.CAP_SETGID}
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    linux.drop_bounding({linux.CAP_KILL})
    linux.keep_capabilities_over_setuid(True)
    # The group that sees other processes in this /proc. Membership is by file-system gid, which becomes the kernel's.
    if not ids.single:
        os.setgroups([ids.init])
    os.setresgid(ids.init, ids.init, ids.init)
    os.setresuid(ids.init, ids.init, ids.init)
    linux.set_capabilities(keep)
    linux.set_fs_ids(ids.kernel, ids.kernel)
    linux.set_capabilities({linux.CAP_KILL})
    linux.new_session_keyring()
    process.forbid_dumps()
    os.umask(0o022)
    process.forbid_new_privileges()
    process.load_seccomp(_INIT_FILTER)


def confine_zygote(*, single: bool) -> None:
    """The zygote holds imported libraries, so it holds only what forking into a sandbox takes. Who acts for one, too.

    single: where there is one id only, kernels get a user namespace each, whose one id is our root's. The kernel lets
    nobody map a root who could not give files capabilities.
    """
    linux.new_session_keyring()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    keep = ZYGOTE_CAPABILITIES | ({linux.CAP_SETFCAP} if single else set())
    linux.drop_bounding(keep)
    linux.set_capabilities(keep)


def contain_kernel(cell: Cell, namespaces: Sequence[int], keep: set[int]) -> None:
    """From a fork in the pid namespace to a contained kernel. `namespaces`: open files of all but the pid namespace."""
    for fd in namespaces:
        linux.setns(fd)
    if cell.shown != cell.uid:
        _enter_own_user_namespace(cell)
    os.setsid()
    process.close_all_but(keep)
    process.reset_signals()
    os.umask(0o077)
    _set_rlimits(cell)
    if cell.soft:
        os.setpriority(os.PRIO_PROCESS, 0, _WATCHED_NICENESS)  # whoever watches must come first
    _drop_privileges(cell)
    _enter_workspace(cell)
    # As the sandbox's own uid: keys are counted per uid, and 200 sandboxes would use up a common one.
    linux.new_session_keyring()
    process.forbid_dumps()
    process.forbid_new_privileges()
    _restrict_files(cell)
    process.load_seccomp(_WATCHED_KERNEL_FILTER if cell.soft else _KERNEL_FILTER)


def _enter_workspace(cell: Cell) -> None:
    """Which is the program's alone. One before may have shut it, and where there is one id all that it writes to."""
    os.chmod(mounts.WORKSPACE, 0o700)
    if cell.shown != cell.uid:
        for shared in ("/tmp", "/dev/shm"):
            os.chmod(shared, 0o1777)
    os.chdir(mounts.WORKSPACE)


def _enter_own_user_namespace(cell: Cell) -> None:
    """Its root is nobody, and what is counted by user, as processes are, is counted for this sandbox alone."""
    linux.unshare(linux.CLONE_NEWUSER)
    one = f"{cell.shown} {cell.uid} 1"
    for name, text in (("setgroups", "deny"), ("gid_map", one), ("uid_map", one)):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _set_rlimits(cell: Cell) -> None:
    # Not AS: numpy and pyarrow reserve large ranges they never touch.
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 1024),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, 256),
        (resource.RLIMIT_RTPRIO, 0),
        (resource.RLIMIT_NICE, 0),
        (resource.RLIMIT_FSIZE, cell.file_bytes),
        (resource.RLIMIT_NPROC, cell.processes),
        (resource.RLIMIT_STACK, 8 << 20),
    ):
        _, hard = resource.getrlimit(kind)
        bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bounded, bounded))


def _drop_privileges(cell: Cell) -> None:
    linux.drop_bounding(set())
    linux.lock_securebits()
    if cell.shown == cell.uid:
        os.setgroups([])
    os.setresgid(cell.shown, cell.shown, cell.shown)
    os.setresuid(cell.shown, cell.shown, cell.shown)
    linux.set_capabilities(set())
    try:
        os.setuid(0)
    except OSError:  # EPERM, or EINVAL where the namespace has no such id
        return
    raise PermissionError("a contained kernel could become root")


def _restrict_files(cell: Cell) -> None:
    """The second lock, should a mount ever expose a path it must not. TCP stays free: the network has no way out."""
    abi = linux.landlock_abi()
    if abi == 0:
        raise OSError("this kernel has no Landlock; boot with lsm=landlock,… or use another runtime")
    handled = (1 << 13) - 1
    handled |= _LANDLOCK_REFER if abi >= 2 else 0
    handled |= _LANDLOCK_TRUNCATE if abi >= 3 else 0
    handled |= _LANDLOCK_IOCTL_DEV if abi >= 5 else 0
    scoped = _LANDLOCK_SCOPE_ABSTRACT_UNIX | _LANDLOCK_SCOPE_SIGNAL if abi >= 6 else 0
    read = _LANDLOCK_READ_FILE | _LANDLOCK_READ_DIR
    everything = handled & ~(_LANDLOCK_MAKE_CHAR | _LANDLOCK_MAKE_BLOCK)
    device = _LANDLOCK_READ_FILE | _LANDLOCK_WRITE_FILE
    rules = [(tree, read | _LANDLOCK_EXECUTE) for tree in cell.readable]
    rules += [("/etc", read), ("/proc", read), ("/dev", read)]
    rules += [(tree, everything) for tree in (mounts.WORKSPACE, "/tmp", "/dev/shm")]
    rules += [(f"/dev/{name}", device) for name in ("null", "full", *(() if cell.soft else ("zero",)))]
    linux.landlock(handled, scoped, rules)


def verify(pid: int, uid: int, group: cgroup.Group, *, groups: Sequence[str] = ()) -> int:
    """Look at a kernel from outside; its pid inside if every wall stands, else `AssertionError` names the gap.

    uid: its uid as the caller sees it. groups: what could not be dropped.
    """
    # Ours are read each time: the number of a namespace that has ended is given to another.
    for name in (*NAMESPACES, "user"):
        if os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}"):
            raise AssertionError(f"its {name} namespace is the launcher's")
    status = status_of(pid)
    expected = {
        "Uid": [str(uid)] * 4,
        "Gid": [str(uid)] * 4,
        "Groups": list(groups),
        "NoNewPrivs": ["1"],
        "Seccomp": ["2"],
        "Threads": ["1"],
    } | {f"Cap{name}": ["0" * 16] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")}
    for key, value in expected.items():
        if status[key] != value:
            raise AssertionError(f"{key} is {status[key]}, not {value}")
    if not group.holds(pid):
        raise AssertionError("it is not in its cgroups")
    if len(status["NSpid"]) < 2:
        raise AssertionError("it is not in a pid namespace")
    return int(status["NSpid"][-1])


def lives(pid: int) -> bool:
    """Whether it is there and not about to end: from then on it has less and less of what it had."""
    try:
        _, _, told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
        state, *numbers = told.split()
        return state not in ("Z", "X") and not int(numbers[_FLAGS]) & _PF_EXITING
    except (OSError, ValueError, IndexError):
        return False


def status_of(pid: int) -> dict[str, list[str]]:
    """`/proc/PID/status`, each field's words."""
    with open(f"/proc/{pid}/status", errors="replace") as file:  # its name may be any bytes
        return {key: value.split() for key, _, value in (line.partition(":") for line in file)}
