"""Programs of ours that run in a sandbox's kernel, as cells that leave no name of theirs among the user's.

What they have to say besides what is printed they show as a result in JSON.
"""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from sandbox.execution import Execution

MIME = "application/json"
_SHOW = """
from IPython.display import display

display({MIME: run(ASKED)}, raw=True)
"""


def cell(name: str, asked: Mapping[str, Any]) -> str:
    """The code that runs the program `name` with these arguments, which are plain JSON."""
    # A literal in ASCII holds whatever there is in text.
    return f"exec({_source(name)!a}, {{'__name__': 'sandbox', 'MIME': {MIME!r}, 'ASKED': {dict(asked)!a}}})"


@cache
def _source(name: str) -> str:
    return files(__name__).joinpath(f"{name}.py").read_text() + _SHOW


def said(execution: Execution) -> Mapping[str, Any] | None:
    """What it showed; None when it did not get that far. It comes out of a sandbox, so it may be anything."""
    for data in execution.results:
        if isinstance(told := data.get(MIME), Mapping):
            return told
    return None
