"""A client's stretch of work: one kernel, one workspace, executions one at a time, until closed or expired."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Iterator, Sequence
from typing import Literal

from sandbox.ending import Ending
from sandbox.errors import InvalidCode, InvalidLimits, QueueFull, SessionClosed, SessionExpired
from sandbox.execution import Answer, Calls, Error, Execution, Functions, Limits, Output, Result, Status, Stream
from sandbox.kernel import MAX_CODE_BYTES, Kernel
from sandbox.remote import File, Listing


class Session:
    """Made by `Engine.session`. Safe for concurrent use: executions queue up in the order they were asked for."""

    def __init__(
        self,
        kernel: Kernel,
        *,
        timeout: float,
        max_timeout: float,
        idle_timeout: float,
        queue: int,
        session_id: str | None = None,
    ) -> None:
        self.id = session_id or f"ses_{uuid.uuid4().hex}"
        self.workspace_mark: int | None = None
        """After an execution: equal to an earlier one when no file has changed since. None: it could not be told."""
        self.warm = not kernel.awaited
        """Whether its sandbox came from the pool."""
        self._kernel = kernel
        self._timeout = timeout
        self._max_timeout = max_timeout
        self._idle_timeout = idle_timeout
        self._queue = queue
        self._turn = asyncio.Lock()
        self._queued = 0
        self._ended: Literal["closed", "expired"] | None = None
        self._last_used = time.monotonic()
        self._expiry: asyncio.Task[None] | None = asyncio.create_task(self._expire(), name=f"expiry of {self.id}")

    async def execute(self, code: str | bytes, timeout: float | None = None) -> Execution:
        """Run code and collect what came of it. See `stream`."""
        async with contextlib.aclosing(self.stream(code, timeout)) as items:
            async for item in items:
                if isinstance(item, Execution):
                    return item
        raise SessionClosed("the session ended while the code ran")

    async def stream(
        self,
        code: str | bytes,
        timeout: float | None = None,
        functions: Functions | None = None,
        *,
        execution_id: str | None = None,
    ) -> AsyncGenerator[Output | Calls | Execution, None]:
        """Run code; yield its outputs as they come, and the whole `Execution` last.

        timeout: seconds of wall clock; None is the engine's default. functions: those that the code may await; their
        calls are yielded as `Calls`, and the program goes on when `answer` was called for each, from another task or
        before the next item is asked for. execution_id: one that is already known to others; default is a new one.
        Leaving the iterator early interrupts the program. Raises `InvalidCode`,
        `InvalidLimits`, `QueueFull`, `SessionClosed`, `SessionExpired`.
        """
        text = checked_code(code)
        seconds = checked_timeout(timeout, self._timeout, self._max_timeout)
        execution_id = execution_id or new_execution_id()
        self._use()
        if self._queued > self._queue:
            raise QueueFull(f"{self._queue} executions wait in this session already; wait for one to end")
        self._queued += 1
        try:
            async with self._turn:
                execution: Execution | None = None
                if self._ended is not None:
                    execution = self._cancelled(execution_id)
                else:
                    gathered = _Gathered()
                    # Closed before the turn is given up: the next one needs a kernel that runs nothing.
                    async with contextlib.aclosing(
                        self._kernel.stream(execution_id, text, seconds, functions)
                    ) as items:
                        async for item in items:
                            if isinstance(item, Ending):
                                execution = gathered.execution(execution_id, self.id, item)
                                self.workspace_mark = item.workspace
                                break
                            if not isinstance(item, Calls):
                                gathered.add(item)
                            yield item
        finally:
            self._queued -= 1
            self._last_used = time.monotonic()
        if execution is not None:
            yield execution

    async def answer(self, *answers: Answer) -> int:
        """Answer calls of the running program; how many of them it was waiting for. Raises `TooLarge`.

        Give at once what is there at once: a program that goes on calling then calls together, too.
        """
        return await self._kernel.answer(answers)

    async def interrupt(self) -> None:
        """Interrupt the running execution, as Ctrl-C; without one nothing happens."""
        self._use()
        await self._kernel.interrupt()

    async def restart(self) -> None:
        """Replace the kernel: variables go, files stay."""
        self._use()
        await self._kernel.restart()

    async def upload(self, path: str, data: bytes | AsyncIterable[bytes]) -> File:
        """Store a file at `path` below `/mnt/data`, wholly or not at all.

        Raises `InvalidPath`, `WorkspaceFull`, `SessionClosed`, `SessionExpired`.
        """
        self._use()
        return await self._kernel.files.write(path, data)

    async def download(self, path: str) -> bytes:
        """A file's contents. Raises `FileMissing`, `InvalidPath`, `SessionClosed`, `SessionExpired`."""
        return b"".join([piece async for piece in self.read(path)])

    def read(self, path: str) -> AsyncGenerator[bytes, None]:
        """A file's contents in pieces. See `download`; close the generator if it is not read to its end."""
        self._use()
        return self._kernel.files.read(path)

    async def gather(self, paths: Sequence[str]) -> tuple[bytes | None, ...]:
        """The contents of small files at once; None for each that has to be read by itself. Raises `SessionClosed`."""
        self._use()
        return await self._kernel.files.gather(paths)

    async def list(self) -> list[File]:
        """The files below `/mnt/data`, sorted by path. See `listing`."""
        return list((await self.listing()).files)

    async def listing(self) -> Listing:
        """The files below `/mnt/data`, and whether these are all: 10,000 files and directories are looked at."""
        self._use()
        return await self._kernel.files.list()

    async def remove(self, path: str) -> None:
        """Delete a file. Raises `FileMissing`, `InvalidPath`, `SessionClosed`, `SessionExpired`."""
        self._use()
        await self._kernel.files.remove(path)

    async def close(self) -> None:
        """End the session and its sandbox. A running execution ends as `cancelled`. May be called twice."""
        if self._ended is None and self._kernel.sandbox.exited() is None:
            self._ended = "closed"
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None  # a task knows how it was cancelled, and so all that was there: a circle
        await self._kernel.stop()

    async def ended(self) -> Literal["closed", "expired", "died"]:
        """Wait until its sandbox is gone; why. `died`: nobody of ours wanted it."""
        await self._kernel.sandbox.wait()
        return self._ended or "died"

    @property
    def limits(self) -> Limits:
        """Of its sandbox."""
        return self._kernel.spec.limits

    @property
    def idle_s(self) -> float | None:
        """Seconds since it was last used; None while an execution runs or waits."""
        return None if self._queued else time.monotonic() - self._last_used

    @contextlib.contextmanager
    def looked_at(self) -> Iterator[None]:
        """Within the block what is done to it is no use of it: its idle timeout goes on."""
        last_used = self._last_used
        try:
            yield
        finally:
            if not self._queued:
                self._last_used = last_used

    @property
    def open(self) -> bool:
        """Whether it can take an execution."""
        return self._ended is None and self._kernel.alive

    async def _expire(self) -> None:
        while True:
            left = self._last_used + self._idle_timeout - time.monotonic()
            if self._queued:
                left = self._idle_timeout
            if left <= 0:
                break
            await asyncio.sleep(left)
        self._ended = "expired"
        await self._kernel.stop()

    def touch(self) -> None:
        """Begin its idle timeout anew."""
        self._last_used = time.monotonic()

    def _use(self) -> None:
        """Whoever uses it keeps it from expiring. Raises `SessionClosed`, `SessionExpired`."""
        if self._ended == "expired":
            raise SessionExpired(f"session {self.id} was idle for {self._idle_timeout:g} s; open a new one")
        if self._ended == "closed":
            raise SessionClosed(f"session {self.id} is closed; open a new one")
        if not self._kernel.alive:
            end = self._kernel.sandbox.exited()
            why = f" ({end.reason})" if end else ""
            raise SessionClosed(f"the sandbox of session {self.id} is gone{why}; open a new one")
        self._last_used = time.monotonic()

    def _cancelled(self, execution_id: str) -> Execution:
        reason = f"its session {self._ended} while it waited"
        return Execution(execution_id, self.id, Status.CANCELLED, reason)


