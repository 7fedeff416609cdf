"""A real server in a process of its own, started by the command that everybody uses."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sandbox.config import Settings

COMMAND = [sys.executable, "-m", "sandbox"]


@dataclass(frozen=True, slots=True)
class Server:
    """One that takes requests."""

    url: str
    process: "subprocess.Popen[bytes]"

    def kill(self) -> None:
        """As a crash, or somebody in a hurry."""
        self.process.kill()
        self.process.wait()


def environment(data_dir: Path, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Where a server and commands beside it keep their things; the built image is everybody's."""
    ours = {"SANDBOX_DATA_DIR": str(data_dir), "SANDBOX_IMAGES_DIR": str(Settings().images_dir)}
    return {**os.environ, **ours, **(env or {})}


def start(data_dir: Path, *options: str, env: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
    """`sandbox serve`; it does not take requests yet."""
    arguments = [*COMMAND, "serve", "--port", "0", "--pool", "2", *options]
    return subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment(data_dir, env))


@contextlib.contextmanager
def serving(data_dir: Path, *options: str, env: Mapping[str, str] | None = None) -> Iterator[Server]:
    """`sandbox serve` until the block ends, and then SIGTERM; it has to have ended well if it was not killed."""
    with start(data_dir, *options, env=env) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().decode().strip()
            assert url.startswith("http://"), f"the server has not started, its log says why: {url!r}"
            yield Server(url, process)
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait()
        assert code in (0, -signal.SIGKILL)
