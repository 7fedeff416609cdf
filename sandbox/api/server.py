"""The server: a socket, a node, and the application between them, until somebody says stop."""

import asyncio
import contextlib
import gc
import ipaddress
import math
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING

import uvicorn
import uvloop
from starlette.types import ASGIApp

from sandbox import logs, telemetry
from sandbox.api.app import create_app
from sandbox.api.connection import protocol
from sandbox.api.mcp.endpoint import Endpoint
from sandbox.api.refusal import Refusals
from sandbox.api.turnstile import Turnstile
from sandbox.errors import HostUnfit, InvalidSetting
from sandbox.execution import MIN_MEMORY_MB
from sandbox.node import SETTLE_S, Node

if TYPE_CHECKING:
    from sandbox.config import Settings

_BACKLOG = 4096
_NICENESS = -5
_GC_THRESHOLD = 10_000
"""Objects made until the youngest are looked through; at Python's 700 a burst of requests does it all the time."""
_LAST_ANSWERS_S = 5
"""For answers that are still being written when everything has drained."""
log = logs.logger(__name__)


def longest_stop_s(settings: "Settings") -> float:
    """Seconds from the signal until the sandboxes are ended, at most; their end and the last rows take one or two."""
    return settings.drain_timeout_s + _LAST_ANSWERS_S + SETTLE_S


def run(settings: "Settings", announce: Callable[[str], None]) -> None:
    """`serve` in a loop of its own. Blocks until a signal ends it."""
    with contextlib.suppress(PermissionError):
        # Before all sandboxes: whoever asks is answered, if only that it is busy, while everybody computes.
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    gc.set_threshold(_GC_THRESHOLD)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, announce))


async def serve(settings: "Settings", announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain: what runs may end, new work gets 503. A second signal stops at once.

    announce: called with the URL once it answers. Raises `HostUnfit` when the address cannot be had, `InvalidSetting`
    for a public address without a key, and what `Node.open` raises.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(logs.configure(settings.log_format, settings.log_level, log_code=settings.log_code))
        stack.enter_context(telemetry.tracing(version("sandbox-engine")))
        listening = stack.enter_context(_bound(settings.host, settings.port))
        async with Node.open(settings) as node:
            if not _is_loopback(listening) and not await node.has_keys():
                raise InvalidSetting(
                    f"host is {settings.host}, which others can reach, and there is no key; make one with "
                    "`sandbox key create NAME`, or listen on 127.0.0.1"
                )
            app = create_app(node)
            server = _Server(_config(node, app), lambda: announce(_url(listening)))
            async with app.state.mcp.open(), app.state.parking.open(), _warming(node):
                with _until_told(server, node, app.state.mcp):
                    await server.serve(sockets=[listening])


def _keep_what_is_loaded() -> None:
    """Take code and tables out of garbage collection: to look through all of them stops everybody for 0.1 s."""
    gc.collect()
    gc.freeze()


@contextlib.asynccontextmanager
async def _warming(node: Node) -> AsyncIterator[None]:
    """Within the block, models are made ready: loading a vendor's library takes seconds, the first chat should not."""

    async def warm() -> None:
        try:
            await node.engine.models.warm()
        except Exception:  # whoever asks for that model is told
            log.exception("a model's server cannot be made ready")
        _keep_what_is_loaded()

    task = asyncio.create_task(warm(), name="warm models")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _config(node: Node, app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="none",
        http=protocol(node.settings.body_timeout_s, _turnstile(node), Refusals(node.metrics)),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=75,  # longer than what proxies keep idle connections for, so that they close first
        timeout_graceful_shutdown=_LAST_ANSWERS_S,
    )


def _turnstile(node: Node) -> Turnstile:
    budget, settings = node.admission.budget_mb, node.settings
    most, most_usual = (budget // each + settings.max_waiting for each in (MIN_MEMORY_MB, settings.memory_mb))
    return Turnstile(most, most_usual, lambda: node.admission.retry_after)


class _Server(uvicorn.Server):
    """uvicorn's, which says when it answers and leaves signals to us."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Not: `_until_told` does."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        _keep_what_is_loaded()
        self._ready()


@contextlib.contextmanager
def _until_told(server: _Server, node: Node, mcp: Endpoint) -> Iterator[None]:
    """Within the block, the first signal drains and the second stops."""
    loop = asyncio.get_running_loop()
    draining: list[asyncio.Task[None]] = []

    async def drain() -> None:
        log.info("draining", seconds_at_most=math.ceil(node.settings.drain_timeout_s))
        try:
            await node.drain()
            await mcp.close(_LAST_ANSWERS_S)  # its streams have no end of their own
        finally:
            server.should_exit = True

    def told() -> None:
        if not draining:
            draining.append(loop.create_task(drain(), name="drain"))
            return
        log.warning("stopping at once")
        server.force_exit = True
        draining[0].cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        for task in draining:
            task.cancel()


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


def _is_loopback(listening: socket.socket) -> bool:
    return ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
