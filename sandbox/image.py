"""A named pinned library set, and the library root built from it.

`images/<name>/` says what an image is: `requirements.lock`, `preload.py` and, where matplotlib is in it,
`fontcache.py`. `build` turns that into a root that needs no network and no installer any more::

    <images_dir>/<name>/<digest>-py<version>/
        venv/                  the libraries, on the interpreter that runs us; sandboxes see it at /opt/venv
            share/fonts/       fonts that the libraries do not bring along
            share/matplotlib/  matplotlib's list of fonts, with paths as they are in a sandbox
        preload.py             what the zygote imports
        manifest.json          what is in it
        system/                only where the root was unpacked from a container image: that image's whole file system,
                               which sandboxes then see instead of the host's

A root is never changed once it has its name; another lock, preload or interpreter gives another root. (Long for one
file: it goes alone into the build of a container image, which is made by the same steps.)
"""

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uv

from sandbox.errors import ImageNotBuilt, InvalidRequest, UnknownImage

Report = Callable[[str], None]

INSIDE = "/opt/venv"
"""Where sandboxes see a root's `venv`."""
LAYOUT = "1"
"""Counts up when a root is built differently from the same sources."""
_PIP = Path(__file__).parent / "guest" / "packages.py"
_PIP_COMMAND = f"""#!{INSIDE}/bin/python
import sys
from pip.__main__ import main
sys.exit(main())
"""
INGREDIENTS = ("requirements.lock", "preload.py", "fontcache.py")
"""The files of `images/<name>/` that a root is built from, as far as they are there."""
_SYSTEM = "system"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# Small, and complete: the Chinese and Japanese characters in common use and all Korean syllables.
_FONT_PACKAGE = "fonts-wqy-microhei"
_APT_TIMEOUT_S = 300

_CHECK = """
import json, os, runpy, sys
from importlib import import_module
from importlib.metadata import distributions
before = set(os.listdir("/proc/self/fd"))
found = runpy.run_path(sys.argv[1])
for module in (*found.get("COMMON", ()), *found.get("LATER", ())):
    import_module(module)
if len(threads := os.listdir("/proc/self/task")) != 1:
    sys.exit(f"preload.py leaves {len(threads)} threads behind; a zygote must have one")
if left := set(os.listdir("/proc/self/fd")) - before:
    sys.exit(f"preload.py leaves descriptors open: {sorted(left)}")
print(json.dumps({found.name: found.version for found in distributions()}))
"""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a library root holds."""

    name: str
    digest: str
    """SHA-256 in hex of everything the root is built from."""
    lock_digest: str
    """SHA-256 in hex of `requirements.lock`."""
    python: str
    """Version of the interpreter."""
    base_prefix: str
    """Where that interpreter is installed in the system that it is of; sandboxes need it at the same path."""
    libraries: Mapping[str, str]
    """Distribution to version, sorted by name."""
    fonts: tuple[str, ...]
    """Families beyond those that the libraries bring along."""
    notes: tuple[str, ...]
    """What could not be had while building, in words for a person."""
    built_at: str
    """ISO 8601, UTC."""

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """The reverse of `to_json`. Raises `ValueError` or `TypeError` for anything else."""
        fields: dict[str, Any] = json.loads(text)
        return cls(**{**fields, "fonts": tuple(fields.pop("fonts", ())), "notes": tuple(fields.pop("notes", ()))})


@dataclass(frozen=True, slots=True)
class Image:
    """A built image."""

    name: str
    digest: str
    """SHA-256 in hex of everything the root is built from."""
    root: Path
    system: Path
    """The file system with its interpreter and the programs beside it: the host's, or one that came with the image."""
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class _Recipe:
    """A source directory, for the interpreter that runs us."""

    name: str
    source: Path
    digest: str

    def root(self, images_dir: Path) -> Path:
        return images_dir.absolute() / self.name / f"{self.digest[:12]}-py{platform.python_version()}"


def sources() -> list[str]:
    """Names of the images that can be built, sorted."""
    return sorted(path.parent.name for path in _source_directory().glob("*/requirements.lock"))


def source(name: str) -> Path:
    """The directory that says what the image is. Raises `UnknownImage`."""
    if name not in sources():
        raise UnknownImage(f"there is no image {name!r}; choose from: {', '.join(sources())}")
    return _source_directory() / name


def names(images_dir: Path) -> list[str]:
    """Names that `load` may know: those of the images that can be built, and of those that were unpacked; sorted."""
    return sorted({*sources(), *(root.parent.name for root in _unpacked(images_dir, "*"))})


