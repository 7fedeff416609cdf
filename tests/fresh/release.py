"""A bare root of one of the distribution's releases, from the mirrors that this machine's apt uses."""

import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.fresh.machine import contained

_APT_HELPER = "/usr/lib/apt/apt-helper"
_OPTIONS = re.compile(r'^(Acquire::(?:Check-\w[\w-]*|https?::Proxy)) "([^"]*)";$', re.MULTILINE)
_MAKE_SECONDS = 900


class NotOffered(Exception):
    """There is no such release here, or nothing to make its root with; the reason, in words."""


@dataclass(frozen=True, slots=True)
class _Source:
    """A line of apt's sources that follows the release."""

    address: str
    suffix: str
    """Of the release's name: nothing, `-updates` or `-security`."""
    components: tuple[str, ...]

    def line(self, release: str) -> str:
        return f"deb {self.address} {release}{self.suffix} {' '.join(self.components)}"

    def offers(self, release: str) -> bool:
        with tempfile.TemporaryDirectory(prefix="fresh-") as directory:
            index = f"{self.address}dists/{release}{self.suffix}/InRelease"
            command = [_APT_HELPER, "download-file", index, f"{directory}/InRelease"]
            return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0


def own() -> str:
    """The release that this machine has."""
    return platform.freedesktop_os_release().get("VERSION_CODENAME", "")


def make(release: str, variant: str, root: Path) -> None:
    """Its root, with the packages that it calls `variant`, at `root`, which is not there yet. Raises `NotOffered`."""
    if shutil.which("mmdebstrap") is None:
        raise NotOffered("mmdebstrap is not installed: apt install mmdebstrap")
    lines = [source.line(release) for source in _sources() if source.offers(release)]
    if not lines:
        raise NotOffered(f"the mirrors of this machine have no {release}")
    # As an installer leaves it: with the lists of packages, without their archives.
    command = ["mmdebstrap", "--quiet", "--mode=root", f"--variant={variant}", "--skip=cleanup/apt/lists"]
    command += [f"--aptopt={name} {value!r}".replace("'", '"') for name, value in _options()]
    with contained([*command, release, str(root), *lines], mount_proc=True) as process:
        said, _ = process.communicate(timeout=_MAKE_SECONDS)
    if process.returncode != 0:
        raise NotOffered(f"mmdebstrap failed: {said.strip()[-500:]}")


def _sources() -> Iterator[_Source]:
    """What this machine's apt asks for its own release, whichever way its lists are written."""
    form = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)"
    command = ["apt-get", "indextargets", "--no-release-info", f"--format={form}", "Created-By: Packages"]
    components: dict[tuple[str, str], dict[str, None]] = {}
    for line in subprocess.check_output(command, text=True).splitlines():
        address, suite, component = line.split("|")
        components.setdefault((address, suite), {})[component] = None
    for (address, suite), names in components.items():
        for suffix in ("", "-updates", "-security"):
            if suite == own() + suffix:
                yield _Source(address, suffix, tuple(names))


def _options() -> list[tuple[str, str]]:
    """How this machine's apt reaches its mirrors."""
    return _OPTIONS.findall(subprocess.check_output(["apt-config", "dump"], text=True))
