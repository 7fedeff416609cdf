"""The parts of the scoreboard: each runs what has to be run, and returns what came of it as JSON has it."""

import dataclasses
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox import bench
from sandbox.config import Settings
from tests.chaos.churn import Household, churn
from tests.docker import ROOT, Docker
from tests.score.leaks import leaks
from tests.score.losses import losses
from tests.scoreboard import EMBEDDED, RUNTIMES

_LEAKS = {EMBEDDED: 200, "docker/runc": 40, "docker/runsc": 12}
"""Sessions: how many can be had in a few minutes."""
_CHURN = 10_000
_LOSSES = 3


@dataclass(frozen=True, slots=True)
class Part:
    """Something that a server of these settings has to show."""

    name: str
    measure: Callable[[Settings, str, float], Coroutine[Any, Any, Any]]
    """From the settings of a runtime, its name and the scale."""
    runtimes: tuple[str, ...] = RUNTIMES


async def _churned(settings: Settings, runtime: str, scale: float) -> Any:
    """As `scripts/chaos`."""
    with tempfile.TemporaryDirectory(prefix="churn-") as directory:
        household = Household(Path(directory), pool=4)
        try:
            tally = await churn(household, max(20, round(_CHURN * scale)), 8, 0.05, random.Random(7))
        finally:
            await household.stop()
        orphans = await household.orphans()
    return {
        "sessions": tally.sessions,
        "kills": dict(tally.kills),
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
        Part("churn", _churned, (EMBEDDED,)),
        Part("losses", _lost),
        Part("leaks", _leaked),
        Part("victim", _benched("victim")),
        Part("recovery", _benched("recovery")),
        Part("overshoot", _benched("overshoot")),
    )
}
"""Besides the corpus, which is one run of the tests for all runtimes."""


def corpus(path: Path | None, docker: Docker | None, *, nightly: bool) -> Mapping[str, Any]:
    """The score of each runtime: from a run of the tests, or from a file that one has written by `--scoreboard`."""
    with tempfile.TemporaryDirectory(prefix="corpus-") as directory:
        if path is None:
            path = Path(directory) / "corpus.json"
            arguments = ["-q", "-m", "attack", "--scoreboard", str(path), *(["--nightly"] if nightly else [])]
            env = None if docker is None else docker.env
            subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, env=env)
        told = json.loads(path.read_text())["runtimes"]
    return {runtime: _shortened(score) for runtime, score in told.items()}


def _shortened(score: Mapping[str, Any]) -> Any:
    """Of the rows, what the page says: those that did not pass."""
    rows = score["rows"].items()
    return {key: score[key] for key in ("total", "passed", "failed", "skipped")} | {
        "tests": sum(sum(row["tests"].values()) for _, row in rows),
        "failures": [id for id, row in rows if row["outcome"] == "failed"],
        "skips": {id: row["reasons"] for id, row in rows if row["outcome"] == "skipped"},
    }
