"""`sandbox image build`, `list` and `show`."""

import dataclasses
import json
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from sandbox import image as images
from sandbox.cli.view import line, note
from sandbox.config import Settings
from sandbox.errors import SandboxError

app = typer.Typer(
    help="Pinned library sets, built into roots that sandboxes run on.", no_args_is_help=True, add_completion=False
)

_ImageName = Annotated[str | None, typer.Argument(metavar="NAME", help="Default: the image of the settings.")]


@app.command("build")
def build(name: _ImageName = None) -> None:
    """Build an image's library root; it takes a minute and needs a network. Nothing happens when it is built."""
    settings = Settings()
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        with console.status("Building") as status:
            image = images.build(name or settings.image, settings.images_dir, lambda step: status.update(Text(step)))
    else:
        image = images.build(name or settings.image, settings.images_dir, note)
    line((image.name, "bold"), f" is built: {image.root}")
    for words in image.manifest.notes:
        note(words)


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """The images that can be built, and the roots that were."""
    settings = Settings()
    built = images.built(settings.images_dir)
    if as_json:
        roots = [dataclasses.asdict(image.manifest) | {"root": str(image.root)} for image in built]
        typer.echo(json.dumps({"images": images.sources(), "built": roots}))
        return
    for name in images.sources():
        try:
            ready = images.load(name, settings.images_dir).digest
        except SandboxError:
            ready = ""
        line((name, "bold"), "" if ready else f"  not built; run sandbox image build {name}")
        for image in built:
            if image.name == name:
                manifest = image.manifest
                state = ("in use", "green") if image.digest == ready else ("outdated", "dim")
                details = f"Python {manifest.python}, {len(manifest.libraries)} libraries, built {manifest.built_at}"
                line(f"  {image.digest[:12]}  ", state, f"  {details}  {image.root}")


@app.command("show")
def show(
    name: _ImageName = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest itself.")] = False,
) -> None:
    """A built image's manifest: its Python, every library with its version, the digest of its lock."""
    settings = Settings()
    image = images.load(name or settings.image, settings.images_dir)
    if as_json:
        typer.echo(image.manifest.to_json(), nl=False)
        return
    manifest = image.manifest
    about = {"image": image.name, "digest": image.digest, "lock": manifest.lock_digest, "Python": manifest.python}
    about |= {"built": manifest.built_at, "root": str(image.root), "fonts": ", ".join(manifest.fonts) or "none added"}
    for key, value in about.items():
        line((f"{key:<8}", "bold"), value)
    for words in manifest.notes:
        line(("note    ", "bold"), words)
    for library, number in manifest.libraries.items():
        line(f"  {library} ", (number, "dim"))
