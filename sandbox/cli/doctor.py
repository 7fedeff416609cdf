"""`sandbox doctor`."""

import asyncio
import dataclasses
import json
from collections.abc import Sequence
from typing import Annotated

import typer

from sandbox import doctor as hosts
from sandbox.cli.view import line, note
from sandbox.config import Settings, unknown_variables
from sandbox.doctor.server import examine_server

app = typer.Typer(add_completion=False)

_GRADE_STYLES = {"A": "green", "B": "yellow", "C": "magenta", "fail": "bold red"}
_GRAVE = (hosts.Grade.C, hosts.Grade.FAIL)
"""What to know of before strangers' code runs."""


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    brief: Annotated[
        bool, typer.Option("--brief", help="Only what is graded C or fail; the image may be yet to be built.")
    ] = False,
    settings: Annotated[bool, typer.Option("--settings", help="Show every setting and its origin instead.")] = False,
) -> None:
    """Grade this host and say how to fix what was found. Exits 1 when nothing can run."""
    values = Settings()
    if settings:
        _show_settings(values, as_json=as_json)
        return
    findings = (*hosts.examine(values), *asyncio.run(examine_server(values)))
    if brief:
        findings = tuple(finding for finding in findings if finding.name != "image" and finding.grade in _GRAVE)
    grade = hosts.overall(findings)
    if as_json:
        typer.echo(json.dumps({"grade": grade, "findings": [dataclasses.asdict(finding) for finding in findings]}))
    elif findings:
        _show(findings, grade)
    raise typer.Exit(1 if grade is hosts.Grade.FAIL else 0)


def _show(findings: Sequence[hosts.Finding], grade: hosts.Grade) -> None:
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        line((f"{finding.grade:>4}  ", _GRADE_STYLES[finding.grade]), (f"{finding.name:<{width}}  ", ""), finding.found)
        if finding.fix:
            line((f"{'':{width + 8}}fix: ", "dim"), finding.fix)
    usable = "sandboxes can run here" if grade is not hosts.Grade.FAIL else "fix what failed first"
    line((f"{grade:>4}  ", _GRADE_STYLES[grade]), f"this host; {usable}")


def _show_settings(values: Settings, *, as_json: bool) -> None:
    explained = values.explain()
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(setting) for setting in explained], default=str))
        return
    width = max(len(setting.name) for setting in explained)
    for setting in explained:
        style = "dim" if setting.origin == "default" else "cyan"
        line((f"{setting.name:<{width}}  ", "bold"), f"{setting.value}  ", (setting.origin, style))
    if others := unknown_variables():
        note(f"not settings, and ignored: {', '.join(others)}")
