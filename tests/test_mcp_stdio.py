"""`sandbox mcp`, as programs start it: the SDK's client, and the pipe itself."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.types import TextResourceContents

from sandbox.client import Client as HttpClient
from sandbox.image import Image
from tests.mcp import NEW, OLD, WAIT_SECONDS, WAITS, images, links, out, run, text  # first: a skip without the SDK
from tests.server import COMMAND, Server, environment, serving


@pytest.fixture(scope="module")
def server(root: None, python_image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.fixture(params=[OLD, "auto"])
def era(request: pytest.FixtureRequest) -> str:
    """What a client begins with: the handshake, or the question whether the server is new."""
    found: str = request.param
    return found


@contextlib.asynccontextmanager
async def connected(
    directory: Path, era: str, *options: str, env: Mapping[str, str] | None = None
) -> AsyncIterator[Client]:
    """A client of a process of its own, whose log is in the file `log`."""
    arguments = [*COMMAND[1:], "mcp", *options]
    parameters = StdioServerParameters(command=COMMAND[0], args=arguments, env=environment(directory, env))
    with (directory / "log").open("w") as log:
        transport = stdio_client(parameters, errlog=log)
        async with Client(transport, mode=era, read_timeout_seconds=WAIT_SECONDS) as client:
            yield client


async def test_one_session_for_the_process_and_all_of_the_tools(
    root: None, python_image: Image, tmp_path: Path, era: str
) -> None:
    async with connected(tmp_path, era) as client:
        assert client.protocol_version == (NEW if era == "auto" else "2025-11-25")
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert names == ["run_python", "upload_file", "list_files", "read_file", "close_session"]
        stored = await client.call_tool("upload_file", {"path": "a.csv", "text": "a\n1\n2\n"})
        plot = "import matplotlib.pyplot as plt; plt.plot([1]); plt.show(); open('b.txt', 'w').write('made')"
        result = await run(client, f"import pandas as pd; x = int(pd.read_csv('a.csv').a.sum())\n{plot}\nprint(x)")
        assert (out(result)["stdout"], out(result)["session_id"]) == ("3\n", out(stored)["session_id"])
        assert len(images(result)) == 1
        [link] = links(result)
        [content] = (await client.read_resource(link.uri)).contents
        assert isinstance(content, TextResourceContents)
        assert (link.name, content.text) == ("b.txt", "made")
        assert [each.name for each in (await client.list_resources()).resources] == ["a.csv", "b.txt"]
        read = await client.call_tool("read_file", {"path": "a.csv", "offset": 2, "length": 2})
        assert (out(read)["text"], out(read)["next_offset"]) == ("1\n", 4)
        assert out(await run(client, "x"))["results"] == ["3"]
        failed = await run(client, "1 / 0")
        assert failed.is_error
        assert "ZeroDivisionError" in text(failed)
        assert "Exactly this failure has come once before." in text(await run(client, "1 / 0"))
        await client.call_tool("close_session", {})
        assert out(await client.call_tool("list_files", {}))["files"] == []
        assert out(await run(client, "x"))["error"]["name"] == "NameError"


async def test_output_comes_before_the_end_and_cancelling_interrupts(
    root: None, python_image: Image, tmp_path: Path
) -> None:
    on = asyncio.Event()

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        on.set()

    async with connected(tmp_path, OLD) as client:
        for ends in (True, False):
            on.clear()
            arguments = {"code": WAITS if ends else "print('on', flush=True)\nwhile True: pass", "timeout_s": 600}
            running = asyncio.create_task(client.call_tool("run_python", arguments, progress_callback=progress))
            await asyncio.wait_for(on.wait(), WAIT_SECONDS)
            if ends:
                await client.call_tool("upload_file", {"path": "go", "text": ""})
                assert out(await running)["stdout"] == "on\n"
            else:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
        async with asyncio.timeout(WAIT_SECONDS):
            assert out(await run(client, "6 * 7"))["results"] == ["42"]


async def test_a_server_can_run_it_and_its_session_ends_with_the_process(
    server: Server, tmp_path: Path, era: str
) -> None:
    async with connected(tmp_path, era, "--server", server.url) as client:
        assert "pandas" in ((await client.list_tools()).tools[0].description or "")
        result = await run(client, "x = 1; open('a.txt', 'w').write('0123456789')")
        session = out(result)["session_id"]
        read = await client.call_tool("read_file", {"path": "a.txt", "offset": 3, "length": 4})
        assert (out(read)["text"], out(read)["size"]) == ("3456", 10)
        assert out(await run(client, "x"))["results"] == ["1"]
        with HttpClient(server.url, "") as http:
            assert http.attach(session).info().status == "active"
    with HttpClient(server.url, "") as http:
        assert http.attach(session).info().status == "closed"
        assert [record.execution.status for record in http.attach(session).executions() if record.execution] == [
            "ok"
        ] * 2
        assert all(info.status == "closed" for info in http.sessions())


async def test_a_server_that_is_away_is_an_answer_in_words(tmp_path: Path) -> None:
    async with connected(tmp_path, OLD, env={"SANDBOX_SERVER": "http://127.0.0.1:9"}) as client:
        result = await run(client, "1")
    assert result.is_error
    assert "no server answers at http://127.0.0.1:9" in text(result)


# The pipe.


async def started(directory: Path) -> Process:
    with (directory / "log").open("wb") as log:
        return await asyncio.create_subprocess_exec(
            *COMMAND, "mcp", stdin=PIPE, stdout=PIPE, stderr=log, env=environment(directory), limit=1 << 22
        )


async def ask(process: Process, method: str, params: Mapping[str, Any], number: int | None = 1) -> dict[str, Any]:
    """The answer, if the question has a number."""
    assert process.stdin is not None
    assert process.stdout is not None
    asked = {"jsonrpc": "2.0", "method": method, "params": params} | ({} if number is None else {"id": number})
    process.stdin.write(json.dumps(asked).encode() + b"\n")
    await process.stdin.drain()
    if number is None:
        return {}
    line = await asyncio.wait_for(process.stdout.readline(), WAIT_SECONDS)
    answer: dict[str, Any] = json.loads(line)
    assert answer["id"] == number
    return answer


async def shaken(process: Process) -> None:
    """The old era's handshake."""
    info = {"name": "test", "version": "1"}
    await ask(process, "initialize", {"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": info})
    await ask(process, "notifications/initialized", {}, None)


