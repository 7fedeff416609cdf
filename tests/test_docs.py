"""What is written about the program is what the program does."""

import dataclasses
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from sandbox.bench import MEASURES
from sandbox.cli import app
from sandbox.config import table
from sandbox.execution import Execution, Status
from sandbox.image import Image

DOCS = Path(__file__).parents[1] / "docs"


def test_every_setting_is_documented_as_it_is() -> None:
    page = (DOCS / "settings.md").read_text()
    assert page.endswith(table()), "run python scripts/document_settings.py"


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below `command` by its words. Typer brings its own copy of click, hence no types."""
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    for name, child in children.items():
        yield from _commands(child, (*path, name))


COMMANDS = dict(_commands(typer.main.get_command(app)))


def test_the_commands_are_those_we_know_of() -> None:
    assert set(COMMANDS) >= {
        ("run",),
        ("doctor",),
        ("bench",),
        ("image", "build"),
        ("image", "list"),
        ("image", "show"),
    }


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_and_option_is_documented(path: tuple[str, ...]) -> None:
    page = (DOCS / "cli.md").read_text()
    assert f"sandbox {' '.join(path)}" in page
    for parameter in COMMANDS[path].params:
        for option in parameter.opts:
            assert not option.startswith("-") or f"`{option}" in page, option


@pytest.mark.parametrize("status", list(Status))
def test_every_status_is_documented(status: Status) -> None:
    readme, page = (DOCS.parent / "README.md").read_text(), (DOCS / "cli.md").read_text()
    assert f"| `{status}` |" in readme
    assert f"`{status}`" in page


@pytest.mark.parametrize("measure", MEASURES)
def test_every_measure_of_the_benchmark_is_documented(measure: str) -> None:
    assert f"`{measure}`" in (DOCS / "cli.md").read_text()


def test_every_field_of_an_execution_is_documented() -> None:
    page = (DOCS / "python.md").read_text()
    assert ", ".join(field.name for field in dataclasses.fields(Execution)) in page.replace("\n", " ")


def test_the_example_of_the_readme_does_what_it_says(root: None, python_image: Image) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (DOCS.parent / "README.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.match(r"ok a +4\nb +6\ndtype: int64 \d+\nerror KeyError Traceback", done.stdout), done.stdout