def new_execution_id() -> str:
    return f"exe_{uuid.uuid4().hex}"


def checked_timeout(timeout: float | None, default: float, most: float) -> float:
    """Seconds of an execution, with the default resolved. Raises `InvalidLimits`."""
    seconds = default if timeout is None else timeout
    if not isinstance(seconds, int | float):  # of callers that nobody checks
        raise InvalidLimits(f"timeout is of type {type(seconds).__name__}; give a number of seconds")
    if not 0 < seconds <= most:
        raise InvalidLimits(f"a timeout of {seconds:g} s is not offered; choose one above 0, {most:g} s at most")
    return float(seconds)


def checked_code(code: str | bytes) -> str:
    """Code as text. Raises `InvalidCode` when it is not UTF-8 or over 1 MiB."""
    if not isinstance(code, str | bytes):  # callers that nobody checks: `bytes(5)` would be five zeros
        raise InvalidCode(f"the code is of type {type(code).__name__}; pass a str, or bytes in UTF-8")
    try:
        raw = code.encode() if isinstance(code, str) else code
        text = raw.decode()
    except UnicodeError as error:
        raise InvalidCode(f"the code is not valid UTF-8: {error}") from error
    if len(raw) > MAX_CODE_BYTES:
        raise InvalidCode(f"the code is {len(raw)} bytes long; {MAX_CODE_BYTES} at most. Put data into a file")
    if "\x00" in text:
        raise InvalidCode("the code contains a NUL character")
    return text


class _Gathered:
    """Outputs on their way to becoming an `Execution`."""

    def __init__(self) -> None:
        self._streams: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._results: list[Result] = []
        self._error: Error | None = None

    def add(self, output: Output) -> None:
        if isinstance(output, Stream):
            self._streams[output.name].append(output.text)
        elif isinstance(output, Result):
            self._results.append(output)
        else:
            self._error = output

    def execution(self, execution_id: str, session_id: str, end: Ending) -> Execution:
        return Execution(
            id=execution_id,
            session_id=session_id,
            status=end.status,
            reason=end.reason,
            stdout="".join(self._streams["stdout"]),
            stderr="".join(self._streams["stderr"]),
            results=tuple(result.data for result in self._results),
            error=self._error,
            artifacts=end.artifacts,
            removed=end.removed,
            execution_count=end.execution_count,
            duration_ms=end.duration_ms,
            cpu_ms=end.cpu_ms,
            peak_memory_bytes=end.peak_memory_bytes,
            truncated=end.truncated,
            state_lost=end.state_lost,
        )
