"""An agent of the OpenAI Agents SDK that has the tools of `/mcp`: nothing of ours is installed beside it.

pip install openai-agents
"""

import asyncio
import json
import os
import sys
from pathlib import Path

from agents import Agent, Runner, set_default_openai_api, set_tracing_disabled
from agents.mcp import MCPServerStreamableHttp

MODEL = os.environ.get("MODEL", "gpt-5-mini")
SERVER = os.environ.get("SANDBOX_SERVER", "http://127.0.0.1:8000")
KEY = os.environ.get("SANDBOX_API_KEY")
SALES = Path(__file__).parents[1] / "sales.csv"


async def ask(question: str) -> str:
    """Answer from the sales, with a session of its own."""
    headers = {"Authorization": f"Bearer {KEY}"} if KEY else {}
    # The SDK gives up on a call after 5 s unless it is told otherwise; the sandbox has a timeout of its own.
    async with MCPServerStreamableHttp(
        {"url": f"{SERVER}/mcp", "headers": headers}, client_session_timeout_seconds=300
    ) as sandbox:
        uploaded = await sandbox.call_tool("upload_file", {"path": "sales.csv", "text": SALES.read_text()})
        # The protocol knows no connections since 2026-07-28, so the model has to say which session it means.
        session = {"session_id": uploaded.structured_content["session_id"]}
        instructions = f"Compute what you say. /mnt/data has sales.csv. Send {json.dumps(session)} with every call."
        agent = Agent("Analyst", instructions=instructions, model=MODEL, mcp_servers=[sandbox])
        try:
            result = await Runner.run(agent, question)
            return str(result.final_output)
        finally:
            await sandbox.call_tool("close_session", session)


if __name__ == "__main__":
    set_default_openai_api("chat_completions")  # what local servers speak, too
    set_tracing_disabled(True)  # else the SDK sends what the agent does to its vendor
    print(asyncio.run(ask(sys.argv[1])))
