"""What pandas' and numpy's docstrings say, a kernel says too: state, results, exceptions, in order."""

import asyncio
import os
import subprocess
from collections.abc import Iterable

import pytest

from sandbox.engine import Engine
from sandbox.execution import Error, Execution, Result, Stream
from sandbox.image import Image
from sandbox.session import Session
from tests.workloads import docstrings
from tests.workloads.docstrings import Docstring, Example

EVERY = {"pandas": 5, "numpy": 6}
"""The sample is every fifth or sixth docstring: more than 300 that a plain interpreter gets right."""
LIKE_A_PROMPT = f"""
{docstrings.SET_UP}
get_ipython().ast_node_interactivity = "all"
get_ipython().display_formatter.formatters["text/plain"].pprint = False
"""
AT_ONCE = 2


@pytest.fixture(scope="session")
def sessions(request: pytest.FixtureRequest, python_image: Image) -> list[Docstring]:
    """Those that a plain interpreter gets right, from the image's own wheels."""
    everything = request.config.getoption("--all")
    found = []
    for library, every in EVERY.items():
        command = [str(python_image.root / "venv/bin/python"), "-I", "-B", docstrings.__file__]
        environment = {
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "MPLBACKEND": "agg",
            "MPLCONFIGDIR": str(python_image.root / "venv/share/matplotlib"),
        }
        step = "1" if everything else str(every)
        ended = subprocess.run([*command, library, step], env=environment, stdout=subprocess.PIPE, check=True)
        found += docstrings.from_json(ended.stdout.decode())
    assert len(found) >= 300
    return found


async def said(session: Session, source: str) -> tuple[str, Error | None]:
    """What a prompt would have printed for a cell, and what it raised."""
    text: list[str] = []
    error = None
    async for output in session.stream(source):
        if isinstance(output, Stream) and output.name == "stdout":
            text.append(output.text)
        elif isinstance(output, Result) and output.execution_count is not None:
            text.append(f"{output.data['text/plain']}\n")
        elif isinstance(output, Error):
            error = output
        elif isinstance(output, Execution):
            assert not output.truncated
            assert not output.state_lost
    return "".join(text), error


async def complaint(session: Session, example: Example) -> str | None:
    """What is wrong with how the session ran one example."""
    got, error = await said(session, example.source)
    if example.raises:
        ending = error.traceback if error else got
        if error and ending.endswith(example.want.rstrip("\n")):
            return None
    elif error is not None:
        ending = error.traceback
    elif docstrings.is_right(example.want, got):
        return None
    else:
        ending = got
    return f">>> {example.source}    expected\n{example.want}\n    got\n{ending}"


async def complaints(session: Session, docstring: Docstring) -> str | None:
    """What went wrong first, because what follows may be its consequence."""
    prepared = await session.execute(LIKE_A_PROMPT)
    assert prepared.status == "ok", prepared
    for example in docstring.examples:
        wrong = await complaint(session, example)
        if wrong is not None:
            return f"--- {docstring.name}\n{wrong}"
    return None


def report(wrong: Iterable[str | None], total: int) -> None:
    """Fail with every complaint."""
    told = [text for text in wrong if text is not None]
    assert not told, f"{len(told)} of {total} sessions went wrong:\n" + "\n".join(told)


async def test_each_alone_in_a_fresh_sandbox(engine: Engine, sessions: list[Docstring]) -> None:
    seats = asyncio.Semaphore(AT_ONCE)

    async def run(docstring: Docstring) -> str | None:
        async with seats, engine.session() as session:
            return await complaints(session, docstring)

    report(await asyncio.gather(*map(run, sessions)), len(sessions))


async def test_hundreds_in_a_row_in_one_kernel(session: Session, sessions: list[Docstring]) -> None:
    wrong = []
    for docstring in sessions:
        wrong.append(await complaints(session, docstring))
        await session.execute("%reset -f")
    report(wrong, len(sessions))
