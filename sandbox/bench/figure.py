"""One line of the report, and what its number is made of."""

import statistics
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report."""

    name: str
    value: float
    unit: str
    must: float
    """What the project promises itself; a ceiling for times and sizes, a floor for rates and counts."""
    aim: float
    runs: int

    @property
    def rate(self) -> bool:
        """Whether more is better."""
        return self.unit in ("per s", "MB/s", "sandboxes", "MB usable")

    @property
    def reached(self) -> str:
        """`aim`, `must` or `no`."""
        sign = -1 if self.rate else 1
        for name, bound in (("aim", self.aim), ("must", self.must)):
            if sign * self.value <= sign * bound:
                return name
        return "no"


def quantiles(times: list[float]) -> tuple[float, float]:
    """The median and the 99th percentile."""
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return cuts[49], cuts[98]


def runs(usual: int, scale: float) -> int:
    """How often to do what is usually done `usual` times."""
    return max(2, round(usual * scale))
