"""Where peers run: environments of their own, one image for all of them, and a daemon whose network nobody else has."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import uv

from sandbox.runtime.embedded import linux
from tests.docker import BUILD_SECONDS, ROOT, Daemon, Docker, base_image

_INSTALL_S = 300
_LOCK = ROOT / "images" / "python" / "requirements.lock"
_IN_IMAGE = ("jupyter_kernel_gateway", "ipykernel", "pandas", "matplotlib")
# smolagents and autogen each have their own name for the token. Scripts that were installed outside do not run inside.
_DOCKERFILE = """
FROM {base}
COPY site /opt/peers
RUN ln -sf /usr/bin/python3 /usr/local/bin/python && chmod 1777 /tmp
ENV PYTHONPATH=/opt/peers PATH=/opt/peers/bin:$PATH TOKEN=
EXPOSE 8888
WORKDIR /tmp
CMD exec python -m kernel_gateway --KernelGatewayApp.ip=0.0.0.0 --KernelGatewayApp.port=8888 \\
    --KernelGatewayApp.auth_token="${{KG_AUTH_TOKEN:-$TOKEN}}" --JupyterWebsocketPersonality.list_kernels=true
"""
IMAGE = f"sandbox-engine-peers:{hashlib.sha256(_DOCKERFILE.encode()).hexdigest()[:12]}"


class NotInstalled(Exception):
    """A peer cannot be had here; the reason, in words."""


def python_with(cache: Path, name: str, requirements: Sequence[str]) -> Path:
    """The interpreter of a peer's environment, made if it is not there. Raises `NotInstalled`."""
    home = cache / name
    stamp = home / "installed"
    wanted = " ".join(requirements)
    if not (stamp.exists() and stamp.read_text() == wanted):
        _uv("venv", "--quiet", "--no-project", "--clear", "--python", sys.executable, str(home))
        _install("--python", str(home / "bin" / "python"), *requirements)
        stamp.write_text(wanted)
    return home / "bin" / "python"


def versions(python: Path, distributions: Sequence[str]) -> dict[str, str]:
    """Of what is installed for this interpreter."""
    told = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    command = [str(python), "-c", told, *distributions]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return dict(zip(distributions, found, strict=True))


@contextlib.contextmanager
def daemon(cache: Path, prepare: Callable[[Docker], None]) -> Iterator[Docker]:
    """A daemon that has `IMAGE`: the one that runs, or one of our own. Raises `NotInstalled` where there is neither.

    prepare: what else it needs from a network, which one of our own has no more when it is given.
    """
    if shutil.which("docker") is None:
        raise NotInstalled("there is no docker command")
    if subprocess.run(["docker", "info"], capture_output=True).returncode == 0:
        docker = Docker(os.environ)
        _make_image(docker, cache)
        prepare(docker)
        yield docker
        return
    if shutil.which("dockerd") is None:
        raise NotInstalled("no Docker daemon runs, and there is none to start")
    directory = cache / "docker"
    directory.mkdir(exist_ok=True)
    with _started(Daemon(directory)) as docker:
        _make_image(docker, cache)
        prepare(docker)
    # From here on this process has a network of its own, in which a bridge and ports are nobody else's business.
    linux.unshare(linux.CLONE_NEWNET)
    linux.raise_loopback()
    with _started(Daemon(directory, bridge=True)) as docker:
        yield docker


@contextlib.contextmanager
def _started(daemon: Daemon) -> Iterator[Docker]:
    try:
        daemon.start()
        yield Docker({**os.environ, "DOCKER_HOST": daemon.address}, daemon)
    finally:
        daemon.stop()


def _make_image(docker: Docker, cache: Path) -> None:
    """The libraries that the measures need, at the versions of our image, which has more of them."""
    if docker.run("docker", "image", "inspect", IMAGE).returncode == 0:
        return
    context = cache / "context"
    shutil.rmtree(context, ignore_errors=True)
    context.mkdir()
    _install("--target", str(context / "site"), "--constraint", str(_LOCK), *_IN_IMAGE)
    (context / "Dockerfile").write_text(_DOCKERFILE.format(base=base_image(docker)))
    docker.output("docker", "build", f"--tag={IMAGE}", str(context), timeout=BUILD_SECONDS)


def _install(*arguments: str) -> None:
    _uv("pip", "install", "--quiet", "--only-binary", ":all:", "--compile-bytecode", *arguments)


def _uv(*arguments: str) -> None:
    try:
        command = [uv.find_uv_bin(), *arguments]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_S)
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"could not be installed in {_INSTALL_S} s") from None
    except subprocess.CalledProcessError as error:
        raise NotInstalled(f"could not be installed: {error.stderr.strip()[-300:]}") from error
