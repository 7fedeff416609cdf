"""The server: the application between a socket and a node, until somebody says stop. `start` brings it up."""

import asyncio
import contextlib
import gc
import ipaddress
import math
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from sandbox import logs
from sandbox.api.app import create_app
from sandbox.api.connection import protocol
from sandbox.api.imports import imported
from sandbox.api.mcp.endpoint import Endpoint
from sandbox.api.refusal import Refusals
from sandbox.api.turnstile import Turnstile
from sandbox.errors import InvalidSetting
from sandbox.execution import MIN_MEMORY_MB
from sandbox.node import SETTLE_S, Node
from sandbox.plans import catalogue

if TYPE_CHECKING:
    from sandbox.config import Settings

_BACKLOG = 4096
_LAST_ANSWERS_S = 5
"""For answers that are still being written when everything has drained."""
log = logs.logger(__name__)


def longest_stop_s(settings: "Settings") -> float:
    """Seconds from the signal until the sandboxes are ended, at most; their end and the last rows take one or two."""
    return settings.drain_timeout_s + _LAST_ANSWERS_S + SETTLE_S


async def serve(node: Node, listening: socket.socket, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain: what runs may end, new work gets 503. A second signal stops at once.

    announce: called with the URL once it answers. Raises `InvalidSetting` for a public address without a key and for an
    upstream that is the server itself, and afterwards what keeps the APIs that need a model from being imported.
    """
    if not _is_loopback(listening) and not await node.has_keys():
        raise InvalidSetting(
            f"host is {node.settings.host}, which others can reach, and there is no key; make one with "
            "`sandbox key create NAME`, or listen on 127.0.0.1"
        )
    _check_upstreams(node.settings, *listening.getsockname()[:2])
    app = create_app(node)
    server = _Server(_config(node, app), lambda: announce(_url(listening)))
    async with app.state.mcp.open(), _completing(app, server):
        with _until_told(server, node, app.state.mcp):
            await server.serve(sockets=[listening])


def _keep_what_is_loaded() -> None:
    """Take code and tables out of garbage collection: to look through all of them stops everybody for 0.1 s.

    What little of it is garbage stays, for the same reason.
    """
    gc.freeze()


@contextlib.asynccontextmanager
async def _completing(app: FastAPI, server: "_Server") -> AsyncIterator[None]:
    """Within the block, once the server answers, the application becomes whole.

    Where that fails the installation is broken: the server ends, and so does the block, with what it was.
    """

    async def complete() -> None:
        await server.answers.wait()
        try:
            vendors = await imported("sandbox.api.vendors")
            vendors.add_to(app)
        except Exception:
            app.state.later.fail()
            server.should_exit = True
            raise
        _keep_what_is_loaded()
        async with app.state.parking.open():
            await _warm(app.state.node)
            await asyncio.Event().wait()

    completing = asyncio.create_task(complete(), name="complete the application")
    try:
        yield
    finally:
        completing.cancel()
        await asyncio.wait([completing])
        if not completing.cancelled():
            completing.result()


def _check_upstreams(settings: "Settings", host: str, port: int) -> None:
    """A server that asks itself never stops. Raises `InvalidSetting`."""
    for plan in catalogue(settings).upstreams.values():
        where = urlsplit(plan.address)
        if where.port == port and where.hostname in (host, "localhost", "127.0.0.1", "::1"):
            raise InvalidSetting(
                f"the upstream {plan.name} is this server itself ({plan.address}): set OPENAI_BASE_URL to this server "
                "for the programs that ask it, and not for the server, whose models are elsewhere"
            )


async def _warm(node: Node) -> None:
    """Make models ready: loading a vendor's library takes seconds, and the first chat should not."""
    try:
        await node.engine.models.warm()
    except Exception:  # whoever asks for that model is told
        log.exception("a model's server cannot be made ready")
    _keep_what_is_loaded()


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
        self.answers = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Not: `_until_told` does."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        _keep_what_is_loaded()
        self._ready()
        self.answers.set()


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


def _is_loopback(listening: socket.socket) -> bool:
    return ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
