"""`sandbox trace list`, `show` and `export`: what happened in runs of the model loop, here and on a server beside."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import version
from typing import Annotated, Any

import typer

from sandbox.cli.view import counted, line, note, printable
from sandbox.config import Settings
from sandbox.errors import TraceMissing
from sandbox.store import Store, TraceRow
from sandbox.traces import to_lines, to_notebook, to_otlp

app = typer.Typer(
    help="Runs of the model loop: what was said, run and spent.", no_args_is_help=True, add_completion=False
)
_LINES_SHOWN = 40
"""Of each output, in `show`; `export` has all."""


class Format(StrEnum):
    """What a trace can become."""

    JSONL = "jsonl"
    IPYNB = "ipynb"
    OTLP = "otlp"


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="The newest so many.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """The newest traces, newest first."""
    rows = asyncio.run(_newest(limit))
    if as_json:
        print(json.dumps([_summary(row) for row in rows]))
        return
    if not rows:
        note("there is no trace yet; `sandbox chat` and a server's model loop leave them")
    for row in rows:
        colour = "green" if row.ending == "answered" else "yellow"
        tokens = row.input_tokens + row.output_tokens
        spent = f"{counted(row.turns, 'turn')}, {counted(row.executions, 'execution')}, {tokens} tokens"
        line(
            (row.id, "bold"), "  ", (row.ending, colour), f"  {_time(row.created_at)}  {spent}  ", printable(row.prompt)
        )


async def _newest(limit: int) -> tuple[TraceRow, ...]:
    async with Store.look_into(Settings().database) as store:
        return (await store.traces(None, limit=limit)).items if store else ()


@app.command()
def show(trace_id: Annotated[str, typer.Argument(metavar="ID", help="From `sandbox trace list`.")]) -> None:
    """One trace, as it happened."""
    row = asyncio.run(_one(trace_id))
    cost = "" if row.cost is None else f", {row.cost:.4f} USD"
    line((row.id, "bold"), f"  {printable(row.model)}  {row.ending}  {_time(row.created_at)}")
    line(
        f"{counted(row.turns, 'turn')}, {counted(row.executions, 'execution')}, {counted(row.failures, 'failure')}, "
        f"{row.input_tokens} tokens in, "
        f"{row.output_tokens} out{cost}, {row.ended_at - row.created_at:.1f} s"
    )
    for record in row.records:
        if record["kind"] == "attempt" and record["outcome"] == "answered":
            continue  # its turn says so
        _show(record, record["at"] - row.created_at)


def _show(record: Mapping[str, Any], after: float) -> None:
    kind = record["kind"]
    title, body = kind, ""
    if kind == "message":
        title, body = record["role"], record["text"]
    elif kind == "turn":
        usage = record["usage"]
        tokens = f"{usage['input_tokens']} tokens in, {usage['output_tokens']} out"
        title = f"turn {record['turn']}: {record['model']} at {record['upstream']}, {record['seconds']:.2f} s, {tokens}"
        body = record["text"]
    elif kind == "attempt":
        title, body = f"attempt at {record['upstream']}: {record['outcome']}", record["error"]
    elif kind == "execution":
        execution = record["execution"]
        title = f"execution {execution['id']}: {execution['status']}, {execution['duration_ms']:.0f} ms"
        body = "\n".join((*(f">>> {each}" for each in record["code"].splitlines()), record["told"]))
    elif kind == "wants":
        title = "the program waits for " + ", ".join(f"{each['name']}({each['arguments']})" for each in record["calls"])
    elif kind == "unusable":
        title, body = f"a call of {record['name']} that could not be executed", record["told"]
    elif kind == "repair":
        done = "repaired" if record["repaired"] else "not repaired"
        title = f"{record['error_class']} {done} after {record['failures']} failures"
    elif kind == "end":
        title = f"end: {record.get('why') or record['error']}"
        body = record.get("detail", "")
    line((f"{after:8.2f}  ", "dim"), (printable(title), "bold"))
    lines = printable(body).splitlines()
    for each in lines[:_LINES_SHOWN]:
        line("          ", each)
    if len(lines) > _LINES_SHOWN:
        line("          ", (f"… {len(lines) - _LINES_SHOWN} more lines", "dim"))


@app.command()
def export(
    trace_id: Annotated[str, typer.Argument(metavar="ID", help="From `sandbox trace list`.")],
    format_: Annotated[
        Format,
        typer.Option("--format", help="Lines of JSON, a Jupyter notebook, or OpenTelemetry spans (OTLP in JSON)."),
    ] = Format.JSONL,
    content: Annotated[
        bool, typer.Option("--content", help="With what was said and run in OpenTelemetry spans, too.")
    ] = False,
) -> None:
    """Write one trace to stdout."""
    row = asyncio.run(_one(trace_id))
    if format_ is Format.JSONL:
        for each in to_lines(row):
            print(json.dumps(each))
    elif format_ is Format.IPYNB:
        print(json.dumps(to_notebook(row), indent=1))
    else:
        print(json.dumps(to_otlp(row, version=version("sandbox-engine"), content=content)))


async def _one(trace_id: str) -> TraceRow:
    async with Store.look_into(Settings().database) as store:
        row = await store.trace(None, trace_id) if store else None
    if row is None:
        raise TraceMissing(f"there is no trace {trace_id}; `sandbox trace list` shows those that are")
    return row


def _summary(row: TraceRow) -> dict[str, Any]:
    return next(iter(to_lines(row)))


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
