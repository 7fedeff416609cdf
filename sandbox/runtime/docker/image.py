"""The image as a Docker image: the recipe of `sandbox.image`, built by the daemon with our guest inside.

An image is named after a digest of everything of ours that it is made from, the guest included, so that the guest in a
container is never an older one. What is in it is in its labels, and asking for that starts nothing. Everything here
blocks, and builds take minutes.
"""

import contextlib
import dataclasses
import io
import re
import tarfile
import tempfile
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sandbox import image as images
from sandbox.errors import HostUnfit, ImageNotBuilt, UnknownImage
from sandbox.image import Manifest, Report
from sandbox.runtime.docker import archive

if TYPE_CHECKING:
    from docker import APIClient

REPOSITORY = "sandbox-engine"
NAME, DIGEST, GUEST, MANIFEST = "sandbox.image", "sandbox.digest", "sandbox.guest", "sandbox.manifest"
"""Labels: the image's name, our digest, the digest of the guest alone, the manifest as JSON."""
_BASE_NAME = "org.opencontainers.image.base.name"
_PACKAGE = Path(images.__file__).parent
_GUEST = "sandbox/guest/"
_BUILDERS = ("errors.py", "image.py")
"""What of this package takes part in a build, besides the guest."""
_NO_TAG = "<none>:<none>"
_LAST_WORDS = 5
_WIDTH = 160


@dataclass(frozen=True, slots=True)
class Built:
    """An image that the daemon has."""

    name: str
    reference: str
    """Repository and tag."""
    id: str
    """The daemon's own, `sha256:…`."""
    digest: str
    """SHA-256 in hex of all sources of ours, the guest's included."""
    manifest: Manifest


def reference(name: str) -> str:
    """What the daemon knows the image by when it is built from the sources that are here. Raises `UnknownImage`."""
    return _recipe(name).reference


def build(
    client: "APIClient",
    name: str,
    report: Report,
    *,
    base_image: str | None = None,
    network: str | None = None,
    ca_bundle: Path | None = None,
) -> Built:
    """Have the daemon build the image, or return at once when it is there, on that base.

    It takes minutes and a network. base_image: the Dockerfile's default when None; network: the daemon's name of the
    one to build with; ca_bundle: trusted during the build, besides the usual authorities. `report` is told each step.
    Raises `UnknownImage`, `ImageNotBuilt` with the last words of the step that fails, `HostUnfit` when no daemon
    answers.
    """
    recipe = _recipe(name)
    with _asked(f"building image {name!r} on {base_image or recipe.base_image} failed"):
        if (found := _find(client, recipe)) is not None and base_image in (None, found[1].get(_BASE_NAME)):
            return found[0]
        with tempfile.TemporaryFile() as context:
            _write_context(context, recipe, ca_bundle)
            context.seek(0)
            events = client.build(
                fileobj=context,
                custom_context=True,
                dockerfile=recipe.dockerfile,
                buildargs={"IMAGE": name, **({"BASE_IMAGE": base_image} if base_image else {})},
                network_mode=network,
                rm=True,
                forcerm=True,
                decode=True,
            )
            bare = _follow(events, report)
        manifest = _read_manifest(client, bare)
        _label(client, bare, recipe.reference, recipe.labels(manifest, base_image))
        report(f"Built {recipe.reference}")
        return _existing(client, recipe)


def load(client: "APIClient", name: str) -> Built:
    """The image, as its labels tell. Raises `UnknownImage`, `ImageNotBuilt`, `HostUnfit` when no daemon answers."""
    with _asked(f"image {name!r} cannot be used"):
        return _existing(client, _recipe(name))


def built(client: "APIClient") -> list[Built]:
    """All images of ours that the daemon has, also those of older sources; the oldest first. Raises `HostUnfit`."""
    with _asked("images cannot be listed"):
        listed = client.images(filters={"label": [MANIFEST]})
    found = [
        image
        for each in listed
        for tag in each.get("RepoTags") or ()
        if tag != _NO_TAG and (image := _from_labels(tag, each["Id"], each.get("Labels") or {})) is not None
    ]
    return sorted(found, key=lambda image: image.manifest.built_at)


