"""`sandbox run`: one program in a fresh sandbox, on this machine or on a server.

Exit codes follow the status: ok 0, error 1, timeout 124, interrupted and cancelled 130, oom and killed 137. 2 is ours:
wrong usage, or anything that `errors` draws.
"""

import asyncio
import contextlib
import dataclasses
import fcntl
import json
import os
import signal
import stat
import sys
import termios
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer
import typer.core

from sandbox.cli import FAILURE
from sandbox.cli.folder import Folder, Workspace, hint, save
from sandbox.cli.view import View, conclude, note, write
from sandbox.client import AsyncClient, Event, Started
from sandbox.config import Settings
from sandbox.engine import Engine
from sandbox.errors import InvalidRequest, SessionClosed
from sandbox.execution import Artifact, Calls, Execution, Status
from sandbox.kernel import MAX_CODE_BYTES
from sandbox.session import checked_code

app = typer.Typer(add_completion=False)

EXIT_CODES = {
    Status.OK: 0,
    Status.ERROR: 1,
    Status.TIMEOUT: 124,
    Status.INTERRUPTED: 130,
    Status.CANCELLED: 130,
    Status.OOM: 137,
    Status.KILLED: 137,
}
_CLOSED_PIPE = 141
_MOST_ARGUMENTS = 100_000
_PIECE = 256 << 10
_IDLE_S = 300.0
"""For how long a session stays on a server if we die: nobody else knows of it."""


class _Session(Workspace, Protocol):
    """What a run needs of a session, wherever that is."""

    def stream(self, code: str, timeout: float | None) -> AsyncGenerator[Event | Calls, None]: ...

    def interrupt(self) -> Coroutine[Any, Any, object]: ...

    def close(self) -> Coroutine[Any, Any, object]: ...


@dataclass(frozen=True, slots=True)
class Request:
    """What `run` was asked for."""

    code: str
    argv: tuple[str, ...]
    """As the program finds it, if it comes from a file."""
    files: tuple[Path, ...]
    out: Path | None
    timeout: float | None
    memory_mb: int | None
    image: str | None
    as_json: bool


class _Run(typer.core.TyperCommand):
    """Says of an unknown option what it may have been meant for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        may_be_of_a_file = "-c" not in args
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            # Of a kind that typer keeps to itself.
            if type(error).__name__ == "NoSuchOption" and hasattr(error, "message") and may_be_of_a_file:
                error.message += ". Options of the program go behind --: sandbox run FILE -- --its-option"
            raise


@app.command(cls=_Run)
def run(
    script: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="The program; - is standard input."),
    ] = None,
    args: Annotated[
        list[str] | None,
        typer.Argument(metavar="ARGS", help="What the program finds in sys.argv; behind -- if they begin with -."),
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
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Run it on this server; default: the setting `server`.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Run a program in a fresh sandbox, show what it shows, and exit as it ended."""
    files = tuple(file or ())
    names = [path.name for path in files]
    if twice := {name for name in names if names.count(name) > 1}:
        raise typer.BadParameter(f"two files would both be /mnt/data/{twice.pop()}", param_hint="--file")
    given = {name: value for name, value in (("image", image), ("server", server)) if value is not None}
    settings = Settings(**given)
    argv = _argv(script, args or [])
    request = Request(checked_code(_source(script, code)), argv, files, out, timeout, memory, image, as_json)
    try:
        raise typer.Exit(asyncio.run(_run(settings, request)))
    except BrokenPipeError:
        # The reader left, as `head` does. Python's own last flush must not fail over it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(_CLOSED_PIPE) from None
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_CODES[Status.INTERRUPTED]) from None


def _has_input() -> bool:
    """Whether something waits there that nobody has begun to read."""
    try:
        status = os.fstat(sys.stdin.fileno())
        if stat.S_ISFIFO(status.st_mode):
            return any(fcntl.ioctl(sys.stdin.fileno(), termios.FIONREAD, bytes(4)))
        is_at_start = stat.S_ISREG(status.st_mode) and os.lseek(sys.stdin.fileno(), 0, os.SEEK_CUR) == 0
        return is_at_start and status.st_size > 0
    except (OSError, ValueError, AttributeError):  # it is closed, or no file
        return False


