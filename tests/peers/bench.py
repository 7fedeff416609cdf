"""A peer's figures: its driver is told what to do, and the host is looked at for what the driver cannot know."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.docker import ROOT, Docker
from tests.host import alive, named, pids, status
from tests.peers.figure import BOXES, IDLE_S, LEFT_S, LOST, Figure
from tests.peers.peer import Peer
from tests.peers.service import Running

_LOOK_S = 0.1
_DRIVER_S = 240.0
_SHIM = "containerd-shim"
_DAEMONS = ("dockerd", "containerd", "docker-proxy", "runc")
_STOPPED = ("created", "exited", "dead")
_MIB = 1 << 20
_MOST = 200

Figures = Mapping[str, Figure]


class DriverFailed(Exception):
    """A driver ended without a result; its last words."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What runs on this host and is ours to count."""

    processes: frozenset[int] = frozenset()
    containers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Id to state."""

    def without(self, other: "Standing") -> "Standing":
        new = {id: state for id, state in self.containers.items() if id not in other.containers}
        return Standing(self.processes - other.processes, new)


@dataclass(frozen=True, slots=True)
class Bench:
    """One peer, ready to be measured."""

    peer: Peer
    python: Path
    docker: Docker | None
    env: Mapping[str, str]
    scale: float
    log: Path
    before: Standing
    """What there was before the peer, and a server of it, came."""
    running: Running | None = None
    memory_before: int = 0
    """Bytes, likewise."""

    def measure(self) -> Figures:
        """Everything; what fails is said in its figure and keeps nothing else from being measured."""
        figures: dict[str, Figure] = {}
        for names, act in self._acts().items():
            load = os.getloadavg()[0]
            try:
                self._rest()
                got = act()
            except (DriverFailed, TimeoutError, subprocess.TimeoutExpired) as error:
                got = {name: Figure(cannot=words(str(error) or type(error).__name__)) for name in names}
            finally:
                if self.running is None or "crash" in names:
                    self._clear()
            figures |= {name: dataclasses.replace(got[name], load=round(load, 2)) for name in names}
        return figures

    def _acts(self) -> Mapping[tuple[str, ...], Callable[[], Figures]]:
        """By the measures that each of them answers; the crash is the last, after which there is no server."""
        return {
            ("fresh", "cycle"): self._fresh,
            ("second",): self._second,
            ("chart",): self._chart,
            ("rate_4",): lambda: self._rate(4),
            ("rate_8",): lambda: self._rate(8),
            ("idle", "available"): self._idle,
            ("crash",): self._crash,
        }

    def _rest(self, sessions: int = 0) -> None:
        if self.running is not None:
            self.running.rest(sessions)

    def _fresh(self) -> Figures:
        got = self._drive("fresh", count=10, seconds=12)
        return {"fresh": _of(got["first_ms"], got["failed"]), "cycle": _of(got["cycle_ms"], got["failed"])}

    def _second(self) -> Figures:
        got = self._drive("second", count=50, seconds=6)
        forgets = self.peer.cannot.get("second", "the variables of the call before are gone")
        return {"second": dataclasses.replace(_of(got["call_ms"]), cannot="" if got["keeps"] else forgets)}

    def _chart(self) -> Figures:
        got = self._drive("chart", count=5, seconds=12)
        figure = _of(got["first_ms"], got["failed"])
        if figure.value is not None and not min(got["images"]):
            without = f"{figure.value:,.0f} ms without"
            figure = Figure(cannot=self.peer.cannot.get("chart", "no picture came back"), note=without)
        return {"chart": figure}

    def _rate(self, clients: int) -> Figures:
        got = self._drive("rate", seconds=10, clients=clients)
        if not got["done"]:
            return {f"rate_{clients}": _of((), got["failed"])}
        why = _failures(got["failed"], got["done"])
        return {f"rate_{clients}": Figure(_rounded(got["done"] / got["seconds"]), got["done"], cannot=why)}

    def _idle(self) -> Figures:
        boxes = max(2, round(BOXES * min(1.0, self.scale)))
        memory, available = self.memory(), _available()
        with self._holding(boxes) as driver:
            time.sleep(IDLE_S)
            self._rest(boxes)
            # What the driver itself takes is not the boxes'.
            memory = _pss(self._ours() - {driver.pid}) - memory
            available -= _available() + _pss({driver.pid})
            assert driver.stdin is not None
            driver.stdin.close()
            driver.wait(_DRIVER_S)
        figures = {"idle": memory, "available": available}
        return {name: Figure(_rounded(bytes_ / _MIB / boxes), boxes) for name, bytes_ in figures.items()}

    def _crash(self) -> Figures:
        # A server's pool is lost with it, a daemon of the peer's is not.
        before = self.standing() if self.running is None else self.before
        with self._holding(LOST) as driver:
            driver.kill()
            driver.wait()
            if self.running is not None:
                self.running.server.kill()
        start = time.monotonic()
        while _count(left := self.standing().without(before)) and time.monotonic() - start < LEFT_S:
            time.sleep(_LOOK_S)
        note = _described(left)
        if self.running is not None and _count(left):
            self.running.start_again()
            again = self.standing().without(before)
            note += f"; after the next start {_described(again) or 'none'}"
        return {"crash": Figure(_count(left), LOST, note=note, values=(_rounded(time.monotonic() - start),))}

    def standing(self) -> Standing:
        """Containers, and processes that are in none and do not belong to one."""
        ours = self._ours()
        loose = frozenset(pid for pid in ours - _contained(ours) if alive(pid))
        if self.docker is None:
            return Standing(loose)
        lines = self.docker.output("docker", "ps", "--all", "--no-trunc", "--format={{.ID}} {{.State}}").splitlines()
        return Standing(loose, {id: state for id, _, state in (line.partition(" ") for line in lines)})

    def memory(self) -> int:
        """Bytes of everything that runs and is ours to count."""
        return _pss(self._ours())

    def standing_mib(self) -> float:
        """What a server takes before anybody asks."""
        return _rounded((self.memory() - self.memory_before) / _MIB)

    def _ours(self) -> set[int]:
        """Processes that we have started, and those of the daemon that starts them for us."""
        daemons = (
            {pid for name in (*_DAEMONS, _SHIM) for pid in named(name)}
            if self.docker and not self.docker.daemon
            else set()
        )
        return _descendants({os.getpid(), *daemons}) | daemons

    def _clear(self) -> None:
        left = self.standing().without(self.before)
        if self.docker is not None and left.containers:
            self.docker.run("docker", "rm", "--force", "--volumes", *left.containers)
        for pid in left.processes & _descendants({os.getpid()}):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _reap()

    def _drive(self, measure: str, *, count: int = 1, seconds: float, clients: int = 1) -> dict[str, Any]:
        options = [f"--count={max(1, round(count * self.scale))}", f"--seconds={seconds * self.scale}"]
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
            raise DriverFailed(self.log.read_text(errors="replace").strip().rpartition("\n")[2])
        got: dict[str, Any] = json.loads(text)
        return got


def _of(values: Sequence[float], failed: Sequence[str] = ()) -> Figure:
    """The median of what succeeded."""
    why = _failures(failed, len(values))
    if not values:
        return Figure(cannot=why)
    rounded = tuple(_rounded(value) for value in values)
    return Figure(_rounded(median(rounded)), len(rounded), cannot=why, values=rounded)


def _failures(failed: Sequence[str], done: int) -> str:
    return f"{len(failed)} of {len(failed) + done} failed, such as: {words(failed[-1])}" if failed else ""


def _rounded(value: float) -> float:
    return round(value, 2)


def words(said: str) -> str:
    """In one line, without names of directories, which are nobody else's."""
    return re.sub(r"(/[\w.+-]+){2,}", "…", " ".join(said.split()))[:_MOST]


def _count(left: Standing) -> int:
    return len(left.containers) + len(left.processes)


def _described(left: Standing) -> str:
    stopped = sum(state in _STOPPED for state in left.containers.values())
    counts = {
        "running containers": len(left.containers) - stopped,
        "stopped containers": stopped,
        "processes": len(left.processes),
    }
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


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


def _contained(processes: set[int]) -> set[int]:
    """Those of them that are in a container, or are the daemon's, or a shim or proxy of one."""
    theirs = {pid for pid in processes if status(pid).get("Name", [""])[0].startswith(_DAEMONS)}
    return theirs | _descendants(theirs & {*named(_SHIM)})


def _pss(processes: Iterable[int]) -> int:
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
