"""A model's server for benchmarks, in a process of its own: it speaks OpenAI's dialect and always says the same.

It wants `print(1)` to be run until the conversation has as many results of tools as it was told, then it answers.
`python -m sandbox.bench.upstream PROGRAMS LATENCY_MS` prints its URL and lives until its stdin is closed.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from sandbox.errors import SandboxFailed

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_CALL = {"index": 0, "id": "call_1", "type": "function"}
_CODE = json.dumps({"code": "print(1)"})
_USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}


@dataclass(frozen=True, slots=True)
class Upstream:
    """One that answers."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """What an SDK takes as its base URL."""
        return f"http://{self.host}:{self.port}/v1"


@contextlib.asynccontextmanager
async def running(programs: int, latency_ms: float) -> AsyncIterator[Upstream]:
    """In a process of its own until the block ends. Raises `SandboxFailed`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sandbox.bench.upstream", str(programs), str(latency_ms)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = (await process.stdout.readline()).decode().strip()
        if not port:
            raise SandboxFailed("the benchmark's model server did not start")
        yield Upstream("127.0.0.1", int(port))
    finally:
        process.stdin.close()
        await process.wait()


def conversation(programs: int) -> list[dict[str, Any]]:
    """Messages of a run in which so many programs have run already, for asking without a loop."""
    said: list[dict[str, Any]] = [{"role": "user", "content": "How much is it?"}]
    return said + [{"role": "tool", "tool_call_id": "call_1", "content": "1"}] * programs


def _events(programs: int, asked: dict[str, Any]) -> list[dict[str, Any]]:
    done = sum(message["role"] == "tool" for message in asked["messages"])
    if done < programs:
        called = _CALL | {"function": {"name": "run_python", "arguments": ""}}
        deltas: list[dict[str, Any]] = [
            {"role": "assistant", "content": None, "tool_calls": [called]},
            {"tool_calls": [{"index": 0, "function": {"arguments": _CODE}}]},
        ]
        finish = "tool_calls"
    else:
        deltas = [{"role": "assistant", "content": ""}, *({"content": word} for word in ("It ", "is ", "1."))]
        finish = "stop"
    head: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "bench"}
    choices: list[dict[str, Any]] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": finish})
    return [*(head | {"choices": [choice]} for choice in choices), head | {"choices": [], "usage": _USAGE}]


async def _answer(programs: int, latency_ms: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            size = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            asked = json.loads(await reader.readexactly(size))
            await asyncio.sleep(latency_ms / 1000)
            lines = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in _events(programs, asked)]
            chunks = [b"%x\r\n%b\r\n" % (len(line), line) for line in (*lines, b"data: [DONE]\n\n")]
            writer.write(_HEAD + b"".join(chunks) + b"0\r\n\r\n")
            await writer.drain()
    writer.close()


async def _serve(programs: int, latency_ms: float) -> None:
    server = await asyncio.start_server(
        lambda reader, writer: _answer(programs, latency_ms, reader, writer), "127.0.0.1", 0, backlog=1024
    )
    async with server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
