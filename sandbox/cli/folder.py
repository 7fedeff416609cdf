"""What `--out` keeps. Names come from a program: none leads out of the directory or through a link."""

import base64
import binascii
import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from sandbox.cli.view import IMAGES, counted, note
from sandbox.errors import InvalidPath, InvalidRequest, SandboxError
from sandbox.execution import Execution
from sandbox.remote import checked_path


class Workspace(Protocol):
    """Where an execution has left its files."""

    async def download(self, path: str) -> bytes:
        """A file's contents. Raises `SandboxError`."""


class Folder:
    """The directory of `--out`. Takes names that a program chose, and never writes outside itself or through a link."""

    def __init__(self, path: Path) -> None:
        """Made when missing. Raises `InvalidRequest` when that cannot be."""
        self._path = path
        self.pictures = 0
        """How many images without a name are in it; the next execution's go on from there."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise InvalidRequest(f"{path} cannot be used for --out: {error.strerror}") from error

    def write(self, name: str, data: bytes) -> str:
        """Store `data`, in place of a file of that name; returns its path. Raises `InvalidPath`, `OSError`."""
        *parents, leaf = checked_path(name).split("/")
        if any(part.startswith(".") for part in (*parents, leaf)):
            raise InvalidPath("names that begin with a dot are left behind")
        with contextlib.ExitStack() as stack:
            directory = self._fd
            for parent in parents:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(parent, dir_fd=directory)
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                directory = os.open(parent, flags, dir_fd=directory)
                stack.callback(os.close, directory)
            _replace(directory, leaf, data)
        return str(self._path.joinpath(*parents, leaf))

    def close(self) -> None:
        os.close(self._fd)


def _replace(directory: int, leaf: str, data: bytes) -> None:
    # Renaming a whole new file into place replaces a link of that name instead of following it.
    temporary = f".{secrets.token_hex(8)}.part"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=directory)
    try:
        with open(fd, "wb") as file:
            file.write(data)
        os.replace(temporary, leaf, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        os.unlink(temporary, dir_fd=directory)
        raise


def _pictures(execution: Execution, number: int = 0) -> Iterator[tuple[str, bytes]]:
    """The images among the results, named image-1.png and so on; never as a workspace file is named.

    number: of the last one before.
    """
    taken = {artifact.path for artifact in execution.artifacts}
    for bundle in execution.results:
        if not bundle.keys() & IMAGES.keys():
            continue
        number += 1
        while any(f"image-{number}{suffix}" in taken for suffix in IMAGES.values()):
            number += 1
        for mime in [mime for mime in IMAGES if mime in bundle][:1]:  # the others are the same picture
            content = bundle[mime]
            with contextlib.suppress(binascii.Error, ValueError, AttributeError):
                data = content.encode() if mime == "image/svg+xml" else base64.b64decode(content)
                yield f"image-{number}{IMAGES[mime]}", data


async def save(workspace: Workspace, execution: Execution, folder: Folder) -> tuple[list[str], bool]:
    """Store images, changed files and over-long outputs; the paths, and whether no attempt failed."""
    saved: list[str] = []
    whole = True
    pictures = list(_pictures(execution, folder.pictures))
    folder.pictures += len(pictures)
    wanted: list[tuple[str, str | bytes]] = [*pictures, *_spilled(execution)]
    wanted += [(artifact.path, artifact.path) for artifact in execution.artifacts]
    for name, content in wanted:
        try:
            data = content if isinstance(content, bytes) else await workspace.download(content)
            saved.append(folder.write(name, data))
        except InvalidPath as error:
            note(f"not saved: {name!r}: {error}")
        except (OSError, SandboxError) as error:
            whole = False
            note(f"not saved: {name!r}: {error.strerror if isinstance(error, OSError) else error}")
    return saved, whole


def _spilled(execution: Execution) -> Iterator[tuple[str, str]]:
    """Names for outputs that were too long to be shown in full, and where init has kept them."""
    taken = {artifact.path for artifact in execution.artifacts}
    for stream in ("stdout", "stderr"):
        path = f".outputs/{execution.id}.{stream}.txt"
        # The mark in the output says whether all of it could be kept.
        if getattr(execution.truncated, stream) and path in getattr(execution, stream):
            yield next(name for name in (f"{stream}.txt", f"{execution.id}.{stream}.txt") if name not in taken), path


def hint(execution: Execution) -> str:
    """What `--out` would have kept; empty when nothing."""
    pictures = len(list(_pictures(execution)))
    names = [artifact.path for artifact in execution.artifacts]
    parts = [counted(pictures, "image")] if pictures else []
    if names:
        parts.append(", ".join(names[:5]) + (f" and {len(names) - 5} more files" if len(names) > 5 else ""))
    if execution.truncated.stdout or execution.truncated.stderr:
        parts.append("more output than is shown here")
    return f"the program made {' and '.join(parts)}; --out DIR saves all of it" if parts else ""
