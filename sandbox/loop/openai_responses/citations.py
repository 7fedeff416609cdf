"""Files of a container that an answer speaks of."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

SCHEME = "sandbox:/mnt/data/"
"""How a link to a file in the container begins."""
_GOES_ON = re.compile(r"[\w/-]|\.\w")
"""What comes after a name that is only the beginning of another one."""
_MOST = 100
"""Links of one answer that become citations."""


@dataclass(frozen=True, slots=True)
class ContainerFile:
    """A file in a container."""

    container_id: str
    id: str
    path: str
    """Below `/mnt/data`."""


def links(text: str, files: Sequence[ContainerFile]) -> Iterator[dict[str, Any]]:
    """A citation for each link to one of these files. Its offsets are code points and cover the link's target."""
    known = {each.path: each for each in files} | {quote(each.path): each for each in files}
    lengths = sorted({len(path) for path in known}, reverse=True)
    at, count = text.find(SCHEME), 0
    while at >= 0 and count < _MOST:
        begin = at + len(SCHEME)
        path = _longest(text, begin, known, lengths)
        if path is not None:
            cited = known[path]
            yield _citation(cited, cited.path.rpartition("/")[2], at, begin + len(path))
            count += 1
        at = text.find(SCHEME, begin)


def _longest(text: str, begin: int, known: Mapping[str, ContainerFile], lengths: Sequence[int]) -> str | None:
    """The longest name that is there. Names may hold anything, so that no pattern can say where one ends."""
    for length in lengths:
        path = text[begin : begin + length]
        if path in known and not _GOES_ON.match(text, begin + length):
            return path
    return None


def figure(file: ContainerFile) -> dict[str, Any]:
    """The citation of an image that was displayed, and that the answer does not link."""
    return _citation(file, f"{file.id}.{file.path.rpartition('.')[2]}", 0, 0)


def _citation(file: ContainerFile, filename: str, start: int, end: int) -> dict[str, Any]:
    return {
        "type": "container_file_citation",
        "container_id": file.container_id,
        "file_id": file.id,
        "filename": filename,
        "start_index": start,
        "end_index": end,
    }
