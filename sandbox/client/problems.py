"""From a server's problem document back to the exception that it was there."""

import functools
import json
from collections.abc import Mapping
from typing import Any

from sandbox.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    Overloaded,
    RateLimited,
    SandboxError,
    SandboxFailed,
    TooLarge,
    Unauthorized,
    Unreachable,
    Unready,
)

_BY_STATUS: Mapping[int, type[SandboxError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    429: Overloaded,
    503: Overloaded,
}
"""For codes that a newer server may have."""
_GATEWAY = frozenset({502, 503, 504})


class Again(Exception):
    """What failed may succeed when it is tried again; `error` is what to raise when it is not."""

    def __init__(self, error: SandboxError, after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after = after
        """Seconds that the server asks us to wait, or None."""


def refusal(url: str, status: int, headers: Mapping[str, str], body: bytes) -> Exception:
    """Why a request was refused: `Again` where repeating may help, else what to raise."""
    problem = _problem(headers, body)
    if problem is None:
        error = Unreachable(f"{url} answers {status} and not as a sandbox server does; check its URL")
        return Again(error, retry_after(headers)) if status in _GATEWAY else error
    refused = exception(problem, status, headers)
    if identity := problem.get("request_id") or headers.get("x-request-id"):
        refused.add_note(f"request {identity}")
    if status == 408:  # it heard too little of us for too long
        return Again(Unreachable(str(refused)))
    if isinstance(refused, RateLimited) and refused.name == "stored_bytes":
        return refused  # nothing becomes free by itself
    if isinstance(refused, Overloaded) or type(refused) is Unready:
        return Again(refused, refused.retry_after)
    return refused


def nonsense(error: Exception) -> Unreachable:
    """For a success that cannot be read."""
    what = f"{type(error).__name__}: {error}"[:200]
    return Unreachable(f"the server answers what this client does not understand ({what}); are both of one version?")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; the form with a date is not one that our server uses."""
    text = headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _problem(headers: Mapping[str, str], body: bytes) -> Mapping[str, Any] | None:
    if not headers.get("content-type", "").startswith("application/problem+json"):
        return None
    try:
        problem = json.loads(body)
    except ValueError:
        return None
    return problem if isinstance(problem, dict) else None


def exception(problem: Mapping[str, Any], status: int = 500, headers: Mapping[str, str] | None = None) -> SandboxError:
    """What the server raised. Its code decides; the status does for codes that this client does not know."""
    words = str(problem.get("detail") or problem.get("title") or f"the server answered {status}")
    kind = _kinds().get(str(problem.get("code"))) or _BY_STATUS.get(status)
    kind = kind or (InvalidRequest if status < 500 else SandboxFailed)
    if not issubclass(kind, Overloaded):
        return kind(words)
    after = _number(problem.get("retry_after"), retry_after(headers or {}) or 1.0)
    if not issubclass(kind, RateLimited):
        return kind(words, after)
    return kind(
        words,
        after,
        name=str(problem.get("name", "")),
        limit=int(_number(problem.get("limit"), 0)),
        remaining=int(_number(problem.get("remaining"), 0)),
        reset=_number(problem.get("reset"), after),
    )


def _number(value: Any, default: float) -> float:
    return float(value) if isinstance(value, int | float) else default


@functools.cache
def _kinds() -> Mapping[str, type[SandboxError]]:
    """Every exception that `errors` draws, by the code it has in problem documents."""
    found: list[type[SandboxError]] = [SandboxError]
    for kind in found:
        found += kind.__subclasses__()
    return {_code(kind.__name__): kind for kind in found}


def _code(name: str) -> str:
    """`SessionMissing` is `session_missing`."""
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in name).removeprefix("_")
