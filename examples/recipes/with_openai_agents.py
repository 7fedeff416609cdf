"""An agent of the OpenAI Agents SDK that runs Python in a sandbox.

pip install path/to/the/checkout openai-agents
"""

import asyncio
import os
import sys
from pathlib import Path

from agents import Agent, Runner, function_tool, set_default_openai_api, set_tracing_disabled

from sandbox.client import AsyncClient
from sandbox.tool import AsyncRunPython

MODEL = os.environ.get("MODEL", "gpt-5-mini")
SALES = Path(__file__).parents[1] / "sales.csv"


async def ask(question: str) -> str:
    """Answer from the sales, with a session of its own."""
    async with AsyncClient() as client, client.session(files={"sales.csv": SALES}) as session:
        python = await AsyncRunPython.of(client, session)

        # The description tells the model the truth about its sandbox: libraries, limits, files, no network.
        @function_tool(name_override=python.name, description_override=python.description)
        async def run_python(code: str) -> str:
            told = await python.run(code)
            return told.text  # the status first; after a failure the program's own frames and a hint

        agent = Agent("Analyst", instructions="Compute what you say.", model=MODEL, tools=[run_python])
        result = await Runner.run(agent, question)
        return str(result.final_output)


if __name__ == "__main__":
    set_default_openai_api("chat_completions")  # what local servers speak, too
    set_tracing_disabled(True)  # else the SDK sends what the agent does to its vendor
    print(asyncio.run(ask(sys.argv[1])))
