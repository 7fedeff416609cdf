"""What the Docker runtime needs of a daemon."""

import contextlib
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox import image as images
from sandbox.config import Settings
from sandbox.doctor.finding import Finding, Grade, Host, Probe
from sandbox.errors import HostUnfit, ImageNotBuilt, NotFound
from sandbox.execution import MIB
from sandbox.runtime.docker import aggregate
from sandbox.runtime.docker import image as docker_images
from sandbox.runtime.docker.daemon import DEFAULT_ADDRESS, About, address_of, client_for
from sandbox.runtime.docker.vicinity import why_elsewhere
from sandbox.runtime.embedded import cgroup

if TYPE_CHECKING:
    from docker import APIClient

_GOOD_DOCKER, _GOOD_RUNC = (29, 5, 1), (1, 2, 8)


def _daemon(host: Host, settings: Settings) -> Iterator[Finding]:
    try:
        with contextlib.closing(client_for(settings.docker_host)) as client:
            info, version = client.info(), client.version()
            yield from _containers(info, version, settings)
            yield _aggregate(About.of(info), settings)
            yield from _docker_image(client, settings)
    except HostUnfit as error:
        yield Finding("docker", Grade.FAIL, str(error), "start a daemon, or set SANDBOX_RUNTIME=embedded")


def _containers(info: Mapping[str, Any], version: Mapping[str, Any], settings: Settings) -> Iterator[Finding]:
    number = str(info.get("ServerVersion", "unknown"))
    yield _dated("docker", number, _GOOD_DOCKER, "containers reach less of a newer daemon")
    parts = {str(part["Name"]): str(part["Version"]) for part in version.get("Components") or ()}
    runtimes, wanted = sorted(info.get("Runtimes") or ()), settings.oci_runtime or info.get("DefaultRuntime", "runc")
    if wanted not in runtimes:
        found = f"the daemon has no runtime {wanted}; it has {', '.join(runtimes)}"
        yield Finding("oci runtime", Grade.FAIL, found, f"register {wanted} in daemon.json, or set SANDBOX_OCI_RUNTIME")
    elif wanted == "runc":
        yield _dated("oci runtime", parts.get("runc", "unknown"), _GOOD_RUNC, "breakouts of 2025 are mended since")
    else:
        yield Finding("oci runtime", Grade.A, str(wanted))
    options = " ".join(info.get("SecurityOptions") or ())
    if "seccomp" not in options:
        fix = "use a kernel and a runc with seccomp; nothing else narrows what the kernel is asked"
        yield Finding("system calls", Grade.FAIL, "the daemon cannot filter them", fix)
    if "name=userns" in options or "name=rootless" in options:
        yield Finding("user namespace", Grade.A, "a container's ids are nobody's on the host")
    else:
        fix = 'set "userns-remap": "default" in daemon.json, which gives containers ids of their own'
        yield Finding("user namespace", Grade.B, "containers share the host's ids, though no two use the same", fix)


def _aggregate(about: About, settings: Settings) -> Finding:
    name, chosen = "all sandboxes together", settings.docker_cgroup_parent
    if chosen:
        return _chosen(name, about, settings)
    if not (why := aggregate.obstacle(about, address_of(settings.docker_host))):
        most = cgroup.aggregate_caps().memory_bytes // MIB
        return Finding(name, Grade.A, f"in the control group {aggregate.name(about)}, of at most {most} MiB")
    fix = "make a control group with a cap of memory and set SANDBOX_DOCKER_CGROUP_PARENT to it"
    return Finding(name, Grade.B, f"in the daemon's own control group, with no cap of ours: {why}", fix)


def _chosen(name: str, about: About, settings: Settings) -> Finding:
    chosen = settings.docker_cgroup_parent
    try:
        aggregate.check_named(about, chosen)
    except HostUnfit as error:
        return Finding(name, Grade.FAIL, str(error), "set SANDBOX_DOCKER_CGROUP_PARENT to the name of a slice")
    if why := why_elsewhere(about, address_of(settings.docker_host)):
        return Finding(name, Grade.A, f"in the control group {chosen}, which cannot be looked at: {why}")
    if (cap := aggregate.cap_of(about, chosen)) is None:
        fix = "give it one; a group that is not there is made without"
        return Finding(name, Grade.B, f"in the control group {chosen}, which has no cap of memory", fix)
    return Finding(name, Grade.A, f"in the control group {chosen}, of at most {cap // MIB} MiB")


def _dated(name: str, found: str, good: tuple[int, int, int], why: str) -> Finding:
    digits = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", found)
    version = tuple(int(number or 0) for number in digits.groups()) if digits else (0, 0, 0)
    if version >= good:
        return Finding(name, Grade.A, found)
    return Finding(name, Grade.B, f"{found}: {why}", f"upgrade to {'.'.join(map(str, good))} or newer")


def _docker_image(client: "APIClient", settings: Settings) -> Iterator[Finding]:
    try:
        built = docker_images.load(client, settings.image)
    except ImageNotBuilt as error:
        fix = f"sandbox image build --runtime docker {settings.image}"
        yield Finding("image", Grade.FAIL, str(error), fix)
    except NotFound as error:
        yield Finding(
            "image",
            Grade.FAIL,
            str(error),
            f"set SANDBOX_IMAGE to one of: {', '.join(images.names(settings.images_dir))}",
        )
    else:
        manifest = built.manifest
        found = f"{built.reference}: Python {manifest.python}, {len(manifest.libraries)} libraries"
        yield Finding("image", Grade.A, found)


PROBES: tuple[Probe, ...] = (_daemon,)


def for_information(host: Host, settings: Settings) -> Iterator[Finding]:
    """For information: the embedded runtime does not need it."""
    address = settings.docker_host or os.environ.get("DOCKER_HOST", DEFAULT_ADDRESS)
    path = host.path(address.removeprefix("unix://"))
    if not address.startswith("unix://"):
        found = f"the daemon is {address}, which was not asked"
    elif not path.exists():
        found = "no daemon; the embedded runtime needs none"
    else:
        found = _ping(path)
    yield Finding("docker", Grade.A, found)


def _ping(path: Path) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(0.5)
        try:
            connection.connect(str(path))
            connection.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            alive = b" 200 " in connection.recv(1024)
        except OSError as error:
            return f"{path} does not answer: {error.strerror or error}"
    return f"a daemon answers at {path}" if alive else f"{path} answers, but not as Docker does"
