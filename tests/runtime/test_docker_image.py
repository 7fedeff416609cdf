"""The image as a Docker image, and the root for the embedded runtime that is made of it."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker import APIClient

from sandbox import image as images
from sandbox.config import Settings
from sandbox.engine import Engine
from sandbox.errors import ImageNotBuilt, InvalidRequest, UnknownImage
from sandbox.execution import Status
from sandbox.image import Image, Manifest
from sandbox.runtime.docker import image
from sandbox.runtime.docker.image import Built
from tests.docker import Docker
from tests.server import COMMAND


def printed(docker: Docker, image: Built, *command: str) -> str:
    """What a command in a container of the image prints."""
    return docker.output("docker", "run", "--rm", "--network=none", image.reference, *command)


@pytest.mark.attack("J02")
def test_it_runs_as_nobody_in_the_workspace(docker: Docker, docker_image: Built) -> None:
    assert printed(docker, docker_image, "sh", "-c", "id -u; id -g; pwd").split() == ["65534", "65534", "/mnt/data"]


@pytest.mark.attack("J02")
def test_no_file_gives_rights(docker: Docker, docker_image: Built) -> None:
    found = (
        "run",
        "--rm",
        "--network=none",
        "--user=0",
        docker_image.reference,
        "find",
        "/",
        "-xdev",
        "-perm",
        "/6000",
    )
    assert docker.output("docker", *found) == ""


def test_nothing_is_left_of_its_making(docker: Docker, docker_image: Built) -> None:
    left = "ls -A /var/lib/apt/lists /var/cache/apt /build /opt/build /opt/libraries 2>&1"
    pip = "command -v pip"  # the image's own, which installs nothing
    lines = printed(docker, docker_image, "sh", "-c", f"{left}; {pip}; ls /opt").split("\n")
    assert [line for line in lines if line and not line.endswith((":", "No such file or directory"))] == [
        "/opt/venv/bin/pip",
        "image",
        "sandbox",
        "venv",
    ]


def test_everybody_can_read_it(docker: Docker, docker_image: Built) -> None:
    unreadable = ("find", "/opt", "/usr", "/mnt", "!", "-type", "l", "!", "-perm", "-o+r")
    assert printed(docker, docker_image, *unreadable) == ""


def test_its_modules_are_compiled(docker: Docker, docker_image: Built) -> None:
    code = (
        "import importlib.util, pandas, sandbox.guest.frames as frames\n"
        "for module in pandas, frames:\n"
        "    flags = int.from_bytes(open(module.__cached__, 'rb').read(8)[4:], 'little')\n"
        "    print(flags, module.__cached__)"
    )
    command = ("env", "PYTHONPATH=/opt/sandbox", "python", "-c", code)
    lines = printed(docker, docker_image, *command).splitlines()
    assert [line.split()[0] for line in lines] == ["1", "1"], "by hash, and never checked"


def test_it_has_our_guest_and_nothing_else_of_ours(docker: Docker, docker_image: Built) -> None:
    package = Path(images.__file__).parent
    digests = "cd /opt/sandbox && find . -name '*.py' -exec sha256sum {} + && echo && ls . sandbox"
    files, listing = printed(docker, docker_image, "sh", "-c", digests).split("\n\n", 1)
    assert listing.split() == [".:", "sandbox", "sandbox:", "guest"]
    assert sorted(files.splitlines()) == sorted(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  ./sandbox/{path.relative_to(package)}"
        for path in (package / "guest").rglob("*.py")
    )


def test_its_labels_tell_what_is_in_it(docker: Docker, docker_image: Built, docker_client: APIClient) -> None:
    manifest = Manifest.from_json(printed(docker, docker_image, "cat", "/opt/image/manifest.json"))
    assert docker_image.manifest == manifest
    assert manifest.libraries.keys() >= {"numpy", "pandas", "ipykernel"}
    assert image.load(docker_client, "python") == docker_image
    assert docker_image in image.built(docker_client)
    assert docker_image.reference == image.reference("python")


def test_a_built_image_is_returned_at_once(docker_image: Built, docker_client: APIClient) -> None:
    steps: list[str] = []
    assert image.build(docker_client, "python", steps.append) == docker_image
    assert steps == []


@pytest.fixture
def empty_image(docker: Docker, tmp_path: Path) -> Iterator[str]:
    """An image with nothing in it, not even a shell."""
    name = f"sandbox-engine-empty:test-{os.getpid()}"
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    docker.output("docker", "import", tmp_path / "empty.tar", name)
    yield name
    docker.output("docker", "rmi", name)


def test_a_build_that_fails_says_why(docker_client: APIClient, empty_image: str) -> None:
    steps: list[str] = []
    with pytest.raises(ImageNotBuilt, match=r"(?s)building image 'python' on sandbox-engine-empty:.*: .*RUN .*/bin/sh"):
        image.build(docker_client, "python", steps.append, base_image=empty_image)
    assert steps[0].startswith("Step 1/")


def reference_with(package: Path) -> str:
    """The image's name for an installation of ours in another directory, where recipes lie inside the package."""
    code = "from sandbox.runtime.docker import image; print(image.reference('python'))"
    environment = {"PATH": os.defpath, "PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.check_output([sys.executable, "-P", "-c", code], env=environment, text=True).strip()


def test_every_source_has_a_part_in_the_name_and_the_place_has_none(tmp_path: Path) -> None:
    package = tmp_path / "sandbox"
    shutil.copytree(Path(images.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(images.source("python"), package / "_images" / "python")
    names = [image.reference("python")]
    assert reference_with(package) == names[0]
    recipe = ("Dockerfile", "requirements.lock", "preload.py", "fontcache.py")
    for source in [*(package / "_images" / "python" / file for file in recipe), package / "guest" / "init.py"]:
        source.write_text(source.read_text() + "\n")
        names.append(reference_with(package))
    assert len(set(names)) == 6


@pytest.mark.parametrize("name", ["nothing", "", "../python"])
def test_an_unknown_name_is_refused(name: str, docker_client: APIClient) -> None:
    with pytest.raises(UnknownImage, match="python"):
        image.load(docker_client, name)
    with pytest.raises(UnknownImage, match="python"):
        image.build(docker_client, name, print)


@pytest.fixture(scope="module")
def unpacked(
    docker_client: APIClient, docker_image: Built, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Image, Path]]:
    """The image as a root for the embedded runtime, and the directory that it is in."""
    directory = tmp_path_factory.mktemp("images")
    yield image.unpack(docker_client, "python", directory, print, as_name="same"), directory
    shutil.rmtree(directory)


def test_an_unpacked_root_is_an_image_like_the_built_ones(unpacked: tuple[Image, Path], docker_image: Built) -> None:
    root, directory = unpacked
    assert images.load("same", directory) == root
    assert images.names(directory) == ["python", "same"]
    assert images.built(directory) == [root]
    assert root.manifest == dataclasses.replace(docker_image.manifest, name="same")
    assert root.system == root.root / "system"
    assert not (root.system / "opt/image/modules").exists(), "only containers import from it"


def test_an_unpacked_root_is_returned_at_once(unpacked: tuple[Image, Path], docker_client: APIClient) -> None:
    root, directory = unpacked
    steps: list[str] = []
    assert image.unpack(docker_client, "python", directory, steps.append, as_name="same") == root
    assert steps == []


@pytest.mark.attack("J02")
def test_an_unpacked_root_has_the_links_of_the_image_and_no_rights(unpacked: tuple[Image, Path]) -> None:
    system = unpacked[0].system
    assert os.readlink(system / "bin") == "usr/bin"
    for directory, _, files in os.walk(system / "usr"):
        for path in [Path(directory), *(Path(directory, file) for file in files)]:
            assert path.lstat().st_mode & 0o6000 == 0, path


def test_the_command_lists_and_shows_both_kinds(
    unpacked: tuple[Image, Path], docker: Docker, docker_image: Built, tmp_path: Path
) -> None:
    root, directory = unpacked

    def command(*words: str) -> str:
        environment = {**docker.env, "SANDBOX_DATA_DIR": str(tmp_path), "SANDBOX_IMAGES_DIR": str(directory)}
        return subprocess.check_output([*COMMAND, "image", *words], env=environment, text=True)

    assert f"in use  Python {docker_image.manifest.python}" in command("list", "--runtime", "docker")
    assert command("show", "--runtime", "docker", "--json") == docker_image.manifest.to_json()
    assert docker_image.id in command("show", "--runtime", "docker")
    listed = json.loads(command("list", "--runtime", "docker", "--json"))["built"]
    assert docker_image.reference in {image["reference"] for image in listed}
    assert command("build", "--runtime", "docker") == f"python is built: {docker_image.reference}\n"
    assert json.loads(command("list", "--json"))["images"] == ["python", "same"]
    assert "same\n" in command("list")
    assert f"root   {root.root}" in command("show", "same")
    assert command("unpack", "--as", "same") == f"same is unpacked: {root.root}\n"


async def test_the_embedded_runtime_runs_the_python_the_libraries_and_the_programs_of_the_image(
    unpacked: tuple[Image, Path], docker: Docker, docker_image: Built, tmp_path: Path
) -> None:
    code = (
        "import json, subprocess, sys\n"
        "from importlib.metadata import distributions\n"
        "from pathlib import Path\n"
        "libraries = {found.name: found.version for found in distributions()}\n"
        "programs = sorted(path.name for path in Path('/usr/bin').iterdir())\n"
        "awk = subprocess.run(['awk', 'BEGIN {print 6 * 7}'], capture_output=True, text=True).stdout\n"
        "print(json.dumps([sys.version, sys.base_prefix, libraries, programs, awk]))"
    )
    settings = Settings(runtime="embedded", image="same", images_dir=unpacked[1], data_dir=tmp_path, pool_size=0)
    async with Engine.open(settings) as engine:
        execution = await engine.run(code)
    assert (execution.status, execution.error) == (Status.OK, None)
    version, prefix, libraries, programs, awk = inside = json.loads(execution.stdout)
    assert (version.split()[0], prefix) == (docker_image.manifest.python, "/usr")
    assert libraries == docker_image.manifest.libraries
    assert awk == "42\n"
    assert "python3" in programs
    assert inside == json.loads(printed(docker, docker_image, "python", "-c", code))


@pytest.mark.parametrize("name", ["python", "", "..", "../python", "Python", "a/b", "/etc"])
def test_nothing_is_unpacked_under_a_name_that_it_cannot_have(
    name: str, docker_client: APIClient, docker_image: Built, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequest, match="choose a name"):
        image.unpack(docker_client, "python", tmp_path, print, as_name=name)
    assert list(tmp_path.iterdir()) == []
