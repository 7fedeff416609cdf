"""What happens in a run of a loop, in order: what a caller shows, a trace keeps and metrics count."""

from dataclasses import dataclass
from enum import StrEnum

from sandbox.errors import SandboxError
from sandbox.execution import Called, Execution, Output
from sandbox.loop.attempt import Attempt
from sandbox.loop.budget import Spent
from sandbox.loop.messages import Image, Message, Reply, Text, ToolCall, Usage


class Ending(StrEnum):
    """Why a run ended. The set is closed."""

    ANSWERED = "answered"
    CALLS = "calls"
    """The caller's own functions are wanted."""
    LENGTH = "length"
    """The model's answer was cut off at the most tokens it may write."""
    FILTERED = "filtered"
    """The upstream held the answer back."""
    EMPTY = "empty"
    """The model said nothing, also when asked again."""
    ATTEMPTS = "attempts"
    """Too many executions in a row have failed."""
    TURNS = "turns"
    TOKENS = "tokens"
    USD = "usd"
    SECONDS = "seconds"


@dataclass(frozen=True, slots=True)
class Asked:
    """A turn begins."""

    turn: int
    """From 1."""


@dataclass(frozen=True, slots=True)
class Said:
    """Words of the model, as they come."""

    text: str


@dataclass(frozen=True, slots=True)
class Replied:
    """The model has said all of its turn."""

    turn: int
    reply: Reply
    seconds: float


@dataclass(frozen=True, slots=True)
class Running:
    """Code is about to run."""

    call: ToolCall
    code: str


@dataclass(frozen=True, slots=True)
class Showed:
    """Something that a program put out."""

    call_id: str
    output: Output


@dataclass(frozen=True, slots=True)
class Wants:
    """A program waits for functions of the caller's. It goes on when `Loop.answer` is given what they come to."""

    call: ToolCall
    """The model's, of the program."""
    calls: tuple[Called, ...]
    """Made at once, by the functions' own names."""


@dataclass(frozen=True, slots=True)
class Ran:
    """An execution has ended."""

    call: ToolCall
    code: str
    execution: Execution
    told: tuple[Text | Image, ...]
    """What the model is told of it."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """A call of the model's that could not be executed."""

    call: ToolCall
    told: str
    """What the model is told of it."""
    error: SandboxError | None = None
    """Set when it is not the model's fault."""


@dataclass(frozen=True, slots=True)
class Repair:
    """Failures in a row are over: the next execution was ok, or there is none."""

    error_class: str
    """Of the first of them."""
    failures: int
    repaired: bool
    usage: Usage
    """Of the turns since the first of them."""
    seconds: float
    """Since then."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The run is over."""

    why: Ending
    answer: Message
    """From the model where it could still be asked, else in our words. With `CALLS`: what it said, and the calls."""
    said: tuple[Message, ...]
    """All messages since the caller's own, the answer last."""
    spent: Spent
    model: str
    """As the upstream names it; empty when none has answered."""


Event = Asked | Attempt | Said | Replied | Running | Showed | Wants | Ran | Unusable | Repair | Finished
