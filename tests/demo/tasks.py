"""What the model is asked, and the value that a right answer has."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_PRODUCTS = """\
product,unit_price,stock
moka pot,34.90,12
kettle,49.50,7
grinder,89.00,3
mug,8.40,61
scale,22.75,18
"""
_ORDERS = """\
order,region,units
1,North,12
2,South,7
3,West,23
4,North,9
5,South,31
6,West,4
7,North,16
"""


@dataclass(frozen=True, slots=True)
class Task:
    """One question."""

    name: str
    question: str
    value: float | None = None
    """What a right answer says, to the digits that it gives."""
    makes: str = ""
    """The file that it leaves."""
    files: Mapping[str, str] = field(default_factory=dict)

    def found(self, document: Mapping[str, Any]) -> str:
        """Where the value is in what `sandbox chat --json` printed, or how the file is; `no` for nowhere."""
        return " and ".join(self._places(document)) or "no"

    def _places(self, document: Mapping[str, Any]) -> Iterator[str]:
        if self.value is not None:
            if any(says(_shown(execution), self.value) for execution in document["executions"]):
                yield "put out"
            if says(document["answer"], self.value):
                yield "said"
        for path in document["saved"]:
            if self.makes and path.endswith(f"/{self.makes}"):
                yield "saved, but blank" if blank(Path(path)) else "saved"


TASKS = (
    Task(
        "deviation",
        "What is the sample standard deviation of the numbers 4, 8, 15, 16, 23 and 42?",
        value=13.490737563232042,
    ),
    Task("csv", "How many units in all are in orders.csv?", value=102, files={"orders.csv": _ORDERS}),
    # The column is called otherwise, and the model is told of the file alone.
    Task(
        "key error",
        "What is the mean of the column Price in products.csv?",
        value=40.91,
        files={"products.csv": _PRODUCTS},
    ),
    Task(
        "chart",
        "Draw a bar chart of the units of each region in orders.csv and save it as chart.png.",
        makes="chart.png",
        files={"orders.csv": _ORDERS},
    ),
)


def says(text: str, value: float) -> bool:
    """Whether the text has the value, rounded to two digits after the point or more precisely."""
    numbers = (float(match[0].replace(",", "")) for match in _NUMBER.finditer(text))
    return any(abs(number - value) <= 0.005 for number in numbers)


def blank(path: Path) -> bool:
    """Whether nothing is drawn in this image."""
    with Image.open(path) as picture:
        darkest, lightest = picture.convert("L").getextrema()
    return darkest == lightest


def _shown(execution: Mapping[str, Any]) -> str:
    results = (str(result.get("text/plain", "")) for result in execution["results"])
    return "\n".join((execution["stdout"], *results))
