"""The event loop has one thread: while it works for one client, nobody else is answered."""

import asyncio
import base64
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from tests.api.served import Served

MIB = 1 << 20
HELD_NS = 250_000_000
"""Processor time, not wall clock: what a busy machine does to everybody is not counted. What takes the most is JSON:
reading it takes the interpreter's lock, wherever it is done, a hundredth of a second for each MiB."""
JSON = {"content-type": "application/json"}
Ask = Callable[[httpx.AsyncClient, str], Awaitable[httpx.Response]]


def posted(path: str, body: object) -> Ask:
    data = json.dumps(body).encode()
    return lambda client, session: client.post(path.format(session=session), content=data, headers=JSON)


def form(size: int) -> Ask:
    data = os.urandom(size)
    return lambda client, session: client.post(f"{session}/files", files={"file": ("large.bin", data)})


HEAVY: dict[str, Ask] = {
    "a form that is written to a disk": form(24 * MIB),
    "files as JSON": posted(
        "/v1/run", {"code": "1", "files": [{"path": "x", "content_base64": base64.b64encode(bytes(6 * MIB)).decode()}]}
    ),
    "JSON of many members": posted("/v1/run", {"code": "1", "x": [{}] * 400_000}),
    "JSON that is deep": posted("/v1/run", {"code": "1", "x": "[" * MIB}),
    "code of a mebibyte": posted("{session}/executions", {"code": "#" * MIB}),
    "an output of a mebibyte": posted("{session}/executions", {"code": "print('x' * (1 << 20))"}),
    "a picture of six mebibytes": posted(
        "{session}/executions",
        {"code": "from IPython.display import display\ndisplay({'image/png': 'A' * (6 << 20)}, raw=True)"},
    ),
    "hundreds of files": posted(
        "{session}/executions", {"code": "for number in range(500): open(f'{number}.txt', 'w').close()"}
    ),
}


def held_ns(pid: int) -> int:
    """Processor time of the server's main thread so far."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0])


async def longest(served: Served, work: Awaitable[httpx.Response]) -> tuple[int, int, httpx.Response]:
    """While this work is done: how often another client was answered, and the longest that one answer held up."""
    async with served.client() as other:
        await other.get("/v1/models")  # there once all is imported, which is nobody's request
        task, answers, most = asyncio.ensure_future(work), 0, 0
        while not task.done():
            before = held_ns(served.process.pid)
            await other.get("/health/live")
            most = max(most, held_ns(served.process.pid) - before)
            answers += 1
        return answers, most, await task


@pytest.mark.attack("H19")
@pytest.mark.parametrize("ask", [pytest.param(ask, id=name) for name, ask in HEAVY.items()])
async def test_nobody_waits_for_what_another_asks_for(
    served: Served, client: httpx.AsyncClient, session: str, ask: Ask
) -> None:
    answers, most, response = await longest(served, ask(client, session))
    assert response.status_code < 500
    assert answers > 0
    assert most < HELD_NS
