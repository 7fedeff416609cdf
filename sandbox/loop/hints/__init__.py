"""What a good colleague would add to an execution that failed: facts, from the facts.

case      what a rule looks at, and the words of hints
names     ⎫
files     ⎬ rules: each says one or two short sentences, or nothing
endings   ⎭
libraries, removals, sayings   tables of plain facts

Which rules are asked about what is below: a class of errors has one line.
"""

from collections.abc import Iterator, Mapping, Sequence

from sandbox.execution import Execution, Status
from sandbox.loop.hints.case import CODE, HINT, Case, Rule, last_line, versions
from sandbox.loop.hints.endings import (
    closed_figure,
    interrupted,
    killed,
    left,
    no_code,
    no_pip,
    no_stdin,
    out_of_memory,
    overdue,
    too_large,
)
from sandbox.loop.hints.files import NETWORK_ERRORS, NO_NETWORK, missing_file, no_network, unwritable
from sandbox.loop.hints.names import (
    in_place,
    missing_attribute,
    missing_import,
    missing_key,
    missing_module,
    parameter,
    position,
    undefined,
)
from sandbox.loop.hints.removals import removals
from sandbox.loop.hints.sayings import SAYINGS
from sandbox.loop.interpreter import Facts
from sandbox.remote import File

__all__ = ["error_class", "hints", "last_line"]

_HINTS = 3


def hints(
    execution: Execution, code: str, facts: Facts, files: Sequence[File] = (), *, lost: bool = False
) -> tuple[str, ...]:
    """One or two short sentences each; of what succeeded, only what went wrong in silence.

    lost: variables went with an earlier execution.
    """
    case = Case(execution, code[:CODE], facts, files, lost)
    told: dict[str, None] = {}
    for rules in _rules(execution):
        for rule in rules:
            told.update(dict.fromkeys(hint[:HINT] for hint in rule(case) if hint))
        if told:
            break
    return tuple(told)[:_HINTS]


def error_class(execution: Execution) -> str:
    """A stable label for metrics, of a bounded set: `ok`, `KeyError`, `oom`, `timeout`, `other`, …"""
    if execution.status is not Status.ERROR or execution.error is None:
        return execution.status.value
    name = execution.error.name
    if name in NETWORK_ERRORS or NO_NETWORK.search(execution.error.value[:2000]):
        return "network"
    return name if name in _CLASSES else "other"


def known_words(case: Case) -> Iterator[str]:
    told = next((told for said, told in SAYINGS if said.search(case.said)), "")
    if told:
        yield told


def removed(case: Case) -> Iterator[str]:
    yield from removals(case.said, versions(case))


# Which rules are asked about what.

_BY_STATUS: Mapping[Status, tuple[Rule, ...]] = {
    Status.OK: (no_pip, closed_figure),
    Status.OOM: (out_of_memory,),
    Status.TIMEOUT: (overdue,),
    Status.KILLED: (killed,),
    Status.INTERRUPTED: (interrupted,),
}
_BY_NAME: Mapping[str, tuple[Rule, ...]] = {
    "AttributeError": (missing_attribute,),
    "EOFError": (no_stdin,),
    "FileNotFoundError": (missing_file,),
    "ImportError": (missing_import,),
    "IndentationError": (no_code,),
    "IndexError": (position,),
    "KeyError": (missing_key,),
    "MemoryError": (too_large,),
    "ModuleNotFoundError": (missing_module,),
    "NameError": (undefined,),
    "OSError": (unwritable,),
    "PermissionError": (unwritable,),
    "SyntaxError": (no_code,),
    "SystemExit": (left,),
    "TabError": (no_code,),
    "TypeError": (parameter, in_place),
    "UndefinedVariableError": (undefined,),
    "ValueError": (missing_key,),
}
_ANY: tuple[Rule, ...] = (no_network, removed, known_words)
"""Asked about every error of which nothing else is known."""

_CLASSES = frozenset(_BY_NAME) | {
    *(
        "UnboundLocalError",
        "AssertionError",
        "ArithmeticError",
        "OverflowError",
        "ZeroDivisionError",
        "LookupError",
        "RuntimeError",
    ),
    *(
        "NotImplementedError",
        "RecursionError",
        "StopIteration",
        "TimeoutError",
        "UnicodeDecodeError",
        "UnicodeEncodeError",
    ),
    *(
        "IsADirectoryError",
        "NotADirectoryError",
        "FileExistsError",
        "CalledProcessError",
        "JSONDecodeError",
        "DateParseError",
    ),
    *("EmptyDataError", "ParserError", "MergeError", "IntCastingNaNError", "InvalidIndexError", "DatabaseError"),
    *("OperationalError", "NotFittedError", "LinAlgError", "BadZipFile", "UFuncTypeError", "KeyboardInterrupt"),
}


def _rules(execution: Execution) -> tuple[tuple[Rule, ...], ...]:
    """In the order in which they are asked; when some have said something, the next are not."""
    if execution.status is Status.ERROR and execution.error is not None:
        return _BY_NAME.get(execution.error.name, ()), _ANY, (no_pip,)
    return (_BY_STATUS.get(execution.status, ()),)
