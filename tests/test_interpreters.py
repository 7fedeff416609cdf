"""Sessions as a loop sees them: the same of a node's, an engine's and a server's."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox.client import AsyncClient
from sandbox.config import Settings
from sandbox.engine import Engine
from sandbox.errors import FileMissing, InvalidRequest, SessionClosed
from sandbox.execution import Answer, Calls, Execution, Functions, Output, Status, Stream
from sandbox.image import Image
from sandbox.interpreters.client import ClientInterpreter
from sandbox.interpreters.node import NodeInterpreter
from sandbox.interpreters.session import SessionInterpreter
from sandbox.keys import LOCAL
from sandbox.loop.interpreter import Interpreter
from sandbox.node import Node
from tests.host import WAIT_SECONDS
from tests.server import serving

FOREVER = "print('on', flush=True)\nwhile True: pass"


@dataclass(frozen=True, slots=True)
class Kind:
    """An interpreter, and how its session is ended from elsewhere."""

    interpreter: Interpreter
    close: Callable[[], object]


@pytest.fixture(scope="module")
async def node(
    root: None, python_image: Image, nothing_left: None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Node]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("node"), images_dir=Settings().images_dir, pool_size=1)
    async with Node.open(settings) as node:
        yield node


@pytest.fixture(scope="module")
async def client(
    root: None, python_image: Image, nothing_left: None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[AsyncClient]:
    directory: Path = tmp_path_factory.mktemp("server")
    with serving(directory) as server:
        async with AsyncClient(server.url, "") as client:
            yield client


@pytest.fixture(params=["a node", "an engine", "a server"])
async def kind(request: pytest.FixtureRequest, node: Node, engine: Engine, client: AsyncClient) -> AsyncIterator[Kind]:
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "a node":
            row = await node.open_session(LOCAL)
            stack.push_async_callback(node.close_session, LOCAL, row.id)
            yield Kind(await NodeInterpreter.of(node, LOCAL, row), lambda: node.close_session(LOCAL, row.id))
        elif request.param == "an engine":
            session = await stack.enter_async_context(engine.session())
            yield Kind(await SessionInterpreter.of(engine, session), session.close)
        else:
            remote = await stack.enter_async_context(client.session())
            yield Kind(await ClientInterpreter.of(client, remote), remote.close)


@pytest.fixture
def interpreter(kind: Kind) -> Interpreter:
    return kind.interpreter


async def execute(interpreter: Interpreter, code: str, timeout: float | None = None) -> Execution:
    return (await outputs(interpreter, code, timeout))[1]


async def outputs(interpreter: Interpreter, code: str, timeout: float | None = None) -> tuple[list[Output], Execution]:
    items = [item async for item in interpreter.stream(code, timeout)]
    *shown, execution = items
    assert isinstance(execution, Execution)
    return [item for item in shown if not isinstance(item, Execution | Calls)], execution


async def test_the_facts_are_those_of_the_sandbox(interpreter: Interpreter) -> None:
    code = "import os, platform, pandas\nat = os.statvfs('/mnt/data')\n"
    code += "print(platform.python_version(), pandas.__version__, at.f_blocks * at.f_frsize >> 20)"
    facts = interpreter.facts
    told = f"{facts.python} {facts.libraries['pandas']} {facts.disk_mb}\n"
    assert (await execute(interpreter, code)).stdout == told
    assert (facts.memory_mb, facts.timeout_s) == (512, 30.0)


async def test_outputs_come_in_order_and_the_execution_last(interpreter: Interpreter) -> None:
    shown, execution = await outputs(interpreter, "print('a', flush=True)\nimport sys\nsys.stderr.write('b')\n6 * 7")
    text = "".join(item.text for item in shown if isinstance(item, Stream) and item.name == "stdout")
    assert (text, execution.stdout, execution.stderr) == ("a\n", "a\n", "b")
    assert execution.results[0]["text/plain"] == "42"
    failed = await execute(interpreter, "1 / 0")
    assert failed.error is not None
    assert (failed.status, failed.error.name) == (Status.ERROR, "ZeroDivisionError")


async def test_files_are_listed_by_path_and_can_be_downloaded(interpreter: Interpreter) -> None:
    await execute(interpreter, "import os; os.mkdir('d'); open('d/b', 'w').write('two'); open('a', 'w').write('1')")
    assert [(file.path, file.size) for file in await interpreter.files()] == [("a", 1), ("d/b", 3)]
    assert await interpreter.download("d/b") == b"two"
    with pytest.raises(FileMissing):
        await interpreter.download("none")


async def test_a_timeout_is_in_seconds(interpreter: Interpreter) -> None:
    assert (await execute(interpreter, "while True: pass", 0.5)).status is Status.TIMEOUT


async def test_who_leaves_early_interrupts_the_program(interpreter: Interpreter) -> None:
    async with contextlib.aclosing(interpreter.stream(FOREVER, 600)) as items:
        await anext(items)
    # The session runs one at a time: were that program still there, this would not end.
    async with asyncio.timeout(WAIT_SECONDS):
        assert (await execute(interpreter, "1")).status is Status.OK


async def test_who_is_cancelled_interrupts_the_program(interpreter: Interpreter) -> None:
    begun = asyncio.Event()

    async def follow() -> None:
        async with contextlib.aclosing(interpreter.stream(FOREVER, 600)) as items:
            async for _ in items:
                begun.set()

    task = asyncio.create_task(follow())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(WAIT_SECONDS):
        assert (await execute(interpreter, "1")).status is Status.OK


async def test_a_session_that_is_closed_says_so(kind: Kind) -> None:
    closing = kind.close()
    assert asyncio.iscoroutine(closing)
    await closing
    with pytest.raises(SessionClosed):
        await execute(kind.interpreter, "1")


async def test_what_runs_in_a_node_is_recorded(node: Node) -> None:
    row = await node.open_session(LOCAL)
    interpreter = await NodeInterpreter.of(node, LOCAL, row)
    execution = await execute(interpreter, "print(1)")
    assert (await node.execution(LOCAL, row.id, execution.id)).code == "print(1)"
    assert [file.path for file in await interpreter.files()] == []
    await node.close_session(LOCAL, row.id)


async def test_programs_may_call_functions_where_they_can_be_answered(interpreter: Interpreter) -> None:
    stream = interpreter.stream("print(await weather('Oslo'))", 20, Functions({"weather": ("city",)}))
    if isinstance(interpreter, ClientInterpreter):
        with pytest.raises(InvalidRequest):
            await anext(stream)
        return
    async for item in stream:
        if isinstance(item, Calls):
            answers = [Answer(called.id, called.arguments["city"].upper()) for called in item.calls]
            assert await interpreter.answer(answers) == 1
    assert isinstance(item, Execution)
    assert item.stdout == "OSLO\n"
