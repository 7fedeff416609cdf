"""`sandbox mcp`: the tools of `sandbox.api.mcp` over stdin and stdout, for one client."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import import_module
from typing import Annotated

import typer

from sandbox import logs
from sandbox.api.mcp.local import Local
from sandbox.api.mcp.remote import Remote
from sandbox.api.mcp.workbench import Workbenches
from sandbox.cli import FAILURE
from sandbox.cli.view import note
from sandbox.client import AsyncClient
from sandbox.config import Settings
from sandbox.engine import Engine
from sandbox.errors import SandboxError

app = typer.Typer(add_completion=False)

Speak = Callable[[Workbenches, int], Awaitable[None]]


@app.command()
def mcp(
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Run code on this server; default: the setting `server`.")
    ] = None,
    image: Annotated[str | None, typer.Option(metavar="NAME", help="The image to run on.")] = None,
    memory: Annotated[int | None, typer.Option(metavar="MB", help="Memory cap of the sandbox in MiB.")] = None,
) -> None:
    """Serve MCP on stdin and stdout until stdin ends: run_python and the files of its session, for one client.

    Logs go to stderr. Without a server an engine of its own is opened, on this machine.
    """
    speak = _protocol()
    given = {"server": server, "image": image}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    # The protocol alone may write there, and no process of ours may keep it open.
    wire = os.dup(1)
    os.dup2(2, 1)
    logs.configure(settings.log_format, settings.log_level, log_code=settings.log_code)
    asyncio.run(_serve(settings, memory, speak, wire))


def _protocol() -> Speak:
    try:
        speak: Speak = import_module("sandbox.api.mcp.stdio").speak
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in ("mcp", "mcp_types"):
            raise
        note("MCP is not installed; pip install '.[mcp]' in the checkout")
        raise typer.Exit(FAILURE) from None
    return speak


async def _serve(settings: Settings, memory_mb: int | None, speak: Speak, wire: int) -> None:
    """Until stdin ends or a signal comes."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with _sessions(settings, memory_mb) as sessions:
        serving = asyncio.ensure_future(speak(sessions, wire))
        waiting = asyncio.create_task(stopping.wait())
        await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if serving.done():
            serving.result()
            return
    # Every sandbox is gone. A thread still waits for a line on stdin, and would keep the process for as long as that.
    sys.stderr.flush()
    os._exit(0)


@contextlib.asynccontextmanager
async def _sessions(settings: Settings, memory_mb: int | None) -> AsyncIterator[Workbenches]:
    """Sessions here or on a server; at the end all of them are closed."""
    if settings.server is None:
        async with Engine.open(settings, warm=False) as engine:
            engine.spec(memory_mb=memory_mb)  # what cannot be is told now, and not to every call
            yield Local(engine, memory_mb)
        return
    key = settings.api_key.get_secret_value() if settings.api_key else ""
    async with AsyncClient(settings.server, key) as client:
        remote = Remote(client, settings.image, memory_mb)
        try:
            yield remote
        finally:
            with contextlib.suppress(SandboxError):  # who cannot be reached ends them when they have been idle
                await remote.close_all()
