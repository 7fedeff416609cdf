"""A CodeAgent of smolagents whose programs run in a sandbox instead of in this process.

pip install path/to/the/checkout 'smolagents[openai]'
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from smolagents import CodeAgent, OpenAIModel, PythonExecutor
from smolagents.local_python_executor import CodeOutput

from sandbox.client import Client
from sandbox.tool import RunPython

MODEL = os.environ.get("MODEL", "gpt-5-mini")
SALES = Path(__file__).parents[1] / "sales.csv"
# An exception, because nothing after a final answer is to run. Of an exception's text 16 KiB are kept.
FINAL_ANSWER = """
import json
class FinalAnswer(BaseException): pass
def final_answer(answer):
    text = json.dumps(answer, default=str)
    raise FinalAnswer(text) if len(text) < 16000 else ValueError("too long, save it in a file")
"""


class SandboxExecutor(PythonExecutor):
    """Runs an agent's code in one session. The only tool in there is `final_answer`; others would run out here."""

    def __init__(self, python: RunPython) -> None:
        self.python = python

    def send_tools(self, tools: dict[str, Any]) -> None:
        if others := tools.keys() - {"final_answer"}:
            raise ValueError(f"these tools do not exist in the sandbox: {', '.join(sorted(others))}")

    def send_variables(self, variables: dict[str, Any]) -> None:
        self.python.run(f"import json; globals().update(json.loads({json.dumps(variables)!r}))")

    def __call__(self, code_action: str) -> CodeOutput:
        self.python.run(FINAL_ANSWER)  # each time: a program that ran out of memory took it along
        told = self.python.run(code_action)
        error = told.execution.error if told.execution else None
        if error and error.name == "FinalAnswer":
            return CodeOutput(json.loads(error.value), told.execution.stdout, is_final_answer=True)
        if told.failed:
            raise RuntimeError(told.text)  # smolagents shows it to the model as the error
        return CodeOutput("", f"{told.text}\n", is_final_answer=False)


if __name__ == "__main__":
    with Client() as client, client.session(files={"sales.csv": SALES}) as session:
        python = RunPython.of(client, session)
        # All imports, because those that there are stand in the description of the sandbox.
        told = {"instructions": python.description, "additional_authorized_imports": ["*"]}
        agent = CodeAgent([], OpenAIModel(MODEL), executor=SandboxExecutor(python), **told)
        print(agent.run(sys.argv[1]))
