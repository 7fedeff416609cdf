"""Executions that did not end by themselves, and code that was no code."""

import re
from collections.abc import Iterator

from sandbox.loop.hints.case import Case
from sandbox.loop.hints.sayings import SYNTAX

_PIP = re.compile(r"^[ \t]*+(?:[!%][ \t]*+)?(?:python3? -m )?pip3? install\b", re.M)
_SHELL = re.compile(r"^[ \t]*+(?:\$ |#!|cd |ls |cat |python3? \S+\.py|apt(?:-get)? |sudo |export )", re.M)


def out_of_memory(case: Case) -> Iterator[str]:
    yield _less(case.code)


def _less(code: str) -> str:
    if re.search(r"read_(?:csv|table|fwf)\(", code):
        return "Load less: read_csv with usecols=, dtype= and chunksize=, and keep only the sums of each piece."
    if re.search(r"read_(?:parquet|feather)\(", code):
        return "Load less: read_parquet(path, columns=[…], filters=[…])."
    if re.search(r"merge\(|join\(", code):
        return "A join on keys that repeat multiplies rows: drop duplicates and columns first."
    if re.search(r"\[[^\[\]\n]*\bfor\b|\blist\(|\.append\(", code):
        return "Do not keep everything in a list: compute as it comes (a generator), or in pieces."
    return "Work in pieces, with smaller types (float32, category), and do not keep what is no longer needed."


def too_large(case: Case) -> Iterator[str]:
    yield f"All of it must fit into {case.facts.memory_mb} MB. {_less(case.code)}"


def overdue(case: Case) -> Iterator[str]:
    where = f"It was at {case.line} – " if case.line else ""
    how = _faster(case.code)
    yield where + (how[:1].lower() + how[1:] if where else how)


def _faster(code: str) -> str:
    if re.search(r"\bsleep\(|serve_forever|app\.run\(|mainloop\(|while True", code):
        return "Do not wait or loop without end."
    if re.search(r"\bwhile\b", code):
        return "Make sure that the loop ends, or do less in one call."
    if re.search(r"iterrows\(|itertuples\(|\.apply\(|\bfor\b", code):
        return "Replace the loop by vectorised operations or a formula, or do less in one call."
    return "Do less in one call: a sample, fewer steps, or several calls."


def killed(case: Case) -> Iterator[str]:
    if re.search(r"os\._exit|os\.kill|os\.abort", case.code):
        yield "The code ended its own process; leave that out."
    elif "SIGSYS" in case.execution.reason:
        yield "A system call that is not allowed here ended it."
    elif "signal" in case.execution.reason:
        yield "A native library crashed, not Python code: try smaller input or another function."


def interrupted(case: Case) -> Iterator[str]:
    yield "Somebody stopped it; the code did not fail by itself."


def no_code(case: Case) -> Iterator[str]:
    if re.search(r"^[ \t]*+(?:```|~~~)", case.code, re.M):
        yield "There are markdown fences in the code: send Python only."
        return
    if _PIP.search(case.code):
        yield "Nothing can be installed here: leave out pip."
        return
    if match := _SHELL.search(case.code):
        yield f"`{match[0].strip()}` is shell, not Python."
    python = tuple(int(part) for part in re.findall(r"\d+", case.facts.python)[:2])
    if "f-string" in case.value and python < (3, 12):
        yield f"In Python {case.facts.python} quotes inside the braces of an f-string must differ from those around it."
        return
    for said, told in SYNTAX:
        if said.search(case.value):
            yield told
            return
    if "invalid syntax" in case.value and re.match(
        r"\s*(?:Here|Sure|Certainly|This|The|To|I|We|Let)\b [a-z]", case.code
    ):
        yield "The code begins with words: send Python only."


def no_pip(case: Case) -> Iterator[str]:
    """Also where the installer only printed its failure."""
    if _PIP.search(case.code):
        yield "Nothing can be installed here: use the libraries that are there."


def closed_figure(case: Case) -> Iterator[str]:
    """plt.show() closes the figures; what is saved after it is a new one, which shows itself without axes."""
    texts = (str(data.get("text/plain", "")) for data in case.execution.results)
    was_late = re.search(r"\.show\(.*\.savefig\(", case.code, re.DOTALL)
    if was_late and any(re.fullmatch(r"<Figure size \w+ with 0 Axes>", text) for text in texts):
        yield "What was saved is an empty figure, because plt.show() closes figures: call savefig() before show()."


def no_stdin(case: Case) -> Iterator[str]:
    if "nobody to ask" not in case.value:
        yield "There is no stdin: put the value into the code."


def left(case: Case) -> Iterator[str]:
    yield "The code itself ended with sys.exit(); leave that out and let errors be raised."
