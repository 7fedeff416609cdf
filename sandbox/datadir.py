"""The directory where everything is kept that outlives a process; one server at a time has it."""

import contextlib
import fcntl
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sandbox.errors import DataDirInUse, Unready


@dataclass(frozen=True, slots=True)
class DataDir:
    """Taken by `open` for as long as its block lasts."""

    path: Path
    node: str
    """This node's name, the same in every life: rows say by it whose they are."""

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path) -> Iterator["DataDir"]:
        """Make it if need be, and lock it. Raises `DataDirInUse`, `Unready`."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = (path / "server.lock").open("a")
        except OSError as error:
            raise Unready(f"{path} cannot be used as data_dir: {error.strerror}; choose another") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                words = f"another server keeps its data in {path}; stop it, or choose another data_dir"
                raise DataDirInUse(words) from None
            yield cls(path, _name(path / "node"))


def _name(path: Path) -> str:
    if not path.exists():
        temporary = path.with_suffix(".part")
        temporary.write_text(f"node_{uuid.uuid4().hex}\n")
        temporary.rename(path)
    return path.read_text().strip()
