"""What a process does to itself, where Python has no word for it: signals, descriptors, prctl.

Standard library only: launcher, inits, zygotes and kernels all use it. Every function raises `OSError` with the errno
of the call.
"""

import ctypes
import os
import resource
import signal
import struct
from collections.abc import Callable
from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
# As numbers and once: Python makes an exception of each real-time signal before it settles for the number.
_RESETTABLE = tuple(int(number) for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})

_libc = ctypes.CDLL(None, use_errno=True)


def checked(name: str, *argtypes: Any) -> Callable[..., int]:
    """A function of the C library that returns its result, or raises what errno says."""
    function = getattr(_libc, name)
    function.argtypes = argtypes
    # As declared: read as a long, the -1 of a function that returns an int may pass for 4294967295, and for success.
    function.restype = ctypes.c_long if name == "syscall" else ctypes.c_int

    def call(*args: Any) -> int:
        result: int = function(*args)
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"{name}: {os.strerror(code)}")
        return result

    return call


prctl = checked("prctl", ctypes.c_int, *[ctypes.c_ulong] * 4)
_close_range = checked("close_range", ctypes.c_uint, ctypes.c_uint, ctypes.c_int)


def close_all_but(keep: set[int]) -> None:
    """Close every descriptor from 3 up that is not in `keep`."""
    low = 3
    for fd in sorted(fd for fd in keep if fd >= 3):
        if fd > low:
            _close(low, fd - 1)
        low = fd + 1
    _close(low, 0xFFFFFFFF)


def _close(low: int, high: int) -> None:
    try:
        _close_range(low, high, 0)
    except OSError:  # gVisor knows of the call and refuses it
        os.closerange(low, min(high + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def die_with_parent(number: int) -> None:
    """Have the system send this signal to this process when its parent ends."""
    prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def forbid_dumps() -> None:
    """Same-uid processes can no longer look into this one."""
    prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def allow_dumps() -> None:
    """As after an exec: those of the same uid see this one in `/proc` as they see each other."""
    prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def name_process(name: str) -> None:
    """Set the name that `ps` shows (15 bytes)."""
    buffer = bytearray(name.encode()[:15] + b"\0")
    prctl(_PR_SET_NAME, _address(buffer), 0, 0, 0)


def forbid_new_privileges() -> None:
    """No exec can gain privileges any more; needed for seccomp and Landlock without CAP_SYS_ADMIN."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def load_seccomp(program: bytes) -> None:
    """Install a BPF program (an array of struct sock_filter) as this thread's last filter."""
    instructions = bytearray(program)
    fprog = bytearray(struct.pack("HxxxxxxP", len(program) // 8, _address(instructions)))
    prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, _address(fprog), 0, 0)


def _address(buffer: bytearray) -> int:
    # Unlike a string buffer of ctypes' this takes no type of its own, of which to make one costs every fork anew.
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def reset_signals() -> None:
    """The dispositions of a fresh Python and an empty mask, whatever the parent had."""
    signal.set_wakeup_fd(-1)
    for number in _RESETTABLE:
        ignored = number in (signal.SIGPIPE, signal.SIGXFSZ)  # as Python itself has them: they become OSError
        try:
            signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
        except OSError:
            continue  # glibc keeps 32 and 33 for itself
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
