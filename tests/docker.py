"""A Docker daemon for the tests: the one that runs, or one of their own, and a base image to build on."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.host import wait_for_end
from tests.needs import missing

ROOT = Path(__file__).parents[1]
BASE_IMAGE = "sandbox-engine-base:bookworm"
NETWORK = "host"
"""For builds: a daemon of our own has no other."""
BUILD_SECONDS = 900
WAIT_SECONDS = 180
_SYSTRAP_SINCE = "20240101"
"""All of gVisor's releases from then on have it; Debian 12's has not."""

in_docker = pytest.mark.skipif(not os.environ.get("CI"), reason="builds and runs an image for minutes; set CI=true")


@dataclass(frozen=True, slots=True)
class Docker:
    """A daemon, as the commands see it."""

    env: Mapping[str, str]
    daemon: "Daemon | None" = None
    """The daemon itself, where it is ours."""

    @property
    def address(self) -> str | None:
        """None is the usual socket."""
        return self.env.get("DOCKER_HOST")

    def run(self, *command: str | Path, timeout: float = WAIT_SECONDS) -> "subprocess.CompletedProcess[str]":
        """What the command said and how it ended, whichever way."""
        return subprocess.run(
            command, cwd=ROOT, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
        )

    def output(self, *command: str | Path, timeout: float = WAIT_SECONDS) -> str:
        """The stdout of a command that has to succeed."""
        finished = self.run(*command, timeout=timeout)
        assert finished.returncode == 0, f"{command}: {finished.stdout[-2000:]}{finished.stderr[-4000:]}"
        return finished.stdout.strip()


@contextlib.contextmanager
def running(directory: Path) -> Iterator[Docker]:
    """The daemon that runs, or one whose everything is in `directory`; a visible skip where neither can be."""
    if shutil.which("docker") is None:
        missing("needs docker: apt-get install docker.io")
    if subprocess.run(["docker", "info"], capture_output=True).returncode == 0:
        yield Docker(os.environ)
        return
    if shutil.which("dockerd") is None:
        missing("no Docker daemon runs, and there is none to start: apt-get install docker.io")
    daemon = Daemon(directory)
    try:
        daemon.start()
        yield Docker({**os.environ, "DOCKER_HOST": daemon.address}, daemon)
    finally:
        daemon.stop()
    # Several images of many small files, for which Python takes several times as long.
    subprocess.run(["rm", "-r", directory], check=True)


class Daemon:
    """A Docker daemon of our own. Its mounts end with it, and it touches neither firewall nor bridges."""

    def __init__(self, directory: Path, *, bridge: bool = False) -> None:
        """bridge: whether it makes one, and containers have a network; for who has a network namespace of his own."""
        self._directory = directory
        self._bridge = bridge
        self._group = f"docker-{directory.name}-{os.getpid()}"
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"unix://{directory}/docker.sock"

    def start(self) -> None:
        """Until it is ready; a skip where it cannot be."""
        directory = self._directory
        (directory / "daemon.json").write_text(json.dumps({"runtimes": _runtimes()}))
        arguments = ["unshare", "--mount", "dockerd", f"--data-root={directory}/data", f"--exec-root={directory}/run"]
        arguments += [f"--pidfile={directory}/pid", f"--host={self.address}", f"--cgroup-parent=/{self._group}"]
        arguments += [f"--config-file={directory}/daemon.json", "--iptables=false", "--ip-forward=false"]
        arguments += [] if self._bridge else ["--bridge=none"]
        with (directory / "log").open("ab") as log, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(f"{directory}/ready")
            ready.settimeout(WAIT_SECONDS)
            env = {**os.environ, "NOTIFY_SOCKET": f"{directory}/ready"}
            self._process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
            self._ended = threading.Thread(target=_tell_end, args=(self._process, f"{directory}/ready"))
            self._ended.start()
            said = ready.recv(4096)
            (directory / "ready").unlink()
        if b"READY=1" not in said:
            missing(f"dockerd cannot run here: {(directory / 'log').read_text()[-500:]}")

    def restart(self, *, kill: bool) -> None:
        """End it, politely or not, and start it again over the same data."""
        self.leave(kill=kill)
        self.start()

    def leave(self, *, kill: bool) -> None:
        """End it, politely or not, so that it can be started again."""
        assert self._process is not None
        self._process.kill() if kill else self._process.terminate()
        self._ended.join()
        # What it started dies with it, but its remains are buried by whoever adopts them, and a daemon that finds the
        # number of its containerd still in use waits for that one.
        number = self._directory / "run" / "containerd" / "containerd.pid"
        if number.exists():
            wait_for_end(int(number.read_text()))
            number.unlink()

    def stop(self) -> None:
        """End it; nothing is left but its directory."""
        if self._process is not None:
            self._process.terminate()
            self._ended.join()
        for left in Path("/sys/fs/cgroup").glob(f"**/{self._group}"):
            left.rmdir()


def _runtimes() -> Mapping[str, object]:
    """gVisor beside the daemon's own, where it is installed; by what needs no virtualisation."""
    if (runsc := shutil.which("runsc")) is None:
        return {}
    said = subprocess.run([runsc, "--version"], capture_output=True, text=True, check=True).stdout
    released = re.search(r"20\d{6}", said)
    platform = "systrap" if released is None or released[0] >= _SYSTRAP_SINCE else "ptrace"
    return {"runsc": {"path": runsc, "runtimeArgs": [f"--platform={platform}", "--network=none"]}}


def _tell_end(process: "subprocess.Popen[bytes]", address: str) -> None:
    process.wait()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.sendto(b"ended", address)


def base_image(docker: Docker) -> str:
    """The name of a base image that the daemon has, made if it has none."""
    if docker.run("docker", "image", "inspect", BASE_IMAGE).returncode != 0:
        if shutil.which("mmdebstrap") is None:
            missing("needs mmdebstrap: apt-get install mmdebstrap")
        docker.output(ROOT / "scripts" / "base_image.sh", BASE_IMAGE, timeout=BUILD_SECONDS)
    return BASE_IMAGE


def ca_bundle() -> Path | None:
    """What this host trusts, for builds to trust it, too: a proxy may have an authority of its own."""
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    return bundle if bundle.exists() else None
