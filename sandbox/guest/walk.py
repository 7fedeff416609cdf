"""Looking at all files of a workspace, of which a program may make, move and delete more meanwhile."""

import itertools
import os
import stat
import time
from collections.abc import Container
from dataclasses import dataclass

from sandbox.guest.beneath import beneath
from sandbox.guest.frames import MAX_DEPTH, MAX_ENTRIES
from sandbox.guest.output import OUTPUTS
from sandbox.guest.sight import MAX_SHUT, Sight

_NAME_BYTES = 3 << 19
"""A walk stops here and says so: at six bytes of JSON for one of a name, two lists of so many fit into a frame."""
_WALK_SECONDS = 2.0
_LOOKS = 3


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
    unnamed: int
    """What was seen under names that cannot be told: not UTF-8, or too deep."""

    def mark(self) -> int | None:
        """Equal for two walks: no file has changed between them. None: it cannot be told."""
        if not self.sight.whole:
            return None
        # Of words: of numbers, whose hashes nothing is secret about, a program could make two that are equal.
        return hash(frozenset(f"{path}/{seen.version}" for path, seen in self.files.items()))


class Look:
    """One look at the workspace. root: an open directory; hidden: paths that are nobody's files yet."""

    def __init__(self, root: int, hidden: Container[str]) -> None:
        self._root = root
        self._hidden = hidden
        self._found: dict[str, Seen] = {}
        self._shut: dict[str, None] = {}  # in order; one that is read again counts once
        self._times: dict[str, tuple[int, int]] = {}
        """Of the directories that were read, right before."""
        self._last = ""
        """The one that was read last."""
        self._complete = True
        self._unnamed = self._entries = self._name_bytes = 0
        self._deadline = time.monotonic() + _WALK_SECONDS

    def walk(self) -> Walk:
        """What there is, within bounds.

        What changed after it had been read is read again: something may have been moved there from where it was not
        seen yet.
        """
        directories = [""]
        for _ in range(1 + _LOOKS):
            self._read(directories)
            directories = self._changed()
            # In the moment before the last one was read, those that have not changed were as they had been read.
            if not self._complete or all(path == self._last for path in directories):
                break
        else:
            self._complete = False
        sight = Sight(self._complete and len(self._shut) <= MAX_SHUT, tuple(itertools.islice(self._shut, MAX_SHUT)))
        return Walk(self._found, sight, self._unnamed)

    def _changed(self) -> list[str]:
        """The directories that are not as they were when they were read."""
        return [path for path, before in self._times.items() if self._time_of(path) != before]

    def _time_of(self, directory: str) -> tuple[int, int] | None:
        try:
            fd = beneath(self._root, directory or ".", os.O_PATH | os.O_DIRECTORY)
        except OSError:
            return None
        try:
            return _last_change(fd)
        finally:
            os.close(fd)

    def _read(self, directories: list[str]) -> None:
        """These, and what is in them that was not read before."""
        while directories and self._has_room():
            directory = directories.pop()
            try:
                fd = beneath(self._root, directory or ".", os.O_RDONLY | os.O_DIRECTORY)
            except PermissionError:
                self._shut[directory] = None
                continue
            except OSError:
                self._complete = False  # moved since its name was read, perhaps to where we have been
                continue
            try:
                self._times[directory], self._last = _last_change(fd), directory
                self._read_open(fd, directory, directories)
            except PermissionError:  # its names may be read, and nothing behind them
                self._shut[directory] = None
            finally:
                os.close(fd)

    def _has_room(self) -> bool:
        is_over = self._entries > MAX_ENTRIES or self._name_bytes > _NAME_BYTES or time.monotonic() > self._deadline
        self._complete &= not is_over
        return not is_over

    def _read_open(self, fd: int, directory: str, directories: list[str]) -> None:
        with os.scandir(fd) as scan:
            for entry in scan:
                path = f"{directory}/{entry.name}" if directory else entry.name
                if path not in self._found and path not in self._times:
                    self._entries += 1
                    self._name_bytes += len(os.fsencode(path))
                if not self._has_room():
                    return
                self._see(entry, path, directories)

    def _see(self, entry: "os.DirEntry[str]", path: str, directories: list[str]) -> None:
        try:
            path.encode()
            status = entry.stat(follow_symlinks=False)
        except UnicodeEncodeError:
            self._unnamed += 1
            return
        except FileNotFoundError:
            return  # deleted since its name was read
        except PermissionError:
            raise
        except OSError:
            self._complete = False
            return
        if stat.S_ISDIR(status.st_mode):
            self._see_directory(path, directories)
        elif stat.S_ISREG(status.st_mode) and path not in self._hidden:
            self._found[path] = Seen.of(status)

    def _see_directory(self, path: str, directories: list[str]) -> None:
        if path == OUTPUTS or path in self._times:
            return
        if path.count("/") + 1 >= MAX_DEPTH:
            self._unnamed += 1
        else:
            directories.append(path)


def _last_change(directory: int) -> tuple[int, int]:
    """Of an open one: which it is, and the time that no program can set."""
    status = os.fstat(directory)
    return status.st_ino, status.st_ctime_ns
