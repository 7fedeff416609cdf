"""Tools that run here: `run_python`, and what else a family of programs calls its own by other names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sandbox.execution import Execution
from sandbox.loop import tool
from sandbox.loop.interpreter import Facts
from sandbox.loop.messages import Function, Image, Text
from sandbox.remote import File


@dataclass(frozen=True, slots=True)
class HostedTool:
    """How a model sees it, which program a call of it is, and what the model is told of that."""

    name: str
    function: Callable[[Facts, Sequence[File]], Function]
    """files: what lies in `/mnt/data`."""
    code: Callable[[str, bool], str]
    """From a call's arguments, and whether they may have been cut off. Raises `tool.Unusable`."""
    told: Callable[[Execution], tuple[Text | Image, ...]] | None = None
    """None: as of any piece of Python, with what helps to repair it."""
    calls: bool = False
    """Whether its programs may call `Options.callable`."""


RUN_PYTHON = HostedTool(
    tool.NAME, tool.function, lambda arguments, cut_off: tool.code_of(arguments, whole=cut_off), calls=True
)
