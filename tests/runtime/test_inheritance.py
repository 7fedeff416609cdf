"""What a killed engine leaves to the next one: warm containers, and no other."""

import asyncio
import os
import shutil
import signal
import sys
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from docker import APIClient

from sandbox.execution import Limits, Spec, Status, Stream
from sandbox.kernel import Kernel
from sandbox.runtime.docker.image import Built
from sandbox.runtime.docker.runtime import DockerRuntime
from sandbox.runtime.docker.sandbox import DockerSandbox
from tests.containers import Containers
from tests.docker import Docker
from tests.host import WAIT_SECONDS
from tests.needs import missing
from tests.runtime.kernels import kernel_of, run

ENGINE = """
import asyncio, os, signal, sys
from pathlib import Path
from sandbox.execution import Spec
from sandbox.kernel import Kernel
from sandbox.runtime.docker import fdstore, inheritance
from sandbox.runtime.docker.runtime import DockerRuntime

async def main(directory, address, oci_runtime, *ways):
    fdstore.HOLD_S = inheritance._PROOF_S = 60.0
    async with DockerRuntime.open(Path(directory), address=address or None) as runtime:
        for way in ways:
            kernel = await Kernel.start(runtime, Spec(oci_runtime=oci_runtime))
            if way == "used":
                async for _ in kernel.stream("exe_1", "x = 1", 20):
                    pass
            kernel.sandbox.on_warm()
            if way == "claimed":
                kernel.sandbox.on_claimed()
            print(kernel.sandbox.container)
        await runtime._store._starting
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(*sys.argv[1:]))
"""


async def killed(docker: Docker, directory: Path, spec: Spec, *ways: str) -> list[str]:
    """The containers of an engine that had these sandboxes when it was killed."""
    engine = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ENGINE, str(directory), docker.address or "", spec.oci_runtime, *ways),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await engine.communicate()
    assert engine.returncode == -signal.SIGKILL
    return said.decode().split()


def container_of(kernel: Kernel) -> str:
    assert isinstance(kernel.sandbox, DockerSandbox)
    return kernel.sandbox.container


def heir(docker: Docker, directory: Path) -> AbstractAsyncContextManager[DockerRuntime]:
    return DockerRuntime.open(directory, address=docker.address)


async def stopped(client: APIClient, container: str) -> None:
    """Until nothing runs in it; it may be gone."""
    async with asyncio.timeout(WAIT_SECONDS):
        while any(each["Id"] == container for each in client.containers()):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.runtime.docker.inheritance._PROOF_S", 60.0)


@pytest.fixture(params=["runc", "runsc"])
def spec(request: pytest.FixtureRequest, docker: Docker, docker_image: Built) -> Spec:
    """With a socket as the channel, and with stdin and stdout."""
    if shutil.which(request.param) is None:
        missing(f"needs {request.param}: apt-get install {request.param}")
    return Spec(oci_runtime=request.param)


@pytest.fixture
def runc(docker_image: Built) -> Spec:
    return Spec(oci_runtime="runc")


async def test_a_warm_sandbox_is_the_next_engines_as_if_that_had_made_it(
    docker: Docker, docker_client: APIClient, spec: Spec, tmp_path: Path
) -> None:
    [warm, claimed] = await killed(docker, tmp_path, spec, "warm", "claimed")
    async with heir(docker, tmp_path) as runtime:
        async with kernel_of(runtime, spec) as kernel:
            assert container_of(kernel) == warm
            outputs, ending = await run(kernel, "print('at home')")
            assert (outputs, ending.status) == ([Stream("stdout", "at home\n")], Status.OK)
            assert not ending.state_lost
            assert ending.peak_memory_bytes > 0
            async with kernel_of(runtime, spec) as another:
                assert container_of(another) not in (warm, claimed)
        assert warm not in Containers.of(docker_client, runtime).ids()


async def test_it_is_left_from_one_to_the_next_as_long_as_nobody_has_it(
    docker: Docker, runc: Spec, tmp_path: Path
) -> None:
    first = await killed(docker, tmp_path, runc, "warm", "warm")
    assert sorted(await killed(docker, tmp_path, runc, "warm", "warm")) == sorted(first)
    async with heir(docker, tmp_path) as runtime, kernel_of(runtime, runc) as kernel:
        assert container_of(kernel) in first


@pytest.mark.attack("D09")
async def test_a_sandbox_that_somebody_has_used_refuses_to_be_inherited(
    docker: Docker, docker_client: APIClient, runc: Spec, tmp_path: Path
) -> None:
    [used] = await killed(docker, tmp_path, runc, "used")
    async with heir(docker, tmp_path) as runtime, kernel_of(runtime, runc) as kernel:
        assert container_of(kernel) != used
        await stopped(docker_client, used)
        outputs, _ = await run(kernel, "print('x' in globals())")
        assert outputs == [Stream("stdout", "False\n")]


async def test_whoever_wants_another_kind_gets_a_new_one_and_what_nobody_wants_is_removed(
    docker: Docker, docker_client: APIClient, runc: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.runtime.docker.inheritance._RENOUNCE_AFTER_S", 0.1)
    [warm] = await killed(docker, tmp_path, runc, "warm")
    larger = replace(runc, limits=Limits(memory_mb=768))
    async with heir(docker, tmp_path) as runtime, kernel_of(runtime, larger) as kernel:
        assert container_of(kernel) != warm
        await stopped(docker_client, warm)


async def test_one_that_does_not_answer_is_replaced(
    docker: Docker, docker_client: APIClient, runc: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.runtime.docker.inheritance._PROOF_S", 0.1)
    [warm] = await killed(docker, tmp_path, runc, "warm")
    init = int(docker_client.inspect_container(warm)["State"]["Pid"])
    os.kill(init, signal.SIGSTOP)
    async with heir(docker, tmp_path) as runtime, kernel_of(runtime, runc) as kernel:
        assert container_of(kernel) != warm
        await stopped(docker_client, warm)


async def test_one_that_died_meanwhile_is_replaced(
    docker: Docker, docker_client: APIClient, runc: Spec, tmp_path: Path
) -> None:
    [dead, alive] = await killed(docker, tmp_path, runc, "warm", "warm")
    async with heir(docker, tmp_path) as runtime:
        docker_client.remove_container(dead, force=True)
        async with kernel_of(runtime, runc) as one, kernel_of(runtime, runc) as two:
            containers = {container_of(one), container_of(two)}
            assert alive in containers
            assert dead not in containers


async def test_another_filter_of_system_calls_is_another_kind(
    docker: Docker, docker_client: APIClient, runc: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [warm] = await killed(docker, tmp_path, runc, "warm")
    monkeypatch.setattr("sandbox.runtime.docker.runtime._filter", lambda: None)
    async with heir(docker, tmp_path) as runtime, kernel_of(runtime, runc) as kernel:
        assert container_of(kernel) != warm
    await stopped(docker_client, warm)


async def test_one_with_secrets_ends_with_its_engine(docker: Docker, runc: Spec, tmp_path: Path) -> None:
    secret = replace(runc, env=(("SECRET", "s"),))
    async with heir(docker, tmp_path) as runtime, kernel_of(runtime, secret) as kernel:
        kernel.sandbox.on_warm()
        assert runtime._store._starting is None
