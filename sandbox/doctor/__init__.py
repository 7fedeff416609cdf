"""What this host offers the runtime in use: findings with a grade, and the fix for each.

A: as it should be. B: works and contains, but a recommended lock of the host is open. C: works, with a weakness to
know about before strangers' code runs. Fail: nothing can run until it is fixed. What is asked for is what the runtime
needs, plus the hardening that a host of untrusted code should have whoever contains it.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

from sandbox.config import Settings
from sandbox.doctor import containers, embedded, host
from sandbox.doctor.finding import Finding, Grade, Host, Probe

__all__ = ["Finding", "Grade", "Host", "Probe", "examine", "overall", "runtime_of"]

Name = Literal["embedded", "docker"]
_EMBEDDED_PROBES = (*embedded.PROBES, *host.PROBES, containers.for_information)
_DOCKER_PROBES = (*containers.PROBES, *host.PROBES)


def examine(settings: Settings, place: Host | None = None) -> tuple[Finding, ...]:
    """All findings, in the order in which to fix them. Never raises for what it finds."""
    return _meant(settings, place or Host())[1]


def runtime_of(settings: Settings, place: Host | None = None) -> Name:
    """The runtime that these settings mean on this host; the embedded one also where neither works."""
    return _meant(settings, place or Host())[0]


def _meant(settings: Settings, place: Host) -> tuple[Name, tuple[Finding, ...]]:
    if settings.runtime == "docker":
        return "docker", _examine(_DOCKER_PROBES, settings, place)
    findings = _examine(_EMBEDDED_PROBES, settings, place)
    if settings.runtime == "auto" and (missing := _missing(findings)):
        instead = _examine(_DOCKER_PROBES, settings, place)
        if not _missing(instead):
            found = f"docker, because the embedded one lacks: {', '.join(missing)}"
            return "docker", (Finding("runtime", Grade.A, found), *instead)
    return "embedded", findings


def _missing(findings: Iterable[Finding]) -> list[str]:
    """What makes a runtime impossible on a host. An image can be built."""
    return [finding.name for finding in findings if finding.grade is Grade.FAIL and finding.name != "image"]


def _examine(probes: Iterable[Probe], settings: Settings, place: Host) -> tuple[Finding, ...]:
    findings: list[Finding] = []
    for probe in probes:
        try:
            findings += probe(place, settings)
        except (OSError, ValueError, IndexError) as error:
            name = probe.__name__.strip("_").replace("_", " ")
            findings.append(Finding(name, Grade.B, f"could not be examined: {error}", "look at it by hand"))
    return tuple(findings)


def overall(findings: Sequence[Finding]) -> Grade:
    """The host's grade: the worst of the findings."""
    order = list(Grade)
    return max((finding.grade for finding in findings), key=order.index, default=Grade.A)
