"""What a scripted model's server is told to answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: Mapping[str, Any]
    """Empty when there was none."""


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call. Arguments that are a string go out as they are, malformed or not."""

    name: str
    arguments: Mapping[str, Any] | str
    id: str = ""
    """Empty for one that the server makes up."""


@dataclass(frozen=True, slots=True)
class Says:
    """An answer: text, then calls."""

    text: str = ""
    calls: tuple[Call, ...] = ()
    finish: str = ""
    """In the dialect's words; empty for the one that fits."""
    usage: tuple[int, int] | None = (10, 5)
    """Tokens in and out; None for a server that does not count."""
    delay: float = 0.0
    """Seconds until the first byte."""
    piece: int = 8
    """Characters of each delta."""


@dataclass(frozen=True, slots=True)
class Breaks:
    """An answer that does not come to its end, or has no sense.

    `cut` closes the connection, `stall` says nothing more, `garbage` sends what is no JSON, and `error` says that
    something went wrong in the server, as the dialect does in the middle of a stream.
    """

    how: Literal["cut", "stall", "garbage", "error"]
    says: Says = Says("This will not come to its end.")
    after: int = 3
    """Events of a stream that come before; of a whole answer, half of it comes."""


@dataclass(frozen=True, slots=True)
class Fails:
    """An error in the dialect's envelope."""

    status: int = 500
    message: str = "The server had an error."
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Raw:
    """Whatever else a web server may say."""

    body: bytes
    content_type: str = "text/html"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Silent:
    """The request is taken, and no byte comes back."""

    closes: bool = False
    """The connection is closed at once; otherwise it stays open for as long as the client does."""


@dataclass(frozen=True, slots=True)
class Unspoken:
    """Bytes that need be no HTTP, after which the connection is closed."""

    data: bytes
    resets: bool = False
    """It is torn down, which a client may hear of before it has read all."""


Scene = Says | Breaks | Fails | Raw | Silent | Unspoken
Script = Callable[[Asked], Scene]
"""Computes what is answered from what was asked."""

PAGE = Raw(b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>", status=502)


def runs(*programs: str, text: str = "", tool: str = "run_python") -> Says:
    """The model wants these programs to run."""
    return Says(text, tuple(Call(tool, {"code": program}) for program in programs))


def fenced(program: str, text: str = "Let me see.") -> Says:
    """A program as small models write it whatever tools there are."""
    return Says(f"{text}\n\n```python\n{program}\n```\n")


def busy(retry_after: float | str | None = None, status: int = 429) -> Fails:
    """Too many requests; 529 is Anthropic's word for an overloaded server."""
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    return Fails(status, "Too many requests, slow down.", "rate_limit_exceeded", headers)
