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
        self._outcomes: OrderedDict[bytes, list[bytes]] = OrderedDict()

    def note(self, code: str, execution: Execution) -> Seen:
        """One more execution."""
        if execution.status is Status.OK:
            outcome = _digest(code, execution.stdout, execution.stderr)
        elif (error := execution.error) is not None:
            outcome = _digest(execution.status, error.name, error.value)
        else:
            outcome = _digest(execution.status, code)
        codes = self._outcomes.setdefault(outcome, [])
        self._outcomes.move_to_end(outcome)
        if len(self._outcomes) > _REMEMBERED:
            self._outcomes.popitem(last=False)
        codes.append(_digest(code))
        return Seen(len(codes), codes.count(codes[-1]) == len(codes))


def _digest(*texts: str) -> bytes:
    digest = blake2b(digest_size=16)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(b"%d:%b" % (len(data), data))
    return digest.digest()
