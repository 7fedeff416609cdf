"""`run_python` for agents of other frameworks: the same of both clients, over a real server."""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sandbox.client import AsyncClient, Client, Status
from sandbox.errors import SessionClosed
from sandbox.execution import Calls, Execution, Functions, Output
from sandbox.image import Image
from sandbox.interpreters.client import ClientInterpreter
from sandbox.tool import AsyncRunPython, RunPython, Told
from tests.host import WAIT_SECONDS
from tests.server import Server, serving

CSV = {"sales.csv": b"region,revenue\nNorth,2\nSouth,1\n"}
WRONG = "import pandas as pd\nsales = pd.read_csv('sales.csv')\nsales['Revenue'].sum()"
FIGURE = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
FOREVER = "print('on', flush=True)\nwhile True: pass"


@pytest.fixture(scope="module")
def server(
    root: None, python_image: Image, nothing_left: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server")) as server:
        yield server


@dataclass(frozen=True, slots=True)
class Opened:
    """A tool of one kind or the other, and its session's end."""

    tool: RunPython | AsyncRunPython
    close: Callable[[], Awaitable[object]]

    async def run(self, code: str, timeout: float | None = None) -> Told:
        if isinstance(self.tool, AsyncRunPython):
            return await self.tool.run(code, timeout)
        return await asyncio.to_thread(self.tool.run, code, timeout)


@contextlib.asynccontextmanager
async def opened(kind: str, server: Server, files: Mapping[str, bytes | Path], **wishes: Any) -> AsyncIterator[Opened]:
    if kind == "awaits":
        async with AsyncClient(server.url, "") as client, client.session(files=files) as session:
            yield Opened(await AsyncRunPython.of(client, session, **wishes), session.close)
    else:
        with Client(server.url, "") as blocking, blocking.session(files=files) as opened:

            async def close() -> None:
                opened.close()

            yield Opened(RunPython.of(blocking, opened, **wishes), close)


@pytest.fixture(params=["blocks", "awaits"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_the_tool_says_what_is_true_of_its_sandbox(kind: str, server: Server) -> None:
    async with opened(kind, server, CSV) as opening:
        tool = opening.tool
    assert tool.name == "run_python"
    assert "pandas" in tool.description
    assert "no network" in tool.description
    assert "/mnt/data holds sales.csv (31 bytes)." in tool.description
    assert tool.parameters["required"] == ["code"]


async def test_what_came_of_code_is_told_with_the_status_first(kind: str, server: Server) -> None:
    async with opened(kind, server, {}) as opening:
        told = await opening.run("print('hello')\n6 * 7")
    assert told.text == "ok\nstdout:\nhello\nresult: 42"
    assert not told.failed
    assert told.execution is not None
    assert told.execution.status is Status.OK


async def test_a_failure_is_told_with_a_hint_from_which_it_can_be_repaired(kind: str, server: Server) -> None:
    async with opened(kind, server, CSV) as opening:
        wrong = await opening.run(WRONG)
        missing = await opening.run("open('sale.csv')")
        right = await opening.run("int(sales['revenue'].sum())")
    assert wrong.failed
    assert wrong.text.startswith(
        "error\n  line 3: sales['Revenue'].sum()\nKeyError: 'Revenue'\nHint: The columns of sales"
    )
    assert "sales.csv" in missing.text
    assert right.text == "ok\nresult: 3"


async def test_a_failure_that_comes_again_is_named_as_such(kind: str, server: Server) -> None:
    async with opened(kind, server, {}) as opening:
        first = await opening.run("1 / 0")
        again = await opening.run("1 / 0")
        other = await opening.run("[][1]")
    named = "Exactly this failure has come once before. The same code fails the same way: change it."
    assert named in again.text
    assert "before" not in first.text + other.text


async def test_code_in_a_fence_is_run_and_no_code_is_told(kind: str, server: Server) -> None:
    async with opened(kind, server, {}) as opening:
        fenced = await opening.run("```python\nprint(1)\n```")
        nothing = await opening.run("  ")
        unwritable = await opening.run("print('\ud800')")
    assert fenced.text == "ok\nstdout:\n1"
    assert nothing.failed
    assert nothing.execution is None
    assert "no code came" in nothing.text
    assert unwritable.execution is None
    assert unwritable.text


async def test_the_limit_that_a_call_asked_for_is_the_one_that_is_told(kind: str, server: Server) -> None:
    async with opened(kind, server, {}) as opening:
        told = await opening.run("while True: pass", 0.5)
    assert told.text.startswith("timeout: stopped at the limit of 0.5 s")


async def test_who_uses_a_variable_that_an_earlier_failure_took_along_is_told_so(kind: str, server: Server) -> None:
    async with opened(kind, server, {}) as opening:
        await opening.run("x = 1")
        killed = await opening.run("import os; os.kill(os.getpid(), 9)")
        told = await opening.run("print(x)")
    assert "All variables and imports are lost" in killed.text
    assert "NameError" in told.text
    assert "lost" in told.text.partition("Hint: ")[2]


async def test_figures_are_given_to_those_who_ask_for_them(kind: str, server: Server) -> None:
    async with opened(kind, server, {}) as opening:
        described = await opening.run(FIGURE)
    async with opened(kind, server, {}, pictures=True) as opening:
        shown = await opening.run(FIGURE)
    assert "[figure: image/png" in described.text
    assert described.images == ()
    assert [image.mime for image in shown.images] == ["image/png"]


async def test_what_is_not_the_programs_fault_is_raised(kind: str, server: Server) -> None:
    async with opened(kind, server, {}) as opening:
        await opening.close()
        with pytest.raises(SessionClosed):
            await opening.run("1")


class Announcing(ClientInterpreter):
    """Says when the program has begun to print."""

    begun: asyncio.Event

    async def stream(
        self, code: str, timeout: float | None = None, functions: Functions | None = None
    ) -> AsyncGenerator[Output | Calls | Execution, None]:
        async with contextlib.aclosing(super().stream(code, timeout, functions)) as items:
            async for item in items:
                self.begun.set()
                yield item


async def test_a_run_that_is_cancelled_interrupts_its_program(server: Server) -> None:
    async with AsyncClient(server.url, "") as client, client.session() as session:
        interpreter = await Announcing.of(client, session)
        interpreter.begun = asyncio.Event()
        running = asyncio.create_task(AsyncRunPython(interpreter).run(FOREVER, 600))
        await interpreter.begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        # The session runs one at a time: were that program still there, this would not end.
        async with asyncio.timeout(WAIT_SECONDS):
            assert (await session.execute("1")).status is Status.OK


def test_the_example_of_the_documentation_does_what_it_says(server: Server) -> None:
    page = (Path(__file__).parents[1] / "docs" / "client.md").read_text()
    [example] = [each for each in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "RunPython" in each]
    env = {**os.environ, "SANDBOX_SERVER": server.url, "SANDBOX_API_KEY": ""}
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, timeout=120, env=env)
    assert done.stdout.startswith("error\n  line 2: undefined\nNameError: "), done.stderr
