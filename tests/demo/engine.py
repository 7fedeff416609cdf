"""The model's server, in an environment and a process of its own."""

import contextlib
import hashlib
import os
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path

from tests.demo.weights import LISTS, Gone, pip

_LIST = LISTS / "engine.txt"
_ROOT = Path(__file__).parents[2]
_END_SECONDS = 20


def ready(directory: Path) -> Path:
    """The Python that has the engine, installed if it is not. Raises `Gone`, `Altered`."""
    wanted = hashlib.sha256(_LIST.read_bytes()).hexdigest()
    home, python = directory / "engine", directory / "engine" / "bin" / "python"
    stamp = home / "installed"
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    venv.create(home, clear=True, with_pip=True)
    pip("install", "--requirement", str(_LIST), python=python)
    stamp.write_text(wanted)
    return python


@contextlib.contextmanager
def serving(python: Path, model: Path, threads: int, log: Path) -> Iterator[str]:
    """The URL of a server of this model, until the block ends. Raises `Gone` when this machine cannot run it."""
    line = [str(python), "-m", "tests.demo.serve", str(model), model.stem, str(threads)]
    # An idle thread that spins takes the processor from the sandbox that it waits for.
    env = {**os.environ, "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(threads)}
    pipe = subprocess.PIPE
    with (
        log.open("wb") as errors,
        subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=errors, cwd=_ROOT, env=env) as process,
    ):
        assert process.stdout is not None
        try:
            url = process.stdout.readline().decode().strip()
            if not url:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-3:])
                raise Gone(f"the engine does not run on this machine ({process.wait()}):\n{tail}")
            yield url
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Its standard input ends, so it does; and surely."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
