"""What is measured of a peer, and what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass

BOXES = 5
"""Idle at once, to see what one more takes."""
LOST = 3
"""Open when their caller is killed."""
IDLE_S = 5.0
LEFT_S = 15.0


@dataclass(frozen=True, slots=True)
class Measure:
    """One question, asked of every peer alike."""

    title: str
    unit: str
    method: str
    """A sentence for readers of the table."""
    ratio: bool = True


MEASURES: Mapping[str, Measure] = {
    "fresh": Measure(
        "fresh → printed 1",
        "ms",
        "From asking for a box to having seen what `print(1)` printed; one after another, at least three.",
    ),
    "cycle": Measure("the same, until it is gone", "ms", "The same, and the box closed; its end may be slow."),
    "second": Measure("second call", "ms", "Every further `print(1)` in a box that is open, at most fifty."),
    "chart": Measure(
        "fresh + pandas + chart",
        "ms",
        "From asking for a box to having the PNG of a DataFrame's plot; it imports pandas and matplotlib.",
    ),
    "rate_4": Measure(
        "fresh boxes, 4 clients",
        "per s",
        "Boxes opened, used for `print(1)` and closed, over the time until the last was gone.",
    ),
    "rate_8": Measure("fresh boxes, 8 clients", "per s", "The same with eight."),
    "idle": Measure(
        "one idle box, PSS",
        "MiB",
        f"What the proportional memory of all processes grew by {IDLE_S:g} s after the first call, over the boxes "
        "opened; what a daemon or a server grew by is in it.",
    ),
    "available": Measure(
        "the same, MemAvailable", "MiB", "What the machine's available memory went down by, over the same boxes."
    ),
    "crash": Measure(
        "left by a crash",
        "",
        f"Containers, and processes in none, that are left {LEFT_S:g} s after SIGKILL has ended who had {LOST} boxes "
        "open. For ours that is the server.",
        ratio=False,
    ),
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One answer: a median, or a rate, or a count; or why there is none."""

    value: float | None = None
    runs: int = 0
    """How many went into it."""
    load: float = 0.0
    """The machine's load average before."""
    cannot: str = ""
    """Why there is no value, or why it is not one of what was asked for."""
    note: str = ""
    """What the value does not say."""
    values: tuple[float, ...] = ()
    """One by one, where there were several."""