def unpack(client: "APIClient", name: str, images_dir: Path, report: Report, *, as_name: str) -> images.Image:
    """Turn the image into a root below `images_dir` for the embedded runtime, or return at once when it is there.

    It is known as `as_name` from then on. Takes as much disk as the image, and nothing of it is run. Raises
    `UnknownImage`, `InvalidRequest` for a name that cannot be had, `ImageNotBuilt`, `HostUnfit`.
    """
    image = load(client, name)
    manifest = dataclasses.replace(image.manifest, name=as_name)

    def fill(system: Path) -> None:
        report(f"Unpacking {image.reference}")
        with _created(client, image.id) as container:
            archive.extract(client.export(container), system)

    with _asked(f"unpacking image {name!r} failed"):
        return images.unpack(manifest, image.id.removeprefix("sha256:"), images_dir, fill, report)


@dataclass(frozen=True, slots=True)
class _Recipe:
    """Everything of ours that an image is made from, read once: nobody may change it under a build."""

    name: str
    files: Mapping[str, bytes]
    """By path in the context of the build, which is laid out as a checkout, wherever this package is installed."""

    @property
    def dockerfile(self) -> str:
        return f"images/{self.name}/Dockerfile"

    @property
    def base_image(self) -> str:
        """What it is built on unless the caller says otherwise."""
        default = re.search(rb"^ARG BASE_IMAGE=(\S+)$", self.files[self.dockerfile], re.MULTILINE)
        return default[1].decode() if default is not None else ""

    @property
    def digest(self) -> str:
        """Of all but the builders: what they build differently has another `LAYOUT`."""
        return self._digest("images/", _GUEST)

    @property
    def reference(self) -> str:
        return f"{REPOSITORY}/{self.name}:{self.digest[:12]}"

    def labels(self, manifest: Manifest, base_image: str | None) -> dict[str, str]:
        return {
            NAME: self.name,
            DIGEST: self.digest,
            GUEST: self._digest(_GUEST),
            MANIFEST: manifest.to_json(),
            _BASE_NAME: base_image or self.base_image,
            "org.opencontainers.image.created": manifest.built_at,
            "org.opencontainers.image.title": f"{REPOSITORY} {self.name}",
        }

    def _digest(self, *below: str) -> str:
        parts = [images.LAYOUT.encode()]
        for path, content in sorted(self.files.items()):
            if path.startswith(below):
                parts += [path.encode(), content]
        return images.digest_of(parts)


def _recipe(name: str) -> _Recipe:
    source = images.source(name)
    if not (source / "Dockerfile").is_file():
        raise UnknownImage(f"image {name!r} has no Dockerfile; only the embedded runtime can have it")
    paths = {f"images/{name}/{file}": source / file for file in ("Dockerfile", *images.INGREDIENTS)}
    paths |= {f"sandbox/{file}": _PACKAGE / file for file in _BUILDERS}
    paths |= {f"sandbox/{path.relative_to(_PACKAGE)}": path for path in (_PACKAGE / "guest").rglob("*.py")}
    return _Recipe(name, {path: file.read_bytes() for path, file in paths.items() if file.is_file()})


def _existing(client: "APIClient", recipe: _Recipe) -> Built:
    found = _find(client, recipe)
    if found is None:
        raise ImageNotBuilt(
            f"the Docker daemon has none of these sources; run `sandbox image build --runtime docker {recipe.name}`"
        )
    return found[0]


def _find(client: "APIClient", recipe: _Recipe) -> tuple[Built, Mapping[str, str]] | None:
    """The image with its labels; None when it is not there, or bears our name without being ours."""
    for each in client.images(recipe.reference):
        labels = each.get("Labels") or {}
        found = _from_labels(recipe.reference, each["Id"], labels)
        if found is not None and found.digest == recipe.digest:
            return found, labels
    return None


