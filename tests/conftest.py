"""What tests share: one engine for many, a fresh session for each, and a look at what is left when all is over."""

import contextlib
import os
import select
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest
from docker import APIClient

from sandbox import image
from sandbox.config import Settings
from sandbox.engine import Engine
from sandbox.errors import HostUnfit, ImageNotBuilt
from sandbox.image import Image
from sandbox.runtime.docker import image as docker_images
from sandbox.runtime.docker.daemon import client_for
from sandbox.runtime.docker.image import Built
from sandbox.runtime.embedded import linux
from sandbox.session import Session
from tests import docker as daemons
from tests.docker import Docker
from tests.halves import HALVES, half_of
from tests.host import locked
from tests.needs import missing
from tests.postgresql import Cluster, programs

pytest_plugins = ["tests.scoreboard"]

_END_SECONDS = 20.0

# Machines are shared: how long an example takes says nothing about the code.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sandbox")
    group.addoption("--slow", action="store_true", help="run the tests that take minutes, too")
    group.addoption("--nightly", action="store_true", help="run the soaks and races of the attack corpus, too")
    group.addoption(
        "--ground", help="run what is run on several runtimes on this one only, whole: embedded, embedded/exec, …"
    )
    group.addoption("--kills", type=int, default=3, help="how often the server is killed under load")
    group.addoption("--half", choices=HALVES, help="run the tests of one half of the suite; see tests/halves.py")
    group.addoption("--all", action="store_true", help="run every docstring session, not the sample")


def _grounds(item: pytest.Item) -> set[str]:
    """The runtime that a test is run on by one of its parameters; see `tests/scoreboard.py`."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return {str(parameters[name]) for name in ("kind", "ground") if name in parameters}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (ground := config.getoption("--ground")) is not None:
        config.hook.pytest_deselected(items=[item for item in items if _grounds(item) != {ground}])
        items[:] = [item for item in items if _grounds(item) == {ground}]
    if not config.getoption("--nightly"):
        left_out = [item for item in items if "nightly" in item.keywords]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if "nightly" not in item.keywords]
    if (half := config.getoption("--half")) is not None:
        config.hook.pytest_deselected(items=[item for item in items if half_of(item) != half])
        items[:] = [item for item in items if half_of(item) == half]
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="takes minutes; run with --slow"))


@pytest.fixture(scope="session")
def root() -> None:
    """For tests that need root; a visible skip without it."""
    if os.geteuid() != 0:
        pytest.skip("needs root: the embedded runtime makes namespaces and cgroups")


@pytest.fixture(scope="session")
def python_image() -> Image:
    """The default image, built if it is not yet."""
    return image.build("python", Settings.load().images_dir, print)


@pytest.fixture(scope="session")
async def embedded_engine(root: None, python_image: Image, nothing_left: None) -> AsyncIterator[Engine]:
    """See `engine`."""
    try:
        async with Engine.open(Settings(pool_size=2)) as engine:
            await engine.pool.settle()  # what is tested is what a server's users have, from seconds after its start
            yield engine
    except HostUnfit as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def engine(embedded_engine: Engine) -> Engine:
    """One engine for all tests that do not break it. Who does, opens one of their own."""
    return embedded_engine


@pytest.fixture
async def session(engine: Engine) -> AsyncIterator[Session]:
    """A fresh session: a sandbox that nobody has used."""
    async with engine.session() as session:
        yield session


@pytest.fixture(scope="session")
def cluster(nothing_left: None) -> Iterator[Cluster]:
    """A PostgreSQL server; a visible skip where none is installed."""
    found = programs()
    if found is None:
        missing("needs PostgreSQL's server programs: apt-get install postgresql")
    cluster = Cluster(found)
    yield cluster
    cluster.remove()


@pytest.fixture(scope="session")
def docker(root: None, nothing_left: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """A Docker daemon; a visible skip where none runs or can be started."""
    with daemons.running(tmp_path_factory.mktemp("docker")) as docker:
        yield docker


@pytest.fixture(scope="session")
def base_image(docker: Docker) -> str:
    """What images are built on."""
    return daemons.base_image(docker)


@pytest.fixture(scope="session")
def docker_client(docker: Docker) -> Iterator[APIClient]:
    """A client of the daemon as the runtime has one."""
    with contextlib.closing(client_for(docker.address)) as client:
        yield client


@pytest.fixture(scope="session")
def docker_image(docker_client: APIClient, base_image: str) -> Built:
    """The default image as a Docker image, built if it is not yet; a skip where nobody wants to wait for that."""
    try:
        return docker_images.load(docker_client, "python")
    except ImageNotBuilt:
        if not os.environ.get("CI"):
            pytest.skip("the Docker image is not built from these sources, which takes minutes; set CI=true")
    return docker_images.build(
        docker_client, "python", print, base_image=base_image, network=daemons.NETWORK, ca_bundle=daemons.ca_bundle()
    )


@pytest.fixture(scope="session", autouse=True)
def nothing_left() -> Iterator[None]:
    """When all tests are over, no process, control group or mount of theirs may remain."""
    # Orphans of whatever the tests start or kill become children of this process, so that none can hide.
    linux.become_subreaper()
    groups, mounts = _ownerless_groups(), _mounts()
    foreign = _living_engines()
    yield
    left = [_describe(pid) for pid in _outliving(_descendants(os.getpid()))]
    # An engine of somebody else that was killed leaves groups, too, and they bear no name.
    if not foreign | _living_engines():
        left += sorted(_ownerless_groups() - groups)
    left += sorted(_mounts() - mounts)
    assert not left, "the tests left behind:\n" + "\n".join(left)


def _descendants(ancestor: int) -> list[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = [ancestor]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def _outliving(waited: list[int]) -> list[int]:
    """Wait for the end of all these processes; those for which it does not come."""
    pidfds = {}
    for pid in waited:
        with contextlib.suppress(ProcessLookupError):
            pidfds[os.pidfd_open(pid)] = pid
    deadline = time.monotonic() + _END_SECONDS
    while pidfds and (ended := select.select(list(pidfds), [], [], max(0.0, deadline - time.monotonic()))[0]):
        for pidfd in ended:
            # The PID 1 of a sandbox cannot end before its kernel has been reaped, which falls to us as adopters.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pidfds.pop(pidfd), os.WNOHANG)
            os.close(pidfd)
    for pidfd in pidfds:
        os.close(pidfd)
    return list(pidfds.values())


def _describe(pid: int) -> str:
    with contextlib.suppress(OSError):
        process = Path(f"/proc/{pid}")
        command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return f"process {pid} {(process / 'comm').read_text().strip()}: {command}"
    return f"process {pid}, ended late"


def _living_engines() -> set[str]:
    return {lock.stem for lock in Path("/run/sandbox").glob("*.lock") if locked(lock.stem)}


def _ownerless_groups() -> set[str]:
    """Control groups of engines that have ended. Those of a living one, ours or not, are locked."""
    groups = (*Path("/sys/fs/cgroup").glob("*/sandbox/*/"), *Path("/sys/fs/cgroup").glob("sandbox/*/"))
    return {str(group) for group in groups if not locked(group.name)}


def _mounts() -> set[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {f"mount {line.split()[4]}" for line in lines if "sandbox" in line}
