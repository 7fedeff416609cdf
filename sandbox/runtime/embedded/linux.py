"""The system calls Python lacks, through ctypes, and nothing else.

Constants are the kernel's UAPI values. Every function raises `OSError` with the errno of the call.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import Any

from sandbox.guest.process import checked, prctl

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
LOCKED_FLAGS = {
    os.ST_NOSUID: MS_NOSUID,
    os.ST_NODEV: MS_NODEV,
    os.ST_NOEXEC: MS_NOEXEC,
    os.ST_NOATIME: 0x400,
    os.ST_NODIRATIME: 0x800,
    os.ST_RELATIME: 0x200000,
}
"""What statvfs(3) says of a mount to what mount(2) has to be told again: from inside a user namespace none of it may be
left out.
"""
MNT_DETACH = 0x2

CAP_KILL = 5
CAP_SETGID = 6
CAP_SETUID = 7
CAP_SETPCAP = 8
CAP_SYS_CHROOT = 18
CAP_SYS_ADMIN = 21
CAP_SETFCAP = 31

_PR_CAPBSET_DROP = 24
_PR_SET_SECUREBITS = 28
_PR_SET_CHILD_SUBREAPER = 36
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4

_NR_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_NR_KEYCTL = {"x86_64": 250, "aarch64": 219}
_NR_PROCESS_MADVISE = 440
_MADV_COLLAPSE = 25
_NR_LANDLOCK_CREATE_RULESET = 444
_NR_LANDLOCK_ADD_RULE = 445
_NR_LANDLOCK_RESTRICT_SELF = 446
_KEYCTL_JOIN_SESSION_KEYRING = 1
_LANDLOCK_RULE_PATH_BENEATH = 1
_LANDLOCK_CREATE_RULESET_VERSION = 1

_libc = ctypes.CDLL(None, use_errno=True)
_machine = os.uname().machine


_unshare = checked("unshare", ctypes.c_int)
_setns = checked("setns", ctypes.c_int, ctypes.c_int)
_mount = checked("mount", ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_umount2 = checked("umount2", ctypes.c_char_p, ctypes.c_int)
_syscall = checked("syscall", ctypes.c_long, *[ctypes.c_void_p] * 6)
_capset = checked("capset", ctypes.c_void_p, ctypes.c_void_p)


def _call(number: int, *args: int | bytes | ctypes.Array[Any] | None) -> int:
    padded = [*args, *[None] * (6 - len(args))]
    return _syscall(number, *[ctypes.c_char_p(a) if isinstance(a, bytes) else a for a in padded])


def unshare(flags: int) -> None:
    """Move this process (for NEWPID: its children) into new namespaces."""
    _unshare(flags)


def setns(fd: int, kind: int = 0) -> None:
    """Join the namespace behind `fd`, an open file of `/proc/PID/ns`."""
    _setns(fd, kind)


def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """mount(2)."""
    try:
        _mount(source.encode(), target.encode(), kind.encode() if kind else None, flags, data.encode() or None)
    except OSError as error:
        raise OSError(error.errno, f"mount {kind or 'bind'} {source} on {target}: {error.strerror}") from None


def umount(target: str) -> None:
    """Detach the mount at `target` at once; it ends when nobody uses it any more."""
    _umount2(target.encode(), MNT_DETACH)


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    """Swap the root mount of this mount namespace."""
    _call(_NR_PIVOT_ROOT[_machine], new_root, put_old)


def become_subreaper() -> None:
    """Orphaned descendants become our children."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def lock_securebits() -> None:
    """NOROOT, NO_SETUID_FIXUP off, KEEP_CAPS off, NO_CAP_AMBIENT_RAISE; each with its lock bit."""
    noroot, noroot_locked, fixup_locked = 1 << 0, 1 << 1, 1 << 3
    keep_caps_locked, no_ambient, no_ambient_locked = 1 << 5, 1 << 6, 1 << 7
    bits = noroot | noroot_locked | fixup_locked | keep_caps_locked | no_ambient | no_ambient_locked
    prctl(_PR_SET_SECUREBITS, bits, 0, 0, 0)


