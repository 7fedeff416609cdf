"""`scripts/bench-peers`: makes the peers' environments, measures each, and writes a page and a picture."""

import argparse
import contextlib
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from sandbox import image
from sandbox.config import Settings
from sandbox.errors import SandboxError
from sandbox.runtime.docker import image as docker_images
from sandbox.runtime.docker.daemon import client_for
from sandbox.runtime.embedded import linux
from tests import docker as daemons
from tests.docker import Docker
from tests.peers import environments
from tests.peers.bench import Bench, Standing, words
from tests.peers.environments import IMAGE, NotInstalled
from tests.peers.page import NAME, page, table
from tests.peers.peer import PEERS, Peer
from tests.peers.plot import drawing
from tests.peers.run import Measured, Run
from tests.peers.service import Running

_NAMES = [peer.name for peer in PEERS]


def main() -> None:
    options = _options()
    wanted = [peer for peer in PEERS if peer.name in (options.peer or _NAMES)]
    start = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and take down what was put up
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell has its background jobs ignore
    linux.become_subreaper()  # what a killed driver leaves is found among our own
    with contextlib.ExitStack() as stack:
        cache = options.cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="peers-")))
        cache.mkdir(parents=True, exist_ok=True)
        peers, standing_on = _measured(wanted, cache.absolute(), options.scale)
    chosen = "".join(f" --peer {name}" for name in options.peer or ())
    run = Run(
        date=datetime.now(UTC).date().isoformat(),
        command=f"scripts/bench-peers{chosen} --scale {options.scale:g}",
        machine=f"{platform.system()} {platform.release()} {platform.machine()}",
        cores=os.cpu_count() or 1,
        memory_gib=round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30), 1),
        versions=standing_on,
        seconds=round(time.monotonic() - start),
        peers=peers,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{NAME}.json").write_text(run.to_json())
    (options.out / f"{NAME}.md").write_text(page(run))
    (options.out / f"{NAME}.svg").write_text(drawing(run))
    print(table(run))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench-peers", description=__doc__)
    parser.add_argument("--peer", action="append", choices=_NAMES, help="only this one; may be given several times")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the usual numbers and seconds")
    parser.add_argument("--out", type=Path, default=Path("out/peers"), help=f"where {NAME}.json, .md and .svg go")
    parser.add_argument("--cache", type=Path, help="keep environments and images here; default: make and remove them")
    return parser.parse_args()


def _measured(wanted: list[Peer], cache: Path, scale: float) -> tuple[Mapping[str, Measured], Mapping[str, str]]:
    """What came of each, in our order; and the versions of what they stand on."""
    image.build("python", Settings.load().images_dir, _say)
    pythons, absent = _environments(wanted, cache)  # before the daemon, with whose network ours may go
    measured: dict[str, Measured] = {}
    versions = {"sandbox-engine": version("sandbox-engine"), "Python": platform.python_version()}
    with contextlib.ExitStack() as stack:
        docker: Docker | None = None
        if any(peer.docker and peer.name in pythons for peer in wanted):
            try:
                docker = stack.enter_context(
                    environments.daemon(cache, lambda docker: _add_ours(docker, wanted, absent))
                )
                versions |= {"Docker": docker.output("docker", "version", "--format={{.Server.Version}}")}
            except NotInstalled as error:
                absent |= {peer.name: str(error) for peer in wanted if peer.docker and peer.name in pythons}
        for peer in wanted:
            if peer.name in absent:
                measured[peer.name] = Measured(absent=absent[peer.name])
                continue
            _say(f"measuring {peer.title}")
            try:
                with _bench(peer, pythons[peer.name], docker, cache, scale) as bench:
                    standing = bench.standing_mib() if peer.service is not None else 0.0
                    told = environments.versions(bench.python, peer.distributions) if peer.distributions else {}
                    measured[peer.name] = Measured(told, standing, bench.measure())
            except Exception as error:  # what breaks one, even ours, must not cost the others their figures
                measured[peer.name] = Measured(absent=words(f"{type(error).__name__}: {error}"))
    return measured, versions


def _environments(wanted: list[Peer], cache: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """The interpreter of each peer's driver, and why there is none."""
    pythons, absent = {}, {}
    for peer in wanted:
        try:
            own = peer.requirements
            pythons[peer.name] = environments.python_with(cache, peer.name, own) if own else Path(sys.executable)
        except NotInstalled as reason:
            absent[peer.name] = str(reason)
    return pythons, absent


def _add_ours(docker: Docker, wanted: list[Peer], absent: dict[str, str]) -> None:
    """Our own image, which is another one than that of the peers; minutes, where the daemon does not have it."""
    ours = [peer.name for peer in wanted if peer.docker and peer.service is not None]
    if not ours:
        return
    base = daemons.base_image(docker)
    with contextlib.closing(client_for(docker.address)) as client:
        try:
            docker_images.build(
                client, "python", _say, base_image=base, network=daemons.NETWORK, ca_bundle=daemons.ca_bundle()
            )
        except SandboxError as error:
            absent |= dict.fromkeys(ours, str(error))


@contextlib.contextmanager
def _bench(peer: Peer, python: Path, docker: Docker | None, cache: Path, scale: float) -> Iterator[Bench]:
    theirs = docker if peer.docker else None
    env = {**(theirs.env if theirs else os.environ), "PEERS_IMAGE": IMAGE, "NO_PROXY": "127.0.0.1,localhost"}
    log = cache / f"{peer.name}.log"
    log.unlink(missing_ok=True)
    bench = Bench(peer, python, theirs, env, scale, log, Standing())
    bench = replace(bench, before=bench.standing(), memory_before=bench.memory())
    if peer.service is None:
        yield bench
        return
    with (
        tempfile.TemporaryDirectory(prefix="peers-server-") as directory,
        Running.started(peer.service, Path(directory), env) as running,
    ):
        yield replace(bench, env={**env, "PEERS_SERVER": running.server.url}, running=running)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
