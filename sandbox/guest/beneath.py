"""Opening what lies beneath a directory, by a path that a program may have laid out, without following any link."""

import ctypes
import errno
import os
import stat
import struct

_NR_OPENAT2 = 437
_RESOLVE = 0x08 | 0x04 | 0x02 | 0x01  # BENEATH | NO_SYMLINKS | NO_MAGICLINKS | NO_XDEV

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def beneath(root: int, path: str, flags: int, mode: int = 0) -> int:
    """An open descriptor. Raises `OSError`."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, _RESOLVE)
    fd: int = _libc.syscall(
        ctypes.c_long(_NR_OPENAT2), ctypes.c_int(root), path.encode(), how, ctypes.c_size_t(len(how))
    )
    if fd < 0:
        code = ctypes.get_errno()
        if code == errno.ENOSYS:  # gVisor
            return _step_beneath(root, path, flags, mode)
        raise OSError(code, os.strerror(code), path)
    return fd


def _step_beneath(root: int, path: str, flags: int, mode: int) -> int:
    """The same from one directory to the next, none of them by a link."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    last = "." if flags & os.O_DIRECTORY or not parts else parts.pop()
    fd = os.dup(root)
    try:
        for directory in parts:
            # By O_PATH, which has a link itself: gVisor follows links where O_DIRECTORY is asked for, too.
            above, fd = fd, os.open(directory, os.O_PATH | os.O_NOFOLLOW, dir_fd=fd)
            os.close(above)
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return os.open(last, flags | os.O_NOFOLLOW, mode, dir_fd=fd)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)