def build(name: str, images_dir: Path, report: Report) -> Image:
    """Build the image's root below `images_dir`, or return at once when it is there. It takes a minute and a network.

    `report` is told each step. Safe to call from several processes: one builds, the others wait for it. Raises
    `UnknownImage`, and `ImageNotBuilt` when a step fails, with its last words.
    """
    recipe = _recipe(name)
    try:
        _make(recipe.root(images_dir), recipe.digest, lambda partial: _fill(recipe, partial, report), report)
    except subprocess.CalledProcessError as error:
        raise ImageNotBuilt(f"building image {name!r} failed: {_last_words(error)}") from error
    except OSError as error:
        raise ImageNotBuilt(f"building image {name!r} failed: {error}") from error
    return load(name, images_dir)


def unpack(manifest: Manifest, key: str, images_dir: Path, extract: Callable[[Path], None], report: Report) -> Image:
    """Make a root of a container image's file system, or return at once when it is there.

    manifest: the image's, with the name that the root shall have; key: a digest in hex of the whole image; extract:
    puts the file system into a directory. Raises `InvalidRequest` for a name that cannot be had, `OSError`.
    """
    if not _NAME.fullmatch(manifest.name) or manifest.name in sources():
        raise InvalidRequest(
            f"an image cannot be unpacked as {manifest.name!r}; choose a name of small letters, digits, '.', '_' and "
            "'-' that no image has which can be built"
        )
    root = images_dir.absolute() / manifest.name / f"{key[:12]}-py{manifest.python}"
    _make(root, manifest.digest, lambda partial: _settle(manifest, partial, extract), report)
    # What was unpacked last is what the name means. By the fine clock: file systems have a coarse one.
    os.utime(root, ns=(time.time_ns(), time.time_ns()))
    return load(manifest.name, images_dir)


def load(name: str, images_dir: Path) -> Image:
    """The built image. Raises `UnknownImage`, and `ImageNotBuilt` when its root is missing or damaged."""
    if name not in sources() and name in names(images_dir):
        return _load_unpacked(name, images_dir)
    recipe = _recipe(name)
    root = recipe.root(images_dir)
    if not root.is_dir():
        raise ImageNotBuilt(
            f"image {name!r} is not built for Python {platform.python_version()} in {images_dir}; "
            f"run `sandbox image build {name}`"
        )
    image = _open(root)
    if image is None or image.digest != recipe.digest:
        raise ImageNotBuilt(f"the library root {root} is damaged; run `sandbox image build {name}` to replace it")
    return image


def built(images_dir: Path) -> list[Image]:
    """All usable roots below `images_dir`, also those of older sources and other interpreters; the oldest first."""
    roots = images_dir.absolute().glob("*/*-py*")
    images = [image for root in roots if ".tmp-" not in root.name and (image := _open(root)) is not None]
    return sorted(images, key=lambda image: image.manifest.built_at)


