"""What somebody may have meant by a name that nothing has."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The name that is most like it, first of those to which it lacks the unit: `timeout` is `timeout_s`."""
    known = list(known)
    beginnings = [each for each in known if each.startswith(f"{name}_")]
    return next(iter(beginnings or difflib.get_close_matches(name[:200], known, n=1, cutoff=0.75)), None)
