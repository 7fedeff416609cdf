"""`scripts/scoreboard`: measures what the project promises, and writes the page that says how far it is kept."""

import argparse
import asyncio
import contextlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import uvloop

from sandbox import image
from sandbox.config import Settings
from sandbox.errors import ImageNotBuilt, SandboxError
from sandbox.runtime.docker import image as docker_images
from sandbox.runtime.docker.daemon import client_for
from sandbox.runtime.embedded import linux
from tests import docker as daemons
from tests.docker import ROOT, Docker
from tests.score import record
from tests.score.page import page
from tests.score.parts import PARTS, Part, corpus, scores
from tests.score.record import Entry, Run
from tests.scoreboard import EMBEDDED, RUNTIMES

_CORPUS = "corpus"


def main() -> int:
    options = _options()
    linux.become_subreaper()  # orphans are found among our own
    wanted, runtimes = options.part or [_CORPUS, *PARTS], options.runtime or RUNTIMES
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="score-")))
        image.build("python", Settings.load().images_dir, _say)
        docker = _docker(stack, directory / "docker") if _needs_docker(options, wanted, runtimes) else None
        if _CORPUS in wanted:
            _add(options, _CORPUS, _corpus(options, runtimes, docker))
        whole = True
        for part in (PARTS[name] for name in wanted if name in PARTS):
            for runtime in _within_reach(runtimes, docker):
                whole &= _measured(options, part, runtime, directory, docker)
    return 0 if whole else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/scoreboard", description=__doc__)
    add, pages = parser.add_argument, ROOT / "docs"
    add("part", nargs="*", help=f"what to measure, of {', '.join([_CORPUS, *PARTS])}; default is everything")
    add("--runtime", action="append", choices=RUNTIMES, help="only there; may be given several times")
    add("--scale", type=float, default=1.0, help="fraction of the usual numbers")
    add("--corpus", type=Path, metavar="FILE", help="what `pytest --scoreboard FILE` wrote, instead of running it")
    add("--nightly", action="store_true", help="run the long attacks, too")
    add("--record", type=Path, default=pages / "scoreboard.json", help="to which measured parts are added")
    add("--page", type=Path, default=pages / "scoreboard.md", help="which is written from it")
    options = parser.parse_args()
    if unknown := set(options.part) - {_CORPUS, *PARTS}:
        parser.error(f"no part is called {', '.join(sorted(unknown))}")
    return options


def _needs_docker(options: argparse.Namespace, wanted: Sequence[str], runtimes: Sequence[str]) -> bool:
    return {*runtimes} != {EMBEDDED} and (options.corpus is None or {*wanted} != {_CORPUS})


def _docker(stack: contextlib.ExitStack, directory: Path) -> Docker | None:
    """A daemon that has our image; None, and words, where there cannot be one."""
    directory.mkdir()
    try:
        docker = stack.enter_context(daemons.running(directory))
        with contextlib.closing(client_for(docker.address)) as client:
            try:
                docker_images.load(client, "python")
            except ImageNotBuilt:
                base, bundle = daemons.base_image(docker), daemons.ca_bundle()
                network = daemons.NETWORK
                docker_images.build(client, "python", _say, base_image=base, network=network, ca_bundle=bundle)
    except pytest.skip.Exception as reason:
        _say(f"there will be no containers: {reason}")
        return None
    return docker


def _within_reach(runtimes: Sequence[str], docker: Docker | None) -> list[str]:
    return [runtime for runtime in runtimes if runtime == EMBEDDED or docker is not None]


def _corpus(options: argparse.Namespace, runtimes: Sequence[str], docker: Docker | None) -> Mapping[str, Entry]:
    if options.corpus is not None:
        return scores(options.corpus, runtimes)
    return corpus(_within_reach(runtimes, docker), docker, nightly=options.nightly)


def _measured(options: argparse.Namespace, part: Part, runtime: str, directory: Path, docker: Docker | None) -> bool:
    """Whether the part could be measured there. What is known before it is written whatever comes after."""
    _say(f"{part.name} on {runtime} …")
    run, settings = Run(), _settings(directory, runtime, docker)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            result = runner.run(part.measure(settings, runtime, options.scale))
    except SandboxError as error:
        _say(f"{part.name} on {runtime} could not be measured: {error}")
        return False
    _add(options, part.name, {runtime: run.entry(result, options.scale)})
    return True


def _settings(directory: Path, runtime: str, docker: Docker | None) -> Settings:
    images_dir = Settings.load().images_dir
    if runtime == EMBEDDED:
        return Settings(runtime="embedded", data_dir=directory, images_dir=images_dir)
    assert docker is not None
    oci_runtime = runtime.removeprefix("docker/")
    return Settings(
        runtime="docker",
        docker_host=docker.address,
        oci_runtime=oci_runtime,
        data_dir=directory / oci_runtime,
        images_dir=images_dir,
    )


def _add(options: argparse.Namespace, part: str, entries: Mapping[str, Entry]) -> None:
    told = record.load(options.record)
    told.setdefault(part, {}).update(entries)
    record.save(options.record, told)
    options.page.write_text(page(record.load(options.record)))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
