"""A peer's figures: its driver is told what to do, and the host is looked at for what the driver cannot know."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tests.docker import ROOT, Docker
from tests.host import alive, named, pids, status

BOXES = 5
"""Idle at once, to see what one more takes."""
LOST = 3
"""Open when their caller is killed."""
_IDLE_S = 5.0
_LEFT_S = 15.0
_LOOK_S = 0.1
_DRIVER_S = 240.0
_DAEMONS = ("dockerd", "containerd", "containerd-shim")
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Peer:
    """Something that runs a model's code, as its users get it."""

    name: str
    title: str
    driver: str
    requirements: tuple[str, ...] = ()
    docker: bool = True
    state: bool = True
    """Whether a later call finds the variables of the one before."""
    note: str = ""


PEERS = (
    Peer("sandbox", "this project, embedded", "with_sandbox", docker=False),
    Peer("docker-run", "`docker run`", "with_docker_run", state=False, note="second call: `docker exec`"),
    Peer("llm-sandbox", "llm-sandbox 0.3.46", "with_llm_sandbox", ("llm-sandbox[docker]==0.3.46",), state=False),
    Peer("smolagents", "smolagents 1.26.0 DockerExecutor", "with_smolagents", ("smolagents[docker]==1.26.0",)),
    Peer(
        "autogen",
        "autogen-ext 0.7.5 Docker Jupyter",
        "with_autogen",
        ("autogen-ext[docker-jupyter-executor]==0.7.5",),
    ),
    Peer(
        "jupyter",
        "Jupyter kernel on the host",
        "with_jupyter",
        ("jupyter_client==8.*", "ipykernel==7.*", "pandas==3.*", "matplotlib==3.*"),
        docker=False,
        note="contains nothing",
    ),
)


@dataclass(slots=True)
class Figures:
    """What was measured of one peer. None: not measured, and `why` says by which measure and why."""

    fresh_ms: float | None = None
    cycle_ms: float | None = None
    second_ms: float | None = None
    chart_ms: float | None = None
    images: int | None = None
    rate_4: float | None = None
    rate_8: float | None = None
    idle_mib: float | None = None
    available_mib: float | None = None
    standing_mib: float = 0.0
    left: int | None = None
    left_s: float | None = None
    load: dict[str, float] = field(default_factory=dict)
    """The machine's load average before each measure."""
    raw: dict[str, Any] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)


class DriverFailed(Exception):
    """A driver ended without a result; its last words."""


