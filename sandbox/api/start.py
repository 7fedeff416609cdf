"""How a server comes up: first what sandboxes share, which takes longest, then what it is made of itself.

    socket bound ─ data directory locked ─ launcher, whose zygote imports its libraries ┬ sandboxes start
                                                                                        └ our imports ─ node ─ answers
                                                                                           ─ imports for models ─ whole

Where the settings say Docker, it is the first container that imports, and we ask for it before we import what is ours.

Hence little is imported at the top of this file. Where it can fail: the address or the directory is somebody else's,
the host cannot contain sandboxes, the database cannot be had; each ends the command before it has said a URL.
Afterwards only a broken installation can, of which a part cannot be imported.
"""

import asyncio
import contextlib
import gc
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.metadata import version

import uvloop

from sandbox import logs, telemetry
from sandbox.api.imports import imported
from sandbox.config import Settings
from sandbox.datadir import DataDir
from sandbox.engine import Engine
from sandbox.errors import HostUnfit

_NICENESS = -5
_GC_THRESHOLDS = 10_000, 2, 1
"""Objects made until the youngest are looked through; at Python's 700 a burst of requests does it all the time. Those
that outlive it are looked through three such times later, and all at every second of those, because everybody waits for
it: to be rid of 100,000 takes 0.15 s. What was loaded at the start is not among them.
"""
_TURN_S = 0.0005
"""After which a thread that computes lets another one on that wants to, a tenth of Python's own. The store's writer
needs a dozen turns for a transaction, and everybody's requests wait for it.
"""


def run(settings: Settings, announce: Callable[[str], None]) -> None:
    """`serve` in a loop of its own. Blocks until a signal ends it."""
    with contextlib.suppress(PermissionError):
        # Before all sandboxes: whoever asks is answered, if only that it is busy, while everybody computes.
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    gc.set_threshold(*_GC_THRESHOLDS)
    sys.setswitchinterval(_TURN_S)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, announce))


async def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Come up, and serve until SIGTERM or SIGINT; see `server.serve`.

    announce: called with the URL once it answers. Raises `HostUnfit` when the address cannot be had, and what
    `DataDir.open`, `Engine.open`, `Node.on` and `server.serve` raise.
    """
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(logs.configure(settings.log_format, settings.log_level, log_code=settings.log_code))
        stack.enter_context(telemetry.tracing(version("sandbox-engine")))
        listening = stack.enter_context(_bound(settings.host, settings.port))
        directory = stack.enter_context(DataDir.open(settings.data_dir))
        with _uncollected():
            engine = await stack.enter_async_context(_with_imports(settings))
        from sandbox.api import server
        from sandbox.node import Node

        node = await stack.enter_async_context(Node.on(engine, directory))
        await server.serve(node, listening, announce)


@contextlib.asynccontextmanager
async def _with_imports(settings: Settings) -> AsyncIterator[Engine]:
    """An engine, and what the server is made of imported. Raises what `Engine.open` raises."""
    server = "sandbox.api.server"
    # To ask for a container is our own work, on one lock with the imports; a launcher is a process of its own.
    beside = None if settings.runtime == "docker" else asyncio.create_task(imported(server), name="imports")
    async with Engine.open(settings) as engine:
        await (beside or imported(server))
        yield engine


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Within the block next to nothing is garbage, and to find that out takes a fifth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket at the address, before anything is opened that would be in vain without it. Raises `HostUnfit`."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, proto)
    except OSError as error:
        raise HostUnfit(f"{host} cannot be listened on: {error.strerror}; choose another host") from error
    with listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by every connection: a peer that has vanished is found out, even while nothing is sent.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)
        try:
            listening.bind(address)
        except OSError as error:
            raise HostUnfit(f"{host} port {port} cannot be had: {error.strerror}; choose another port") from error
        listening.setblocking(False)
        yield listening
