"""The attack corpus: which rows there are, which of them run at night, and which have no test, and why.

A row's letter is its chapter: A kernel and host surface, B files in and out, C exhaustion, D time, signals, processes,
E protocol and truth of results, F session to session, G network, H server and API, I whoever reads the output, J Docker
only, K zygote only. SECURITY.md has the table of those that are not tested; a test compares them.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent
_CHAPTERS = {"A": 30, "B": 25, "C": 23, "D": 16, "E": 16, "F": 17, "G": 10, "H": 22, "I": 8, "J": 8, "K": 9}
ROWS = tuple(f"{chapter}{number:02}" for chapter, count in _CHAPTERS.items() for number in range(1, count + 1))
NIGHTLY = frozenset({"B04", "B05", "C04", "C09", "C20", "D16", "F14", "F17", "I05", "J04", "J05", "K03"})
"""Soaks and races: a test that only `--nightly` runs is enough for them. The others finish in seconds."""


@dataclass(frozen=True, slots=True)
class Untested:
    """A row that no test is about."""

    row: str
    attack: str
    why: str


UNTESTED = (
    Untested(
        "F14",
        "a covert channel through caches or the two threads of a core",
        "not promised. What shuts it is the host's to choose: no hyperthreading, or core scheduling",
    ),
    Untested(
        "F15",
        "a noisy neighbour, with all of C",
        "how much slower a victim gets is a time, which is measured by `sandbox bench` and not tested; that each kind "
        "of exhaustion has its cap is tested row by row",
    ),
    Untested(
        "G09",
        "tricks with host names before a list of allowed ones",
        "there is no such list: a sandbox reaches no address at all",
    ),
)


@dataclass(frozen=True, slots=True)
class Bearer:
    """A test, or several, that rows are written on."""

    place: str
    rows: tuple[str, ...]
    nightly: bool
    """Whether all of it is left out by day."""


def bearers() -> list[Bearer]:
    """All of them, as the sources of the tests say."""
    return [found for path in sorted(TESTS.rglob("*.py")) for found in _bearers(path)]


def _bearers(path: Path) -> Iterator[Bearer]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            marks = dict(_mark(each) for each in node.decorator_list)
            if rows := marks.get("attack"):
                yield Bearer(f"{path.relative_to(TESTS)}::{node.name}", rows, "nightly" in marks)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Door":
            yield Bearer(f"{path.relative_to(TESTS)}::a door", _words(node.args[:1]), False)


def _mark(decorator: ast.expr) -> tuple[str, tuple[str, ...]]:
    arguments = decorator.args if isinstance(decorator, ast.Call) else []
    named = decorator.func if isinstance(decorator, ast.Call) else decorator
    return (named.attr if isinstance(named, ast.Attribute) else ""), _words(arguments)


def _words(arguments: list[ast.expr]) -> tuple[str, ...]:
    return tuple(each.value for each in arguments if isinstance(each, ast.Constant) and isinstance(each.value, str))
