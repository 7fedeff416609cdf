"""What is written about the program is what the program does."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from sandbox import errors
from sandbox.api.problems import HTTP_CODES, code_of, status_of
from sandbox.bench import DOCKER_MEASURES, LOOP_MEASURES, MEASURES, SERVER_MEASURES, STRAIN_MEASURES
from sandbox.cli import app
from sandbox.config import Settings, table
from sandbox.errors import SandboxError
from sandbox.execution import Execution, Status
from sandbox.image import Image
from sandbox.node import Node
from tests.api.local import whole_app
from tests.server import serving
from tests.upstreams import Says, Scripted, runs

DOCS = Path(__file__).parents[1] / "docs"


def test_every_setting_is_documented_as_it_is() -> None:
    page = (DOCS / "settings.md").read_text()
    assert page.endswith(table()), "run python scripts/document_settings.py"


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below `command` by its words. Typer brings its own copy of click, hence no types."""
    if not hasattr(command, "list_commands"):
        yield path, command
        return
    for name in command.list_commands(None):
        yield from _commands(command.get_command(None, name), (*path, name))


COMMANDS = dict(_commands(typer.main.get_command(app)))


def test_the_commands_are_those_we_know_of() -> None:
    assert set(COMMANDS) >= {
        ("run",),
        ("serve",),
        ("mcp",),
        ("key", "create"),
        ("key", "list"),
        ("key", "revoke"),
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


def test_every_tool_of_mcp_is_documented_with_what_it_takes_and_gives() -> None:
    tools = pytest.importorskip("sandbox.api.mcp.tools", reason="needs the extra: sandbox-engine[mcp]")
    page = (DOCS / "mcp.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE))
    assert rows.keys() == tools.ARGUMENTS.keys()
    for name, taken in tools.ARGUMENTS.items():
        assert all(f"`{field}`" in rows[name] for field in taken.model_fields), name
    assert all(f"`{field}`" in page for field in tools.RunOut.model_fields)


@pytest.mark.parametrize("status", list(Status))
def test_every_status_is_documented(status: Status) -> None:
    readme, page = (DOCS.parent / "README.md").read_text(), (DOCS / "cli.md").read_text()
    assert f"| `{status}` |" in readme
    assert f"`{status}`" in page


@pytest.mark.parametrize("measure", [*MEASURES, *SERVER_MEASURES, *DOCKER_MEASURES, *LOOP_MEASURES, *STRAIN_MEASURES])
def test_every_measure_of_the_benchmark_is_documented(measure: str) -> None:
    assert f"`{measure}`" in (DOCS / "cli.md").read_text()


def test_every_field_of_an_execution_is_documented() -> None:
    page = (DOCS / "python.md").read_text()
    assert ", ".join(field.name for field in dataclasses.fields(Execution)) in page.replace("\n", " ")


def _below(error: type[SandboxError]) -> Iterator[type[SandboxError]]:
    for below in error.__subclasses__():
        yield below
        yield from _below(below)


NEVER_AN_ANSWER = {errors.InvalidSetting, errors.DataDirInUse, errors.Unreachable, errors.NotFound, errors.Conflict}
"""A server that cannot start answers nothing, and groups are not raised themselves."""
OF_OTHER_APIS = {errors.ContainerExpired, errors.ContainerMissing, errors.InvalidField, errors.ObjectMissing}
"""Answers of the vendors' APIs alone, in their own envelopes."""


@pytest.mark.parametrize("error", sorted(set(_below(SandboxError)) - NEVER_AN_ANSWER - OF_OTHER_APIS, key=str))
def test_every_problem_of_the_api_is_documented_with_its_http_status(error: type[SandboxError]) -> None:
    page = (DOCS / "http.md").read_text()
    [line] = re.findall(rf"^\| (\d+) \|.*`{code_of(error)}`.*\|$", page, re.MULTILINE)
    assert int(line) == status_of(error)


def test_the_table_of_problems_has_every_code_and_no_other() -> None:
    page = (DOCS / "http.md").read_text()
    rows = re.findall(r"^\| (\d{3}) \| (.*) \|$", page, re.MULTILINE)
    told = {(int(status), code) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    raised = {
        (status_of(error), code_of(error)) for error in set(_below(SandboxError)) - NEVER_AN_ANSWER - OF_OTHER_APIS
    }
    assert told == raised | set(HTTP_CODES.items())


async def test_every_route_of_the_api_is_documented(root: None, python_image: Image, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, images_dir=Settings().images_dir, pool_size=0)
    async with Node.open(settings) as node:
        paths = whole_app(node).openapi()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods if method != "head"}
    documented = re.findall(r"^\| `([A-Z]+ /[^`]*)`", (DOCS / "http.md").read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(routes)


def _run(example: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, timeout=120, env={**os.environ, **env}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _examples(page: Path = DOCS.parent / "README.md") -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def test_the_example_of_the_readme_for_the_engine_does_what_it_says(root: None, python_image: Image) -> None:
    [example] = [example for example in _examples() if "Engine" in example]
    assert re.match(r"ok a +4\nb +6\ndtype: int64 \d+\nerror KeyError Traceback", _run(example))


def test_the_example_of_the_readme_for_the_client_does_what_it_says(
    root: None, python_image: Image, tmp_path: Path
) -> None:
    [example] = [example for example in _examples() if "Client" in example]
    with serving(tmp_path) as server:
        told = _run(example, SANDBOX_SERVER=server.url)
    assert re.match(r"""ok a +4\nb +6\ndtype: int64 b'{"a":{"0":1,"1":3},"b":{"0":2,"1":4}}'\nStarted""", told)
    assert "".join(re.findall(r"^Stream\(name='stdout', text='(.*)'\)$", told, re.MULTILINE)) == r"0\n1\n2\n"
    assert "status=<Status.OK: 'ok'>" in told.splitlines()[-1]


FIBONACCI = (runs("a, b = 0, 1\nfor _ in range(30): a, b = b, a + b\nprint(a)"), Says("It is 832040."))


def test_the_example_of_the_loop_for_the_endpoint_does_what_it_says(
    root: None, python_image: Image, tmp_path: Path
) -> None:
    [example] = [example for example in _examples(DOCS / "chat.md") if "OpenAI" in example]
    with Scripted("openai", *FIBONACCI, models=("gpt-5-mini",)) as upstream:
        tables = {"SANDBOX_UPSTREAMS": json.dumps({"openai": {"url": upstream.url}})}
        with serving(tmp_path, env=tables) as server:
            told = _run(example.replace("http://127.0.0.1:8000", server.url))
    answer, executions = told.splitlines()
    assert answer == "It is 832040."
    assert "'stdout': '832040\\n'" in executions


def test_the_example_of_the_loop_in_python_does_what_it_says(root: None, python_image: Image) -> None:
    [example] = [example for example in _examples(DOCS / "chat.md") if "Engine" in example]
    with Scripted("openai", *FIBONACCI) as upstream:
        told = _run(example, OPENAI_BASE_URL=upstream.url)
    assert told.startswith("ok a, b = 0, 1\n")
    assert "It is 832040." in told
    assert "answered Spent(turns=2" in told
