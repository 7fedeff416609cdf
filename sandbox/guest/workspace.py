"""Files of the workspace, read and written from inside the sandbox by init, with the program's own file rights.

The host sends names as data and never opens a path that a program can influence. Here every path is resolved
beneath the workspace without following any link, and only regular files are opened.
"""

import contextlib
import ctypes
import errno
import os
import secrets
import stat
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sandbox.guest.frames import CHUNK, MAX_DEPTH, MAX_ENTRIES, MAX_HANDLES
from sandbox.guest.output import OUTPUTS
from sandbox.guest.sight import MAX_SHUT, Sight

_NAME_BYTES = 3 << 19
"""A walk stops here and says so: at six bytes of JSON for one of a name, two lists of so many fit into a frame."""
_WALK_SECONDS = 2.0
_NR_OPENAT2 = 437
_RESOLVE = 0x08 | 0x04 | 0x02 | 0x01  # BENEATH | NO_SYMLINKS | NO_MAGICLINKS | NO_XDEV

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class Refused(Exception):
    """A file operation that cannot be; `kind` is one of missing, forbidden, invalid, full, limit."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Seen:
    """A regular file as it was seen. The change time cannot be forged with utime(2)."""

    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Seen":
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    @property
    def version(self) -> str:
        """Another one after every change."""
        return f"{self.inode:x}-{self.size:x}-{self.modified_ns:x}-{self.changed_ns:x}"

    def told(self) -> tuple[int, int, str]:
        """What the host is told of it."""
        return self.size, self.modified_ns, self.version


@dataclass(frozen=True, slots=True)
class Walk:
    """What was seen of the workspace."""

    files: dict[str, Seen]
    """The regular files, by their paths."""
    sight: Sight

    def mark(self) -> int | None:
        """Equal for two walks: no file has changed between them. None: it cannot be told."""
        return hash(frozenset(self.files.items())) if self.sight.whole else None


def _beneath(root: int, path: str, flags: int, mode: int = 0) -> int:
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


class Workspace:
    """`/mnt/data`, by an open directory that no program can move."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._handles: dict[int, tuple[int, str | None, str | None]] = {}
        self._unnamed = 0
        """What the last walk saw under names that cannot be told: not UTF-8, or too deep."""

    def call(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """One file operation of the host. Raises `Refused`."""
        operations = {
            "open": self._open,
            "read": self._read,
            "gather": self._gather,
            "create": self._create,
            "write": self._write,
            "commit": self._commit,
            "close": self._close,
            "remove": self._remove,
        }
        try:
            return operations[request["op"]](request, payload)
        except (KeyError, TypeError, ValueError) as error:
            raise Refused("invalid", f"malformed file operation: {error}") from error
        except FileNotFoundError as error:
            raise Refused("missing", f"there is no file {error.filename}") from error
        except PermissionError as error:
            raise Refused("forbidden", f"{request.get('path') or error.filename}: {error.strerror}") from error
        except OSError as error:
            raise Refused(_kind_of(error), os.strerror(error.errno or 0)) from error

    def walk(self) -> Walk:
        """Look at all there is, within bounds."""
        self._unnamed = 0
        found: dict[str, Seen] = {}
        shut = list[str]()
        complete = self._look(found, shut) and len(shut) <= MAX_SHUT
        return Walk(found, Sight(complete, tuple(shut[:MAX_SHUT])))

    def _look(self, found: dict[str, Seen], shut: list[str]) -> bool:
        """Fill them, and return whether that is all."""
        deadline = time.monotonic() + _WALK_SECONDS
        directories = [""]
        entries = name_bytes = 0
        complete = True
        while directories:
            relative = directories.pop()
            try:
                fd = _beneath(self._root, relative or ".", os.O_RDONLY | os.O_DIRECTORY)
            except PermissionError:
                shut.append(relative)
                continue
            except OSError:
                complete = False  # moved since its name was read, perhaps to where we have been
                continue
            try:
                with os.scandir(fd) as scan:
                    for entry in scan:
                        path = f"{relative}/{entry.name}" if relative else entry.name
                        entries += 1
                        name_bytes += len(os.fsencode(path))
                        if entries > MAX_ENTRIES or name_bytes > _NAME_BYTES or time.monotonic() > deadline:
                            return False
                        complete &= self._see(entry, path, directories, found)
            finally:
                os.close(fd)
        return complete

    def _see(self, entry: "os.DirEntry[str]", path: str, directories: list[str], found: dict[str, Seen]) -> bool:
        """Whether it was seen, or is nothing that the host could ever ask for."""
        try:
            path.encode()
            status = entry.stat(follow_symlinks=False)
        except UnicodeEncodeError:
            self._unnamed += 1
            return True
        except FileNotFoundError:
            return True  # deleted since its name was read
        except OSError:
            return False
        if stat.S_ISDIR(status.st_mode):
            if path == OUTPUTS:
                return True
            if path.count("/") + 1 >= MAX_DEPTH:
                self._unnamed += 1
                return True
            directories.append(path)
        elif stat.S_ISREG(status.st_mode) and not self._is_under_way(path):
            found[path] = Seen.of(status)
        return True

    def _is_under_way(self, path: str) -> bool:
        """Whether it is the unfinished half of an upload, which is nobody's file yet."""
        return any(temporary == path for _, temporary, _ in self._handles.values())

    def listing(self) -> tuple[dict[str, Any], Iterator[list[Any]]]:
        """What `call` has no room for: what the host is told of a walk, and the files. Raises `Refused`."""
        try:
            seen = self.walk()
        except OSError as error:
            raise Refused(_kind_of(error), os.strerror(error.errno or 0)) from error
        rows = ([path, *file.told()] for path, file in sorted(seen.files.items()))
        return {"complete": seen.sight.complete, "shut": seen.sight.shut, "unnamed": self._unnamed}, rows

    def _open(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        fd, size = self._regular(str(request["path"]))
        self._keep(request["handle"], fd, None, None)
        return {"size": size}, b""

    def _regular(self, path: str) -> tuple[int, int]:
        """A regular file, opened for reading, and its size. Raises `Refused`, `OSError`."""
        # Without O_NONBLOCK a FIFO would hold init until somebody writes to it.
        fd = _beneath(self._root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise Refused("missing", f"{path} is not a regular file")
        return fd, status.st_size

    def _gather(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Small files at once; no size for one that has to be asked for by itself."""
        sizes: list[int | None] = []
        gathered = bytearray()
        for path in request["paths"]:
            content = self._whole(str(path), CHUNK - len(gathered))
            sizes.append(None if content is None else len(content))
            gathered += content or b""
        return {"sizes": sizes}, bytes(gathered)

    def _whole(self, path: str, most: int) -> bytes | None:
        try:
            fd, size = self._regular(path)
        except (Refused, OSError):
            return None
        try:
            return os.read(fd, size) if size <= most else None
        except OSError:
            return None
        finally:
            os.close(fd)

    def _read(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        fd = self._handles[request["handle"]][0]
        return {}, os.read(fd, CHUNK)

    def _create(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        path = str(request["path"])
        directory, _, name = path.rpartition("/")
        self._make_directories(directory)
        temporary = f"{directory}/.{secrets.token_hex(8)}.upload".lstrip("/")
        if not name:
            raise Refused("invalid", "a file needs a name")
        fd = _beneath(self._root, temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        self._keep(request["handle"], fd, temporary, path)
        return {}, b""

    def _make_directories(self, directory: str) -> None:
        path = ""
        for part in directory.split("/") if directory else ():
            parent = _beneath(self._root, path or ".", os.O_RDONLY | os.O_DIRECTORY)
            try:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=parent)
            finally:
                os.close(parent)
            path = f"{path}/{part}" if path else part

    def _write(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        fd = self._handles[request["handle"]][0]
        view = memoryview(payload)
        while view:
            view = view[os.write(fd, view) :]
        return {}, b""

    def _commit(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        fd, temporary, path = self._handles[request["handle"]]
        if temporary is None or path is None:
            raise Refused("invalid", "this handle was opened for reading")
        self._rename(temporary, path)
        seen = Seen.of(os.fstat(fd))
        del self._handles[request["handle"]]
        os.close(fd)
        return {"file": seen.told()}, b""

    def _rename(self, temporary: str, path: str) -> None:
        directory, _, name = path.rpartition("/")
        parent = _beneath(self._root, directory or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.rename(temporary.rpartition("/")[2], name, src_dir_fd=parent, dst_dir_fd=parent)
        finally:
            os.close(parent)

    def _close(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        entry = self._handles.pop(request["handle"], None)
        if entry is not None:
            os.close(entry[0])
            if entry[1] is not None:
                self._unlink(entry[1])
        return {}, b""

    def _remove(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        path = str(request["path"])
        fd = _beneath(self._root, path, os.O_PATH | os.O_NOFOLLOW)
        try:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                raise Refused("missing", f"{path} is a directory")
        finally:
            os.close(fd)
        self._unlink(path)
        return {}, b""

    def _unlink(self, path: str) -> None:
        directory, _, name = path.rpartition("/")
        parent = _beneath(self._root, directory or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.unlink(name, dir_fd=parent)
        finally:
            os.close(parent)

    def _keep(self, handle: int, fd: int, temporary: str | None, path: str | None) -> None:
        # The host chooses the number, so that it can close what it opened although it did not wait for the answer.
        if len(self._handles) >= MAX_HANDLES or handle in self._handles:
            os.close(fd)
            raise Refused("limit", "too many open files; close some")
        self._handles[handle] = (fd, temporary, path)


def _kind_of(error: OSError) -> str:
    if error.errno in (28, 122, 27):  # ENOSPC, EDQUOT, EFBIG
        return "full"
    if error.errno in (20, 21, 40, 18, 36, 22):  # ENOTDIR, EISDIR, ELOOP, EXDEV, ENAMETOOLONG, EINVAL
        return "invalid"
    return "missing"