def _from_labels(tag: str, image_id: str, labels: Mapping[str, str]) -> Built | None:
    try:
        return Built(labels[NAME], tag, image_id, labels[DIGEST], Manifest.from_json(labels[MANIFEST]))
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def _write_context(file: IO[bytes], recipe: _Recipe, ca_bundle: Path | None) -> None:
    trusted = {} if ca_bundle is None else {"ca-bundle.crt": ca_bundle.read_bytes()}
    with tarfile.open(fileobj=file, mode="w") as context:
        for name, content in {**recipe.files, **trusted}.items():
            # Without owner, mode and time of any file here, which would have the daemon build the same thing again.
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            context.addfile(member, io.BytesIO(content))


def _follow(events: Iterable[Mapping[str, Any]], report: Report) -> str:
    """Report what a build says; its image's id. Raises `ImageNotBuilt` when it fails."""
    said: list[str] = []
    image_id = error = ""
    for event in events:  # to their end also after an error, because only then the connection is free again
        error = str(event.get("error", error)).strip()
        image_id = (event.get("aux") or {}).get("ID", image_id)
        for line in _lines(event):
            said.append(line)
            report(line)
    if error:
        raise ImageNotBuilt(f"a step of the build failed: {'; '.join([*said[-_LAST_WORDS:], error])}")
    if not image_id:
        raise ImageNotBuilt("the daemon ended the build without an image")
    return image_id


def _lines(event: Mapping[str, Any]) -> Iterator[str]:
    """The lines for a person of one event, without the bookkeeping of the daemon."""
    # A layer that is pulled tells its progress, with an id.
    text = str(event.get("stream") or ("" if "id" in event else event.get("status") or ""))
    for line in text.splitlines():
        shown = textwrap.shorten(line, _WIDTH, placeholder=" …")
        if shown and not shown.startswith(("--->", "Removing intermediate", "Successfully ")):
            yield shown


@contextlib.contextmanager
def _created(client: "APIClient", image_id: str) -> Iterator[str]:
    """A container of the image that is never started, to read from."""
    container = client.create_container(image_id, network_disabled=True)["Id"]
    try:
        yield container
    finally:
        client.remove_container(container, v=True, force=True)


def _read_manifest(client: "APIClient", image_id: str) -> Manifest:
    with _created(client, image_id) as container:
        chunks, _ = client.get_archive(container, "/opt/image/manifest.json")
        content = io.BytesIO(b"".join(chunks))
    with tarfile.open(fileobj=content) as found:
        member = found.extractfile("manifest.json")
        assert member is not None, "an image of ours has a regular file there"
        return Manifest.from_json(member.read().decode())


def _label(client: "APIClient", image_id: str, tag: str, labels: Mapping[str, str]) -> None:
    """The same image with labels and a name: what it holds is known only once it is built."""
    dockerfile = io.BytesIO(f"FROM {image_id.removeprefix('sha256:')}\n".encode())
    events = client.build(fileobj=dockerfile, tag=tag, labels=dict(labels), rm=True, decode=True)
    _follow(events, lambda line: None)


@contextlib.contextmanager
def _asked(what: str) -> Iterator[None]:
    """Say in our own errors what went wrong with the daemon, or with what it was asked."""
    from docker.errors import APIError, DockerException
    from requests import RequestException

    try:
        yield
    except APIError as error:
        raise ImageNotBuilt(f"{what}: {error.explanation or error}") from error
    except ImageNotBuilt as error:
        raise ImageNotBuilt(f"{what}: {error}") from error
    except (DockerException, RequestException) as error:
        raise HostUnfit(
            f"{what}, because the Docker daemon does not answer: {error}; start it (systemctl start docker), or name "
            "another in SANDBOX_DOCKER_HOST"
        ) from error
    except (OSError, tarfile.TarError) as error:
        raise ImageNotBuilt(f"{what}: {error}") from error
