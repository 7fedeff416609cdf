"""What a loop and a model say to each other, in no vendor's words.

Pure values. The wire formats beside this file turn them into what an upstream takes, and what it says into them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Dialect = Literal["openai", "anthropic"]
"""The wire format that an upstream speaks: OpenAI's Chat Completions or Anthropic's Messages."""
Role = Literal["system", "user", "assistant", "tool"]
MOST_MESSAGES = 5000
"""Of one conversation; in some dialects items."""
Finish = Literal["stop", "length", "tool_calls", "content_filter"]
"""Why a model stopped; as OpenAI names it."""


@dataclass(frozen=True, slots=True)
class Text:
    """Words."""

    text: str
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Further fields of its form in OpenAI's dialect, nested as there; given back to upstreams that speak it."""


@dataclass(frozen=True, slots=True)
class Image:
    """A picture: its bytes, or where it is."""

    mime: str = ""
    data: str = ""
    """In base64; empty when there is a `url`."""
    url: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Further fields of its form in OpenAI's dialect, nested as there; given back to upstreams that speak it."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model wants a tool to be used."""

    id: str
    name: str
    arguments: str
    """As the model wrote them. Meant to be a JSON object, and not always one."""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Further fields of its form in OpenAI's dialect, nested as there; given back to upstreams that speak it."""
    upstream: str = ""
    """Who alone wants `extra` back, because it has said it; empty for what a caller gave, which is anybody's."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What came of it."""

    call_id: str
    parts: tuple[Text | Image, ...]
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Opaque:
    """A part that one dialect alone knows, such as signed reasoning or audio.

    Given back unchanged to upstreams of that dialect; others never see it. One without a `type` is not a part but
    fields of the message itself, such as its author's `name`.
    """

    dialect: Dialect
    value: Mapping[str, Any]
    upstream: str = ""
    """Who alone wants it back, because it has said it; empty for what a caller gave, which is anybody's."""


Part = Text | Image | ToolCall | ToolResult | Opaque


@dataclass(frozen=True, slots=True)
class Message:
    """One message. A `tool` message holds results only, an `assistant`'s may hold calls."""

    role: Role
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, role: Role, text: str) -> "Message":
        """One that is words alone."""
        return cls(role, (Text(text),))

    @property
    def text(self) -> str:
        """Its words, without what lies between them."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The tool calls in it."""
        return tuple(part for part in self.parts if isinstance(part, ToolCall))


@dataclass(frozen=True, slots=True)
class Function:
    """A tool as a model sees it."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON Schema of an object."""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Further fields of its form in OpenAI's dialect, nested as there; given back to upstreams that speak it."""


@dataclass(frozen=True, slots=True)
class Request:
    """One turn asked of a model."""

    model: str
    messages: tuple[Message, ...]
    functions: tuple[Function, ...] = ()
    tool_choice: str | None = None
    """`auto`, `none`, `required`, or the name of the function that it must call; None leaves it to the upstream."""
    max_tokens: int | None = None
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of OpenAI's dialect, given as they are to upstreams that speak it."""
    anthropic: Mapping[str, Any] = field(default_factory=dict)
    """The same of Anthropic's."""
    caller: str = ""
    """Who asks, and takes turns with others; no part of what is asked."""


MOST_TOKENS = 1 << 53
"""What a server says that it has used is believed below this, which is also what every reader of JSON can hold."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens."""

    input_tokens: int = 0
    """All of the prompt, cached parts included."""
    output_tokens: int = 0
    """All that was written, reasoning included."""
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cache_read_tokens + other.cache_read_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens - other.input_tokens,
            self.output_tokens - other.output_tokens,
            self.cache_read_tokens - other.cache_read_tokens,
            self.cache_write_tokens - other.cache_write_tokens,
            self.reasoning_tokens - other.reasoning_tokens,
        )


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a reply on its way."""

    text: str = ""
    """Words to show."""
    raw: Mapping[str, Any] | None = None
    """The upstream's chunk, where it speaks OpenAI's dialect: what a pass-through gives on."""


@dataclass(frozen=True, slots=True)
class Reply:
    """All that a model said in one turn."""

    message: Message
    finish: Finish
    usage: Usage
    model: str
    """As the upstream names it."""
    id: str = ""
    """As the upstream named it."""
    upstream: str = ""
    """Who said it, by its name in the settings."""
    cost: float | None = None
    """US dollars; None when no price is known."""
    refusal: str = ""
    """Those of its words that OpenAI's dialect has in a field of their own, because the model will not do it."""
    stopped_at: str = ""
    """The one of the caller's stop sequences that ended it, where the upstream says so."""
    refused_as: str = ""
    """Why a refusal ended, in the upstream's word; `finish` is `content_filter` then."""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Further fields of an answer in OpenAI's dialect, for whoever it is passed on to."""
    cached: bool = False
    """It was answered from our cache, and cost nothing."""
