"""What providers really answered, as others have recorded it in their source distributions: fetched, not kept here."""

import gzip
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

# MIT, MIT and Apache-2.0 thrice.
DISTRIBUTIONS = (
    "langchain-openai==1.7.4",
    "langchain-anthropic==1.7.10",
    "opentelemetry-instrumentation-openai==0.62.4",
    "opentelemetry-instrumentation-openai-v2==2.4b0",
    "opentelemetry-instrumentation-anthropic==0.62.4",
)
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def fetch(directory: Path) -> None:
    """Download them all. Raises `CalledProcessError` where the package index does not have them."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    # pip wants to know a source's metadata; all of these have the build backend that we have ourselves.
    source = ["--no-binary", ":all:", "--no-build-isolation", "--dest", str(directory)]
    subprocess.run([*pip, *source, *DISTRIBUTIONS], check=True, capture_output=True, timeout=300)


def bodies(directory: Path) -> Iterator[tuple[str, str]]:
    """The bodies of all answers that were recorded, with the name of what they come from."""
    for archive in sorted(directory.glob("*.tar.gz")):
        with tarfile.open(archive) as files:
            for member in files:
                file = files.extractfile(member) if _is_cassette(member.name) else None
                if file is not None:
                    for body in _answers(_unpacked(file.read())):
                        yield member.name, body


def _is_cassette(name: str) -> bool:
    return "/cassettes/" in name and name.endswith((".yaml", ".yaml.gz"))


def _answers(cassette: bytes) -> Iterator[str]:
    # They were written by programs for programs; the safe loader makes no objects of theirs.
    recorded: Any = yaml.load(cassette, _LOADER)
    interactions = recorded.get("interactions") or []
    for response in [each["response"] for each in interactions] + recorded.get("responses", []):
        body = response.get("body")
        said = body.get("string") if isinstance(body, dict) else body
        if said:
            yield _unpacked(said).decode(errors="replace") if isinstance(said, bytes) else said


def _unpacked(data: bytes) -> bytes:
    return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
