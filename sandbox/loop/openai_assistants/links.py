"""Files that an answer links to: `sandbox:/mnt/data/NAME`."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import quote

PREFIX = "sandbox:/mnt/data/"
_GOES_ON = re.compile(r"[\w%/-]|\.\w")
"""What follows a name that is longer than the one that was found."""


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
    written = [(form, path) for path in paths for form in {path, quote(path)}]
    written.sort(key=lambda pair: len(pair[0]), reverse=True)
    found, at = list[Link](), text.find(PREFIX)
    while at >= 0:
        name = at + len(PREFIX)
        for form, path in written:
            if text.startswith(form, name) and not _GOES_ON.match(text, name + len(form)):
                found.append(Link(at, name + len(form), path))
                break
        at = text.find(PREFIX, name)
    return tuple(found)
