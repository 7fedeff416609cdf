"""`sandbox image build`, `list`, `show` and `unpack`."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Protocol

import typer
from rich.console import Console
from rich.text import Text

from sandbox import doctor
from sandbox import image as images
from sandbox.cli.view import line, note
from sandbox.config import Settings
from sandbox.errors import SandboxError
from sandbox.image import Image, Manifest, Report
from sandbox.runtime.docker import image as docker_images
from sandbox.runtime.docker.daemon import client_for

app = typer.Typer(
    help="Pinned library sets, built into what sandboxes run on.", no_args_is_help=True, add_completion=False
)


class Runtime(StrEnum):
    """Whose images."""

    EMBEDDED = "embedded"
    DOCKER = "docker"


_ImageName = Annotated[str | None, typer.Argument(metavar="NAME", help="Default: the image of the settings.")]
_Runtime = Annotated[
    Runtime | None,
    typer.Option("--runtime", metavar="NAME", help="embedded or docker: whose images. Default: what runs here."),
]
_AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A built image, wherever it is kept."""

    digest: str
    place: dict[str, str]
    """How to find it, by kind of name; the most telling one first."""
    manifest: Manifest


class _Shelf(Protocol):
    """The images of one runtime. As `sandbox.image` has them, and with its errors."""

    def names(self) -> list[str]: ...
    def load(self, name: str) -> _Kept: ...
    def built(self) -> list[_Kept]: ...


class _Roots:
    """The embedded runtime's."""

    def __init__(self, settings: Settings) -> None:
        self._directory = settings.images_dir

    def build(self, name: str, report: Report) -> _Kept:
        return self._kept(images.build(name, self._directory, report))

    def names(self) -> list[str]:
        return images.names(self._directory)

    def load(self, name: str) -> _Kept:
        return self._kept(images.load(name, self._directory))

    def built(self) -> list[_Kept]:
        return [self._kept(image) for image in images.built(self._directory)]

    @staticmethod
    def _kept(image: Image) -> _Kept:
        return _Kept(image.digest, {"root": str(image.root)}, image.manifest)


class _DockerImages:
    """The Docker daemon's."""

    def __init__(self, settings: Settings) -> None:
        self._client = client_for(settings.docker_host)
        self._directory = settings.images_dir

    def build(
        self, name: str, report: Report, base_image: str | None, network: str | None, ca_bundle: Path | None
    ) -> _Kept:
        return self._kept(
            docker_images.build(self._client, name, report, base_image=base_image, network=network, ca_bundle=ca_bundle)
        )

    def unpack(self, name: str, report: Report, as_name: str) -> Image:
        return docker_images.unpack(self._client, name, self._directory, report, as_name=as_name)

    def names(self) -> list[str]:
        return images.sources()

    def load(self, name: str) -> _Kept:
        return self._kept(docker_images.load(self._client, name))

    def built(self) -> list[_Kept]:
        return [self._kept(image) for image in docker_images.built(self._client)]

    @staticmethod
    def _kept(image: docker_images.Built) -> _Kept:
        return _Kept(image.digest, {"reference": image.reference, "id": image.id}, image.manifest)


def _meant(runtime: Runtime | None, settings: Settings) -> Runtime:
    return runtime or Runtime(doctor.runtime_of(settings))


def _shelf(runtime: Runtime, settings: Settings) -> _Shelf:
    return _DockerImages(settings) if runtime is Runtime.DOCKER else _Roots(settings)


@contextmanager
def _progress(what: str) -> Iterator[Callable[[str], None]]:
    """A way to tell of steps: in one line that changes on a terminal, else a line each."""
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        with console.status(what) as status:
            yield lambda step: status.update(Text(step))
    else:
        yield note


@app.command("build")
def build(
    name: _ImageName = None,
    runtime: _Runtime = None,
    base_image: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="docker: build on this; pin it by digest.")
    ] = None,
    network: Annotated[
        str | None, typer.Option(metavar="NAME", help="docker: the network to build with, such as host.")
    ] = None,
    ca_bundle: Annotated[
        Path | None,
        typer.Option(metavar="PATH", exists=True, dir_okay=False, help="docker: authorities to trust in the build."),
    ] = None,
) -> None:
    """Build an image; it takes a minute or more and needs a network. Nothing happens when it is built."""
    settings = Settings()
    name = name or settings.image
    runtime = _meant(runtime, settings)
    options = {"--base-image": base_image, "--network": network, "--ca-bundle": ca_bundle}
    if runtime is not Runtime.DOCKER and (given := [option for option, value in options.items() if value is not None]):
        raise typer.BadParameter("goes with --runtime docker only", param_hint=given[0])
    with _progress("Building") as report:
        if runtime is Runtime.DOCKER:
            image = _DockerImages(settings).build(name, report, base_image, network, ca_bundle)
        else:
            image = _Roots(settings).build(name, report)
    line((image.manifest.name, "bold"), f" is built: {_where(image)}")
    for words in image.manifest.notes:
        note(words)


@app.command("list")
def list_(runtime: _Runtime = None, as_json: _AsJson = False) -> None:
    """The images that can be built, and what was built or unpacked."""
    settings = Settings()
    runtime = _meant(runtime, settings)
    shelf = _shelf(runtime, settings)
    built = shelf.built()
    if as_json:
        document = {
            "images": shelf.names(),
            "built": [dataclasses.asdict(each.manifest) | each.place for each in built],
        }
        typer.echo(json.dumps(document))
        return
    for name in shelf.names():
        try:
            ready = shelf.load(name)
        except SandboxError:
            ready = None
        hint = f"  not built; run sandbox image build {'--runtime docker ' if runtime is Runtime.DOCKER else ''}{name}"
        line((name, "bold"), "" if ready else hint)
        for image in built:
            if image.manifest.name == name:
                manifest = image.manifest
                state = ("in use", "green") if image == ready else ("outdated", "dim")
                details = f"Python {manifest.python}, {len(manifest.libraries)} libraries, built {manifest.built_at}"
                line(f"  {image.digest[:12]}  ", state, f"  {details}  {_where(image)}")


@app.command("show")
def show(
    name: _ImageName = None,
    runtime: _Runtime = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest itself.")] = False,
) -> None:
    """A built image's manifest: its Python, every library with its version, the digest of its lock."""
    settings = Settings()
    image = _shelf(_meant(runtime, settings), settings).load(name or settings.image)
    manifest = image.manifest
    if as_json:
        typer.echo(manifest.to_json(), nl=False)
        return
    about = {"image": manifest.name, "digest": image.digest, "lock": manifest.lock_digest, "Python": manifest.python}
    about |= {"built": manifest.built_at, **image.place, "fonts": ", ".join(manifest.fonts) or "none added"}
    width = max(map(len, about)) + 1
    for key, value in about.items():
        line((f"{key:<{width}}", "bold"), value)
    for words in manifest.notes:
        line((f"{'note':<{width}}", "bold"), words)
    for library, number in manifest.libraries.items():
        line(f"  {library} ", (number, "dim"))


@app.command("unpack")
def unpack(
    name: _ImageName = None,
    as_name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="What the root is called; default: NAME-docker.")
    ] = None,
) -> None:
    """Turn a Docker image into a root for the embedded runtime, with the same Python, programs and libraries."""
    settings = Settings()
    name = name or settings.image
    shelf = _DockerImages(settings)
    with _progress("Unpacking") as report:
        image = shelf.unpack(name, report, as_name or f"{name}-docker")
    line((image.name, "bold"), f" is unpacked: {image.root}")


def _where(image: _Kept) -> str:
    return next(iter(image.place.values()))
