"""`sandbox chat`: a question, a model that answers it with code in a sandbox, and all of it shown as it happens.

Exit codes: 0 when the model has answered, 1 when the run ended otherwise, 2 when we or an upstream failed, 130 after
Ctrl-C.
"""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import typer

from sandbox.cli import FAILURE, picture
from sandbox.cli.conversation import Conversation
from sandbox.cli.folder import Folder, hint, save
from sandbox.cli.run import pieces
from sandbox.cli.view import counted, note, write
from sandbox.client import AsyncClient
from sandbox.config import Settings
from sandbox.engine import Engine, open_models
from sandbox.errors import InvalidRequest, SandboxError
from sandbox.execution import Execution
from sandbox.interpreters.client import ClientInterpreter
from sandbox.interpreters.session import SessionInterpreter
from sandbox.keys import LOCAL
from sandbox.loop.events import Ending, Finished, Ran
from sandbox.loop.interpreter import Interpreter
from sandbox.loop.loop import Loop
from sandbox.loop.messages import Message, Request
from sandbox.loop.options import Options
from sandbox.plans import budget, known_secrets
from sandbox.session import checked_timeout
from sandbox.store import Store
from sandbox.traces import Recorder, Secrets

app = typer.Typer(add_completion=False)
_CLOSED_PIPE = 141
_INTERRUPTED = 130
_MOST_BYTES = 1 << 20
_SHADOWS_S = 30.0
"""For second opinions that are still awaited when the answer is there."""
_IDLE_S = 600.0
"""For how long a session stays on a server if we die: a model may think for minutes between two programs."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What `chat` was asked for."""

    question: str
    model: str
    files: tuple[Path, ...]
    out: Path | None
    timeout: float | None
    memory_mb: int | None
    as_json: bool
    pictures: bool | None
    fenced: bool | None


