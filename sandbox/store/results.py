"""Results that are too long for a row.

One writer serves everybody, so a write had better be short. Results may be tens of megabytes of pictures: then they
are rows of their own, written about a megabyte at a time before the row that says how their execution ended. A kill in
between leaves rows that no execution counts; they go with their session.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from sandbox.errors import SessionMissing
from sandbox.store import statements as sql
from sandbox.store.schema import to_json

LONG = 1 << 18
"""Bytes, about, from which results have rows of their own: those take another write, and another read."""
_WRITE = 1 << 20
"""Bytes that one write takes; a result that is longer has one to itself."""
_VALUE = 16
"""Bytes that a value which is no text is taken for, but for a longer integer."""

Bundle = Mapping[str, Any]


def are_long(results: Iterable[Bundle]) -> bool:
    """Whether their JSON is about as long as `LONG`, or may be, without making it."""
    length = 0
    waiting: list[Iterator[Any]] = [iter(results)]
    while waiting:
        for value in waiting[-1]:
            length += _length(value)
            if length >= LONG:
                return True
            if isinstance(value, Mapping):
                length += sum(map(_length, value))
                waiting.append(iter(value.values()))
                break
            if isinstance(value, list | tuple):
                waiting.append(iter(value))
                break
        else:
            waiting.pop()
    return False


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value) if value.isascii() else 3 * len(value)
    return max(_VALUE, value.bit_length() // 3) if isinstance(value, int) else _VALUE


def in_writes(execution_id: str, results: Iterable[Bundle]) -> Iterator[list[dict[str, Any]]]:
    """Their rows, those together that one write takes. For a thread: each step takes milliseconds."""
    rows: list[dict[str, Any]] = []
    length = 0
    for place, bundle in enumerate(results):
        text = to_json(bundle)
        if rows and length + len(text) > _WRITE:
            yield rows
            rows, length = [], 0
        length += len(text)
        rows.append({"execution_id": execution_id, "place": place, "bundle": text})
    yield rows


def add(connection: Connection, execution_id: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Insert them; the first replace what an attempt before has left. False unless the execution is in flight."""
    if connection.execute(sql.IN_FLIGHT, {"execution": execution_id}).first() is None:
        return False
    if rows[0]["place"] == 0:
        connection.execute(sql.REMOVE_RESULTS, {"execution": execution_id})
    connection.execute(sql.ADD_RESULTS, rows)
    return True


def read(connection: Connection, execution_id: str, count: int) -> tuple[Bundle, ...]:
    """All of them. Raises `SessionMissing` when they are being purged, and their execution next."""
    found = connection.execute(sql.RESULTS, {"execution": execution_id}).scalars().all()
    if len(found) != count:
        raise SessionMissing("the session is gone; open a new one")
    return tuple(found)
