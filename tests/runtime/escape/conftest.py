"""The same attacks on every runtime: an engine for each, and sessions on it."""

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandbox.config import Settings
from sandbox.engine import Engine
from sandbox.runtime.docker.runtime import DockerRuntime
from sandbox.session import Session
from tests.containers import Containers
from tests.docker import Docker
from tests.host import Embedded, House, Watched
from tests.needs import missing
from tests.runtime.escape.lacks import LACKS
from tests.runtime.test_contract import of_ordinary_user
from tests.scoreboard import GROUNDS, SINGLE

_ENGINES = dict(zip(GROUNDS, ("embedded_engine", "runc_engine", "runsc_engine", "single_engine"), strict=True))


@pytest.fixture(scope="session", params=GROUNDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The runtime's name."""
    return str(request.param)


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest, kind: str) -> Engine:
    """An engine on that runtime."""
    found: Engine = request.getfixturevalue(_ENGINES[kind])
    return found


@pytest.fixture(scope="session")
async def single_engine(
    kind: str, root: None, python_image: object, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Engine]:
    """The embedded runtime of an ordinary user; it ends with the tests on it, because what is looked at is the last."""
    images, directory = Settings.load().images_dir, tmp_path_factory.mktemp("single")
    settings = Settings(runtime="embedded", data_dir=directory, images_dir=images, pool_size=0)
    async with of_ordinary_user("single") as ground, Engine.open(settings, runtime=ground.runtime) as engine:
        yield engine


@pytest.fixture(scope="session")
async def runc_engine(
    docker: Docker, docker_image: object, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Engine]:
    """Containers on the host's kernel."""
    async with Engine.open(_settings("runc", docker, tmp_path_factory.mktemp("runc"))) as engine:
        yield engine


@pytest.fixture(scope="session")
async def runsc_engine(
    docker: Docker, docker_image: object, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Engine]:
    """Containers on gVisor's kernel."""
    async with Engine.open(_settings("runsc", docker, tmp_path_factory.mktemp("runsc"))) as engine:
        yield engine


def _settings(oci_runtime: str, docker: Docker, directory: Path) -> Settings:
    if shutil.which(oci_runtime) is None:
        missing(f"needs {oci_runtime}: apt-get install {oci_runtime}")
    # Cold, because most tests share a session, and who wants one alone would wait for a warm one as long.
    return Settings(
        runtime="docker", docker_host=docker.address, oci_runtime=oci_runtime, data_dir=directory, pool_size=0
    )


@pytest.fixture(scope="session")
async def onlooker(engine: Engine) -> AsyncIterator[Session]:
    """One session for all probes that leave it as they found it: a container takes seconds to start."""
    async with engine.session() as session:
        yield session


@pytest.fixture(scope="session")
async def neighbour(engine: Engine) -> AsyncIterator[Session]:
    """Somebody else's, of the same kind."""
    async with engine.session() as session:
        yield session


@pytest.fixture
async def other(engine: Engine) -> AsyncIterator[Session]:
    """Another fresh session, of somebody else."""
    async with engine.session() as session:
        yield session


@pytest.fixture
def house(request: pytest.FixtureRequest, engine: Engine) -> House:
    """The engine's sandboxes as the host sees them."""
    if isinstance(engine.runtime, DockerRuntime):
        return Containers.of(request.getfixturevalue("docker_client"), engine.runtime)
    return (Watched if request.getfixturevalue("kind") == SINGLE else Embedded).below(os.getpid())


@pytest.fixture(autouse=True)
def walls(request: pytest.FixtureRequest) -> None:
    """A visible skip where a runtime lacks what a test needs."""
    for mark in request.node.iter_markers("needs_wall"):
        lack = LACKS[mark.args[0]]
        if request.getfixturevalue("kind") in lack.runtimes:
            pytest.skip(lack.why)
