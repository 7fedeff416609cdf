"""One try at an upstream, and what came of it: what a trace tells and metrics count."""

from dataclasses import dataclass
from typing import Literal, get_args

from sandbox.loop.messages import Usage

Outcome = Literal["answered", "refused", "busy", "failed", "cancelled", "full", "open", "cached"]
"""`answered`, `refused`, `busy`, `failed`: as the upstream's answer or error was. `cancelled`: nobody wanted the rest.
`full`: not sent, because its slots, its rate limit or the wait that it had asked for left no room in time. `open`: not
sent, because its circuit breaker is open. `cached`: answered without it."""
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try."""

    upstream: str
    model: str
    """As the upstream names it."""
    outcome: Outcome
    error: str = ""
    """For a person; empty when it answered."""
    status: int | None = None
    """Of HTTP, where there was one with the error."""
    retry_after: float | None = None
    """Seconds, if the upstream said so or we know."""
    seconds: float = 0.0
    """From sending it to its end."""
    first_s: float | None = None
    """Seconds to the first piece of its answer; None when there was none."""
    usage: Usage | None = None
    """None when it is not known, as of most that failed."""
    cost: float | None = None
    """US dollars; None when it is not known."""
    shadow: bool = False
    """A second opinion that is never answered."""
