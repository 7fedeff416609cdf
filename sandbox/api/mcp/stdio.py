"""One client over stdin and stdout."""

import os

import anyio
from mcp.server.stdio import stdio_server

from sandbox.api.mcp.desk import Desk
from sandbox.api.mcp.protocol import create_server
from sandbox.api.mcp.workbench import Workbenches

_CLIENT = "stdio"
"""The one connection."""


async def speak(sessions: Workbenches, wire: int) -> None:
    """Until stdin ends. wire: the descriptor of what was stdout."""
    server = create_server(Desk(sessions), lambda _: _CLIENT, transport="pipe")
    stdout = anyio.wrap_file(os.fdopen(wire, "w", encoding="utf-8", closefd=False))
    async with stdio_server(stdout=stdout) as (read, write):
        await server.run(read, write, server.create_initialization_options())
