"""What a good colleague would add to an execution that failed: facts, from the facts."""

from collections.abc import Sequence

from sandbox.execution import Execution
from sandbox.loop.interpreter import Facts
from sandbox.remote import File


def hints(
    execution: Execution, code: str, facts: Facts, files: Sequence[File] = (), *, lost: bool = False
) -> tuple[str, ...]:
    """One or two short sentences each; none for what succeeded. lost: variables went with an earlier execution."""
    return ()


def error_class(execution: Execution) -> str:
    """A stable label for metrics, of a bounded set: `ok`, `KeyError`, `oom`, `timeout`, `other`, …"""
    return "other"
