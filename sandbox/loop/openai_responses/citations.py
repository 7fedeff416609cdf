"""Files of a container that an answer speaks of."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sandbox.loop import links as linked


@dataclass(frozen=True, slots=True)
class ContainerFile:
    """A file in a container."""

    container_id: str
    id: str
    path: str
    """Below `/mnt/data`."""


def links(text: str, files: Sequence[ContainerFile]) -> Iterator[dict[str, Any]]:
    """A citation for each link to one of these files. Its offsets are code points and cover the link's target."""
    known = {each.path: each for each in files}
    for link in linked.links(text, known):
        yield _citation(known[link.path], link.path.rpartition("/")[2], link.start, link.end)


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
