"""Which rows of the attack corpus held, on which runtime: made from a run of the tests, when `--scoreboard` asks.

A test says what it is about by `@pytest.mark.attack("A07")`, and where it ran by a parameter that is a runtime's name.
A row is `failed` if any of its tests failed, else `passed` if any passed, else `skipped`, with the reasons; a row whose
tests were all left out is not in it.
"""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.score.record import Run

EMBEDDED = "embedded"
RUNTIMES = (EMBEDDED, "docker/runc", "docker/runsc")
SINGLE = "embedded/single"
"""The embedded runtime of an ordinary user without subordinate ids: where it has the fewest walls."""
EXEC = "embedded/exec"
"""The embedded runtime without a zygote."""
GROUNDS = (*RUNTIMES, SINGLE, EXEC)
RANKS = ("skipped", "passed", "failed")
"""Of several outcomes the last of these counts."""


@dataclass(slots=True)
class Row:
    """An attack, on one runtime."""

    tests: dict[str, str] = field(default_factory=dict)
    """Outcome of each test by its node id."""
    reasons: set[str] = field(default_factory=set)
    """Why tests were skipped."""

    def add(self, test: str, outcome: str, reason: str) -> None:
        """A phase of a test: of its set-up, itself and its tear-down, the worst counts."""
        self.tests[test] = max(self.tests.get(test, outcome), outcome, key=RANKS.index)
        if reason:
            self.reasons.add(reason)

    @property
    def outcome(self) -> str:
        return max(self.tests.values(), key=RANKS.index)

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        counts = {outcome: [*self.tests.values()].count(outcome) for outcome in reversed(RANKS)}
        return {"outcome": self.outcome, "tests": counts, "reasons": sorted(self.reasons)}


class Scoreboard:
    """Gathers reports; writes them when the run ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = Run()
        self.rows: dict[str, dict[str, Row]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[None]:
        """Count what ended, and what did not come so far."""
        report: pytest.TestReport = yield  # type: ignore[assignment]
        if report.when == "call" or report.outcome != "passed":
            reason = str(report.longrepr[2]).removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
            for row in attacks(item):
                self._row(runtime_of(item), row).add(item.nodeid, report.outcome, reason)
        return report  # type: ignore[return-value]

    def _row(self, runtime: str, row: str) -> Row:
        return self.rows.setdefault(runtime, {}).setdefault(row, Row())

    def pytest_sessionfinish(self) -> None:
        """Write the file: with when and where it was, as `tests/score/record.py` has it."""
        run = dataclasses.asdict(self.run.entry(None, 1.0))
        self.path.write_text(json.dumps({"run": run, "runtimes": self.told()}, indent=1) + "\n")

    def told(self) -> dict[str, Any]:
        """By runtime: how many rows, how they came out, and each of them."""
        told = {}
        for runtime, rows in sorted(self.rows.items()):
            outcomes = [row.outcome for row in rows.values()]
            counts = {outcome: outcomes.count(outcome) for outcome in reversed(RANKS)}
            told[runtime] = {"total": len(rows), **counts} | {
                "rows": {id: row.told() for id, row in sorted(rows.items())}
            }
        return told


def attacks(item: pytest.Item) -> list[str]:
    """The rows that a test is about."""
    return sorted({row for mark in item.iter_markers("attack") for row in mark.args})


def runtime_of(item: pytest.Item) -> str:
    """Where a test runs: what its parameters say, else on the embedded runtime, as every test that has a session."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return next((value for value in parameters if value in GROUNDS), EMBEDDED)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("sandbox").addoption(
        "--scoreboard", type=Path, metavar="FILE", help="write there, as JSON, which attacks held on which runtime"
    )


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--scoreboard")
    if path is not None:
        config.pluginmanager.register(Scoreboard(path))
