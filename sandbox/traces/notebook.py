"""A trace as a Jupyter notebook: what was asked and answered as text, what was run as cells with their outputs."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from sandbox.store.rows import TraceRow

_LINES = ("text/", "image/svg+xml", "application/javascript")
"""MIME types whose content nbformat keeps as lines."""


def to_notebook(trace: TraceRow) -> dict[str, Any]:
    """nbformat 4.5."""
    cells = [{"id": f"c{number}", **cell} for number, cell in enumerate(_cells(trace.records))]
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
            "sandbox": {"trace_id": trace.id, "model": trace.model, "ending": trace.ending},
        },
        "cells": cells,
    }


def _cells(records: tuple[Mapping[str, Any], ...]) -> Iterator[dict[str, Any]]:
    for record in records:
        if record["kind"] == "message" and record["text"]:
            yield _markdown(f"**{record['role']}:** {record['text']}")
        elif record["kind"] == "turn" and record["text"].strip():
            yield _markdown(record["text"])
        elif record["kind"] == "execution":
            yield _code(record)
        elif record["kind"] == "end" and "error" in record:
            yield _markdown(f"**failed:** {record['detail']}")


def _markdown(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": _lines(text)}


def _code(record: Mapping[str, Any]) -> dict[str, Any]:
    execution = record["execution"]
    told = {name: execution[name] for name in ("id", "status", "reason", "duration_ms", "peak_memory_bytes")}
    return {
        "cell_type": "code",
        "metadata": {"sandbox": told},
        "execution_count": _count(execution["execution_count"]),
        "source": _lines(record["code"]),
        "outputs": list(_outputs(execution)),
    }


def _outputs(execution: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name in ("stdout", "stderr"):
        if execution[name]:
            yield {"output_type": "stream", "name": name, "text": _lines(execution[name])}
    for bundle in execution["results"]:
        data = {mime: _content(mime, content) for mime, content in bundle.items()}
        yield {"output_type": "display_data", "metadata": {}, "data": data}
    if (error := execution["error"]) is not None:
        traceback = error["traceback"].splitlines()
        yield {"output_type": "error", "ename": error["name"], "evalue": error["value"], "traceback": traceback}
    elif execution["status"] not in ("ok", "error"):
        reason = execution["reason"] or execution["status"]
        yield {"output_type": "error", "ename": execution["status"], "evalue": reason, "traceback": [reason]}


def _content(mime: str, content: str) -> Any:
    if mime.endswith("json"):  # which a trace keeps as text
        return json.loads(content)
    return _lines(content) if mime.startswith(_LINES) else content


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)
