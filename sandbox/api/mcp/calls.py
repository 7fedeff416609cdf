"""What the tools do. Our own failures are answered in words, as the program's are: a model can act on both."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mcp.types import BlobResourceContents, CallToolResult, TextResourceContents
from pydantic import ValidationError

from sandbox.api.mcp import results
from sandbox.api.mcp.desk import Desk, Found
from sandbox.api.mcp.tools import ARGUMENTS, CloseOut, CloseSession, ListFiles, ReadFile, RunPython, UploadFile
from sandbox.api.mcp.workbench import Workbench
from sandbox.api.unknown import advice
from sandbox.errors import Conflict, FileMissing, InvalidRequest, SandboxError, SandboxFailed, SessionMissing, TooLarge
from sandbox.execution import Calls, Execution, Output, Status, Stream
from sandbox.loop import tool
from sandbox.loop.told import failed, told
from sandbox.remote import File, checked_path

T = TypeVar("T")
Progress = Callable[[float, float, str | None], Awaitable[None]]
"""Seconds since the start, seconds at most, and words for a person or None."""
MOST_RESOURCE_BYTES = 8 << 20
_PROGRESS_S = 0.25
"""Between two notifications at least, so that a program which prints much does not drown its client."""
_SILENCE_S = 5.0
"""Until a client is told that a silent program still runs."""
_MOST_MESSAGE = 2000
"""Characters of one notification."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as far as a tool has to know."""

    connection: str | None
    """What ends when the client leaves; None where the protocol has no such thing."""
    progress: Progress | None = None
    """None where the client has not asked for it."""
    about: Callable[[str], None] = lambda _: None
    """Told which session it is about."""


async def call(desk: Desk, caller: Caller, name: str, arguments: Mapping[str, Any]) -> CallToolResult:
    """Call a tool. Raises `LookupError` where there is none of that name."""
    model = ARGUMENTS[name]
    try:
        given = model.model_validate(arguments)
        match given:
            case RunPython():
                return await _run(desk, caller, given)
            case UploadFile():
                return await _upload(desk, caller, given)
            case ListFiles():
                return await _list(desk, caller, given)
            case ReadFile():
                return await _read(desk, caller, given)
            case CloseSession():
                return await _close(desk, caller, given)
    except ValidationError as error:
        return results.refusal(_invalid(name, error))
    except SandboxError as error:
        return results.of_error(error)


def _invalid(name: str, error: ValidationError) -> str:
    told = []
    for each in error.errors(include_url=False)[:5]:
        words = advice(ARGUMENTS[name], each["loc"]) if each["type"] == "extra_forbidden" else each["msg"]
        told.append(f"{'.'.join(map(str, each['loc']))}: {words}")
    return f"The arguments of {name} are not as its schema says. {'; '.join(told)}."


async def _run(desk: Desk, caller: Caller, given: RunPython) -> CallToolResult:
    try:
        code = tool.code_of(json.dumps({"code": given.code}, ensure_ascii=False))
    except tool.Unusable as error:
        return results.refusal(str(error))

    async def run(workbench: Workbench) -> Execution:
        return await _follow(workbench, caller, code, given.timeout_s)

    found, execution = await _in_session(desk, caller, given.session_id, run)
    facts = found.workbench.facts
    if given.timeout_s is not None:
        facts = replace(facts, timeout_s=given.timeout_s)
    files = await _files(found.workbench) if execution.status is Status.ERROR else ()
    known = desk.past(execution.session_id)
    seen = known.repeats.note(code, execution)
    parts = told(
        execution,
        facts,
        files,
        code=code,
        pictures=True,
        again=seen.count - 1 if failed(execution) else 0,
        same_code=seen.same_code,
        lost=known.lost,
    )
    known.lost = known.lost or execution.state_lost
    return results.of_run(execution, parts, found.notes)


async def _files(workbench: Workbench) -> Sequence[File]:
    """For hints. What cannot be listed now is not worth a failure."""
    try:
        return await workbench.files()
    except SandboxError:
        return ()


async def _in_session(
    desk: Desk, caller: Caller, session_id: str | None, work: Callable[[Workbench], Awaitable[T]]
) -> tuple[Found, T]:
    """Do it in the session; where the connection's own has ended meanwhile, in a new one."""
    had = desk.current(caller.connection)
    try:
        found = await desk.open(caller.connection, session_id)
        caller.about(found.workbench.session_id)
        return found, await work(found.workbench)
    except (Conflict, SessionMissing) as error:
        if session_id is not None or caller.connection is None or had is None:
            raise
        found = await desk.reopen(caller.connection, had, error)
    caller.about(found.workbench.session_id)
    return found, await work(found.workbench)


