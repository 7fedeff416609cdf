"""Files that an answer links to, as OpenAI's models write it: `sandbox:/mnt/data/NAME`."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

PREFIX = "sandbox:/mnt/data/"
_GOES_ON = re.compile(r"[\w%/-]|\.\w")
"""What follows a name that is longer than the one that was found."""
_MOST = 100
"""Links of one answer: each is kept, or cited."""


@dataclass(frozen=True, slots=True)
class Link:
    """Where in the text, in code points, and which file."""

    start: int
    end: int
    path: str
    """Below `/mnt/data`."""


def links(text: str, paths: Collection[str]) -> tuple[Link, ...]:
    """Those that lead to one of these files, in order. Names may be written as in URLs, or with spaces and brackets as
    they are: where a link ends is known from what files there are.
    """
    known = {quote(path): path for path in paths} | {path: path for path in paths}
    lengths = sorted({len(form) for form in known}, reverse=True)
    found, at = list[Link](), text.find(PREFIX)
    while at >= 0 and len(found) < _MOST:
        name = at + len(PREFIX)
        form = _longest(text, name, known, lengths)
        if form is not None:
            found.append(Link(at, name + len(form), known[form]))
        at = text.find(PREFIX, name)
    return tuple(found)


def _longest(text: str, begin: int, known: Mapping[str, str], lengths: Sequence[int]) -> str | None:
    """The longest name that is there. There may be thousands of files, and as many links."""
    for length in lengths:
        form = text[begin : begin + length]
        if form in known and not _GOES_ON.match(text, begin + len(form)):
            return form
    return None
