"""`sandbox bench`."""

import asyncio
import json
from typing import Annotated

import typer
import uvloop

from sandbox import bench as benches
from sandbox.cli.view import line, note
from sandbox.config import Settings
from sandbox.errors import InvalidRequest

app = typer.Typer(add_completion=False)
_MEASURES = {
    "": benches.MEASURES,
    "--server": benches.SERVER_MEASURES,
    "--docker": benches.DOCKER_MEASURES,
    "--loop": benches.LOOP_MEASURES,
    "--strain": benches.STRAIN_MEASURES,
}
"""By the option that asks for them."""


@app.command()
def bench(
    measures: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"Of {', '.join(benches.MEASURES)}, or with --server of {', '.join(benches.SERVER_MEASURES)}, "
            f"or with --docker of {', '.join(benches.DOCKER_MEASURES)}, "
            f"or with --loop of {', '.join(benches.LOOP_MEASURES)}, "
            f"or with --strain of {', '.join(benches.STRAIN_MEASURES)}; all."
        ),
    ] = None,
    server: Annotated[
        bool, typer.Option("--server", help="Measure a server over HTTP instead; takes about twelve minutes.")
    ] = False,
    docker: Annotated[
        bool, typer.Option("--docker", help="Measure containers instead, on the Docker runtime; takes two minutes.")
    ] = False,
    loop: Annotated[
        bool, typer.Option("--loop", help="Measure the model loop instead, on a scripted model; takes a minute.")
    ] = False,
    strain: Annotated[
        bool,
        typer.Option("--strain", help="Measure a server that is attacked and killed instead; takes about ten minutes."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    scale: Annotated[float, typer.Option(min=0.01, max=10, help="Fraction of the usual number of runs.")] = 1.0,
) -> None:
    """Measure this machine: start, call, memory, stop. Takes about three minutes; leave it alone meanwhile."""
    if server + docker + loop + strain > 1:
        raise InvalidRequest("--server, --docker, --loop and --strain exclude each other")
    wanted = {"--server": server, "--docker": docker, "--loop": loop, "--strain": strain}
    known = _MEASURES[next((option for option, given in wanted.items() if given), "")]
    if strangers := [name for name in measures or () if name not in known]:
        raise InvalidRequest(f"{'; '.join(map(_where, strangers))}; see sandbox bench --help")
    names = list(measures or known)
    # The client of a server has to be quick; the others run as most callers' programs do.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if server or loop or strain else None) as runner:
        report = runner.run(benches.run(Settings(runtime="docker") if docker else Settings(), names, scale, note))
    if as_json:
        typer.echo(json.dumps(benches.as_dict(report), indent=1))
        return
    line(f"{report.machine}, {report.cores} cores, {report.memory_gib:g} GiB, Python {report.python}")
    line(f"load average {report.load_before:.2f} before, {report.load_after:.2f} after")
    for figure in report.figures:
        bounds = f"must {figure.must:g}, aim {figure.aim:g}"
        style = {"aim": "green", "must": "yellow", "no": "bold red"}[figure.reached]
        value = (f"{figure.value:9.2f} {figure.unit:<9}", style)
        line(f"{figure.name:<46} ", value, f"  {bounds}  ({figure.runs} runs)")


def _where(name: str) -> str:
    """What to do about a measure that was not found where it was looked for."""
    for option, measures in _MEASURES.items():
        if name in measures:
            return f"{name} is measured {f'with {option}' if option else 'without an option'}"
    return f"no measure is called {name}"
