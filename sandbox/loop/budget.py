"""What a loop may spend, and what it has spent."""

from dataclasses import dataclass, field

from sandbox.loop.messages import Usage


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds of one run of a loop. None is no bound, which `turns` and `attempts` cannot have."""

    turns: int = 16
    """Times that the model is asked."""
    attempts: int = 4
    """Failed executions in a row after which no other is tried."""
    tokens: int | None = None
    """In and out, over all turns. Looked at between turns, so the last turn may pass it."""
    usd: float | None = None
    """US dollars. Turns without a known price count nothing."""
    seconds: float | None = None
    """Of wall clock. What runs when they are over is ended."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run has used up."""

    turns: int = 0
    executions: int = 0
    failures: int = 0
    """Executions that did not end as `ok`, and calls that could not be executed."""
    usage: Usage = field(default_factory=Usage)
    cost: float | None = None
    """US dollars of the turns whose price is known; None when there is none."""
    seconds: float = 0.0
