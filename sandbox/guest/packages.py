"""What `%pip` and `!pip` come to where nothing can be installed: what is there already is fine, and more cannot be had.

Programs begin with `%pip install pandas` out of habit, so that has to go on where pandas is there; where it is not, an
installer would only say that it found no network.
"""

import contextlib
import re
import shlex
from collections.abc import Iterator
from importlib import metadata

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

_MAGICS = ("pip", "uv", "conda", "mamba", "micromamba")
_SHELL = re.compile(r"\s*(?:python3?\s+-m\s+)?pip3?\s+(.*)", re.DOTALL)
_OF_THE_SHELL = re.compile(r"[();<>|&]+")
_FROM_ELSEWHERE = frozenset({"-r", "--requirement", "-e", "--editable"})
_WITH_VALUE = _FROM_ELSEWHERE | {
    *("-c", "--constraint", "-i", "--index-url", "--extra-index-url", "-f", "--find-links", "--trusted-host"),
    *("-t", "--target", "-p", "--python", "--prefix", "--root", "-n", "--name", "--channel", "--progress-bar"),
    *("--upgrade-strategy", "--python-version", "--platform", "--proxy", "--timeout", "--retries", "--cache-dir"),
    *("--only-binary", "--no-binary", "--log", "--cert", "--config-settings"),
}
_TOOLS = frozenset({"pip", "setuptools", "wheel"})
"""Nothing here needs them."""
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


def register(shell: InteractiveShell) -> None:
    """Have the shell's magics answer so."""
    for name in _MAGICS:
        shell.register_magic_function(_magic, "line", name)


def _magic(line: str) -> None:
    print(answer(line.strip().removeprefix("pip ")))


def asked_of_shell(command: str) -> str | None:
    """The arguments of a shell command that is pip's alone; None if it is another."""
    found = _SHELL.fullmatch(command)
    if found is None or re.search(r"[`$\n]|\.whl\b", found[1]):
        return None
    words = shlex.shlex(found[1], posix=True, punctuation_chars=True)
    words.whitespace_split = True
    with contextlib.suppress(ValueError):  # a quotation without end, which the shell may complain of
        return None if any(_OF_THE_SHELL.fullmatch(word) for word in words) else found[1]
    return None


def answer(line: str) -> str:
    """What pip says to these arguments. Raises `UsageError` for what cannot be."""
    try:
        words = shlex.split(line, comments=True)
        command = next(word for word in words if not word.startswith("-"))
        words.remove(command)
    except (ValueError, StopIteration) as error:  # a quotation without end, or nothing at all
        raise UsageError(f"pip does not understand {line!r}: try `pip list`") from error
    if command == "install":
        return "\n".join(_installed(words))
    if command in ("list", "freeze"):
        found = {f"{each.metadata['Name']}=={each.version}" for each in metadata.distributions()}
        return "\n".join(sorted(found, key=str.lower))
    if command == "show":
        return "\n---\n".join(_shown(word) for word in words if not word.startswith("-"))
    raise UsageError(f"there is no pip {command} here, only `pip list`, `pip show` and `pip install` of what is there")


def _installed(words: list[str]) -> Iterator[str]:
    missing = []
    for requirement in _requirements(words):
        if (version := _version_of(requirement)) is None:
            missing.append(requirement)
        else:
            yield f"Requirement already satisfied: {requirement} ({version})"
    if missing:
        named = ", ".join(missing)[:500]
        raise UsageError(f"{named} cannot be installed: this sandbox has no network; `%pip list` tells what is there")


def _requirements(words: list[str]) -> Iterator[str]:
    left = iter(words)
    for word in left:
        if not word.startswith("-"):
            yield word
            continue
        option, joined, value = word.partition("=")
        if not joined and option in _WITH_VALUE:
            value = next(left, "")
        if option in _FROM_ELSEWHERE:
            yield value or option
        elif re.match(r"-[re].", option):
            yield option[2:]


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
        raise UsageError(f"there is no package {name[:100]} here, and none can be installed") from None
    return "\n".join(f"{field}: {told[field]}" for field in ("Name", "Version", "Summary") if field in told)
