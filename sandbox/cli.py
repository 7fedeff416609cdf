"""The commands: run, doctor, bench, image.

Exit codes of `run` follow the status: ok 0, error 1, timeout 124, interrupted and cancelled 130, oom and killed 137.
2 is ours: wrong usage, or anything that `errors` draws. What a program writes is hostile: on a terminal its control
characters are shown, not obeyed, and its file names never lead out of the directory of `--out`. (Long, because a
command is short and there are several; each heading below can be read alone.)
"""

import asyncio
import base64
import binascii
import contextlib
import dataclasses
import json
import os
import secrets
import signal
import sys
import unicodedata
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.text import Text

from sandbox import bench as benches
from sandbox import doctor as hosts
from sandbox import image as images
from sandbox.config import Settings, unknown_variables
from sandbox.engine import Engine
from sandbox.errors import InvalidPath, InvalidRequest, SandboxError, SessionClosed
from sandbox.execution import MIB, Error, Execution, Output, Result, Status, Stream
from sandbox.kernel import MAX_CODE_BYTES, checked_path
from sandbox.session import Session

EXIT_CODES = {
    Status.OK: 0,
    Status.ERROR: 1,
    Status.TIMEOUT: 124,
    Status.INTERRUPTED: 130,
    Status.CANCELLED: 130,
    Status.OOM: 137,
    Status.KILLED: 137,
}
FAILURE = 2
"""Ours, not the program's."""
_CLOSED_PIPE = 141
_IMAGES = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/svg+xml": ".svg",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "application/pdf": ".pdf",
}
_PIECE = 256 << 10
_GRADE_STYLES = {"A": "green", "B": "yellow", "C": "magenta", "fail": "bold red"}

app = typer.Typer(
    help="Run untrusted Python in a warm, forked, contained Jupyter kernel.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
image_app = typer.Typer(help="Pinned library sets, built into roots that sandboxes run on.", no_args_is_help=True)
app.add_typer(image_app, name="image")


def main() -> None:
    """The `sandbox` command. Our own failures end it with one paragraph and exit code 2."""
    try:
        app(prog_name="sandbox")
    except SandboxError as error:
        note(str(error))
        sys.exit(FAILURE)


def _show_version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"sandbox {version('sandbox-engine')}")
        except PackageNotFoundError:
            typer.echo("sandbox (a checkout that is not installed)")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


# What reaches the reader.


def printable(text: str) -> str:
    """`text` as it may go to a terminal: control, format and bidirectional characters are spelt out.

    A lone carriage return becomes a new line, because overwriting hides what was there before.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(
        char
        if char in "\n\t" or char.isprintable() or unicodedata.category(char) == "Zs"
        else char.encode("unicode_escape").decode()
        for char in text
    )


def _write(stream: TextIO, text: str) -> None:
    """Raw into files and pipes, printable on terminals, at once."""
    encoding = "utf-8"
    if stream.isatty():
        text, encoding = printable(text), stream.encoding
    stream.flush()
    stream.buffer.write(text.encode(encoding, "backslashreplace"))
    stream.buffer.flush()


def note(text: str) -> None:
    """Words of ours, on stderr. They may quote names that a program chose."""
    _write(sys.stderr, f"sandbox: {printable(text)}\n")


class _View:
    """A program's outputs, shown as they come."""

    def __init__(self) -> None:
        self._inside_line = False

    def show(self, output: Output) -> None:
        if isinstance(output, Stream):
            _write(sys.stdout if output.name == "stdout" else sys.stderr, output.text)
            if output.name == "stdout" and output.text:
                self._inside_line = not output.text.endswith("\n")
        elif isinstance(output, Result):
            self._show_result(output.data)
        elif isinstance(output, Error):
            _write(sys.stderr, output.traceback.rstrip("\n") + "\n")

    def _show_result(self, data: Mapping[str, Any]) -> None:
        if data.keys() & _IMAGES.keys():
            return  # its text says no more than "a figure"
        text = data.get("text/plain")
        if isinstance(text, str):
            _write(sys.stdout, "\n" * self._inside_line + text + "\n")
            self._inside_line = False
        else:
            note(f"a result of type {', '.join(data)} has no text to show; --json has all of it")


def _verdict(execution: Execution) -> str:
    """One line for an end that is not ok."""
    reason = f": {execution.reason}" if execution.reason else ""
    seconds, peak = execution.duration_ms / 1000, execution.peak_memory_bytes / MIB
    return f"{execution.status}{reason} (ran for {seconds:.1f} s, peak memory {peak:.0f} MiB)"


# What is kept.


