"""Results that are too long for a row.

One writer serves everybody, so no write may be long. Results can be, up to tens of megabytes of pictures: then they
are rows of their own, written a few at a time before the row that says how their execution ended. A kill in between
leaves rows that no execution counts; they go with their session.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from sandbox.errors import SessionMissing
from sandbox.store import statements as sql
from sandbox.store.schema import to_json

LONG = 1 << 18
"""Characters, about, from which results have rows of their own: those take another write, and another read."""
_WRITE = 1 << 20
"""Characters that one write takes; a result that is longer has one to itself."""
_VALUE = 16
"""Characters that a value which is no text may be taken for."""

Bundle = Mapping[str, Any]


def are_long(results: Iterable[Bundle]) -> bool:
    """Whether their JSON is about as long as `LONG`, without making it."""
    length = 0
    waiting: list[Iterator[Any]] = [iter(results)]
    while waiting:
        for value in waiting[-1]:
            length += len(value) if isinstance(value, str) else _VALUE
            if length >= LONG:
                return True
            if isinstance(value, Mapping):
                length += sum(map(len, value))
                waiting.append(iter(value.values()))
                break
            if isinstance(value, list | tuple):
                waiting.append(iter(value))
                break
        else:
            waiting.pop()
    return False


def in_writes(execution_id: str, results: Iterable[Bundle]) -> list[list[dict[str, Any]]]:
    """Their rows, as they are written together. For a thread: it takes a millisecond for a megabyte."""
    writes: list[list[dict[str, Any]]] = []
    length = _WRITE
    for place, bundle in enumerate(results):
        text = to_json(bundle)
        if length + len(text) > _WRITE:
            writes.append([])
            length = 0
        length += len(text)
        writes[-1].append({"execution_id": execution_id, "place": place, "bundle": text})
    return writes


def add(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert them; the first replace what an attempt before has left."""
    if rows[0]["place"] == 0:
        connection.execute(sql.REMOVE_RESULTS, {"execution": rows[0]["execution_id"]})
    connection.execute(sql.ADD_RESULTS, rows)


def read(connection: Connection, execution_id: str, count: int) -> tuple[Bundle, ...]:
    """All of them. Raises `SessionMissing` when they are being purged, and their execution next."""
    found = connection.execute(sql.RESULTS, {"execution": execution_id}).scalars().all()
    if len(found) != count:
        raise SessionMissing("the session is gone; open a new one")
    return tuple(found)
