"""An agent of PydanticAI that has the tools of `/mcp`: nothing of ours is installed beside it.

pip install 'pydantic-ai-slim[openai,mcp]'
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from pydantic_ai import Agent, RunContext
from pydantic_ai.mcp import CallToolFunc, MCPToolset

MODEL = os.environ.get("MODEL", "gpt-5-mini")
SERVER = os.environ.get("SANDBOX_SERVER", "http://127.0.0.1:8000")
KEY = os.environ.get("SANDBOX_API_KEY")
SALES = Path(__file__).parents[1] / "sales.csv"


async def told(_: RunContext, __: CallToolFunc, name: str, arguments: dict[str, Any]) -> str:
    """The text of a result, which is written for models. By itself PydanticAI gives on what is for programs."""
    result = await sandbox.client.call_tool_mcp(name, arguments)
    return "\n".join(block.text for block in result.content if block.type == "text")


headers = {"Authorization": f"Bearer {KEY}"} if KEY else {}
sandbox = MCPToolset(f"{SERVER}/mcp", headers=headers, process_tool_call=told)


async def ask(question: str) -> str:
    """Answer from the sales, with a session of its own."""
    async with sandbox:
        uploaded = await sandbox.direct_call_tool("upload_file", {"path": "sales.csv", "text": SALES.read_text()})
        # The protocol knows no connections since 2026-07-28, so the model has to say which session it means.
        session = {"session_id": uploaded["session_id"]}
        instructions = f"Compute what you say. /mnt/data has sales.csv. Send {json.dumps(session)} with every call."
        agent = Agent(f"openai-chat:{MODEL}", instructions=instructions, toolsets=[sandbox])
        try:
            result = await agent.run(question)
            return result.output
        finally:
            await sandbox.direct_call_tool("close_session", session)


if __name__ == "__main__":
    print(asyncio.run(ask(sys.argv[1])))