@dataclass(frozen=True, slots=True)
class Bench:
    """One peer, ready to be measured."""

    peer: Peer
    python: Path
    docker: Docker | None
    env: Mapping[str, str]
    scale: float
    log: Path
    end_service: Callable[[], None] | None = None
    """Kills what the boxes belong to, where that is not the caller of our driver."""

    def _ours(self) -> set[int]:
        """Processes that we have started, and those of the daemon that starts them for us."""
        daemons = {pid for name in _DAEMONS for pid in named(name)} if self.docker and not self.docker.daemon else set()
        return _descendants({os.getpid(), *daemons}) | daemons

    def measure(self) -> Figures:
        """Everything; what fails is said in the figures and keeps nothing else from being measured."""
        figures = Figures(standing_mib=_pss(self._ours()) / MIB if self.end_service else 0.0)
        for name in ("fresh", "second", "chart", "rate_4", "rate_8", "idle", "crash"):
            figures.load[name] = os.getloadavg()[0]
            try:
                getattr(self, f"_{name}")(figures)
            except (DriverFailed, subprocess.TimeoutExpired) as error:
                figures.why[name] = str(error)
        return figures

    def _fresh(self, figures: Figures) -> None:
        figures.raw["fresh"] = got = self._drive("fresh", count=10, seconds=12)
        figures.fresh_ms, figures.cycle_ms = median(got["first_ms"]), median(got["cycle_ms"])

    def _second(self, figures: Figures) -> None:
        figures.raw["second"] = got = self._drive("second", count=50, seconds=6)
        figures.second_ms = median(got["call_ms"])

    def _chart(self, figures: Figures) -> None:
        figures.raw["chart"] = got = self._drive("chart", count=5, seconds=12)
        figures.chart_ms, figures.images = median(got["first_ms"]), min(got["images"])

    def _rate_4(self, figures: Figures) -> None:
        figures.rate_4 = self._rate(figures, 4)

    def _rate_8(self, figures: Figures) -> None:
        figures.rate_8 = self._rate(figures, 8)

    def _rate(self, figures: Figures, clients: int) -> float:
        figures.raw[f"rate_{clients}"] = got = self._drive("rate", seconds=10, clients=clients)
        return float(got["done"] / got["seconds"])

    def _idle(self, figures: Figures) -> None:
        boxes = max(2, round(BOXES * min(1.0, self.scale)))
        before, available = self._ours(), _available()
        with self._holding(boxes) as driver:
            time.sleep(_IDLE_S)
            figures.idle_mib = _pss(self._ours() - before - {driver.pid}) / MIB / boxes
            # What the driver itself takes is not the boxes'.
            figures.available_mib = (available - _available() - _pss({driver.pid})) / MIB / boxes
            assert driver.stdin is not None
            driver.stdin.close()
            driver.wait(_DRIVER_S)

    def _crash(self, figures: Figures) -> None:
        before, containers = self._ours(), self._containers()
        with self._holding(LOST) as driver:
            driver.kill()
            driver.wait()
        if self.end_service is not None:
            self.end_service()
        start = time.monotonic()
        while (left := self._left(before, containers)) and time.monotonic() - start < _LEFT_S:
            time.sleep(_LOOK_S)
        figures.left, figures.left_s = len(left), time.monotonic() - start
        self._clear(before, containers)

    def _left(self, before: set[int], containers: set[str]) -> list[str]:
        """Containers, and processes that are in none."""
        mine = self._containers() - containers
        loose = {pid for pid in self._ours() - before if alive(pid) and not _in_docker(pid)}
        return [*mine, *(str(pid) for pid in loose)]

    def _clear(self, before: set[int], containers: set[str]) -> None:
        if self.docker is not None and (left := self._containers() - containers):
            self.docker.run("docker", "rm", "--force", "--volumes", *left)
        for pid in _descendants({os.getpid()}) - before:
            if not _in_docker(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        _reap()

    def _containers(self) -> set[str]:
        return set() if self.docker is None else set(self.docker.output("docker", "ps", "-aq", "--no-trunc").split())

    def _drive(self, measure: str, *, count: int = 1, seconds: float, clients: int = 1) -> dict[str, Any]:
        options = [f"--count={max(2, round(count * self.scale))}", f"--seconds={seconds * self.scale}"]
        with self._driver(measure, *options, f"--clients={clients}") as (driver, result):
            got = result()
            driver.wait(_DRIVER_S)
            return got

    @contextlib.contextmanager
    def _holding(self, boxes: int) -> Iterator["subprocess.Popen[bytes]"]:
        """A driver that keeps so many boxes, each of which has run something."""
        with self._driver("hold", f"--count={boxes}") as (driver, result):
            result()
            yield driver

    @contextlib.contextmanager
    def _driver(
        self, measure: str, *options: str
    ) -> Iterator[tuple["subprocess.Popen[bytes]", Callable[[], dict[str, Any]]]]:
        reading, writing = os.pipe()
        command = [str(self.python), "-m", f"tests.peers.drivers.{self.peer.driver}", measure, *options]
        env = {**self.env, "PEERS_MEASURE": measure}
        with self.log.open("ab") as log, open(reading) as results:
            driver = subprocess.Popen(
                [*command, f"--fd={writing}"],
                cwd=ROOT,
                env=env,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[writing],
            )
            os.close(writing)
            # Ends a wait for a peer that hangs.
            watch = _after(_DRIVER_S, driver)
            try:
                yield driver, lambda: self._result(results.read())
            finally:
                watch.cancel()
                if driver.poll() is None:
                    driver.kill()
                driver.wait()

    def _result(self, text: str) -> dict[str, Any]:
        if not text:
            raise DriverFailed(self.log.read_text(errors="replace").strip()[-300:])
        got: dict[str, Any] = json.loads(text)
        return got


def _after(seconds: float, driver: "subprocess.Popen[bytes]") -> threading.Timer:
    timer = threading.Timer(seconds, driver.kill)
    timer.daemon = True
    timer.start()
    return timer


def _descendants(roots: set[int]) -> set[int]:
    """Their children, and theirs."""
    parents = {pid: int(fields["PPid"][0]) for pid in pids() if (fields := status(pid))}
    found = set(roots)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - roots


def _in_docker(pid: int) -> bool:
    """Whether it is in a container, or a shim or a proxy of one: it goes with the container."""
    with contextlib.suppress(OSError):
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        return name.startswith(("containerd", "docker", "runc")) or "docker" in Path(f"/proc/{pid}/cgroup").read_text()
    return False


def _pss(processes: Sequence[int] | set[int]) -> int:
    """Bytes; what is shared counts in parts."""
    total = 0
    for pid in processes:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += 1024 * int(line.split()[1])
    return total


def _available() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))


def _reap() -> None:
    """Orphans are ours, once they have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
