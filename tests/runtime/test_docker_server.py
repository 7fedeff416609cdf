"""The same server, with every sandbox a container."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from docker import APIClient

from sandbox.bench.recovery import recovery
from sandbox.client import Client
from sandbox.config import Settings
from sandbox.execution import Status
from sandbox.runtime.docker.image import Built
from sandbox.runtime.docker.instance import LABEL
from tests.docker import WAIT_SECONDS, Docker
from tests.server import Server, serving

SALES = b"month,amount\n1,10\n2,32\n"
CHART = """
import pandas as pd, matplotlib.pyplot as plt
frame = pd.read_csv("sales.csv")
frame.plot(x="month", y="amount")
plt.savefig("chart.png")
print(frame.amount.sum())
"""


@pytest.fixture
def server(docker: Docker, docker_image: Built, tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path, "--runtime", "docker", "--pool", "1", env=docker.env) as server:
        yield server


def test_a_session_has_files_pictures_and_the_truth(server: Server) -> None:
    with Client(server.url) as client, client.session() as session:
        session.upload("sales.csv", SALES)
        execution = session.execute(CHART)
        assert (execution.status, execution.stdout) == (Status.OK, "42\n")
        assert [artifact.path for artifact in execution.artifacts] == ["chart.png"]
        assert session.download("chart.png").startswith(b"\x89PNG")
        assert session.execute("x = bytearray(10**10)").status is Status.OOM
        assert session.execute("while True: pass", timeout=1).status is Status.TIMEOUT
        assert session.execute("print(frame)").status is Status.ERROR


def test_it_lists_what_is_in_the_containers(server: Server, docker_image: Built) -> None:
    [image] = httpx.get(f"{server.url}/v1/images").json()["data"]
    assert (image["name"], image["python"]) == ("python", docker_image.manifest.python)
    assert httpx.get(f"{server.url}/v1/images/python").json() == image


def test_killed_it_has_the_files_and_no_container_of_its_last_life(
    docker: Docker, docker_client: APIClient, docker_image: Built, tmp_path: Path
) -> None:
    others = _containers(docker_client)
    with (
        serving(tmp_path, "--runtime", "docker", "--pool", "0", env=docker.env) as server,
        Client(server.url) as client,
    ):
        session = client.open_session()
        session.execute("open('kept', 'w').write('x')")
        before = _containers(docker_client) - others
        server.kill()
    with (
        serving(tmp_path, "--runtime", "docker", "--pool", "0", env=docker.env) as server,
        Client(server.url) as client,
    ):
        again = client.attach(session.id).execute("print(open('kept').read(), end='')")
        assert (again.stdout, again.state_lost) == ("x", True)
        deadline = time.monotonic() + WAIT_SECONDS
        while before & _containers(docker_client):  # it removes them meanwhile
            assert time.monotonic() < deadline
            time.sleep(0.1)


async def test_a_bench_that_kills_servers_leaves_no_container_of_the_last(
    docker: Docker, docker_client: APIClient, docker_image: Built, tmp_path: Path
) -> None:
    before = _containers(docker_client)
    await recovery(Settings(runtime="docker", docker_host=docker.address, data_dir=tmp_path), 0.1, pool=1)
    assert _containers(docker_client) <= before


def _containers(client: APIClient) -> set[str]:
    return {container["Id"] for container in client.containers(all=True, filters={"label": LABEL})}
