"""One engine's name on the containers it makes, so that the next one knows which were left by the dead.

Everything is kept in a directory below `data_dir`: a secret that only its owners know, and a numbered lock for each
engine that lives. A container bears the secret's public name, the number of its engine, and a mark that cannot be
made without the secret: what somebody else has labelled like ours is neither adopted nor removed.
"""

import contextlib
import fcntl
import hashlib
import hmac
import os
import secrets
import shutil
import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from sandbox.errors import Unready
from sandbox.runtime import locks

LABEL = "sandbox.owner"
MAX_SANDBOXES = 16_384
_MAX_INSTANCES = 1024
_FIRST_ID, _ID_RANGES = 0x40000000, 0x8000
_FIRST_MAPPED_ID = 20_000
"""Daemons that map ids have 65,536 of them."""


class Instance:
    """What one engine owns of a daemon. Use `open`."""

    def __init__(self, directory: Path, secret: bytes, number: int) -> None:
        self.number = number
        self._locks = directory
        self.directory = directory / str(number)
        """Where the sockets are."""
        self.fdstore = directory / f"{number}.fdstore"
        """Where the next engine with our number looks for what we have left."""
        self._secret = secret
        self.owner = hashlib.sha256(b"owner" + secret).hexdigest()[:32]
        self._free = list(range(MAX_SANDBOXES - 1, -1, -1))

    @classmethod
    @contextlib.contextmanager
    def open(cls, directory: Path) -> Iterator[Self]:
        """Take a number. Raises `Unready` when the directory cannot be used."""
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            secret = _secret(directory)
            taken = locks.take(directory, _MAX_INSTANCES)
        except OSError as error:
            raise Unready(f"{directory} cannot be used: {error.strerror}; choose another data_dir") from error
        if taken is None:
            raise Unready(f"{_MAX_INSTANCES} engines use {directory} already; choose another data_dir")
        number, lock = taken
        instance = cls(directory, secret, number)
        shutil.rmtree(instance.directory, ignore_errors=True)  # of a dead engine with our number
        instance.directory.mkdir(mode=0o700)
        try:
            yield instance
        finally:
            shutil.rmtree(instance.directory, ignore_errors=True)
            os.close(lock)

    def labels(self, sandbox_id: str) -> dict[str, str]:
        """What its container is labelled with."""
        number = str(self.number)
        mark = self._mark(number, sandbox_id)
        return {LABEL: self.owner, "sandbox.instance": number, "sandbox.id": sandbox_id, "sandbox.mark": mark}

    def _mark(self, number: str, sandbox_id: str) -> str:
        return hmac.new(self._secret, f"{number}/{sandbox_id}".encode(), "sha256").hexdigest()

    def made(self, labels: Mapping[str, str]) -> str | None:
        """The sandbox whose labels these are, when this engine made it; else None."""
        number, sandbox_id = labels.get("sandbox.instance", ""), labels.get("sandbox.id", "")
        return sandbox_id if self._genuine(labels) and number == str(self.number) else None

    def _genuine(self, labels: Mapping[str, str]) -> bool:
        mark = self._mark(labels.get("sandbox.instance", ""), labels.get("sandbox.id", ""))
        return hmac.compare_digest(mark, labels.get("sandbox.mark", ""))

    @contextlib.contextmanager
    def inherits(self, labels: Mapping[str, str]) -> Iterator[bool]:
        """Whether these are labels of an engine with our secret that is dead, and stays so while the block lasts."""
        number = labels.get("sandbox.instance", "")
        if not self._genuine(labels):
            yield False
        elif number == str(self.number):
            yield True  # our number was a dead engine's before; what we make ourselves, the caller knows
        else:
            with locks.of_the_dead(self._locks, int(number)) as dead:
                yield dead

    def take_slot(self) -> int | None:
        """A number that no other live sandbox of this engine has; None when all are taken."""
        return self._free.pop() if self._free else None

    def inherit_slot(self, slot: int) -> None:
        """Its sandbox lives. Raises `ValueError` when another one has it."""
        self._free.remove(slot)

    def free_slot(self, slot: int) -> None:
        """Its sandbox is gone."""
        self._free.append(slot)

    def user(self, slot: int, *, mapped: bool) -> int:
        """The uid and gid of a sandbox. `mapped`: the daemon has a user namespace, with few ids."""
        if mapped:
            return _FIRST_MAPPED_ID + slot
        # Engines with different secrets are unlikely to use the same ids, and harm nobody if they do.
        return _FIRST_ID + int(self.owner[:8], 16) % _ID_RANGES * MAX_SANDBOXES + slot

    def listen(self, sandbox_id: str) -> tuple[Path, socket.socket]:
        """A directory to be shown to one container, and the socket that listens in it."""
        directory = self.directory / sandbox_id[:16]
        directory.mkdir(mode=0o755)
        listener = socket.socket(socket.AF_UNIX)
        try:
            # A path of a socket is short; a directory's own may not be.
            fd = os.open(directory, os.O_PATH)
            try:
                listener.bind(f"/proc/self/fd/{fd}/channel")
            finally:
                os.close(fd)
            # Only who is shown the directory gets here: the one above it is ours alone.
            (directory / "channel").chmod(0o666)
            listener.listen(1)
        except BaseException:
            listener.close()
            raise
        return directory, listener

    def unlisten(self, directory: Path) -> None:
        """Remove what `listen` made. May be called twice."""
        shutil.rmtree(directory, ignore_errors=True)


def _secret(directory: Path) -> bytes:
    """The directory's secret, made when it has none."""
    with open(directory / "secret.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = directory / "secret"
        if not path.exists():
            temporary = directory / "secret.part"
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, stat.S_IRUSR | stat.S_IWUSR)
            with open(fd, "wb") as file:
                file.write(secrets.token_bytes(32))
            temporary.rename(path)
        return path.read_bytes()
