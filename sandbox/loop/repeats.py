"""Whether a model goes round in circles: the same failure again, or the same code to the same end."""

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b

from sandbox.execution import Execution, Status

_REMEMBERED = 64
"""Outcomes; those that were seen longest ago are forgotten."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An outcome."""

    count: int
    """How often it has come, this time included."""
    same_code: bool
    """Each time of this very code."""


class Repeats:
    """What has come of a session's code so far. Holds digests, and no code."""

    def __init__(self) -> None:
        self._outcomes: OrderedDict[bytes, _Past] = OrderedDict()

    def note(self, code: str, execution: Execution) -> Seen:
        """One more execution."""
        if execution.status is Status.OK:
            outcome = _digest(code, execution.stdout, execution.stderr)
        elif (error := execution.error) is not None:
            outcome = _digest(execution.status, error.name, error.value)
        else:
            outcome = _digest(execution.status, code)
        past = self._outcomes.setdefault(outcome, _Past(_digest(code)))
        self._outcomes.move_to_end(outcome)
        if len(self._outcomes) > _REMEMBERED:
            self._outcomes.popitem(last=False)
        past.times += 1
        past.same_code &= past.code == _digest(code)
        return Seen(past.times, past.same_code)


@dataclass(slots=True)
class _Past:
    """Of an outcome."""

    code: bytes
    """The first that had it."""
    times: int = 0
    same_code: bool = True
    """Whether every other was that one again."""


def _digest(*texts: str) -> bytes:
    digest = blake2b(digest_size=16)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(b"%d:%b" % (len(data), data))
    return digest.digest()
