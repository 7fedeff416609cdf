"""A trace as lines of JSON: first what it was as a whole, then each record."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from sandbox.store.rows import TraceRow


def to_lines(trace: TraceRow) -> Iterator[dict[str, Any]]:
    """Each line's object."""
    fields = {field.name: getattr(trace, field.name) for field in dataclasses.fields(trace) if field.name != "records"}
    yield {"kind": "trace", **fields}
    for record in trace.records:
        yield dict(record)
