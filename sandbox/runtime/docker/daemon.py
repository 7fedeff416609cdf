"""The Docker daemon, by the few verbs that a runtime needs: typed, awaited, and with our own errors.

On a container that lives only these are ever used: attach, start, inspect, stats and remove; never exec, cp, archive,
logs, update or commit. They are plain requests of the Engine API; the `docker` package, which blocks, has the images.
"""

import contextlib
import json
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx

from sandbox.errors import HostUnfit, SandboxFailed
from sandbox.runtime.docker.attachment import Attachment

if TYPE_CHECKING:
    import docker

_TIMEOUT_S = 60
DEFAULT_ADDRESS = "unix:///var/run/docker.sock"


class Refused(Exception):
    """The daemon answered, and said no."""


class Missing(Refused):
    """What was named does not exist."""


class Gone(Exception):
    """The daemon does not answer."""


@dataclass(frozen=True, slots=True)
class About:
    """What a daemon says of itself."""

    version: str
    runtimes: tuple[str, ...]
    default_runtime: str
    cgroup_version: int
    cgroup_driver: str
    """Who makes a container's control group: `cgroupfs` is the OCI runtime, `systemd`, or `none`."""
    rootless: bool
    """Whether it runs as an ordinary user."""
    maps_ids: bool
    """Whether containers live in a user namespace of the daemon, which has few ids."""
    host: str
    """Its host's name and kernel."""

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> "About":
        """From what the daemon answers to `/info`."""
        options = " ".join(info.get("SecurityOptions") or ())
        rootless = "name=rootless" in options
        return cls(
            version=str(info.get("ServerVersion", "")),
            runtimes=tuple(sorted(info.get("Runtimes") or ())),
            default_runtime=str(info.get("DefaultRuntime", "")),
            cgroup_version=int(info.get("CgroupVersion") or 1),
            cgroup_driver=str(info.get("CgroupDriver", "")),
            rootless=rootless,
            maps_ids=rootless or "name=userns" in options,
            host=f"{info.get('Name')} {info.get('KernelVersion')}",
        )


@dataclass(frozen=True, slots=True)
class State:
    """A container at one moment."""

    pid: int
    """On the daemon's host; 0 when it does not run."""
    running: bool
    exit_code: int
    oom_killed: bool


@dataclass(frozen=True, slots=True)
class Found:
    """A container in a listing."""

    id: str
    labels: Mapping[str, str]
    running: bool


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a container."""

    container: str
    action: str


def address_of(address: str | None) -> str:
    """The daemon's address; None is `DOCKER_HOST`, else the usual socket. Raises `HostUnfit` for another scheme."""
    address = address or os.environ.get("DOCKER_HOST") or DEFAULT_ADDRESS
    if not address.startswith(("unix://", "tcp://")):
        raise HostUnfit(f"the Docker daemon's address is {address}; it must begin with unix:// or tcp://")
    return address


def unfit(address: str, error: Exception) -> HostUnfit:
    """What to do about a daemon that does not answer."""
    advice = "start one (systemctl start docker), or name another in SANDBOX_DOCKER_HOST"
    return HostUnfit(f"no Docker daemon answers at {address}: {words(error)}; {advice}")


def client_for(address: str | None) -> "docker.APIClient":
    """The `docker` package's client, for what takes minutes and blocks: images. See `address_of`.

    Raises `HostUnfit`.
    """
    try:
        import docker
        from docker.errors import DockerException
        from docker.utils import kwargs_from_env
    except ImportError as error:
        raise HostUnfit("this needs a package; pip install '.[docker]' in the checkout") from error
    address = address_of(address)
    if address.startswith("unix://"):
        _knock(address)
    try:
        tls = kwargs_from_env().get("tls", False) if address.startswith("tcp://") else False
        return docker.APIClient(base_url=address, tls=tls, version="auto", timeout=_TIMEOUT_S)
    except DockerException as error:
        raise unfit(address, error) from error