class Folder:
    """The directory of `--out`. Takes names that a program chose, and never writes outside itself or through a link."""

    def __init__(self, path: Path) -> None:
        """Made when missing. Raises `InvalidRequest` when that cannot be."""
        self._path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise InvalidRequest(f"{path} cannot be used for --out: {error.strerror}") from error

    def write(self, name: str, data: bytes) -> str:
        """Store `data`, in place of a file of that name; returns its path. Raises `InvalidPath`, `OSError`."""
        *parents, leaf = checked_path(name).split("/")
        if any(part.startswith(".") for part in (*parents, leaf)):
            raise InvalidPath("names that begin with a dot are left behind")
        with contextlib.ExitStack() as stack:
            directory = self._fd
            for parent in parents:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(parent, dir_fd=directory)
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                directory = os.open(parent, flags, dir_fd=directory)
                stack.callback(os.close, directory)
            _replace(directory, leaf, data)
        return str(self._path.joinpath(*parents, leaf))

    def close(self) -> None:
        os.close(self._fd)


def _replace(directory: int, leaf: str, data: bytes) -> None:
    # Renaming a whole new file into place replaces a link of that name instead of following it.
    temporary = f".{secrets.token_hex(8)}.part"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=directory)
    try:
        with open(fd, "wb") as file:
            file.write(data)
        os.replace(temporary, leaf, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        os.unlink(temporary, dir_fd=directory)
        raise


def _pictures(execution: Execution) -> Iterator[tuple[str, bytes]]:
    """The images among the results, named image-1.png and so on; never as a workspace file is named."""
    taken = {artifact.path for artifact in execution.artifacts}
    number = 0
    for bundle in execution.results:
        if not bundle.keys() & _IMAGES.keys():
            continue
        number += 1
        while any(f"image-{number}{suffix}" in taken for suffix in _IMAGES.values()):
            number += 1
        for mime in _IMAGES.keys() & bundle.keys():
            content = bundle[mime]
            with contextlib.suppress(binascii.Error, ValueError, AttributeError):
                data = content.encode() if mime == "image/svg+xml" else base64.b64decode(content)
                yield f"image-{number}{_IMAGES[mime]}", data


async def _save(session: Session, execution: Execution, folder: Folder) -> tuple[list[str], bool]:
    """Store images, changed files and over-long outputs; the paths, and whether no attempt failed."""
    saved: list[str] = []
    whole = True
    wanted: list[tuple[str, str | bytes]] = [*_pictures(execution), *_spilled(execution)]
    wanted += [(artifact.path, artifact.path) for artifact in execution.artifacts]
    for name, content in wanted:
        try:
            data = content if isinstance(content, bytes) else await session.download(content)
            saved.append(folder.write(name, data))
        except InvalidPath as error:
            note(f"not saved: {name!r}: {error}")
        except (OSError, SandboxError) as error:
            whole = False
            note(f"not saved: {name!r}: {error.strerror if isinstance(error, OSError) else error}")
    return saved, whole


def _spilled(execution: Execution) -> Iterator[tuple[str, str]]:
    """Names for outputs that were too long to be shown in full, and where init has kept them."""
    taken = {artifact.path for artifact in execution.artifacts}
    for stream in ("stdout", "stderr"):
        path = f".outputs/{execution.id}.{stream}.txt"
        # The mark in the output says whether all of it could be kept.
        if getattr(execution.truncated, stream) and path in getattr(execution, stream):
            yield next(name for name in (f"{stream}.txt", f"{execution.id}.{stream}.txt") if name not in taken), path


def _hint(execution: Execution) -> str:
    """What `--out` would have kept; empty when nothing."""
    pictures = len(list(_pictures(execution)))
    names = [artifact.path for artifact in execution.artifacts]
    parts = [f"{pictures} image{'s' * (pictures != 1)}"] if pictures else []
    if names:
        parts.append(", ".join(names[:5]) + (f" and {len(names) - 5} more files" if len(names) > 5 else ""))
    return f"made {' and '.join(parts)}; --out DIR saves them" if parts else ""


# run


@dataclass(frozen=True, slots=True)
class _Request:
    """What `run` was asked for."""

    code: bytes
    files: tuple[Path, ...]
    out: Path | None
    timeout: float | None
    memory_mb: int | None
    as_json: bool


@app.command()
def run(
    script: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="The program; - is standard input."),
    ] = None,
    code: Annotated[str | None, typer.Option("-c", metavar="CODE", help="The program itself.")] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option(
            "--file",
            metavar="PATH",
            exists=True,
            dir_okay=False,
            help="Put a copy into /mnt/data first. May be repeated.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", file_okay=False, help="Save images and created or changed files here."),
    ] = None,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="Wall clock for the program.")] = None,
    memory: Annotated[int | None, typer.Option(metavar="MB", help="Memory cap of the sandbox in MiB.")] = None,
    image: Annotated[str | None, typer.Option(metavar="NAME", help="The image to run on.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Run a program in a fresh sandbox, show what it shows, and exit as it ended."""
    files = tuple(file or ())
    names = [path.name for path in files]
    if twice := {name for name in names if names.count(name) > 1}:
        raise typer.BadParameter(f"two files would both be /mnt/data/{twice.pop()}", param_hint="--file")
    request = _Request(_source(script, code), files, out, timeout, memory, as_json)
    settings = Settings() if image is None else Settings(image=image)
    try:
        raise typer.Exit(asyncio.run(_run(settings, request)))
    except BrokenPipeError:
        # The reader left, as `head` does. Python's own last flush must not fail over it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(_CLOSED_PIPE) from None
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_CODES[Status.INTERRUPTED]) from None


def _source(script: Path | None, code: str | None) -> bytes:
    """The program's text. No more of it is read than is needed to see that it is too long."""
    if (script is None) == (code is None) and (code is not None or sys.stdin.isatty()):
        raise typer.BadParameter("give a FILE, or -c CODE, or - for standard input")
    if code is not None:
        return os.fsencode(code)
    if script is None or str(script) == "-":
        return sys.stdin.buffer.read(MAX_CODE_BYTES + 1)
    try:
        with script.open("rb") as file:
            return file.read(MAX_CODE_BYTES + 1)
    except OSError as error:
        raise InvalidRequest(f"{script} cannot be read: {error.strerror}") from error


async def _run(settings: Settings, request: _Request) -> int:
    """Run the program and show or print what came of it; the exit code."""
    with contextlib.ExitStack() as stack:
        folder = None
        if request.out is not None:
            folder = Folder(request.out)
            stack.callback(folder.close)
        async with (
            Engine.open(settings, warm=False) as engine,
            engine.session(memory_mb=request.memory_mb) as session,
        ):
            for path in request.files:
                await session.upload(path.name, _pieces(path))
            execution = await _follow(session, request)
            saved, whole = await _save(session, execution, folder) if folder else ([], True)
    if request.as_json:
        document = dataclasses.asdict(execution) | {"saved": saved}
        _write(sys.stdout, json.dumps(document) + "\n")
    else:
        _conclude(execution, saved, None if folder else _hint(execution))
    code = EXIT_CODES[execution.status]
    return FAILURE if code == 0 and not whole else code


async def _follow(session: Session, request: _Request) -> Execution:
    """Show outputs as they come, until the end. Ctrl-C interrupts the program."""
    view = None if request.as_json else _View()
    outputs = session.stream(request.code, request.timeout)
    assert isinstance(outputs, AsyncGenerator)  # closed at once when the reader leaves, so that the program ends
    async with _interrupts(session), contextlib.aclosing(outputs) as items:
        async for item in items:
            if isinstance(item, Execution):
                return item
            if view is not None:
                view.show(item)
    raise SessionClosed("the session ended while the program ran")


@contextlib.asynccontextmanager
async def _interrupts(session: Session) -> AsyncIterator[None]:
    """The first Ctrl-C interrupts the program, the second ends the session under it, a third is Python's own."""
    loop = asyncio.get_running_loop()
    actions: list[Coroutine[Any, Any, None]] = [session.close(), session.interrupt()]
    tasks: list[asyncio.Task[None]] = []

    def on_interrupt() -> None:
        tasks.append(loop.create_task(actions.pop()))
        if actions:
            note("interrupting; Ctrl-C again ends the sandbox")
        else:
            loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        await asyncio.gather(*tasks, return_exceptions=True)
        for action in actions:
            action.close()


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from error


def _conclude(execution: Execution, saved: list[str], hint: str | None) -> None:
    """The last words on stderr."""
    dropped = execution.truncated
    if dropped.stdout or dropped.stderr:
        note(f"output was too long: {dropped.stdout} bytes of stdout and {dropped.stderr} of stderr were dropped")
    if dropped.results:
        note(f"{dropped.results} results were too many or too large and were dropped")
    for path in saved:
        note(f"saved {path}")
    if hint:
        note(hint)
    if execution.status is not Status.OK:
        note(_verdict(execution))


# doctor


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    settings: Annotated[bool, typer.Option("--settings", help="Show every setting and its origin instead.")] = False,
) -> None:
    """Grade this host and say how to fix what was found. Exits 1 when nothing can run."""
    values = Settings()
    if settings:
        _show_settings(values, as_json=as_json)
        return
    findings = hosts.examine(values)
    grade = hosts.overall(findings)
    if as_json:
        typer.echo(json.dumps({"grade": grade, "findings": [dataclasses.asdict(finding) for finding in findings]}))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            _line(
                (f"{finding.grade:>4}  ", _GRADE_STYLES[finding.grade]),
                (f"{finding.name:<{width}}  ", ""),
                finding.found,
            )
            if finding.fix:
                _line((f"{'':{width + 8}}fix: ", "dim"), finding.fix)
        usable = "sandboxes can run here" if grade is not hosts.Grade.FAIL else "fix what failed first"
        _line((f"{grade:>4}  ", _GRADE_STYLES[grade]), f"this host; {usable}")
    raise typer.Exit(1 if grade is hosts.Grade.FAIL else 0)