async def _follow(workbench: Workbench, caller: Caller, code: str, timeout: float | None) -> Execution:
    """The execution, and meanwhile what it prints, to whoever wants to know. Who is cancelled interrupts it."""
    most = workbench.facts.timeout_s if timeout is None else timeout
    news = _News(caller.progress, most)
    tick = None if caller.progress is None else _PROGRESS_S
    async with contextlib.aclosing(workbench.stream(code, timeout)) as items, _ticking(items, tick) as ticking:
        async for item in ticking:
            if isinstance(item, Execution):
                return item
            await news.add(item)
    raise SandboxFailed(f"session {workbench.session_id} ended while the program ran; it was not run to its end")


class _News:
    """Progress notifications: what a program prints, gathered."""

    def __init__(self, progress: Progress | None, most: float) -> None:
        """most: seconds."""
        self._progress = progress
        self._most = most
        self._began = self._told = time.monotonic()
        self._text = ""
        self._last = 0.0

    async def add(self, item: Output | Calls | None) -> None:
        """An output, or None for a moment in which nothing came."""
        if self._progress is None:
            return
        if isinstance(item, Stream):
            self._text += item.text
        now = time.monotonic()
        if now - self._told < (_PROGRESS_S if self._text and self._last else 0.0 if self._text else _SILENCE_S):
            return
        left = len(self._text) - _MOST_MESSAGE
        text = self._text if left <= 0 else f"… {left} characters …\n{self._text[-_MOST_MESSAGE:]}"
        self._text, self._told = "", now
        self._last = max(round(now - self._began, 3), self._last + 0.001)
        await self._progress(self._last, max(self._most, self._last), text.encode("utf-8", "replace").decode() or None)


@contextlib.asynccontextmanager
async def _ticking(items: AsyncGenerator[T, None], tick: float | None) -> AsyncIterator[AsyncIterator[T | None]]:
    """The items, and None whenever nothing has come for `tick` seconds."""
    waiting: asyncio.Future[T] | None = None

    async def each() -> AsyncIterator[T | None]:
        nonlocal waiting
        while True:
            waiting = waiting or asyncio.ensure_future(anext(items))
            await asyncio.wait({waiting}, timeout=tick)
            if not waiting.done():
                yield None
                continue
            done, waiting = waiting, None
            try:
                item = done.result()
            except StopAsyncIteration:
                return
            yield item

    try:
        yield each()
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)


async def _upload(desk: Desk, caller: Caller, given: UploadFile) -> CallToolResult:
    path, data = checked_path(given.path), given.content()
    found, file = await _in_session(desk, caller, given.session_id, lambda workbench: workbench.upload(path, data))
    return results.of_upload(found.workbench.session_id, file, found.notes)


async def _list(desk: Desk, caller: Caller, given: ListFiles) -> CallToolResult:
    workbench = await desk.find(caller.connection, given.session_id)
    if workbench is None:
        return results.of_list(None, ())
    caller.about(workbench.session_id)
    return results.of_list(workbench.session_id, await workbench.files())


async def _read(desk: Desk, caller: Caller, given: ReadFile) -> CallToolResult:
    path = checked_path(given.path)
    workbench = await desk.find(caller.connection, given.session_id)
    if workbench is None:
        raise FileMissing(f"there is no file {path}")
    caller.about(workbench.session_id)
    piece = await workbench.read(path, given.offset, given.length)
    if not given.offset and len(piece.data) < piece.size <= results.MOST_PICTURE_BYTES and results.is_picture(path):
        piece = await workbench.read(path, 0, piece.size)  # a part of a picture shows nothing
    return results.of_read(workbench.session_id, path, piece)


async def _close(desk: Desk, caller: Caller, given: CloseSession) -> CallToolResult:
    if given.session_id is None and caller.connection is None:
        raise InvalidRequest("session_id is missing: say which session is to be closed")
    session_id = given.session_id or desk.current(caller.connection)
    if session_id is None:
        return results.of_close(CloseOut(session_id=None), "There is no session to close.")
    caller.about(session_id)
    await desk.sessions.close(session_id)
    if session_id == desk.current(caller.connection):
        desk.forget(caller.connection)
    return results.of_close(CloseOut(session_id=session_id), f"Session {session_id} is closed.")


async def resource(desk: Desk, session_id: str, path: str) -> TextResourceContents | BlobResourceContents:
    """A whole file as a resource. Raises `NotFound`, `InvalidPath`, `TooLarge`."""
    workbench = await desk.sessions.find(session_id)
    checked = checked_path(path)
    piece = await workbench.read(checked, 0, MOST_RESOURCE_BYTES)
    if piece.size > len(piece.data):
        raise TooLarge(f"{checked} has {piece.size} bytes; read_file reads it in parts of up to 1 MiB")
    return results.contents(session_id, checked, piece)
