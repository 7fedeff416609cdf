"""An execution's time, which stands still while its program waits for somebody outside."""

from dataclasses import dataclass


@dataclass(slots=True)
class Deadline:
    """The moment, on whatever clock `now` is told from. Both ends of the channel keep it by the same rules."""

    moment: float
    """Meaningless while it stands still."""
    since: float | None = None
    """Since when it stands still."""
    patient: bool = True
    """Nobody was waited for in vain yet. After that, waiting is the program's own time: else one that goes on calling
    when nobody answers any more would never end."""

    def stop(self, now: float) -> None:
        """Somebody outside is waited for."""
        if self.since is None and self.patient:
            self.since = now

    def go_on(self, now: float) -> None:
        """Nobody is, any more."""
        if self.since is not None:
            self.moment += now - self.since
            self.since = None

    def give_up(self, now: float) -> None:
        """Somebody was, in vain."""
        self.go_on(now)
        self.patient = False

    def left(self, now: float) -> float:
        """Seconds of the program's own that are left."""
        return self.moment - (now if self.since is None else self.since)