@app.command()
def chat(
    question: Annotated[list[str], typer.Argument(metavar="QUESTION", help="What to ask; - is standard input.")],
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Which model; default: the setting `model`, or the only one there is.")
    ] = "",
    file: Annotated[
        list[Path] | None,
        typer.Option(
            "--file", metavar="PATH", exists=True, dir_okay=False, help="Put a copy into /mnt/data. May be repeated."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            file_okay=False,
            help="Save images and files that were made here; default: a new directory, named like the trace.",
        ),
    ] = None,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="Wall clock for each program.")] = None,
    memory: Annotated[int | None, typer.Option(metavar="MB", help="Memory cap of the sandbox in MiB.")] = None,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Run the code on this server; default: the setting `server`.")
    ] = None,
    fenced: Annotated[
        bool | None, typer.Option(help="The model makes no tool calls; its code comes in Markdown fences.")
    ] = None,
    pictures: Annotated[bool | None, typer.Option(help="Show the model the images that its code makes.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Ask a model that can run Python in a sandbox. Needs OPENAI_API_KEY, ANTHROPIC_API_KEY, or OPENAI_BASE_URL."""
    files = tuple(file or ())
    names = [path.name for path in files]
    if twice := {name for name in names if names.count(name) > 1}:
        raise typer.BadParameter(f"two files would both be /mnt/data/{twice.pop()}", param_hint="--file")
    settings = Settings(**({} if server is None else {"server": server}))
    asked = Asked(_words(" ".join(question)), model, files, out, timeout, memory, as_json, pictures, fenced)
    try:
        raise typer.Exit(asyncio.run(_chat(settings, asked)))
    except BrokenPipeError:
        # The reader left, as `head` does. Python's own last flush must not fail over it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(_CLOSED_PIPE) from None
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None


def _words(question: str) -> str:
    """Raises `InvalidRequest`."""
    text = question
    if question == "-":
        text = sys.stdin.buffer.read(_MOST_BYTES + 1).decode("utf-8", "replace")
    if not text.strip():
        raise InvalidRequest("the question is empty; write what you want to know")
    if len(text) > _MOST_BYTES:
        raise InvalidRequest(f"the question is longer than {_MOST_BYTES} characters; put data into a --file")
    return text


async def _chat(settings: Settings, asked: Asked) -> int:
    """Ask, show or print, keep the trace; the exit code."""
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(Store.open(settings.database))
        models = await stack.enter_async_context(open_models(settings))
        plan = await models.chosen(asked.model)
        request = Request(plan.name, (Message.of("user", asked.question),))
        options = Options(
            budget=budget(settings),
            fenced=plan.fenced if asked.fenced is None else asked.fenced,
            pictures=plan.pictures if asked.pictures is None else asked.pictures,
            whole=asked.as_json,
            timeout_s=asked.timeout,
        )
        interpreter = await stack.enter_async_context(_opened(settings, asked))
        secrets = Secrets(known_secrets(settings, models.catalogue))
        recorder = Recorder(request, LOCAL.id, secrets)
        shadows: list[Recorder] = []
        models.on_shadow = lambda shadowed: shadows.append(Recorder.of_shadow(shadowed, secrets))
        view = None if asked.as_json else Conversation()
        keep = stack.enter_context(_Keep(asked.out or Path(recorder.id)))
        try:
            loop = Loop(models, interpreter, options)
            finished, saved = await _follow(loop, interpreter, request, recorder, keep, view)
        except SandboxError as error:
            recorder.fail(error)
            if view is not None and view.has_told(error):
                raise typer.Exit(FAILURE) from error
            raise
        finally:
            await asyncio.shield(store.add_trace(recorder.row()))
        if view is None:
            write(sys.stdout, json.dumps(_document(finished, recorder, saved)) + "\n")
        else:
            note(_summary(finished, recorder))
        await models.settle(_SHADOWS_S)
        for shadow in shadows:
            await store.add_trace(shadow.row())
        return 0 if finished.why is Ending.ANSWERED else 1


async def _follow(
    loop: Loop, interpreter: Interpreter, request: Request, recorder: Recorder, keep: "_Keep", view: Conversation | None
) -> tuple[Finished, list[str]]:
    """Until the end, and what was saved on the way."""
    saved: list[str] = []
    async with contextlib.aclosing(loop.run(request)) as events:
        async for event in events:
            recorder.add(event)
            if view is not None:
                view.show(event)
            if isinstance(event, Ran):
                paths = await keep.save(interpreter, event.execution)
                saved += [path for path in paths if path not in saved]
                if view is not None:
                    view.saved(paths)
                    _show_pictures(paths)
            elif isinstance(event, Finished):
                return event, saved
    raise AssertionError("a run ends with `Finished`, or raises")


class _Keep:
    """Where images and files go: a directory that is made when there is something for it. As a `with` block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder: Folder | None = None

    async def save(self, interpreter: Interpreter, execution: Execution) -> list[str]:
        """What the execution made; the paths. Raises `InvalidRequest` when the directory cannot be made."""
        if not hint(execution):
            return []
        self._folder = self._folder or Folder(self._path)
        paths, _ = await save(interpreter, execution, self._folder)
        return paths

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            self._folder.close()


def _show_pictures(paths: list[str]) -> None:
    for path in paths:
        if path.endswith((".png", ".jpg", ".gif")):
            picture.show(Path(path).read_bytes())


@contextlib.asynccontextmanager
async def _opened(settings: Settings, asked: Asked) -> AsyncIterator[Interpreter]:
    """A fresh session with the files in it, here or on a server."""
    if settings.server is None:
        checked_timeout(asked.timeout, settings.timeout_s, settings.max_timeout_s)  # before a turn is paid for
        async with Engine.open(settings, warm=False) as engine, engine.session(memory_mb=asked.memory_mb) as session:
            for path in asked.files:
                await session.upload(path.name, pieces(path))
            yield await SessionInterpreter.of(engine, session)
        return
    key = settings.api_key.get_secret_value() if settings.api_key else ""
    async with (
        AsyncClient(settings.server, key) as client,
        client.session(memory_mb=asked.memory_mb, idle_timeout=_IDLE_S) as remote,
    ):
        for path in asked.files:
            await remote.upload(path.name, path)
        yield await ClientInterpreter.of(client, remote)


def _document(finished: Finished, recorder: Recorder, saved: list[str]) -> dict[str, Any]:
    row = recorder.row()
    executions = [
        {"code": record["code"], **record["execution"]} for record in row.records if record["kind"] == "execution"
    ]
    return {
        "answer": finished.answer.text,
        "ending": finished.why.value,
        "model": finished.model,
        "trace_id": recorder.id,
        "spent": asdict(finished.spent),
        "executions": executions,
        "saved": saved,
    }


def _summary(finished: Finished, recorder: Recorder) -> str:
    spent = finished.spent
    cost = "" if spent.cost is None else f", {spent.cost:.4f} USD"
    return (
        f"{finished.model}: {counted(spent.turns, 'turn')}, {counted(spent.executions, 'execution')}, "
        f"{spent.usage.input_tokens} tokens in, {spent.usage.output_tokens} out{cost}, {spent.seconds:.1f} s; "
        f"`sandbox trace show {recorder.id}`"
    )