def _line(*parts: str | tuple[str, str]) -> None:
    """One styled line on stdout; never wrapped, so that a fix can be copied."""
    Console(highlight=False).print(Text.assemble(*parts), soft_wrap=True)


def _show_settings(values: Settings, *, as_json: bool) -> None:
    explained = values.explain()
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(setting) for setting in explained], default=str))
        return
    width = max(len(setting.name) for setting in explained)
    for setting in explained:
        style = "dim" if setting.origin == "default" else "cyan"
        _line((f"{setting.name:<{width}}  ", "bold"), f"{setting.value}  ", (setting.origin, style))
    if others := unknown_variables():
        note(f"not settings, and ignored: {', '.join(others)}")


# bench


@app.command()
def bench(
    measures: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(benches.MEASURES)}; all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    scale: Annotated[float, typer.Option(min=0.01, max=10, help="Fraction of the usual number of runs.")] = 1.0,
) -> None:
    """Measure this machine: start, call, memory, stop. Takes about three minutes; leave it alone meanwhile."""
    if unknown := set(measures or ()) - benches.MEASURES.keys():
        raise InvalidRequest(f"no measure is called {', '.join(sorted(unknown))}; see sandbox bench --help")
    names = list(measures or benches.MEASURES)
    report = asyncio.run(benches.run(Settings(), names, scale, note))
    if as_json:
        typer.echo(json.dumps(benches.as_dict(report), indent=1))
        return
    _line(f"{report.machine}, {report.cores} cores, {report.memory_gib:g} GiB, Python {report.python}")
    _line(f"load average {report.load_before:.2f} before, {report.load_after:.2f} after")
    for figure in report.figures:
        bounds = f"must {figure.must:g}, aim {figure.aim:g}"
        style = {"aim": "green", "must": "yellow", "no": "bold red"}[figure.reached]
        value = (f"{figure.value:9.2f} {figure.unit:<9}", style)
        _line(f"{figure.name:<46} ", value, f"  {bounds}  ({figure.runs} runs)")


