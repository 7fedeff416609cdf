"""Broken programs, how each fails, and what tells that it is repaired.

The tests run them in real sandboxes and look at what a model would be told; `scripts/bench-repair` counts the tokens of
that, and with a model how often it repairs them.
"""

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sandbox.execution import Execution, Limits, Status
from sandbox.image import Manifest
from sandbox.loop.interpreter import Facts
from sandbox.session import Session

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Program:
    """One that does not work."""

    name: str
    task: str
    """What it is meant to do, as a user would ask for it."""
    code: str
    error: str
    """The class of its failure."""
    told: str
    """A regular expression that what a model is told must match."""
    expect: tuple[str, ...]
    """Regular expressions that the output of a repaired program must match."""
    makes: tuple[str, ...] = ()
    """Files that a repaired program leaves."""
    files: tuple[str, ...] = ()
    """In /mnt/data before it runs."""
    setup: str = ""
    """Code that has run before, in the same session."""
    timeout: float = 30.0
    """Seconds."""

    def repaired(self, execution: Execution) -> bool:
        """Whether this was the execution of a program that works."""
        shown = "\n".join(str(data.get("text/plain", "")) for data in execution.results)
        made = {artifact.path for artifact in execution.artifacts}
        return (
            execution.status is Status.OK
            and all(re.search(each, f"{execution.stdout}\n{shown}") for each in self.expect)
            and made.issuperset(self.makes)
        )


@cache
def programs() -> tuple[Program, ...]:
    """All, in the order of the file."""
    tables: list[dict[str, Any]] = tomllib.loads((_HERE / "programs.toml").read_text())["program"]
    lists = ("expect", "makes", "files")
    return tuple(Program(**table | {name: tuple(table.get(name, ())) for name in lists}) for table in tables)


async def prepare(session: Session, program: Program) -> None:
    """Upload its files and run its setup."""
    for name in program.files:
        await session.upload(name, (_HERE / "data" / name).read_bytes())
    if program.setup:
        assert (await session.execute(program.setup)).status is Status.OK


def facts_of(manifest: Manifest, timeout: float, limits: Limits = Limits()) -> Facts:  # noqa: B008  # frozen
    """What is true of a sandbox of these limits. timeout: seconds."""
    return Facts(manifest.python, manifest.libraries, limits.memory_mb, limits.disk, timeout)