def _knock(address: str) -> None:
    """Raise `HostUnfit` where nobody listens: the package's own attempt would leave a socket open."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(address.removeprefix("unix://"))
        except OSError as error:
            raise unfit(address, error) from error


def words(error: Exception) -> str:
    """The innermost cause, which is what a person can do something about."""
    while error.__cause__ or error.__context__:
        cause = error.__cause__ or error.__context__
        if not isinstance(cause, Exception):
            break
        error = cause
    return str(getattr(error, "strerror", None) or error).strip() or type(error).__name__


class Daemon:
    """A daemon that answers. Use `open`."""

    def __init__(self, address: str, tls: ssl.SSLContext | None, http: httpx.AsyncClient) -> None:
        self.address = address
        self._tls = tls
        self._http = http

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, address: str | None) -> AsyncIterator[Self]:
        """Connect. Raises `HostUnfit` when nobody answers."""
        address = address_of(address)
        tls = _tls() if address.startswith("tcp://") and os.environ.get("DOCKER_TLS_VERIFY") else None
        scheme, _, place = address.partition("://")
        transport = httpx.AsyncHTTPTransport(uds=place if scheme == "unix" else None, verify=tls or False)
        base = "http://docker" if scheme == "unix" else f"{'https' if tls else 'http'}://{place}"
        async with httpx.AsyncClient(transport=transport, base_url=base, timeout=_TIMEOUT_S) as http:
            daemon = cls(address, tls, http)
            try:
                await daemon._ask("GET", "/_ping")
            except (Gone, Refused) as error:
                raise unfit(address, error) from error
            yield daemon

    async def _ask(self, method: str, path: str, body: object = None, **query: str | int) -> Any:
        """What the daemon answers, decoded. Raises `Missing`, `Refused`, `Gone`."""
        try:
            answer = await self._http.request(method, path, params=query, json=body)
        except httpx.TransportError as error:
            raise Gone(f"the Docker daemon at {self.address} does not answer: {words(error)}") from error
        if answer.is_error:
            kind = Missing if answer.status_code == httpx.codes.NOT_FOUND else Refused
            raise kind(_message(answer))
        return answer.json() if answer.headers.get("content-type", "").startswith("application/json") else None

    async def about(self) -> About:
        """Versions and ways of the daemon."""
        return About.of(await self._ask("GET", "/info"))

    async def create(self, name: str, options: dict[str, Any]) -> str:
        """A container that is not started; its id."""
        return str((await self._ask("POST", "/containers/create", options, name=name))["Id"])

    async def start(self, container: str) -> None:
        """Start it."""
        await self._ask("POST", f"/containers/{container}/start")

    async def state(self, container: str) -> State | None:
        """None when there is no such container."""
        try:
            state = (await self._ask("GET", f"/containers/{container}/json"))["State"]
        except Missing:
            return None
        return State(int(state["Pid"]), state["Running"], int(state["ExitCode"]), state["OOMKilled"])

    async def remove(self, container: str) -> None:
        """Kill it and remove all of it. No such container is as good."""
        with contextlib.suppress(Missing):
            await self._ask("DELETE", f"/containers/{container}", force=1, v=1)

    async def stats(self, container: str) -> dict[str, Any]:
        """Its meters, read once."""
        stats: dict[str, Any] = await self._ask("GET", f"/containers/{container}/stats", **{"stream": 0, "one-shot": 1})
        return stats

    async def labelled(self, label: str) -> list[Found]:
        """Every container with this label, whatever its state."""
        filters = json.dumps({"label": [label]})
        listed = await self._ask("GET", "/containers/json", all=1, filters=filters)
        return [Found(each["Id"], each["Labels"] or {}, each["State"] == "running") for each in listed]

    async def mounted_at(self, container: str, path: Path) -> Path | None:
        """What the daemon's host calls a path of a container that lies in a mount; None where it does not."""
        mounts = (await self._ask("GET", f"/containers/{container}/json"))["Mounts"]
        found = {Path(mount["Destination"]): Path(mount["Source"]) for mount in mounts if mount["RW"]}
        within = [destination for destination in found if path.is_relative_to(destination)]
        if not within:
            return None
        nearest = max(within, key=lambda destination: len(destination.parts))
        return found[nearest] / path.relative_to(nearest)

    async def attach(self, container: str) -> Attachment:
        """Its stdin and stdout; before it is started. Raises `SandboxFailed`."""
        try:
            return await Attachment.open(self.address, self._tls, container)
        except OSError as error:
            raise SandboxFailed(f"container {container[:12]} could not be attached to: {error}") from error

    @contextlib.asynccontextmanager
    async def events(self, label: str) -> AsyncIterator[AsyncIterator[Event]]:
        """What happens to containers with this label while the block lasts; ends early when the daemon does.

        Raises `Gone` when it does not answer.
        """
        filters = json.dumps({"type": ["container"], "label": [label], "event": ["die", "oom", "destroy"]})
        # A second back: the daemon answers a moment before it listens.
        query: dict[str, str | int] = {"since": int(time.time()) - 1, "filters": filters}
        async with contextlib.AsyncExitStack() as stack:
            # Between two events lies any length of time.
            patient = httpx.Timeout(_TIMEOUT_S, read=None)
            stream = self._http.stream("GET", "/events", params=query, timeout=patient)
            try:
                response = await stack.enter_async_context(stream)
            except httpx.TransportError as error:
                raise Gone(f"the Docker daemon at {self.address} does not answer: {words(error)}") from error
            if response.status_code != 200:
                raise Gone(f"the Docker daemon at {self.address} does not tell what happens: {response.status_code}")
            yield _events(response)


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:500] or answer.reason_phrase


def _tls() -> ssl.SSLContext:
    """As the docker command has it. Raises `HostUnfit` when a file is missing."""
    directory = Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    try:
        context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
        context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    except OSError as error:
        raise HostUnfit(f"DOCKER_TLS_VERIFY is set, and the certificates in {directory} cannot be read") from error
    return context


async def _events(response: httpx.Response) -> AsyncIterator[Event]:
    with contextlib.suppress(httpx.TransportError, ValueError, KeyError, TypeError):  # its end, also in mid-sentence
        async for line in response.aiter_lines():
            event = json.loads(line)
            yield Event(event["Actor"]["ID"], event["Action"])
