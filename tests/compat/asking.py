"""Ways to ask a server what a program written for OpenAI's API would ask, and what every refusal has to be."""

from typing import Any

import httpx
import httpx2
import openai

from sandbox.node import Node
from tests.api.local import whole_app
from tests.api.served import Served


def of(served: Served, key: str) -> openai.AsyncOpenAI:
    """A client with this key."""
    return openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0)


def local(node: Node) -> openai.AsyncOpenAI:
    """A client of a node in this process."""
    transport = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=whole_app(node)))
    return openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="any", http_client=transport, max_retries=0)


def refused(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error of a response, which must be one in every respect."""
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error"}
    error: dict[str, Any] = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


async def execute(wire: httpx.AsyncClient, container: str, code: str) -> None:
    """A program of the model's, in a container."""
    path = f"/v1/sessions/{container.replace('cntr_', 'ses_')}/executions"
    assert (await wire.post(path, json={"code": code})).json()["status"] == "ok"
