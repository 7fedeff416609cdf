"""A container's file system out of the daemon's tar stream, into a directory of this host."""

import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_SKIPPED = ("dev", "proc", "sys", "run", "tmp")
"""Every sandbox has its own."""
_PERMISSIONS = 0o755
"""What is kept of a mode: neither setuid, setgid and sticky bits nor the right of others to write."""


class _Stream(io.RawIOBase):
    """Chunks as a file to read from once."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # io says bytearray and means any buffer
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._left = memoryview(chunk)
        taken = min(len(buffer), len(self._left))
        buffer[:taken], self._left = self._left[:taken], self._left[taken:]
        return taken


def extract(chunks: Iterator[bytes], directory: Path) -> None:
    """Unpack the tar into `directory`, which is empty. Owners are not kept.

    Links keep their targets, which mean something inside only, and are never followed: nothing is written but below
    directories made here. Raises `tarfile.TarError` for a name that leads elsewhere, comes twice, or is a device, and
    `OSError`.
    """
    made: dict[PurePosixPath, int] = {PurePosixPath("."): _PERMISSIONS}
    files: set[PurePosixPath] = set()
    with tarfile.open(fileobj=io.BufferedReader(_Stream(chunks), 1 << 20), mode="r|") as stream:
        for member in stream:
            name = PurePosixPath(member.name.removeprefix("./") or ".")
            if (name.parts[:1] and name.parts[0] in _SKIPPED) or name == PurePosixPath("."):
                continue
            if name.is_absolute() or ".." in name.parts or name.parent not in made:
                raise tarfile.TarError(f"{member.name!r} leads out of the image")
            _place(stream, member, directory, name, files)
            if member.isdir():
                made[name] = member.mode & _PERMISSIONS
    for _ in chunks:  # what comes after a tar's end; a connection is free again when it was read to its own
        pass
    # The deepest first, and only now, because some are not to be written to.
    for name, mode in sorted(made.items(), reverse=True):
        (directory / name).chmod(mode | 0o700)


def _place(
    stream: tarfile.TarFile, member: tarfile.TarInfo, directory: Path, name: PurePosixPath, files: set[PurePosixPath]
) -> None:
    """Make one member; it must not be there yet."""
    target = directory / name
    if member.isdir():
        target.mkdir()
    elif member.issym():
        target.symlink_to(member.linkname)
    elif member.islnk():
        first = PurePosixPath(member.linkname.removeprefix("./"))
        if first not in files:
            raise tarfile.TarError(f"{member.name!r} is a link to what is not in the image")
        os.link(directory / first, target)
        files.add(name)
    elif member.isreg():
        content = stream.extractfile(member)
        assert content is not None, "a regular file has content"
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as file:
            shutil.copyfileobj(content, file, 1 << 20)
            os.fchmod(descriptor, member.mode & _PERMISSIONS)
        files.add(name)
    else:
        raise tarfile.TarError(f"{member.name!r} is neither a file, a directory nor a link")
