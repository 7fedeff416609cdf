"""`sandbox serve`."""

from pathlib import Path
from typing import Annotated

import typer

from sandbox.api import start
from sandbox.config import Settings

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(metavar="HOST", help="The address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(metavar="PORT", help="The port; 0 takes a free one.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", file_okay=False, help="Where all that outlives the server is kept.")
    ] = None,
    runtime: Annotated[str | None, typer.Option(metavar="NAME", help="embedded, docker or auto.")] = None,
    pool: Annotated[int | None, typer.Option(metavar="N", help="How many sandboxes are kept warm.")] = None,
) -> None:
    """Serve the HTTP API until SIGTERM or Ctrl-C. The first line on stdout is its URL, once requests are taken.

    What no option says is as the settings have it. Exits 0 when what ran has ended, or had its time.
    """
    wanted = {"host": host, "port": port, "data_dir": data_dir, "runtime": runtime, "pool_size": pool}
    settings = Settings(**{name: value for name, value in wanted.items() if value is not None})
    start.run(settings, _announce)


def _announce(url: str) -> None:
    # Flushed: whoever started us waits for this line in a pipe.
    print(url, flush=True)
