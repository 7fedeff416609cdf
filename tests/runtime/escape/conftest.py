"""The same attacks on every runtime: an engine for each, and sessions on it."""

import inspect
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
from tests.runtime.escape.lacks import EMBEDDED, LACKS
from tests.runtime.test_contract import of_ordinary_user
from tests.scoreboard import EXEC, GROUNDS, SINGLE, attacks

_ENGINES = dict(
    zip(GROUNDS, ("embedded_engine", "runc_engine", "runsc_engine", "single_engine", "exec_engine"), strict=True)
)
_OF_A_START = frozenset({"A23", "A25", "F09", "K02"})
"""Rows about what a process has from where it comes from."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a zygote a session of a test's own takes a second, so most tests that want one are left to the nights.

    What is contained is what stands around a process, and where it comes from shows in few rows. `--ground` runs all.
    """
    if config.getoption("--ground") is not None:
        return
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if parameters.get("kind") == EXEC and _wants_its_own(item) and not _OF_A_START & set(attacks(item)):
            item.add_marker("nightly")


def _wants_its_own(item: pytest.Item) -> bool:
    names = {*getattr(item, "fixturenames", ())} & {"session", "other"}
    return bool(names) or "engine" in inspect.signature(getattr(item, "function")).parameters  # noqa: B009


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
async def exec_engine(root: None, python_image: object, nothing_left: None) -> AsyncIterator[Engine]:
    """The embedded runtime without a zygote."""
    # Cold, because most tests share a session, and whoever wants one alone would wait for a warm one as long.
    async with Engine.open(Settings(runtime="embedded", start="exec", pool_size=0)) as engine:
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
        kind = request.getfixturevalue("kind")
        # What stands around a kernel does not depend on where it comes from, as a rule.
        if kind in lack.runtimes or kind.replace(EXEC, EMBEDDED) in lack.runtimes:
            pytest.skip(lack.why)
