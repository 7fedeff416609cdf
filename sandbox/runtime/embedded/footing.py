"""On what the launcher stands: the host's root, or root of a user namespace that an ordinary user may make.

An ordinary user's launcher becomes root of a namespace of its own first, and does in there what the host's root does
outside. With subordinate ids (`/etc/subuid`, `newuidmap`) it can give every sandbox ids of its own as root does.
Without, there is one id, the user's: everybody in every sandbox has it on the host, and what tells them apart are the
namespaces around them.
"""

import errno
import json
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NoReturn, Self

from sandbox.runtime import locks
from sandbox.runtime.embedded import linux, mounts

FIRST_HOST_ID = 0x70000000
"""systemd's table of uid ranges leaves 0x70000000 to 0x7FFFFFFE unused."""
IDS_PER_INSTANCE, MAX_INSTANCES = 65_536, 4096
"""Of the host's root."""
SUBORDINATE_IDS_PER_INSTANCE = 4096
_SINGLE_ID = 1000
"""Who a program is to itself where all have the user's id."""
_ENOUGH = 10_000


class Unfit(Exception):
    """This host cannot contain anything; the text says what is missing."""


class Standing(StrEnum):
    """Whose ids sandboxes have."""

    ROOT = "root"
    SUBORDINATE = "subordinate ids"
    SINGLE = "single id"


@dataclass(frozen=True, slots=True)
class Share:
    """The ids of one instance: where they begin for the launcher, and who is who among them, counted from there."""

    first: int
    count: int
    slots: int
    kernels: int
    inits: int
    single: bool = False

    def ids(self, slot: int) -> mounts.Ids:
        """Who is who in the sandbox of this slot."""
        if self.single:
            return mounts.Ids(0, 0, _SINGLE_ID)
        return mounts.Ids(init=self.inits + slot, kernel=self.kernels + slot, shown=self.kernels + slot)


@dataclass(frozen=True, slots=True)
class Footing:
    """What the launcher has to give."""

    standing: Standing
    run_directory: Path
    """Locks of instances, and where they stage images."""
    instances: int
    why: str = ""
    """Where ids are single: what subordinate ones would take."""

    def words(self) -> str:
        """For `told`, in another process."""
        return json.dumps([self.standing, str(self.run_directory), self.instances, self.why])

    @classmethod
    def told(cls, words: str) -> Self:
        """What `words` gave."""
        standing, run_directory, instances, why = json.loads(words)
        return cls(Standing(standing), Path(run_directory), instances, why)

    def share(self, number: int) -> Share:
        """Of the instance with this number."""
        if self.standing is Standing.ROOT:
            return Share(
                FIRST_HOST_ID + number * IDS_PER_INSTANCE, IDS_PER_INSTANCE, slots=10_000, kernels=10_000, inits=40_000
            )
        if self.standing is Standing.SINGLE:
            return Share(0, 1, slots=1000, kernels=0, inits=0, single=True)
        first = 1 + number * SUBORDINATE_IDS_PER_INSTANCE
        return Share(first, SUBORDINATE_IDS_PER_INSTANCE, slots=1000, kernels=1000, inits=2500)