async def test_nothing_but_the_protocol_is_on_stdout_and_the_end_of_stdin_ends_it(
    root: None, python_image: Image, tmp_path: Path
) -> None:
    process = await started(tmp_path)
    await shaken(process)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"this is no JSON\n")
    code = "import os; os.write(1, b'raw\\n'); os.system('echo from a shell'); print('printed')"
    answer = await ask(process, "tools/call", {"name": "run_python", "arguments": {"code": code}})
    assert "printed" in answer["result"]["content"][0]["text"]
    process.stdin.close()
    assert await asyncio.wait_for(process.stdout.read(), WAIT_SECONDS) == b""
    assert await asyncio.wait_for(process.wait(), WAIT_SECONDS) == 0


async def test_a_signal_ends_it_and_what_runs(root: None, python_image: Image, tmp_path: Path) -> None:
    process = await started(tmp_path)
    await shaken(process)
    await ask(process, "tools/call", {"name": "run_python", "arguments": {"code": "1"}})
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), WAIT_SECONDS) == 0
    assert process.stdin is not None
    process.stdin.close()


def test_a_memory_cap_that_cannot_be_ends_it_at_the_start(root: None, python_image: Image) -> None:
    arguments = [*COMMAND, "mcp", "--memory", "100"]
    ended = subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "memory_mb is 100; choose a value from 192" in ended.stderr


def test_without_the_sdk_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['mcp'] = None")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    ended = subprocess.run([*COMMAND, "mcp"], stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "pip install '.[mcp]' in the checkout" in ended.stderr
