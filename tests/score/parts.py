"""The parts of the scoreboard: each runs what has to be run, and returns what came of it as JSON has it."""

import dataclasses
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox import bench
from sandbox.config import Settings
from tests.chaos.churn import Household, churn
from tests.docker import ROOT, Docker
from tests.score.leaks import leaks
from tests.score.losses import losses
from tests.score.record import Entry, entry_of
from tests.scoreboard import EMBEDDED

_LEAKS = {EMBEDDED: 200, "docker/runc": 40, "docker/runsc": 12}
"""Sessions: how many can be had in a few minutes."""
_LOSSES = 3


@dataclass(frozen=True, slots=True)
class Part:
    """Something that a server of these settings has to show."""

    name: str
    measure: Callable[[Settings, str, float], Coroutine[Any, Any, Any]]
    """From the settings of a runtime, its name and the scale."""


@dataclass(frozen=True, slots=True)
class _Churn:
    """As `scripts/chaos` has it."""

    sessions: int
    clients: int
    share: float
    """Of the sessions, those that meet a death."""


_CHURNS = {EMBEDDED: _Churn(10_000, 8, 0.05), "docker/runc": _Churn(2000, 4, 0.1), "docker/runsc": _Churn(400, 2, 0.2)}
"""As many as can be had in half an hour, more of whom meet a death where they are few."""


async def _churned(settings: Settings, runtime: str, scale: float) -> Any:
    usual = _CHURNS[runtime]
    with tempfile.TemporaryDirectory(prefix="churn-") as name, Household.of(Path(name), settings) as household:
        try:
            sessions = max(20, round(usual.sessions * scale))
            tally = await churn(household, sessions, usual.clients, usual.share, random.Random(7))
        finally:
            await household.stop()
        orphans = await household.orphans()
    return {
        "sessions": tally.sessions,
        "kills": dict(tally.kills),
        "spared": dict(household.spared),
        "told": dict(tally.told),
        "lies": tally.lies,
        "orphans": orphans,
    }


async def _lost(settings: Settings, runtime: str, scale: float) -> Any:
    return dataclasses.asdict(await losses(settings, max(1, round(_LOSSES * scale))))


async def _leaked(settings: Settings, runtime: str, scale: float) -> Any:
    return dataclasses.asdict(await leaks(settings, max(6, round(_LEAKS[runtime] * scale))))


def _benched(measure: str) -> Callable[[Settings, str, float], Coroutine[Any, Any, Any]]:
    """A measure of `sandbox bench --strain`."""

    async def measured(settings: Settings, runtime: str, scale: float) -> Any:
        report = await bench.run(settings, [measure], scale)
        return [dataclasses.asdict(figure) for figure in report.figures]

    return measured


PARTS: Mapping[str, Part] = {
    part.name: part
    for part in (
        Part("churn", _churned),
        Part("losses", _lost),
        Part("leaks", _leaked),
        Part("victim", _benched("victim")),
        Part("recovery", _benched("recovery")),
        Part("overshoot", _benched("overshoot")),
    )
}
"""Besides the corpus, which is one run of the tests for all runtimes."""


def corpus(runtimes: Sequence[str], docker: Docker | None, *, nightly: bool) -> Mapping[str, Entry]:
    """The score of each of these, from runs of the tests."""
    arguments = ["-q", "-m", "attack", *(["--nightly"] if nightly else [])]
    env, entries = None if docker is None else docker.env, dict[str, Entry]()
    with tempfile.TemporaryDirectory(prefix="corpus-") as directory:
        written = Path(directory) / "corpus.json"
        # What has no runtime of its own is run on the embedded one, with which one run has all.
        for ground in [[]] if EMBEDDED in runtimes else [["--ground", runtime] for runtime in runtimes]:
            command = [sys.executable, "-m", "pytest", *arguments, *ground, "--scoreboard", str(written)]
            subprocess.run(command, cwd=ROOT, env=env)
            entries |= scores(written, runtimes)
    return entries


def scores(path: Path, runtimes: Sequence[str]) -> dict[str, Entry]:
    """The same, from a file that one has written by `--scoreboard`."""
    told = json.loads(path.read_text())
    found = {runtime: score for runtime, score in told["runtimes"].items() if runtime in runtimes}
    return {runtime: entry_of({**told["run"], "result": _shortened(score)}) for runtime, score in found.items()}


def _shortened(score: Mapping[str, Any]) -> Any:
    """Of the rows, what the page says: those that did not pass."""
    rows = score["rows"].items()
    return {key: score[key] for key in ("total", "passed", "failed", "skipped")} | {
        "tests": sum(sum(row["tests"].values()) for _, row in rows),
        "left_out": sum(row["tests"]["skipped"] for _, row in rows),
        "failures": [id for id, row in rows if row["outcome"] == "failed"],
        "skips": {id: row["reasons"] for id, row in rows if row["outcome"] == "skipped"},
    }