def take() -> Footing:
    """Stand on what there is; an ordinary user's process is root of a new user namespace after it. Raises `Unfit`."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        return Footing(Standing.ROOT, locks.DIRECTORY, MAX_INSTANCES)
    if (forbidden := forbids_user_namespaces(_read)) is not None:
        raise Unfit(f"{forbidden[0]}; {forbidden[1]}. Or run as root, or use the docker runtime")
    run_directory = _run_directory(uid)
    count, why = subordinate_ids(_read, uid)
    if count:
        why = _enter_with(_mapper(uid, count))
    if why:
        _enter_alone(uid, gid, entered=bool(count))
        return Footing(Standing.SINGLE, run_directory, 64, why)
    return Footing(Standing.SUBORDINATE, run_directory, count // SUBORDINATE_IDS_PER_INSTANCE)


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def forbids_user_namespaces(read: Callable[[str], str]) -> tuple[str, str] | None:
    """What on this host keeps ordinary users from making user namespaces, and the way to allow it."""
    if read("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        words = "ordinary users may not make user namespaces (kernel.unprivileged_userns_clone is 0)"
        return words, "sudo sysctl -w kernel.unprivileged_userns_clone=1"
    if read("/proc/sys/user/max_user_namespaces") == "0":
        return "user namespaces are disabled (user.max_user_namespaces is 0)", "sudo sysctl -w " + (
            f"user.max_user_namespaces={_ENOUGH}"
        )
    restricted = read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1"
    if restricted and read("/proc/self/attr/current") in ("", "unconfined"):
        words = "AppArmor takes all rights away in an ordinary user's namespaces"
        words += " (kernel.apparmor_restrict_unprivileged_userns is 1)"
        return words, (
            "give the Python in use a profile with `userns,`, as docs/deploy.md shows, "
            "or sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        )
    return None


def subordinate_ids(read: Callable[[str], str], uid: int, root: Path = Path("/")) -> tuple[int, str]:
    """How many this user may use of both kinds, 0 if not enough for one instance; and then why.

    root: where the host's files are.
    """
    path = f"{root}/usr/bin:{root}/bin"
    absent = [name for name in ("newuidmap", "newgidmap") if shutil.which(name, path=path) is None]
    if absent:
        return 0, f"{' and '.join(absent)} are not installed: sudo apt install uidmap"
    count = min(_subordinate(read, kind, uid)[1] for kind in ("uid", "gid"))
    if count < SUBORDINATE_IDS_PER_INSTANCE:
        name = _name(uid)
        fix = f"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}"
        return 0, f"/etc/subuid and /etc/subgid give {name} {count or 'no'} ids: {fix} (a range that nobody has)"
    return count, ""


def _subordinate(read: Callable[[str], str], kind: str, uid: int) -> tuple[int, int]:
    """The user's largest range: first and count."""
    largest = (0, 0)
    for line in read(f"/etc/sub{kind}").splitlines():
        who, first, count, *_ = [*line.split(":"), "", "", ""]
        if who in (str(uid), _name(uid)) and first.isdigit() and count.isdigit() and int(count) > largest[1]:
            largest = (int(first), int(count))
    return largest


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _run_directory(uid: int) -> Path:
    """The same for all engines of a user, whatever their environment; nobody else can have made it."""
    runtime = Path(f"/run/user/{uid}")
    directory = runtime / "sandbox" if os.access(runtime, os.W_OK) else Path(f"/tmp/sandbox-{uid}")
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if directory.is_symlink() or found.st_uid != uid or found.st_mode & 0o022:
        raise Unfit(f"{directory} belongs to somebody else, or others may write to it; remove it")
    return directory


def _mapper(uid: int, count: int) -> dict[str, list[str]]:
    """The programs that write the maps of a process, by what they map, without its pid."""
    firsts = {"gid": os.getegid(), "uid": uid}
    arguments = {}
    for kind, own in firsts.items():
        first, _ = _subordinate(_read, kind, uid)
        arguments[kind] = ["0", str(own), "1", "1", str(first), str(count)]
    return arguments


def _enter_with(maps: dict[str, list[str]]) -> str:
    """A user namespace with subordinate ids; words if they were refused, and then only the maps are missing.

    newuidmap and newgidmap are set-uid programs of the host that act on a process from outside its namespace, so a
    child that stays outside runs them.
    """
    ours, theirs = socket.socketpair()
    launcher, mapper = os.getpid(), os.fork()
    if mapper == 0:
        ours.close()
        _map(theirs, launcher, maps)
    theirs.close()
    with ours:
        _unshare_user()
        ours.send(b"U")
        verdict = ours.recv(4096).decode(errors="replace")
    os.waitpid(mapper, 0)
    if verdict == "mapped":
        _become_root()
        return ""
    if _read("/proc/self/gid_map"):
        raise Unfit(f"newgidmap mapped this user's ids, but newuidmap did not: {verdict}")
    return f"subordinate ids were refused: {verdict}"


def _map(link: socket.socket, launcher: int, maps: dict[str, list[str]]) -> NoReturn:
    try:
        if link.recv(1) == b"U":
            for kind, arguments in maps.items():
                command = [f"new{kind}map", str(launcher), *arguments]
                ended = subprocess.run(command, capture_output=True, text=True, check=False)
                if ended.returncode != 0:
                    link.send((ended.stderr.strip() or f"{command[0]} exited {ended.returncode}").encode())
                    break
            else:
                link.send(b"mapped")
    finally:
        os._exit(0)


def _enter_alone(uid: int, gid: int, *, entered: bool) -> None:
    """A user namespace in which nobody is there but us; `entered` if we are in it and only the maps are missing."""
    if not entered:
        _unshare_user()
    # An unprivileged process may map its group only after it has given up changing its groups.
    for name, text in (("setgroups", "deny"), ("gid_map", f"0 {gid} 1"), ("uid_map", f"0 {uid} 1")):
        Path(f"/proc/self/{name}").write_text(text)
    _become_root()


def _unshare_user() -> None:
    try:
        linux.unshare(linux.CLONE_NEWUSER)
    except OSError as error:
        raise Unfit(f"{_words(error)}. Or run as root, or use the docker runtime") from error


def _words(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EUSERS):
        return f"no more user namespaces are allowed; sudo sysctl -w user.max_user_namespaces={_ENOUGH}"
    if error.errno == errno.EINVAL:
        return "this kernel has no user namespaces; use one with CONFIG_USER_NS"
    return (
        f"an ordinary user may not make a user namespace here ({error.strerror}): this is a container whose filter "
        "forbids it, or a security module does; in a container run as root with the flags of compose.yaml"
    )


def _become_root() -> None:
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
