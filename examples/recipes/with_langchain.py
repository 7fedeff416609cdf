"""An agent of LangChain, which is a graph of LangGraph, that runs Python in a sandbox.

pip install path/to/the/checkout langchain langchain-openai
"""

import asyncio
import os
import sys
from pathlib import Path

from langchain.agents import create_agent
from langchain.tools import tool
from langchain_openai import ChatOpenAI

from sandbox.client import AsyncClient
from sandbox.tool import AsyncRunPython

MODEL = os.environ.get("MODEL", "gpt-5-mini")
SALES = Path(__file__).parents[1] / "sales.csv"


async def ask(question: str) -> str:
    """Answer from the sales, with a session of its own."""
    async with AsyncClient() as client, client.session(files={"sales.csv": SALES}) as session:
        python = await AsyncRunPython.of(client, session)

        # The description tells the model the truth about its sandbox: libraries, limits, files, no network.
        @tool(python.name, description=python.description)
        async def run_python(code: str) -> str:
            told = await python.run(code)
            return told.text  # the status first; after a failure the program's own frames and a hint

        # In a graph of your own, give the tool to its ToolNode.
        agent = create_agent(ChatOpenAI(model=MODEL), [run_python], system_prompt="Compute what you say.")
        state = await agent.ainvoke({"messages": [("user", question)]})
        return str(state["messages"][-1].text)


if __name__ == "__main__":
    print(asyncio.run(ask(sys.argv[1])))
