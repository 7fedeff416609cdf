"""The Assistants API as a program asks it, for tests of several modules."""

import json
from typing import Any

import httpx
import openai

from tests.upstreams import Asked

INTERPRETER: Any = {"type": "code_interpreter"}
WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
PLOT = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
PNG = b"\x89PNG\r\n\x1a\n"


async def assistant(sdk: openai.AsyncOpenAI, **fields: Any) -> Any:
    return await sdk.beta.assistants.create(**{"model": "scripted", "tools": [INTERPRETER]} | fields)


async def ask(sdk: openai.AsyncOpenAI, question: str = "How much is it?", **fields: Any) -> Any:
    """A new assistant's run of a new thread, until its end."""
    made = await assistant(sdk, **fields.pop("assistant", {}))
    thread: Any = {"messages": [{"role": "user", "content": question}], **fields.pop("thread", {})}
    return await sdk.beta.threads.create_and_run_poll(assistant_id=made.id, thread=thread, **fields)


async def answer(sdk: openai.AsyncOpenAI, run: Any) -> Any:
    """The run's last message."""
    return (await sdk.beta.threads.messages.list(run.thread_id, run_id=run.id)).data[0]


async def steps(sdk: openai.AsyncOpenAI, run: Any) -> list[Any]:
    return [each async for each in sdk.beta.threads.runs.steps.list(run.id, thread_id=run.thread_id, order="asc")]


async def upload(client: httpx.AsyncClient, name: str, content: bytes) -> str:
    """The id of a file for assistants."""
    made = await client.post("/v1/files", data={"purpose": "assistants"}, files={"file": (name, content)})
    assert made.status_code == 200, made.text
    return str(made.json()["id"])


def frames(stream: bytes) -> list[tuple[str, Any]]:
    """Name and data of each event."""
    found = []
    for frame in stream.decode().removesuffix("\n\n").split("\n\n"):
        name, data = frame.split("\n")
        told = data.removeprefix("data: ")
        found.append((name.removeprefix("event: "), told if told == "[DONE]" else json.loads(told)))
    return found


def told(asked: Asked) -> str:
    """What the model was told last."""
    return str(asked.body["messages"][-1]["content"])
