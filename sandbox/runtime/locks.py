"""Numbers for those who share a directory, each with a lock that says whether its owner lives.

Whatever bears a number whose lock is free was left by the dead, and may be removed: no record is needed that a crash
could have lost.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

DIRECTORY = Path("/run/sandbox")
"""Of root's engines: what they share is the host's."""


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Nobody else is in such a block with the same file."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def take(directory: Path, most: int) -> tuple[int, int] | None:
    """The lowest free number below `most` and the descriptor that holds it; None when all are taken."""
    for number in range(most):
        fd = os.open(directory / f"{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        return number, fd
    return None


@contextlib.contextmanager
def of_the_dead(directory: Path, number: int) -> Iterator[bool]:
    """Whether nobody lives who took this number; if so nobody takes it while the block lasts."""
    with open(directory / f"{number}.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
