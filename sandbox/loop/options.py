"""How a run of a loop is to go."""

from dataclasses import dataclass, field

from sandbox.loop.budget import Budget
from sandbox.loop.hosted import RUN_PYTHON, HostedTool
from sandbox.loop.messages import Function


@dataclass(frozen=True, slots=True)
class Options:
    """How a run is to go."""

    budget: Budget = field(default_factory=Budget)
    tools: tuple[HostedTool, ...] = (RUN_PYTHON,)
    """What runs here. A loop without an interpreter has none, whatever this says."""
    executions: int | None = None
    """How many there may be; calls beyond that are answered with a refusal."""
    functions: tuple[Function, ...] = ()
    """The caller's own. A call of one ends the run with `Ending.CALLS`."""
    callable: tuple[Function, ...] = ()
    """The caller's own that programs may await. A call is told by `Wants`, and the program waits for its answer."""
    answer_within_s: float = 270.0
    """Of each of those calls; then the program sees a `TimeoutError`."""
    fenced: bool = False
    """For models without tool calls: code comes in a Markdown fence, and what came of it goes back as the user's."""
    pictures: bool = True
    """Whether the model can see images."""
    whole: bool = True
    """Nobody watches the words come, so a turn that breaks off can be asked again from its start."""
    timeout_s: float | None = None
    """Of each execution; None is the interpreter's own."""
    pauses: bool = False
    """When the turns are used up the run ends as it stands, because its caller goes on with it: no last word."""
    forgives: bool = False
    """A sandbox that cannot be had now is told to the model, as a call that failed, and does not end the run."""
    lost: bool = False
    """The messages speak of variables that are gone with their session."""