def drop_bounding(keep: set[int]) -> None:
    """Shrink the bounding set to `keep` and clear the ambient set."""
    for capability in range(64):
        try:
            if capability not in keep:
                prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        except OSError as error:
            if error.errno == errno.EINVAL:
                break  # past the running kernel's last capability
            raise
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)


def set_capabilities(keep: set[int]) -> None:
    """Permitted and effective become `keep`; inheritable becomes empty."""
    bits = sum(1 << capability for capability in keep)
    header = struct.pack("=Ii", 0x20080522, 0)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    _capset(header, struct.pack("=6I", low, low, 0, high, high, 0))


def keep_capabilities_over_setuid(on: bool) -> None:
    """PR_SET_KEEPCAPS: a change of uid leaves the permitted set alone."""
    prctl(8, int(on), 0, 0, 0)


def set_fs_ids(uid: int, gid: int) -> None:
    """File accesses of this thread, and of threads it starts later, are made as `uid` and `gid`.

    Signals and ptrace still go by the real ids, so the owner of `uid` gains no power over this process.
    """
    _libc.setfsgid(ctypes.c_uint(gid))
    _libc.setfsuid(ctypes.c_uint(uid))
    # The calls cannot report failure; asking for an impossible id returns the one in force.
    if _libc.setfsuid(ctypes.c_int(-1)) != uid or _libc.setfsgid(ctypes.c_int(-1)) != gid:
        raise PermissionError(f"setfsuid({uid}), setfsgid({gid}) did not take")


def new_session_keyring() -> None:
    """Leave the inherited keyring; without key support in the kernel there is nothing to leave."""
    try:
        _call(_NR_KEYCTL[_machine], _KEYCTL_JOIN_SESSION_KEYRING, None)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise


def landlock_abi() -> int:
    """Landlock's ABI version; 0 where the kernel has none."""
    try:
        return _call(_NR_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION)
    except OSError:
        return 0


def landlock(handled: int, scoped: int, rules: list[tuple[str, int]]) -> None:
    """Restrict this thread: of the `handled` file rights only those in `rules` (path, rights) remain."""
    attributes = struct.pack("=QQQ", handled, 0, scoped) if scoped else struct.pack("=Q", handled)
    ruleset = _call(_NR_LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for path, rights in rules:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                _call(
                    _NR_LANDLOCK_ADD_RULE,
                    ruleset,
                    _LANDLOCK_RULE_PATH_BENEATH,
                    struct.pack("=Qi", rights & handled, fd),
                    0,
                )
            finally:
                os.close(fd)
        _call(_NR_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def collapse_memory(pid: int) -> None:
    """Have the kernel back a process's anonymous memory with huge pages, for each of which a fork copies one entry
    instead of 512.

    Best effort: nothing before Linux 6.1. Takes some tenths of a second for 200 MB.
    """
    huge = 2 << 20
    with open(f"/proc/{pid}/maps") as file:
        fields = [line.split() for line in file]
    pidfd = os.pidfd_open(pid)
    try:
        for addresses, permissions, _, _, inode, *_ in fields:
            start, end = (int(address, 16) for address in addresses.split("-"))
            start, end = -(-start // huge) * huge, end // huge * huge
            if permissions.startswith("rw") and inode == "0" and start < end:
                with contextlib.suppress(OSError):  # parts of it are sparse, or the call is too new for this kernel
                    _call(_NR_PROCESS_MADVISE, pidfd, struct.pack("=QQ", start, end - start), 1, _MADV_COLLAPSE, 0)
    finally:
        os.close(pidfd)


def bound_unaccepted(most: int) -> None:
    """Let no socket of this network namespace have more connections that wait to be accepted: their memory is charged
    to no control group. Raises `OSError` where `/proc/sys` cannot be written to, as in most containers.
    """
    Path("/proc/sys/net/core/somaxconn").write_text(str(most))


def raise_loopback() -> None:
    """Bring up `lo` in this network namespace; ipykernel and asyncio programs bind 127.0.0.1."""
    siocgifflags, siocsifflags, iff_up = 0x8913, 0x8914, 0x1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack_from("H", fcntl.ioctl(sock, siocgifflags, request), 16)[0]
        fcntl.ioctl(sock, siocsifflags, struct.pack("16sH14x", b"lo", flags | iff_up))