# image

_ImageName = Annotated[str | None, typer.Argument(metavar="NAME", help="Default: the image of the settings.")]


@image_app.command("build")
def image_build(name: _ImageName = None) -> None:
    """Build an image's library root; it takes a minute and needs a network. Nothing happens when it is built."""
    settings = Settings()
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        with console.status("Building") as status:
            image = images.build(name or settings.image, settings.data_dir, lambda step: status.update(Text(step)))
    else:
        image = images.build(name or settings.image, settings.data_dir, note)
    _line((image.name, "bold"), f" is built: {image.root}")
    for words in image.manifest.notes:
        note(words)


@image_app.command("list")
def image_list(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """The images that can be built, and the roots that were."""
    settings = Settings()
    built = images.built(settings.data_dir)
    if as_json:
        roots = [dataclasses.asdict(image.manifest) | {"root": str(image.root)} for image in built]
        typer.echo(json.dumps({"images": images.sources(), "built": roots}))
        return
    for name in images.sources():
        try:
            ready = images.load(name, settings.data_dir).digest
        except SandboxError:
            ready = ""
        _line((name, "bold"), "" if ready else f"  not built; run sandbox image build {name}")
        for image in built:
            if image.name == name:
                manifest = image.manifest
                state = ("in use", "green") if image.digest == ready else ("outdated", "dim")
                details = f"Python {manifest.python}, {len(manifest.libraries)} libraries, built {manifest.built_at}"
                _line(f"  {image.digest[:12]}  ", state, f"  {details}  {image.root}")


@image_app.command("show")
def image_show(
    name: _ImageName = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest itself.")] = False,
) -> None:
    """A built image's manifest: its Python, every library with its version, the digest of its lock."""
    settings = Settings()
    image = images.load(name or settings.image, settings.data_dir)
    if as_json:
        typer.echo(image.manifest.to_json(), nl=False)
        return
    manifest = image.manifest
    about = {"image": image.name, "digest": image.digest, "lock": manifest.lock_digest, "Python": manifest.python}
    about |= {"built": manifest.built_at, "root": str(image.root), "fonts": ", ".join(manifest.fonts) or "none added"}
    for key, value in about.items():
        _line((f"{key:<8}", "bold"), value)
    for words in manifest.notes:
        _line(("note    ", "bold"), words)
    for library, number in manifest.libraries.items():
        _line(f"  {library} ", (number, "dim"))
