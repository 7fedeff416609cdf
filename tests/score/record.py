"""What was measured, when, where and under which load: one JSON file, to which every run adds its parts."""

import dataclasses
import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Entry:
    """One part, on one runtime."""

    result: Any
    """The part's own, as JSON has it."""
    scale: float
    """Fraction of the usual numbers."""
    date: str
    machine: str
    load: tuple[float, float]
    """Average of a minute, before and after."""
    seconds: float


Record = Mapping[str, Mapping[str, Entry]]
"""Part to runtime to entry."""


@dataclass
class Run:
    """A part while it is measured."""

    began: float = field(default_factory=time.monotonic)
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])

    def entry(self, result: Any, scale: float) -> Entry:
        """What it came to."""
        load = (round(self.load_before, 1), round(os.getloadavg()[0], 1))
        seconds = round(time.monotonic() - self.began)
        return Entry(result, scale, f"{datetime.now(UTC):%Y-%m-%d %H:%M}", machine(), load, seconds)


def machine() -> str:
    """This one, in words."""
    gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    kernel = f"{platform.system()} {platform.release()}"
    return f"{os.cpu_count()} cores, {gib:.1f} GiB, {kernel}, Python {platform.python_version()}"


def load(path: Path) -> dict[str, dict[str, Entry]]:
    """What has been measured so far; nothing where there is no file."""
    told = json.loads(path.read_text()) if path.exists() else {}
    return {part: {runtime: entry_of(entry) for runtime, entry in entries.items()} for part, entries in told.items()}


def entry_of(told: Mapping[str, Any]) -> Entry:
    """One entry, from JSON."""
    before, after = told["load"]
    return Entry(**{**told, "load": (before, after)})


def save(path: Path, record: Record) -> None:
    """Whole or not at all."""
    told = {
        part: {runtime: dataclasses.asdict(entry) for runtime, entry in sorted(entries.items())}
        for part, entries in sorted(record.items())
    }
    new = path.with_suffix(".new")
    new.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    new.replace(path)
