"""What a look at a host finds, and the host that is looked at."""

import os
import platform
import resource
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from sandbox.config import Settings
from sandbox.execution import MIB
from sandbox.runtime.embedded import linux


class Grade(StrEnum):
    """From good to bad; the worst finding grades the host."""

    A = "A"
    B = "B"
    C = "C"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    name: str
    grade: Grade
    found: str
    fix: str = ""
    """A shell line or a sentence; empty where nothing needs fixing."""


@dataclass(frozen=True, slots=True)
class Host:
    """What can be asked of a host. Its files are found below `root`, so that another one's can be examined."""

    root: Path = Path("/")
    euid: int = field(default_factory=os.geteuid)
    machine: str = field(default_factory=platform.machine)
    release: str = field(default_factory=platform.release)
    landlock_abi: int = field(default_factory=linux.landlock_abi)
    memory_mb: int = field(default_factory=lambda: os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB)
    descriptors: int = field(default_factory=lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[1])

    def path(self, path: str) -> Path:
        """Where a file of the host is."""
        return self.root / path.lstrip("/")

    def read(self, path: str) -> str:
        """A small text file, stripped; empty when it is not there or not readable."""
        try:
            return self.path(path).read_text(errors="replace").strip()
        except OSError:
            return ""

    def mounts(self) -> Iterator[tuple[str, str]]:
        """Mount point and file system of every mount."""
        for line in self.read("/proc/self/mountinfo").splitlines():
            before, _, after = line.partition(" - ")
            yield before.split()[4], after.split()[0]


Probe = Callable[[Host, Settings], Iterable[Finding]]
"""One look. It only reads, and takes milliseconds."""
