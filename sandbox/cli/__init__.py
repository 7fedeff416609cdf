"""The commands, a file each; `view` is what all of them show, `folder` what `run` keeps.

Our own failures, which is anything that `errors` draws, end a command with a paragraph on stderr and exit code 2.
"""

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
import typer.core

from sandbox.cli.view import note
from sandbox.errors import SandboxError

COMMANDS = ("run", "chat", "serve", "mcp", "key", "trace", "doctor", "image", "bench")
FAILURE = 2
"""The exit code of what is not the program's fault."""


class _Commands(typer.core.TyperGroup):
    """Imports a command's file when it is asked for: `run` should not wait for a web server and a database."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        command = typer.main.get_command(import_module(f"sandbox.cli.{cmd_name}").app)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=_Commands,
    help="Run untrusted Python in warm, forked, contained Jupyter kernels.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """The `sandbox` command."""
    try:
        app(prog_name="sandbox")
    except SandboxError as error:
        note(str(error))
        sys.exit(FAILURE)


def _show_version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"sandbox {version('sandbox-engine')}")
        except PackageNotFoundError:
            typer.echo("sandbox (a checkout that is not installed)")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass
