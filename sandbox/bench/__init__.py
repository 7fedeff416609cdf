"""How fast, how small: the numbers that README quotes, measured on this machine.

Each measure is one coroutine that returns its figures; `run` does them one after another. Those of `engine` look at
sandboxes from within one process, those of `server` at `sandbox serve` from another one,
those of `docker` at containers, those of `loop` at the model loop, those of `STRAIN_MEASURES` at a server whose
sessions take all they can get, run out of time, or lose it.
"""

import dataclasses
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass

from sandbox.bench.docker import DOCKER_MEASURES
from sandbox.bench.engine import MEASURES, Measure
from sandbox.bench.figure import Figure
from sandbox.bench.loop import LOOP_MEASURES
from sandbox.bench.overshoot import overshoot
from sandbox.bench.recovery import recovery
from sandbox.bench.server import SERVER_MEASURES, served
from sandbox.bench.victim import victim
from sandbox.config import Settings

__all__ = [
    "DOCKER_MEASURES",
    "LOOP_MEASURES",
    "MEASURES",
    "SERVER_MEASURES",
    "STRAIN_MEASURES",
    "Figure",
    "Report",
    "as_dict",
    "run",
]
STRAIN_MEASURES: dict[str, Measure] = {
    "victim": served(victim, pool=2),
    "recovery": recovery,
    "overshoot": served(overshoot, pool=2),
}


@dataclass(frozen=True, slots=True)
class Report:
    """What `sandbox bench --json` prints."""

    machine: str
    cores: int
    memory_gib: float
    python: str
    load_before: float
    load_after: float
    figures: tuple[Figure, ...]


async def run(
    settings: Settings, names: list[str], scale: float = 1.0, report: Callable[[str], None] = lambda line: None
) -> Report:
    """Measure. names: keys of the tables of measures. scale: fraction of the usual number of runs.

    Raises `SandboxFailed` when something else came than what was to be measured.
    """
    measures = {**MEASURES, **SERVER_MEASURES, **DOCKER_MEASURES, **LOOP_MEASURES, **STRAIN_MEASURES}
    load_before = os.getloadavg()[0]
    figures: list[Figure] = []
    for name in names:
        report(f"measuring {name} …")
        figures += await measures[name](settings, scale)
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    return Report(
        f"{platform.system()} {platform.release()} {platform.machine()}",
        os.cpu_count() or 1,
        round(memory_gib, 1),
        platform.python_version(),
        load_before,
        os.getloadavg()[0],
        tuple(figures),
    )


def as_dict(report: Report) -> dict[str, object]:
    """For JSON: the report, each figure with what it reached."""
    figures = [dataclasses.asdict(figure) | {"reached": figure.reached} for figure in report.figures]
    return dataclasses.asdict(report) | {"figures": figures}
