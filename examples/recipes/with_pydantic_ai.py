"""An agent of PydanticAI that runs Python in a sandbox.

pip install path/to/the/checkout 'pydantic-ai-slim[openai]'
"""

import asyncio
import os
import sys
from pathlib import Path

from pydantic_ai import Agent, Tool

from sandbox.client import AsyncClient
from sandbox.tool import AsyncRunPython

MODEL = os.environ.get("MODEL", "gpt-5-mini")
SALES = Path(__file__).parents[1] / "sales.csv"


async def ask(question: str) -> str:
    """Answer from the sales, with a session of its own."""
    async with AsyncClient() as client, client.session(files={"sales.csv": SALES}) as session:
        python = await AsyncRunPython.of(client, session)

        async def run_python(code: str) -> str:
            told = await python.run(code)
            return told.text  # the status first; after a failure the program's own frames and a hint

        # The description tells the model the truth about its sandbox: libraries, limits, files, no network.
        tool = Tool(run_python, name=python.name, description=python.description, sequential=True)
        agent = Agent(f"openai-chat:{MODEL}", instructions="Compute what you say.", tools=[tool])
        result = await agent.run(question)
        return result.output


if __name__ == "__main__":
    print(asyncio.run(ask(sys.argv[1])))