def digest_of(parts: Iterable[bytes]) -> str:
    """SHA-256 in hex of the parts, each with its length."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8) + part)
    return digest.hexdigest()


def _source_directory() -> Path:
    package = Path(__file__).parent
    installed = package / "_images"
    return installed if installed.is_dir() else package.parent / "images"


def _recipe(name: str) -> _Recipe:
    directory = source(name)
    about = (LAYOUT, platform.python_version(), platform.machine(), sys.base_prefix)
    parts = [part.encode() for part in about]
    parts += [path.read_bytes() if (path := directory / file).is_file() else b"" for file in INGREDIENTS]
    parts += [_PIP.read_bytes(), _PIP_COMMAND.encode()]
    return _Recipe(name, directory, digest_of(parts))


def _open(root: Path) -> Image | None:
    """The image in `root`, or None when something essential is missing."""
    try:
        manifest = Manifest.from_json((root / "manifest.json").read_text())
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    system = unpacked if (unpacked := root / _SYSTEM).is_dir() else Path("/")
    whole = _has_interpreter(root / "venv", system) and (root / "preload.py").is_file()
    return Image(manifest.name, manifest.digest, root, system, manifest) if whole else None


def _has_interpreter(venv: Path, system: Path) -> bool:
    try:
        python = os.readlink(venv / "bin" / "python")
    except OSError:
        return False
    return os.access(system / python.lstrip("/"), os.X_OK)


def _unpacked(images_dir: Path, name: str) -> list[Path]:
    """The roots with a system of their own, the last that was unpacked at the end."""
    systems = images_dir.absolute().glob(f"{name}/*-py*/{_SYSTEM}")
    roots = [system.parent for system in systems if ".tmp-" not in system.parent.name]
    return sorted(roots, key=lambda root: root.stat().st_mtime_ns)


def _load_unpacked(name: str, images_dir: Path) -> Image:
    root = _unpacked(images_dir, name)[-1]
    image = _open(root)
    if image is None:
        raise ImageNotBuilt(f"the library root {root} is damaged; remove it, and run `sandbox image unpack` again")
    return image


def _make(root: Path, digest: str, fill: Callable[[Path], None], report: Report) -> None:
    """Have `fill` make the root, unless it is there. Raises what `fill` does, and then leaves nothing."""
    partial = root.with_name(f"{root.name}.tmp-{os.getpid()}")
    root.parent.mkdir(parents=True, exist_ok=True)
    with _building(root.parent, report):
        if (there := _open(root)) is not None and there.digest == digest:
            return
        _clear(root)
        try:
            fill(partial)
            partial.rename(root)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    report(f"Built {root}")


@contextmanager
def _building(directory: Path, report: Report) -> Iterator[None]:
    """Hold the right to build in `directory`; the kernel takes it back from a process that dies."""
    with (directory / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("Waiting for another build")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _clear(root: Path) -> None:
    """Remove a damaged root and what dead builds left; nobody else builds while we hold the lock."""
    if root.exists():
        root.rename(root.with_name(f"{root.name}.tmp-damaged"))
    for leftover in root.parent.glob("*.tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _fill(recipe: _Recipe, root: Path, report: Report) -> None:
    """Make the whole root. Raises `CalledProcessError` or `OSError` for the step that fails."""
    lock = recipe.source / "requirements.lock"
    venv = root / "venv"
    root.mkdir()
    report(f"Making a virtual environment on Python {platform.python_version()} in {sys.base_prefix}")
    _install(venv, lock, report)
    _add_pip(venv)
    with tempfile.TemporaryDirectory(prefix="sandbox-image-") as scratch:
        notes = _add_fonts(venv / "share" / "fonts", Path(scratch), report)
        fonts = _list_fonts(recipe.source / "fontcache.py", venv, Path(scratch), report)
        shutil.copyfile(recipe.source / "preload.py", root / "preload.py")
        report("Checking that everything the zygote imports can be imported")
        font_list = venv / "share" / "matplotlib"
        answer = _python(venv, ["-c", _CHECK, str(root / "preload.py")], Path(scratch), font_list)
    versions: dict[str, str] = json.loads(answer.splitlines()[-1])
    manifest = Manifest(
        name=recipe.name,
        digest=recipe.digest,
        lock_digest=hashlib.sha256(lock.read_bytes()).hexdigest(),
        python=platform.python_version(),
        base_prefix=sys.base_prefix,
        libraries=dict(sorted(versions.items(), key=lambda item: item[0].lower())),
        fonts=fonts,
        notes=notes,
        built_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    (root / "manifest.json").write_text(manifest.to_json())
    _make_readable(root)


def _settle(manifest: Manifest, root: Path, extract: Callable[[Path], None]) -> None:
    system = root / _SYSTEM
    system.mkdir(parents=True)
    extract(system)
    # A link is followed by us as one of this host's.
    for part in (INSIDE, "/opt/image", "/usr", "/etc", manifest.base_prefix):
        if not (system / part.lstrip("/")).resolve().is_relative_to(system.resolve()):
            raise ImageNotBuilt(f"image {manifest.name!r} cannot be unpacked: its {part} leads out of it")
    (system / INSIDE.removeprefix("/")).rename(root / "venv")
    (system / "opt/image/preload.py").rename(root / "preload.py")
    (system / "opt/image/modules").unlink(missing_ok=True)  # for who imports in each container
    (root / "manifest.json").write_text(manifest.to_json())
    for path in (root, system):
        path.chmod(0o755)


def _install(venv: Path, lock: Path, report: Report) -> None:
    """A virtual environment with exactly what the lock says, from wheels: nothing is built, nothing of theirs runs."""
    # The interpreter itself rather than the virtual environment that may run us.
    interpreter: str = getattr(sys, "_base_executable", sys.executable)
    uv_bin = uv.find_uv_bin()
    _stream([uv_bin, "venv", "--quiet", "--no-project", "--relocatable", "--python", interpreter, str(venv)], report)
    report("Installing the libraries")
    flags = ["--require-hashes", "--no-build", "--compile-bytecode", "--no-progress"]
    # Copied, because a link would share its bytes with a cache that others can write to; and never checked against
    # their sources, because neither changes any more.
    flags += ["--link-mode", "copy", "--python", str(venv / "bin" / "python")]
    _stream([uv_bin, "pip", "sync", *flags, str(lock)], report, PYC_INVALIDATION_MODE="UNCHECKED_HASH")


def _add_pip(venv: Path) -> None:
    """A `pip` that knows that nothing can be installed; see `guest/packages.py`."""
    [libraries] = (venv / "lib").glob("python*/site-packages")
    (libraries / "pip").mkdir()
    (libraries / "pip" / "__init__.py").write_text('"""Nothing can be installed here; `python -m pip` says so."""\n')
    shutil.copyfile(_PIP, libraries / "pip" / "__main__.py")
    for name in ("pip", "pip3"):
        (venv / "bin" / name).write_text(_PIP_COMMAND)
        (venv / "bin" / name).chmod(0o755)


def _add_fonts(directory: Path, scratch: Path, report: Report) -> tuple[str, ...]:
    """Put a font for Chinese, Japanese and Korean into `directory`; returns why not, if not. Installs nothing."""
    directory.mkdir(parents=True)
    report(f"Fetching a font for Chinese, Japanese and Korean ({_FONT_PACKAGE})")
    try:
        package = _download(_FONT_PACKAGE, scratch)
        _apt(["dpkg-deb", "--extract", str(package), str(scratch / "package")], scratch)
    except (OSError, subprocess.SubprocessError) as error:
        reason = _last_words(error) if isinstance(error, subprocess.CalledProcessError) else str(error)
        note = f"no font for Chinese, Japanese and Korean: {_FONT_PACKAGE} could not be fetched ({reason})"
        report(f"Going on with {note}")
        return (note,)
    for font in sorted((scratch / "package" / "usr" / "share" / "fonts").rglob("*.tt[cf]")):
        shutil.copyfile(font, directory / font.name)
    return ()


def _download(package: str, scratch: Path) -> Path:
    """The `.deb` of `package`, verified by apt."""
    lists = scratch / "lists"
    for directory in (lists, scratch / "archives"):
        (directory / "partial").mkdir(parents=True)
    try:
        _apt(["apt-get", "download", package], scratch)
    except subprocess.CalledProcessError:
        # The host's package lists are empty or stale. Ours are not the host's, and need no root.
        private = ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={scratch}"]
        _apt(["apt-get", *private, "update"], scratch)
        _apt(["apt-get", *private, "download", package], scratch)
    return next(scratch.glob("*.deb"))


def _apt(command: list[str], directory: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(
        command,
        cwd=directory,
        env=environment,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_APT_TIMEOUT_S,
    )


def _list_fonts(script: Path, venv: Path, scratch: Path, report: Report) -> tuple[str, ...]:
    """Write matplotlib's list of fonts; returns the families of our own."""
    if not script.is_file():
        return ()
    report("Listing the fonts for matplotlib")
    out = venv / "share" / "matplotlib"
    out.mkdir(parents=True)
    arguments = [str(script), str(venv / "share" / "fonts"), f"{INSIDE}/share/fonts", str(out)]
    return tuple(_python(venv, arguments, scratch, scratch / "matplotlib").splitlines())