def _argv(script: Path | None, args: Sequence[str]) -> tuple[str, ...]:
    """As the program finds it; empty when it comes from no file."""
    if script is not None and str(script) != "-":
        if sum(map(len, args)) > _MOST_ARGUMENTS:
            raise typer.BadParameter(f"they are longer than {_MOST_ARGUMENTS} characters; put them into a file")
        return (script.name, *args)
    if args:
        raise typer.BadParameter("only a program from a FILE has arguments", param_hint="ARGS")
    return ()


def _source(script: Path | None, code: str | None) -> bytes:
    """The program's text. No more of it is read than is needed to see that it is too long."""
    if script is not None and code is not None:
        raise typer.BadParameter("a FILE and -c CODE are two programs; give one. Only a FILE has ARGS")
    if script is None and code is None and sys.stdin.isatty():
        raise typer.BadParameter("give a FILE, or -c CODE, or - for standard input")
    if code is not None:
        return os.fsencode(code)
    if script is None or str(script) == "-":
        return sys.stdin.buffer.read(MAX_CODE_BYTES + 1)
    try:
        with script.open("rb") as file:
            return file.read(MAX_CODE_BYTES + 1)
    except FileNotFoundError as error:
        raise InvalidRequest(f"{script} cannot be read: {error.strerror}; code itself goes behind -c") from error
    except OSError as error:
        raise InvalidRequest(f"{script} cannot be read: {error.strerror}") from error


async def _run(settings: Settings, request: Request) -> int:
    """Run the program and show or print what came of it; the exit code."""
    with contextlib.ExitStack() as stack:
        folder = None
        if request.out is not None:
            folder = Folder(request.out)
            stack.callback(folder.close)
        async with _opened(settings, request) as session:
            execution = await _follow(session, request)
            saved, whole = await save(session, execution, folder) if folder else ([], True)
    if request.as_json:
        document = dataclasses.asdict(execution) | {"saved": saved}
        write(sys.stdout, json.dumps(document) + "\n")
    else:
        conclude(execution, saved, None if folder else hint(execution))
        if _has_input():
            note("standard input is not given to the program; --file puts a copy of a file into /mnt/data")
    code = EXIT_CODES[execution.status]
    return FAILURE if code == 0 and not whole else code


@contextlib.asynccontextmanager
async def _opened(settings: Settings, request: Request) -> AsyncIterator[_Session]:
    """A fresh session with the files in it."""
    if settings.server is None:
        async with (
            Engine.open(settings, warm=False) as engine,
            engine.session(memory_mb=request.memory_mb) as session,
        ):
            for path in request.files:
                await session.upload(path.name, pieces(path))
            yield session
        return
    key = settings.api_key.get_secret_value() if settings.api_key else ""
    async with (
        AsyncClient(settings.server, key) as client,
        client.session(memory_mb=request.memory_mb, image=request.image, idle_timeout=_IDLE_S) as remote,
    ):
        for path in request.files:
            await remote.upload(path.name, path)
        yield remote


async def _follow(session: _Session, request: Request) -> Execution:
    """Show outputs as they come, until the end. Ctrl-C interrupts the program."""
    view = None if request.as_json else View()
    if request.argv and (failed := await _introduced(session, request.argv)) is not None:
        return failed
    # Closed at once when the reader leaves, so that the program ends.
    async with _interrupts(session), contextlib.aclosing(session.stream(request.code, request.timeout)) as items:
        async for item in items:
            if isinstance(item, Execution):
                return item
            if view is not None and not isinstance(item, Started | Artifact | Calls):
                view.show(item)
    raise SessionClosed("the session ended while the program ran")


async def _introduced(session: _Session, argv: Sequence[str]) -> Execution | None:
    """Let the program find what a script does; how that ended, if not well."""
    named = f"import sys; sys.argv = {list(argv)!r}; __file__ = '/mnt/data/' + sys.argv[0]; del sys"
    async with contextlib.aclosing(session.stream(named, None)) as items:
        async for item in items:
            if isinstance(item, Execution):
                return None if item.status is Status.OK else item
    raise SessionClosed("the session ended before the program ran")


@contextlib.asynccontextmanager
async def _interrupts(session: _Session) -> AsyncIterator[None]:
    """The first Ctrl-C interrupts the program, the second ends the session under it, a third is Python's own."""
    loop = asyncio.get_running_loop()
    actions: list[Coroutine[Any, Any, object]] = [session.close(), session.interrupt()]
    tasks: list[asyncio.Task[object]] = []

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


async def pieces(path: Path) -> AsyncIterator[bytes]:
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from error
