"""What pip comes to where nothing can be installed: what is there already is fine, and more cannot be had.

Programs begin with `%pip install pandas` out of habit, so that has to go on where pandas is there; where it is not, an
installer would only say that it found no network. An image has this file as its `pip`, besides, for shells and
`python -m pip`: the one of the system beside it would tell of other libraries and advise on another machine.
"""

import re
import shlex
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_MAGICS = ("pip", "uv", "conda", "mamba", "micromamba")
_LISTS = frozenset({"-r", "--requirement"})
_FROM_ELSEWHERE = frozenset({"-e", "--editable"})
_WITH_VALUE = (
    _LISTS
    | _FROM_ELSEWHERE
    | {
        *("-c", "--constraint", "-i", "--index-url", "--extra-index-url", "-f", "--find-links", "--trusted-host"),
        *("-t", "--target", "-p", "--python", "--prefix", "--root", "-n", "--name", "--channel", "--progress-bar"),
        *("--upgrade-strategy", "--python-version", "--platform", "--proxy", "--timeout", "--retries", "--cache-dir"),
        *("--only-binary", "--no-binary", "--log", "--cert", "--config-settings"),
    }
)
_TOOLS = frozenset({"pip", "setuptools", "wheel"})
"""Nothing here needs them."""
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


class NotHere(Exception):
    """What cannot be."""


def register(shell: "InteractiveShell") -> None:
    """Have the shell's magics answer so."""
    for name in _MAGICS:
        shell.register_magic_function(_magic, "line", name)


def _magic(line: str) -> None:
    from IPython.core.error import UsageError

    try:
        print(answer(shlex.split(line.strip().removeprefix("pip "), comments=True)))
    except NotHere as error:
        raise UsageError(str(error)) from None
    except ValueError:  # a quotation without end
        raise UsageError(_not_understood(line)) from None


def main() -> int:
    """As a command; its exit code."""
    try:
        print(answer(sys.argv[1:]))
    except NotHere as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    return 0


def answer(words: list[str]) -> str:
    """What pip says to these arguments. Raises `NotHere`."""
    if "--version" in words or "-V" in words:
        return f"pip of a sandbox, which installs nothing (python {sys.version_info.major}.{sys.version_info.minor})"
    command = next((word for word in words if not word.startswith("-")), None)
    if command is None:
        raise NotHere(_not_understood(shlex.join(words)))
    words = words.copy()
    words.remove(command)
    if command == "install":
        return "\n".join(_installed(words))
    if command in ("list", "freeze"):
        found = {f"{each.metadata['Name']}=={each.version}" for each in metadata.distributions()}
        return "\n".join(sorted(found, key=str.lower))
    if command == "show":
        return "\n---\n".join(_shown(word) for word in words if not word.startswith("-"))
    raise NotHere(f"there is no pip {command} here, only `pip list`, `pip show` and `pip install` of what is there")


def _not_understood(line: str) -> str:
    return f"pip does not understand {line!r}: try `pip list`"


def _installed(words: list[str]) -> Iterator[str]:
    missing = []
    for requirement in _requirements(words):
        if (version := _version_of(requirement)) is None:
            missing.append(requirement)
        else:
            yield f"Requirement already satisfied: {requirement} ({version})"
    if missing:
        named = ", ".join(missing)[:500]
        raise NotHere(f"{named} cannot be installed: this sandbox has no network; `pip list` tells what is there")


def _requirements(words: list[str]) -> Iterator[str]:
    left = iter(words)
    for word in left:
        if not word.startswith("-"):
            yield word
            continue
        option, joined, value = word.partition("=")
        if not joined and option in _WITH_VALUE:
            value = next(left, "")
        if match := re.match(r"(-[re])(.+)", word):
            option, value = match.groups()
        if option in _LISTS:
            yield from _listed(value)
        elif option in _FROM_ELSEWHERE:
            yield value or option


def _listed(path: str) -> Iterator[str]:
    """The requirements in a file, without those in files that it names itself."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file if not line.lstrip().startswith(("#", "-"))]
    except OSError as error:
        raise NotHere(f"{path} cannot be read: {error.strerror}") from None
    for line in lines:
        if requirement := re.split(r"\s#|\s--", line)[0].strip():
            yield requirement


def _version_of(requirement: str) -> str | None:
    """The version that is there and will do; None without one."""
    try:
        from packaging.requirements import InvalidRequirement, Requirement  # an image may have none
    except ImportError:
        found = _NAME.match(requirement)
        return None if found is None else _version(found[0])
    try:
        wanted = Requirement(requirement)
    except InvalidRequirement:
        return None
    if wanted.url is not None:
        return None
    if wanted.marker is not None and not wanted.marker.evaluate():
        return "not needed"
    version = _version(wanted.name)
    if version is None and wanted.name in _TOOLS:
        return "not needed"
    return version if version is not None and wanted.specifier.contains(version, prereleases=True) else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except (metadata.PackageNotFoundError, ValueError):
        return None


def _shown(name: str) -> str:
    try:
        told = metadata.metadata(name)
    except (metadata.PackageNotFoundError, ValueError):
        raise NotHere(f"there is no package {name[:100]} here, and none can be installed") from None
    return "\n".join(f"{field}: {told[field]}" for field in ("Name", "Version", "Summary") if field in told)


if __name__ == "__main__":
    sys.exit(main())
