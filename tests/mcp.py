"""The SDK's own client, against whatever serves MCP."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("mcp", reason="needs the extra: sandbox-engine[mcp]")

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, ImageContent, ResourceLink, TextContent

WAIT_SECONDS = 60.0
"""Ends a wait for something that never comes; nothing healthy takes nearly as long."""
OLD, NEW = "legacy", "2026-07-28"
"""The two eras of the protocol, as the client has them: with a handshake, and without."""
WAITS = "import os, time\nprint('on', flush=True)\nwhile not os.path.exists('/mnt/data/go'): time.sleep(0.01)\n"
"""A program that goes on when somebody uploads `go`."""


@contextlib.asynccontextmanager
async def connected(url: str, era: str, key: str | None = None, path: str = "/mcp") -> AsyncIterator[Client]:
    """A client of the server there."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with httpx2.AsyncClient(headers=headers, timeout=WAIT_SECONDS, trust_env=False) as http:
        transport = streamable_http_client(f"{url}{path}", http_client=http)
        async with Client(transport, mode=era, read_timeout_seconds=WAIT_SECONDS) as client:
            yield client


async def run(client: Client, code: str, **arguments: Any) -> CallToolResult:
    """Call `run_python`."""
    return await client.call_tool("run_python", {"code": code, **arguments})


def text(result: CallToolResult) -> str:
    """What the model reads."""
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def images(result: CallToolResult) -> list[ImageContent]:
    return [block for block in result.content if isinstance(block, ImageContent)]


def links(result: CallToolResult) -> list[ResourceLink]:
    return [block for block in result.content if isinstance(block, ResourceLink)]


def out(result: CallToolResult) -> dict[str, Any]:
    """The structured content."""
    found = result.structured_content
    assert isinstance(found, dict)
    return found
