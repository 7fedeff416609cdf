"""`scripts/bench-peers`: makes the peers' environments, measures each, and writes a table and a picture."""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from sandbox import image
from sandbox.config import Settings
from sandbox.runtime.embedded import linux
from tests.docker import ROOT, Docker
from tests.peers import environments
from tests.peers.bench import PEERS, Bench, Figures, Peer
from tests.peers.environments import IMAGE, NotInstalled
from tests.peers.report import document, markdown
from tests.server import serving

_POOL = 8
_NAMES = [peer.name for peer in PEERS]


def main() -> None:
    options = _options()
    wanted = [peer for peer in PEERS if peer.name in (options.peer or _NAMES)]
    start = time.monotonic()
    linux.become_subreaper()  # what a killed driver leaves is found among our own
    with contextlib.ExitStack() as stack:
        cache = options.cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="peers-")))
        cache.mkdir(parents=True, exist_ok=True)
        figures, absent = _measured(wanted, cache, options.scale)
    told = document(figures, absent, time.monotonic() - start)
    table = markdown(figures, absent)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "peers.json").write_text(json.dumps(told, indent=2) + "\n")
    (options.out / "peers.md").write_text(table)
    python = image.build("python", Settings.load().images_dir, _say).root / "venv" / "bin" / "python"
    drawing = [python, ROOT / "tests/peers/plot.py", options.out / "peers.json", options.out / "peers.svg"]
    subprocess.run(drawing, check=True)
    print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench-peers", description=__doc__)
    parser.add_argument("--peer", action="append", choices=_NAMES, help="only this one; may be given several times")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the usual numbers and seconds")
    parser.add_argument("--out", type=Path, default=Path("out/peers"), help="where peers.json, .md and .svg go")
    parser.add_argument("--cache", type=Path, help="keep environments and images here; default: make and remove them")
    return parser.parse_args()


def _measured(wanted: list[Peer], cache: Path, scale: float) -> tuple[Mapping[str, Figures], Mapping[str, str]]:
    """The figures by peer, and for the others why there are none."""
    figures: dict[str, Figures] = {}
    absent: dict[str, str] = {}
    pythons: dict[str, Path] = {}
    image.build("python", Settings.load().images_dir, _say)
    for peer in wanted:  # all of them before the daemon, with whose network ours may go
        try:
            own = [*peer.requirements]
            pythons[peer.name] = environments.python_with(cache, peer.name, own) if own else Path(sys.executable)
        except NotInstalled as reason:
            absent[peer.name] = str(reason)
    with contextlib.ExitStack() as stack:
        docker: Docker | None = None
        no_daemon = ""
        if any(peer.docker and peer.name in pythons for peer in wanted):
            try:
                docker = stack.enter_context(environments.daemon(cache.absolute()))
            except NotInstalled as error:
                no_daemon = str(error)
        for peer in wanted:
            if peer.docker and docker is None:
                absent.setdefault(peer.name, no_daemon)
            elif peer.name in pythons:
                _say(f"measuring {peer.name}")
                with _bench(peer, pythons[peer.name], docker, cache, scale) as bench:
                    figures[peer.name] = bench.measure()
    return figures, absent


@contextlib.contextmanager
def _bench(peer: Peer, python: Path, docker: Docker | None, cache: Path, scale: float) -> Iterator[Bench]:
    env = {**(docker.env if docker else os.environ), "PEERS_IMAGE": IMAGE, "NO_PROXY": "127.0.0.1,localhost"}
    log = cache / f"{peer.name}.log"
    log.unlink(missing_ok=True)
    if peer.requirements or peer.docker:
        yield Bench(peer, python, docker, env, scale, log)
        return
    with (
        tempfile.TemporaryDirectory(prefix="peers-server-") as directory,
        serving(Path(directory), "--pool", str(_POOL), env={"SANDBOX_LOG_LEVEL": "warning"}) as server,
    ):
        yield Bench(peer, python, docker, {**env, "PEERS_SERVER": server.url}, scale, log, server.kill)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
