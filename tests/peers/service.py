"""A server of ours while it is measured: at rest before each measure, killed in the last one, and started once more."""

import contextlib
import re
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sandbox.client import Client
from tests.peers.peer import Service
from tests.server import Server, serving

_REST_S = 300.0
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Running:
    """Use `started`."""

    service: Service
    server: Server
    directory: Path
    env: Mapping[str, str]

    @classmethod
    @contextlib.contextmanager
    def started(cls, service: Service, directory: Path, env: Mapping[str, str]) -> Iterator[Self]:
        """One that has run something, and is at rest."""
        with _serving(service, service.pool, directory, env) as server:
            running = cls(service, server, directory, env)
            running.rest()
            yield running

    def rest(self, sessions: int = 0) -> None:
        """Wait until the pool is full, of sandboxes as good as they get, and no other sessions are left.

        Raises `TimeoutError`.
        """
        deadline = time.monotonic() + _REST_S
        while True:
            told = _gauges(self.server.url)
            if told["sandbox_pool_settled"] and told["sandbox_sessions"] <= sessions:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"the server did not come to rest within {_REST_S:g} s")
            time.sleep(_LOOK_S)

    def start_again(self) -> None:
        """Over the same data, to its end: what it finds of the killed one is its to remove."""
        with _serving(self.service, 0, self.directory, self.env):
            pass


@contextlib.contextmanager
def _serving(service: Service, pool: int, directory: Path, env: Mapping[str, str]) -> Iterator[Server]:
    options = ("--pool", str(pool), *service.options)
    with serving(directory, *options, env={**env, "SANDBOX_LOG_LEVEL": "error"}) as server:
        with Client(server.url) as client:
            client.run("print(1)")  # waits for what is prepared in the background
        yield server


def _gauges(url: str) -> Mapping[str, float]:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"{url}/metrics", timeout=_REST_S) as answer:
        lines = re.findall(r"^(sandbox_\w+) ([\d.e+]+)$", answer.read().decode(), re.MULTILINE)
    return {name: float(value) for name, value in lines}
