"""What a rule looks at, and the words of hints."""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sandbox.execution import Execution
from sandbox.loop.hints.removals import PYTHON
from sandbox.loop.interpreter import Facts
from sandbox.remote import File

HINT = 600
"""Characters of a hint."""
CODE = 20_000
"""Characters of a program that rules look at, from its start."""
NEAR = 0.6
_NAMES = 20
"""Of what is available, how many are told."""


@dataclass(frozen=True, slots=True)
class Case:
    """What a rule looks at."""

    execution: Execution
    code: str
    """Bounded, like all else here: patterns are slow over long texts, and this comes from who may mean harm."""
    facts: Facts
    files: Sequence[File]
    lost: bool

    @property
    def name(self) -> str:
        """Of the error; empty where there is none."""
        return self.execution.error.name[:200] if self.execution.error else ""

    @property
    def value(self) -> str:
        """What the error says, bounded."""
        return self.execution.error.value[:2000] if self.execution.error else ""

    @property
    def said(self) -> str:
        """Both."""
        return f"{self.name}: {self.value}"

    @property
    def available(self) -> tuple[str, ...]:
        """What there is instead of what was missed."""
        return self.execution.error.available if self.execution.error else ()

    @property
    def looked_in(self) -> str:
        """Where it was missed."""
        return self.execution.error.looked_in if self.execution.error else ""

    @property
    def line(self) -> str:
        """The innermost line of the user's that was running: `line 3: df.apply(f)`. Empty when nobody knows."""
        return last_line(self.execution.error.traceback) if self.execution.error else ""


Rule = Callable[[Case], Iterator[str]]


def last_line(traceback: str) -> str:
    """The innermost frame of a cell, with its source: `line 3: total += f(x)`."""
    found = re.findall(
        r"^  (?:Cell In\[\d+\]|File \"/(?:mnt/data|tmp)/[^\"\n]+\"), line (\d++)[^\n]*+\n(?:    (.*))?", traceback, re.M
    )
    if not found:
        return ""
    number, source = found[-1]
    return f"line {number}: {source.strip()[:160]}" if source else f"line {number}"


def versions(case: Case) -> Mapping[str, str]:
    return {**case.facts.libraries, PYTHON: case.facts.python}


def wanted(value: str) -> str:
    """The name or key that an error says it misses."""
    for pattern in (
        r"has no attribute '(\w+)'",
        r"keyword argument '(\w+)'",
        r"cannot import name '(\w+)'",
        r"^'([^']*)'$",
        r"['`]([^'`]+)['`]",
        r"not found: (.+)",
    ):
        if match := re.search(pattern, value):
            return match[1]
    return value[:80]


def several(names: Sequence[str]) -> str:
    shown, length = [], 0
    for name in names[:_NAMES]:
        length += len(name) + 2
        if length > HINT - 150:
            break
        shown.append(name)
    return ", ".join(shown) + (", …" if len(shown) < len(names) else "")


def nearest(wanted: str, names: Sequence[str]) -> str:
    if len(names) < 2 or not names or ratio(wanted, names[0]) < NEAR:
        return ""
    return f" The nearest is {names[0]}."


def ratio(one: str, other: str) -> float:
    """How alike two names are, whatever their case and whatever stands between their words; from 0 to 1."""
    first, second = (re.sub(r"[\W_]+", "", each[:80]).casefold() for each in (one, other))
    return difflib.SequenceMatcher(None, first, second).ratio()
