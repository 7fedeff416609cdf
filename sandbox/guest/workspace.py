"""Files of the workspace, read and written from inside the sandbox by init, with the program's own file rights.

The host sends names as data and never opens a path that a program can influence. Here every path is resolved
beneath the workspace without following any link, and only regular files are opened.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import Any

from sandbox.guest.arrival import Arrival
from sandbox.guest.beneath import beneath
from sandbox.guest.frames import CHUNK, MAX_HANDLES
from sandbox.guest.walk import Look, Walk

_KINDS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "full"),
    **dict.fromkeys(
        (errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EXDEV, errno.ENAMETOOLONG, errno.EINVAL), "invalid"
    ),
    **dict.fromkeys((errno.ENXIO, errno.ENODEV, errno.ESTALE), "missing"),
}


class Refused(Exception):
    """A file operation that cannot be; `kind` is one of missing, forbidden, invalid, full, limit, failed."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Workspace:
    """`/mnt/data`, by an open directory that no program can move."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._handles: dict[int, int | Arrival] = {}
        """What is read, and what is written."""

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
        return Look(self._root, {file.temporary for file in self._handles.values() if isinstance(file, Arrival)}).walk()

    def listing(self) -> tuple[dict[str, Any], Iterator[list[Any]]]:
        """What `call` has no room for: what the host is told of a walk, and the files. Raises `Refused`."""
        try:
            seen = self.walk()
        except OSError as error:
            raise Refused(_kind_of(error), os.strerror(error.errno or 0)) from error
        rows = ([path, *file.told()] for path, file in sorted(seen.files.items()))
        return {"complete": seen.sight.complete, "shut": seen.sight.shut, "unnamed": seen.unnamed}, rows

    def _open(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        fd, size = self._regular(str(request["path"]))
        self._keep(request["handle"], fd)
        return {"size": size}, b""

    def _regular(self, path: str) -> tuple[int, int]:
        """A regular file, opened for reading, and its size. Raises `Refused`, `OSError`."""
        # Without O_NONBLOCK a FIFO would hold init until somebody writes to it.
        fd = beneath(self._root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
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
        file = self._handles[request["handle"]]
        if isinstance(file, Arrival):
            raise Refused("invalid", "this handle was opened for writing")
        return {}, os.read(file, CHUNK)

    def _create(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        path = str(request["path"])
        directory, _, name = path.rpartition("/")
        self._make_directories(directory)
        temporary = f"{directory}/.{os.urandom(8).hex()}.upload".lstrip("/")
        if not name:
            raise Refused("invalid", "a file needs a name")
        fd = beneath(self._root, temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        self._keep(request["handle"], Arrival(fd, temporary, path))
        return {}, b""

    def _make_directories(self, directory: str) -> None:
        path = ""
        for part in directory.split("/") if directory else ():
            parent = beneath(self._root, path or ".", os.O_RDONLY | os.O_DIRECTORY)
            try:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=parent)
            finally:
                os.close(parent)
            path = f"{path}/{part}" if path else part

    def _write(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        self._arrival(request).write(payload)
        return {}, b""

    def _commit(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        arrival = self._arrival(request)
        self._rename(arrival.temporary, arrival.path)
        told = arrival.told()
        del self._handles[request["handle"]]
        os.close(arrival.fd)
        return {"file": told}, b""

    def _arrival(self, request: dict[str, Any]) -> Arrival:
        file = self._handles[request["handle"]]
        if not isinstance(file, Arrival):
            raise Refused("invalid", "this handle was opened for reading")
        return file

    def _rename(self, temporary: str, path: str) -> None:
        directory, _, name = path.rpartition("/")
        parent = beneath(self._root, directory or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.rename(temporary.rpartition("/")[2], name, src_dir_fd=parent, dst_dir_fd=parent)
        finally:
            os.close(parent)

    def _close(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        file = self._handles.pop(request["handle"], None)
        if isinstance(file, Arrival):
            os.close(file.fd)
            self._unlink(file.temporary)
        elif file is not None:
            os.close(file)
        return {}, b""

    def _remove(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        path = str(request["path"])
        fd = beneath(self._root, path, os.O_PATH | os.O_NOFOLLOW)
        try:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                raise Refused("missing", f"{path} is a directory")
        finally:
            os.close(fd)
        self._unlink(path)
        return {}, b""

    def _unlink(self, path: str) -> None:
        directory, _, name = path.rpartition("/")
        parent = beneath(self._root, directory or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.unlink(name, dir_fd=parent)
        finally:
            os.close(parent)

    def _keep(self, handle: int, file: int | Arrival) -> None:
        # The host chooses the number, so that it can close what it opened although it did not wait for the answer.
        if len(self._handles) >= MAX_HANDLES or handle in self._handles:
            os.close(file if isinstance(file, int) else file.fd)
            raise Refused("limit", "too many open files; close some")
        self._handles[handle] = file


def _kind_of(error: OSError) -> str:
    return _KINDS.get(error.errno or 0, "failed")