def _python(venv: Path, arguments: list[str], home: Path, matplotlib: Path) -> str:
    """What the root's own interpreter prints, away from the caller's settings and home directory."""
    finished = subprocess.run(
        [str(venv / "bin" / "python"), "-I", "-B", *arguments],
        env={"PATH": os.defpath, "HOME": str(home), "MPLCONFIGDIR": str(matplotlib)},
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    return finished.stdout


def _stream(command: list[str], report: Report, **environment: str) -> None:
    """Run `command` and report what it says as it says it."""
    said: list[str] = []
    with subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        umask=0o022,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            # One line per library installed would bury the rest.
            if line.strip() and not line.startswith(" + "):
                report(line.strip())
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, "".join(said))


def _last_words(error: subprocess.CalledProcessError) -> str:
    """What a failed command said about it."""
    said = [line.strip() for line in (error.stderr or error.output or "").splitlines() if line.strip()]
    complaints = [at for at, line in enumerate(said) if line.startswith(("error:", "E:"))]
    return "; ".join(said[complaints[0] :] if complaints else said[-3:]) or str(error)


def _make_readable(root: Path) -> None:
    """Sandboxes read the root under user ids that are nobody's here."""
    for directory, _, files in os.walk(root):
        os.chmod(directory, 0o755)
        for file in files:
            path = Path(directory, file)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
