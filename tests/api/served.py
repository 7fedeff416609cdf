"""A real server in a process of its own, on a real socket."""

import asyncio
import contextlib
import json
import os
import resource
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from sandbox.config import Settings
from tests.host import Embedded, stopped_zygote

WAIT_SECONDS = 90.0
"""Ends a wait for something that never comes; nothing healthy takes nearly as long."""
_SERVE = """
from sandbox.api.start import run
from sandbox.config import Settings
run(Settings.load(), lambda url: print(url, flush=True))
"""


def enough(files: int, stack: contextlib.ExitStack | contextlib.AsyncExitStack) -> None:
    """Let this process have so many open until the stack ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < files:
        pytest.skip("this host lets nobody open as many files")
    stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, files), hard))


@dataclass(frozen=True, slots=True)
class Served:
    """A server that answers."""

    url: str
    process: Process
    data_dir: Path

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 0)

    def client(self, key: str | None = None, **headers: str) -> httpx.AsyncClient:
        """A client of it."""
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=WAIT_SECONDS)

    async def warmed(self) -> None:
        """Wait until it no longer warms up, for tests in which no answer may take seconds."""
        async with self.client() as client:
            (await client.post("/v1/run", json={"code": "1"})).raise_for_status()
            while (await client.get("/health")).status_code == 503:
                pass  # the pool's own first sandbox may come a little later

    async def raw(self, data: bytes) -> bytes:
        """Send these bytes; all that comes back until the server closes."""
        async with self.connection() as (reader, writer):
            writer.write(data)
            return await asyncio.wait_for(reader.read(), WAIT_SECONDS)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A bare connection."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def signal(self, number: signal.Signals) -> None:
        """To the server alone."""
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its end; its exit status."""
        return await asyncio.wait_for(self.process.wait(), WAIT_SECONDS)


@contextlib.asynccontextmanager
async def serving(data_dir: Path, **settings: object) -> AsyncIterator[Served]:
    """A server with these settings, until the block ends."""
    async with _running(data_dir, **settings) as process:
        yield await _announced(process, data_dir)


@contextlib.asynccontextmanager
async def warming(data_dir: Path) -> AsyncIterator[tuple[Served, Embedded, int]]:
    """A server, what the host sees of its sandboxes, and its zygote, which is not ready before it is told to go on."""
    async with _running(data_dir) as process:
        host, zygote = await stopped_zygote(process.pid)
        yield await _announced(process, data_dir), host, zygote


@contextlib.asynccontextmanager
async def _running(data_dir: Path, **settings: object) -> AsyncIterator[Process]:
    process = await started(data_dir, **settings)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.wait(), WAIT_SECONDS)


async def _announced(process: Process, data_dir: Path) -> Served:
    assert process.stdout is not None
    url = (await asyncio.wait_for(process.stdout.readline(), WAIT_SECONDS)).decode().strip()
    assert url, f"the server did not start; see {data_dir / 'log'}:\n{(data_dir / 'log').read_text()}"
    return Served(url, process, data_dir)


async def started(data_dir: Path, **settings: object) -> Process:
    """The process of a server; its log is in the file `log`."""
    images_dir = Settings.load().images_dir
    chosen = {
        "port": 0,
        "pool_size": 1,
        "log_format": "json",
        "data_dir": data_dir,
        "images_dir": images_dir,
    } | settings
    environment = {f"SANDBOX_{name.upper()}": str(value) for name, value in chosen.items()}
    with (data_dir / "log").open("wb") as log:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", _SERVE, stdin=PIPE, stdout=PIPE, stderr=log, env=os.environ | environment
        )


def logged(served: Served) -> list[dict[str, Any]]:
    """The lines of its log so far."""
    return [json.loads(line) for line in (served.data_dir / "log").read_text().splitlines() if line.startswith("{")]


async def lines_about(served: Served, client: httpx.AsyncClient, **fields: str) -> list[dict[str, Any]]:
    """The lines that have these fields, once there are any: a request is logged after its answer went out."""
    while not (lines := [line for line in logged(served) if fields.items() <= line.items()]):
        await client.get("/health/live")
    return lines


def problem(response: httpx.Response) -> tuple[int, str]:
    """Status and code of a problem, which must be one in every respect."""
    assert response.headers["content-type"] == "application/problem+json"
    told: Mapping[str, Any] = response.json()
    assert {"type", "title", "detail", "code", "request_id"} <= told.keys()
    assert told["status"] == response.status_code
    assert told["request_id"] == response.headers["x-request-id"]
    return response.status_code, told["code"]
