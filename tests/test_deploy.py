"""The server as people deploy it: built into an image, started from compose.yaml, stopped and started again.

Makes a base image, builds ours on it and runs that, on a Docker daemon that is running or on one of its own. That takes
three minutes, so it is for CI.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from docker import APIClient

from sandbox.api.server import longest_stop_s
from sandbox.config import Settings
from sandbox.runtime.docker.daemon import DEFAULT_ADDRESS
from sandbox.runtime.docker.image import Built
from sandbox.runtime.docker.instance import LABEL
from sandbox.runtime.embedded import seccomp
from tests.docker import BUILD_SECONDS, NETWORK, ROOT, WAIT_SECONDS, Docker, ca_bundle, in_docker
from tests.needs import missing


@pytest.fixture(scope="module")
def compose() -> Sequence[str]:
    """The command, as it is installed."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose") is None:
        missing("needs compose: apt-get install docker-compose")
    return ["docker-compose"]


@pytest.fixture(scope="module")
def image(docker: Docker, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's image, built from this checkout."""
    context = tmp_path_factory.mktemp("context")
    for name in ("Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, context)
    for name in ("sandbox", "images", "deploy"):
        shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
    if (trusted := ca_bundle()) is not None:
        shutil.copy(trusted, context / "ca-bundle.crt")
    tag = f"sandbox-engine:test-{os.getpid()}"
    arguments = [f"--network={NETWORK}", "--force-rm", f"--build-arg=BASE_IMAGE={base_image}", f"--tag={tag}"]
    docker.output("docker", "build", *arguments, context, timeout=BUILD_SECONDS)
    yield tag
    if docker.daemon is None:  # one of our own takes its images along
        docker.output("docker", "rmi", tag)


@dataclass(frozen=True, slots=True)
class Deployment:
    """The server of compose.yaml, in a project of its own."""

    docker: Docker
    command: Sequence[str]
    project: str
    secret: str

    def compose(self, *arguments: str) -> str:
        return self.docker.output(*self.command, "-p", self.project, *arguments)

    def container(self) -> str:
        """Its id; also when it has ended."""
        return self.docker.output("docker", "ps", "-aq", f"--filter=label=com.docker.compose.project={self.project}")

    def start(self) -> None:
        """Start it and wait until Docker says that it is healthy."""
        since = str(int(time.time()))
        self.compose("up", "-d", "--no-build")
        self._until(since, "health_status: healthy")

    def _until(self, since: str, wanted: str) -> None:
        watch = ["docker", "events", f"--since={since}", f"--until={int(since) + WAIT_SECONDS}"]
        watch += [f"--filter=container={self.container()}", "--format={{.Status}}"]
        with subprocess.Popen(watch, env=self.docker.env, stdout=subprocess.PIPE, text=True) as events:
            assert events.stdout is not None
            for line in events.stdout:
                if line.strip() == wanted:
                    events.terminate()
                    return
        raise AssertionError(f"it never was {wanted}: {self.docker.run('docker', 'logs', self.container())}")

    def client(self) -> httpx.Client:
        address = self.docker.output("docker", "port", self.container(), "8000")
        headers = {"Authorization": f"Bearer {self.secret}"}
        return httpx.Client(base_url=f"http://{address}", headers=headers, timeout=60)


@pytest.fixture(scope="module")
def deployment(docker: Docker, compose: Sequence[str], image: str) -> Iterator[Deployment]:
    """A healthy server, from nothing, by the commands of docs/deploy.md."""
    project = f"deploytest{os.getpid()}"
    # An empty port has Docker take a free one.
    ours = Docker({**docker.env, "SANDBOX_SERVER_IMAGE": image, "SANDBOX_PORT": ""})
    deployment = Deployment(ours, compose, project, "")
    try:
        secret = deployment.compose("run", "--rm", "-T", "server", "key", "create", "tests")
        deployment = Deployment(ours, compose, project, secret)
        deployment.start()
        yield deployment
    finally:
        deployment.compose("down", "--volumes")


@pytest.fixture
def client(deployment: Deployment) -> Iterator[httpx.Client]:
    with deployment.client() as client:
        yield client


def run(client: httpx.Client, code: str) -> dict[str, Any]:
    answer = client.post("/v1/run", json={"code": code})
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


@in_docker
def test_a_program_runs(client: httpx.Client) -> None:
    assert run(client, "print(6 * 7)")["stdout"] == "42\n"


@in_docker
def test_a_program_that_takes_too_much_memory_ends_as_oom(client: httpx.Client) -> None:
    assert run(client, "x = bytearray(10**10)")["status"] == "oom"
    assert run(client, "print(1)")["status"] == "ok"


@in_docker
def test_a_program_has_none_of_the_rights_that_the_container_has(client: httpx.Client) -> None:
    status = run(client, "print(open('/proc/self/status').read())")["stdout"]
    fields = {key: value.split() for key, _, value in (line.partition(":") for line in status.splitlines())}
    assert fields["CapBnd"] == fields["CapEff"] == ["0" * 16]
    assert fields["NoNewPrivs"] == ["1"]
    assert fields["Seccomp"] == ["2"]
    assert "0" not in fields["Uid"]
    seen = run(client, "import os; print(os.path.lexists('/run'), sum(name.isdigit() for name in os.listdir('/proc')))")
    assert seen["stdout"] == "False 1\n"  # the container has its whole /proc below /run


@in_docker
def test_without_a_key_nobody_gets_in(deployment: Deployment, client: httpx.Client) -> None:
    assert httpx.post(f"{client.base_url}/v1/run", json={"code": "1"}).status_code == 401


@in_docker
def test_the_command_works_beside_the_server(deployment: Deployment) -> None:
    assert deployment.compose("exec", "-T", "server", "sandbox", "run", "-c", "print('beside')") == "beside"


@in_docker
def test_stopping_lets_what_runs_end_and_the_next_start_finds_the_files(deployment: Deployment) -> None:
    with deployment.client() as client:
        session = client.post("/v1/sessions", json={}).json()["id"]
        executions = f"/v1/sessions/{session}/executions"
        code = (
            "import time; open('kept.txt', 'w').write('yes'); print('begun', flush=True); time.sleep(2); print('ended')"
        )
        with client.stream("POST", executions, json={"code": code, "stream": True}) as answer:
            lines = answer.iter_lines()
            assert any("begun" in line for line in lines)
            stopping = threading.Thread(target=deployment.compose, args=("stop",))
            stopping.start()
            assert any("ended" in line for line in lines)
            stopping.join()
    state = json.loads(
        deployment.docker.output("docker", "inspect", "--format={{json .State}}", deployment.container())
    )
    assert (state["Running"], state["ExitCode"], state["OOMKilled"]) == (False, 0, False)

    deployment.start()
    with deployment.client() as client:
        again = client.post(executions, json={"code": "print(open('kept.txt').read())"}).json()
        assert (again["stdout"], again["state_lost"]) == ("yes\n", True)


@pytest.fixture(scope="module")
def beside(docker: Docker, compose: Sequence[str], image: str, docker_image: Built) -> Iterator[Deployment]:
    """A server in a container whose sandboxes are containers beside it, by the commands of docs/deploy.md."""
    project = f"besidetest{os.getpid()}"
    address = docker.address or DEFAULT_ADDRESS
    env = {"SANDBOX_SERVER_IMAGE": image, "SANDBOX_PORT": "", "DOCKER_SOCKET": address.removeprefix("unix://")}
    ours = Docker({**docker.env, **env})
    deployment = Deployment(ours, [*compose, "-f", "compose.docker.yaml"], project, "")
    try:
        secret = deployment.compose("run", "--rm", "-T", "server", "key", "create", "tests")
        deployment = Deployment(ours, deployment.command, project, secret)
        deployment.start()
        yield deployment
    finally:
        deployment.compose("down", "--volumes")


@in_docker
def test_a_server_in_a_container_makes_sandboxes_beside_it(beside: Deployment, docker_client: APIClient) -> None:
    with beside.client() as client:
        done = run(client, "sum(i * i for i in range(10**6)); print(6 * 7)")
        assert (done["stdout"], done["cpu_ms"] > 0) == ("42\n", True)
        assert run(client, "x = bytearray(10**10)")["status"] == "oom"
        assert run(client, "import os; os._exit(3)")["status"] == "killed"
    volume = docker_client.inspect_volume(f"{beside.project}_data")["Mountpoint"]
    sandboxes = docker_client.containers(filters={"label": LABEL})
    shown = [mount["Source"] for sandbox in sandboxes for mount in sandbox["Mounts"] if mount["Type"] == "bind"]
    assert shown, "the pool is empty"
    assert all(source.startswith(volume) for source in shown), "their sockets are not in the server's volume"


@in_docker
def test_killed_beside_its_sandboxes_it_removes_them_when_it_is_back_and_has_the_files(
    beside: Deployment, docker_client: APIClient
) -> None:
    with beside.client() as client:
        session = client.post("/v1/sessions", json={}).json()["id"]
        executions = f"/v1/sessions/{session}/executions"
        assert client.post(executions, json={"code": "open('kept.txt', 'w').write('yes')"}).json()["status"] == "ok"
    before = {sandbox["Id"] for sandbox in docker_client.containers(all=True, filters={"label": LABEL})}
    beside.compose("kill", "-s", "SIGKILL")
    beside.start()
    with beside.client() as client:
        again = client.post(executions, json={"code": "print(open('kept.txt').read())"}).json()
        assert (again["stdout"], again["state_lost"]) == ("yes\n", True)
    after = {sandbox["Id"] for sandbox in docker_client.containers(all=True, filters={"label": LABEL})}
    assert not before & after


OPTIONAL = {"MKNOD", "SYS_NICE"}


def _capabilities() -> list[str]:
    found = re.search(r"cap_add: \[(.+)\]", (ROOT / "compose.yaml").read_text())
    assert found is not None
    return found[1].split(", ")


def _once(docker: Docker, image: str, capabilities: Sequence[str], *command: str) -> "subprocess.CompletedProcess[str]":
    """A command in a container with these capabilities, and else as compose.yaml has it."""
    flags = ["--init", "--read-only", "--tmpfs=/run", "--tmpfs=/tmp", "--network=none", "--cap-drop=ALL"]
    flags += [f"--security-opt={option}" for option in ("no-new-privileges", "apparmor=unconfined")]
    flags += ["--security-opt=seccomp=deploy/seccomp.json", *(f"--cap-add={name}" for name in capabilities)]
    return docker.run("docker", "run", "--rm", *flags, image, *command)


@in_docker
def test_it_works_without_the_capabilities_that_are_optional(docker: Docker, image: str) -> None:
    enough = [name for name in _capabilities() if name not in OPTIONAL]
    finished = _once(docker, image, enough, "run", "-c", "print(1)")
    assert (finished.returncode, finished.stdout) == (0, "1\n"), finished.stderr


@in_docker
def test_each_sandbox_has_devices_of_its_own_only_with_the_capability_to_make_them(docker: Docker, image: str) -> None:
    code = "print([line.split(' - ')[1].split()[1] for line in open('/proc/self/mountinfo') if ' /dev/null ' in line])"
    shown = {
        name: _once(docker, image, [*(set(_capabilities()) - {name})], "run", "-c", code).stdout
        for name in ("MKNOD", "SYS_NICE")
    }
    assert shown["SYS_NICE"] == "['devices']\n"
    assert shown["MKNOD"] not in ("['devices']\n", "")


@in_docker
@pytest.mark.parametrize("capability", sorted(set(_capabilities()) - OPTIONAL))
def test_no_sandbox_is_made_without(capability: str, docker: Docker, image: str) -> None:
    without = [name for name in _capabilities() if name != capability]
    assert _once(docker, image, without, "run", "-c", "print(1)").returncode == 2


@in_docker
def test_a_container_without_the_flags_says_so_but_can_make_keys(docker: Docker, image: str) -> None:
    refused = docker.run("docker", "run", "--rm", "--network=none", image)
    assert refused.returncode == 2
    assert "flags in compose.yaml" in refused.stderr
    assert docker.output("docker", "run", "--rm", "--network=none", image, "key", "create", "me").startswith("sbx_")


def test_the_containers_filter_lets_through_what_sandboxes_may_call() -> None:
    profile = json.loads((ROOT / "deploy" / "seccomp.json").read_text())
    barred = {name for rule in profile["syscalls"] for name in rule["names"]}
    assert not barred & seccomp.ALLOWED.keys()


def test_both_ways_to_stop_the_server_wait_until_it_has_drained() -> None:
    compose = re.search(r"stop_grace_period: (\d+)s", (ROOT / "compose.yaml").read_text())
    unit = re.search(r"TimeoutStopSec=(\d+)", (ROOT / "deploy" / "sandbox.service").read_text())
    assert compose is not None
    assert unit is not None
    assert min(int(compose[1]), int(unit[1])) >= longest_stop_s(Settings()) + 5


def test_both_dockerfiles_install_the_libraries_by_the_same_stages() -> None:
    found = [
        re.search(r"(?m)^FROM \$\{BASE_IMAGE\} AS base\n.*?(?=^FROM (?!base AS build$))", file.read_text(), re.DOTALL)
        for file in (ROOT / "Dockerfile", ROOT / "images" / "python" / "Dockerfile")
    ]
    server, image = (stages[0] for stages in found if stages is not None)
    # A character more or less in one of them, and who builds both installs everything twice.
    assert server == image
    assert "image.build(" in server


def test_the_health_check_of_the_image_asks_no_proxy() -> None:
    command = re.search(r"HEALTHCHECK [^\[]*CMD (\[.*\])", (ROOT / "Dockerfile").read_text())
    assert command is not None
    asked = []

    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        env = {"SANDBOX_PORT": str(server.server_port), "http_proxy": "http://127.0.0.1:9", "PATH": os.environ["PATH"]}
        checked = subprocess.run(json.loads(command[1]), env=env, capture_output=True, text=True)
        if checked.returncode:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.server_port)):
                pass  # lets the thread end
        thread.join()
    assert (checked.returncode, checked.stderr, asked) == (0, "", ["/health"])


def test_the_unit_has_the_capabilities_of_the_container_and_systemd_understands_it(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "sandbox.service").read_text()
    bound = re.search(r"CapabilityBoundingSet=(.+)", text)
    assert bound is not None
    assert bound[1].split() == [f"CAP_{name}" for name in _capabilities()]
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze: apt-get install systemd")
    unit = tmp_path / "sandbox.service"
    unit.write_text(text.replace("/opt/sandbox/bin/sandbox", shutil.which("true") or ""))
    said = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (said.returncode, said.stderr) == (0, "")
