"""What programs write, and what their callers get of it: every byte is there, or counted in a mark.

Text is compared byte by byte with what the program must have written: what is shown before the mark is its beginning,
what is shown after it its end, and what the mark counts is the rest.
"""

import asyncio
import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from sandbox.bench.process import Server, home_of
from sandbox.client import AsyncClient, AsyncSession
from sandbox.config import Settings
from sandbox.errors import SandboxFailed
from sandbox.execution import Execution, Status, Stream

_MARK = re.compile(r"\n\[… (\d+) bytes dropped here[^\n]* …\]\n")
_SPILLED = re.compile(r"all of it is in /mnt/data/(\S+)")
_SLOW_EVENTS = 200
_SLOW_S = 0.01
_SHORT_S, _LONG_S = 3.0, 120.0
_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Writer:
    """A program, and the bytes that it writes."""

    code: str
    text: bytes
    stream: Literal["stdout", "stderr"] = "stdout"
    status: Status = Status.OK
    ordered: bool = True
    """Whether it is known in which order."""
    slow: bool = False
    """Whether its caller reads slowly."""


def _lines(count: int, width: int) -> bytes:
    return b"".join(b"%0*d\n" % (width, number) for number in range(count))


WRITERS: Mapping[str, Writer] = {
    "prints a little": Writer("for n in range(100): print(f'{n:09}')", _lines(100, 9)),
    "prints 200,000 lines": Writer("for n in range(200_000): print(f'{n:019}')", _lines(200_000, 19)),
    "prints 20,000 lines of 4 KB, each flushed, to a slow reader": Writer(
        "for n in range(20_000): print(f'{n:04095}', flush=True)", _lines(20_000, 4095), slow=True
    ),
    "prints 64 MB at once, without a line's end": Writer("print('0' * (64 << 20), end='')", b"0" * (64 << 20)),
    "writes past Python": Writer(
        "import os\nfor n in range(200_000): os.write(1, b'%019d\\n' % n)", _lines(200_000, 19)
    ),
    "has a child that writes": Writer("!seq -f %019.0f 0 199999", _lines(200_000, 19)),
    "has eight threads that print": Writer(
        "import threading\n"
        "def talk():\n    for n in range(20_000): print(f'{n:019}\\n', end='')\n"
        "threads = [threading.Thread(target=talk) for _ in range(8)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()",
        _lines(20_000, 19) * 8,
        ordered=False,
    ),
    "writes to stderr": Writer(
        "import sys\nfor n in range(200_000): print(f'{n:019}', file=sys.stderr)", _lines(200_000, 19), "stderr"
    ),
    "prints, flushes and is killed": Writer(
        "import os\nfor n in range(20_000): print(f'{n:019}')\nprint(end='', flush=True)\nos.kill(os.getpid(), 9)",
        _lines(20_000, 19),
        status=Status.KILLED,
    ),
    "prints and runs out of time": Writer(
        "for n in range(20_000): print(f'{n:019}')\nwhile True: pass", _lines(20_000, 19), status=Status.TIMEOUT
    ),
}


@dataclass
class Losses:
    """What came of it."""

    written: int = 0
    """Bytes that programs and callers wrote."""
    shown: int = 0
    marked: int = 0
    """Bytes that were left out and counted."""
    lost: dict[str, int] = field(default_factory=dict)
    """Bytes that are neither, by who wrote them; 0 of most."""

    def add(self, who: str, written: int, shown: int, marked: int, lost: int) -> None:
        """One thing that was written, and what was found of it."""
        self.written += written
        self.shown += shown
        self.marked += marked
        self.lost[who] = self.lost.get(who, 0) + lost


async def losses(settings: Settings, times: int, writers: Mapping[str, Writer] = WRITERS) -> Losses:
    """Every program so many times; then the server is killed, and what it had acknowledged is looked for again."""
    tally, acknowledged, data = Losses(), dict[str, Execution](), os.urandom(_FILE_BYTES)
    with home_of(settings) as home:
        async with Server.within(home, settings, pool=1) as server, AsyncClient(server.url) as client:
            session = await client.open_session()
            for name, writer in [*writers.items()] * times:
                execution = await _run(session, writer)
                await _judge(tally, session, f"a program that {name}", writer, execution)
                acknowledged[execution.id] = execution
            await session.upload("kept", data)
            await server.kill()
        async with Server.within(home, settings, pool=1) as server, AsyncClient(server.url) as client:
            session = await client.attach(session.id)
            await _judge_kept(tally, session, acknowledged, data)
    return tally


async def _run(session: AsyncSession, writer: Writer) -> Execution:
    timeout = _SHORT_S if writer.status is Status.TIMEOUT else _LONG_S
    if not writer.slow:
        return await session.execute(writer.code, timeout)
    text, events = "", 0
    async for event in session.stream(writer.code, timeout):
        events += 1
        if events < _SLOW_EVENTS:
            await asyncio.sleep(_SLOW_S)
        if isinstance(event, Stream):
            text += event.text
        if isinstance(event, Execution):
            return dataclasses.replace(event, stdout=text)  # as it was told, event by event
    raise SandboxFailed("a stream of events ended before its execution")


async def _judge(tally: Losses, session: AsyncSession, who: str, writer: Writer, execution: Execution) -> None:
    if execution.status is not writer.status:
        raise SandboxFailed(f"{who} ended otherwise: {execution.status} {execution.reason} {execution.error}")
    shown, marked = getattr(execution, writer.stream), getattr(execution.truncated, writer.stream)
    lost = difference(writer, shown, marked)
    if spilled := _SPILLED.search(shown):
        whole = await session.download(spilled[1])
        lost += difference(writer, whole.decode(), 0)
        await session.remove(spilled[1])
    tally.add(who, len(writer.text), len(_MARK.sub("", shown).encode()), marked, lost)


async def _judge_kept(tally: Losses, session: AsyncSession, acknowledged: Mapping[str, Execution], data: bytes) -> None:
    """What a server that was killed had said to be done."""
    for execution_id, execution in acknowledged.items():
        found = (await session.execution(execution_id)).execution
        written = len(execution.stdout) + len(execution.stderr)
        whole = found is not None and (found.stdout, found.stderr) == (execution.stdout, execution.stderr)
        tally.add("a server that was killed: outputs", written, written * whole, 0, written * (not whole))
    found_data = await session.download("kept")
    lost = sum(a != b for a, b in zip(found_data, data, strict=False)) + abs(len(data) - len(found_data))
    tally.add("a server that was killed: a file", len(data), len(found_data), 0, lost)


def difference(writer: Writer, shown: str, marked: int) -> int:
    """How many bytes are neither shown nor counted, are counted otherwise than told, or are not what was written."""
    marks = [int(count) for count in _MARK.findall(shown)]
    head, *_, tail = [piece.encode() for piece in _MARK.split(shown)] if marks else (shown.encode(), b"")
    lost = abs(len(writer.text) - len(head) - len(tail) - sum(marks)) + abs(marked - sum(marks))
    if writer.ordered:
        lost += sum(a != b for a, b in _pairs(head, writer.text)) + sum(
            a != b for a, b in _pairs(tail[::-1], writer.text[::-1])
        )
    return lost


def _pairs(found: bytes, written: bytes) -> Iterator[tuple[int, int]]:
    return zip(found, written, strict=False) if not written.startswith(found) else iter(())
