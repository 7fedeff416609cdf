"""The conversation with a kernel: frames in, outputs out.

`Kernel` is our client of the init at the other end of a sandbox's channel. It gathers what an execution is judged by,
which `ending` does: init's account, the cgroup's counters and our own clock, never what a program claims.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from sandbox.batches import in_turns
from sandbox.calls import RemoteCalls
from sandbox.ending import Account, Ending, Measured, count, exit_judged
from sandbox.errors import ProtocolError, SandboxFailed, SessionClosed
from sandbox.execution import Answer, Calls, Error, Functions, Output, Result, Spec, Stream
from sandbox.guest.deadline import Deadline
from sandbox.guest.frames import MAX_BODY, BadFrame, Decoder, Frame, decode_json, encode_json, rows_of
from sandbox.remote import RemoteFiles
from sandbox.runtime import Exit, Runtime, Sandbox, Usage

READY_SECONDS = 60.0
"""A kernel that is not there by then never will be."""
_OVERTIME_SECONDS = 8.0
"""Init interrupts at the deadline and kills two seconds later; past this we no longer believe in it."""
_PARTING_SECONDS = 10.0
"""A sandbox whose channel has ended ends by itself, because its init hears nobody either. One that still lives then may
live for ever: the connection was lost on its way, and is open at init's end."""
MAX_CODE_BYTES = 1 << 20
_AT_ONCE = 16 << 10
"""Bytes of frames that are read in one turn."""


class _Started:
    """Init has begun, and has less time from now on to keep its promise."""


@dataclass(slots=True)
class _Running:
    id: str
    before: Usage
    items: "asyncio.Queue[_Started | Output | Calls | Account | Exit]"
    """That it has started, outputs and calls, then init's DONE or the sandbox's end."""
    sent: float
    timeout: float
    deadline: Deadline
    """Counts once it has started."""
    calls: RemoteCalls | None
    """None when it may call nothing."""
    started: float | None = None
    handed_over: bool = False
    """Whether init knows of it."""
    interrupted: bool = False
    """Before that."""

    def lasted(self, now: float, *, timed_out: bool) -> float:
        """Seconds, by our clock. On a busy host we hear late of a start from which init has counted: so who has run out
        of time has had it, as far as there was as much since we asked.
        """
        heard = now - (self.started or self.sent)
        return max(heard, min(self.timeout, now - self.sent)) if timed_out else heard

    def overdue_in(self, now: float) -> float:
        """Seconds until init has broken its promise to end it, if nothing else happens."""
        if self.started is None:  # the kernel may have to be replaced first
            return self.sent + self.timeout + READY_SECONDS + _OVERTIME_SECONDS - now
        left = self.deadline.left(now)
        return (left if self.deadline.since is None else max(left, 0.0)) + _OVERTIME_SECONDS


class Kernel:
    """A live kernel in a sandbox of its own. Use `start`; end with `stop`."""

    def __init__(self, sandbox: Sandbox, spec: Spec, *, awaited: bool) -> None:
        self.sandbox = sandbox
        self.spec = spec
        self.awaited = awaited
        """Whether it was started for somebody who waited for it."""
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._running: _Running | None = None
        self.files = RemoteFiles(sandbox.channel, lambda: self.alive)
        self._cut_off = False
        """Whether nobody reads the channel any more, which the sandbox may outlive a little."""
        self._restarts_asked = self._restarts_done = 0
        self._restarting: dict[int, asyncio.Future[None]] = {}
        """Who waits for the kernel after each restart."""
        self._death_told = False
        """Whether an execution has said itself that its kernel died."""
        self._state_lost = False
        self._has_run = False
        """Whether there may be any state."""
        self._stopping = False
        self._reader = asyncio.create_task(self._read(), name=f"kernel {sandbox.id}")

    @classmethod
    async def start(cls, runtime: Runtime, spec: Spec, *, awaited: bool = False, defers: bool = False) -> Self:
        """A kernel that waits for code. awaited: somebody has some. defers: others go first. See `Runtime.start`.

        Raises `SandboxFailed`, `Unready`; leaves nothing behind when it does.
        """
        kernel = cls(await runtime.start(spec, awaited=awaited, defers=defers), spec, awaited=awaited)
        try:
            async with asyncio.timeout(READY_SECONDS):
                await asyncio.shield(kernel._ready)
        except BaseException as error:
            with contextlib.suppress(SandboxFailed):  # what it leaves, its runtime says; why it is stopped is told here
                await kernel.stop()
            if isinstance(error, TimeoutError):
                raise SandboxFailed(f"no kernel within {READY_SECONDS:g} s") from error
            raise
        return kernel

    @property
    def alive(self) -> bool:
        """Whether its sandbox can still take an execution."""
        return not (self._stopping or self._cut_off or self._reader.done()) and self.sandbox.exited() is None

    # Executions.

    async def stream(
        self, execution_id: str, code: str, timeout: float, functions: Functions | None = None
    ) -> AsyncGenerator[Output | Calls | Ending, None]:
        """Run `code`; yield outputs as they come and one `Ending` last. One at a time.

        timeout: seconds of wall clock, without those in which it waits for an `answer`. functions: what it may call,
        which yields `Calls`. Leaving the iterator early interrupts the program. Raises `SessionClosed` when the sandbox
        is gone before the code was handed over.
        """
        if not self.alive or self._running is not None:
            raise SessionClosed("this kernel cannot take an execution: its sandbox is gone or busy")
        self.sandbox.reset_peak()
        deadline = Deadline(0.0)
        calls = None if functions is None else RemoteCalls(functions, deadline, self._send_answers)
        running = _Running(execution_id, Usage(0, 0, 0), asyncio.Queue(), time.monotonic(), timeout, deadline, calls)
        self._running = running
        try:
            running.before = await self.sandbox.usage()
        except BaseException:
            self._running = None  # nothing was handed over
            raise
        try:
            with contextlib.suppress(ConnectionError):  # the reader will say so
                request: dict[str, Any] = {"id": execution_id, "code": code, "timeout": timeout}
                if functions is not None:
                    request["functions"] = dict(functions.parameters)
                await self._send(Frame.EXECUTE, request)
            running.handed_over = True
            if running.interrupted:
                await self.interrupt()
            async for item in self._outputs(running):
                yield item
        finally:
            if calls is not None:
                calls.end()
                running.calls = None  # what it calls until it is stopped is nobody's: no timer may speak of it later
            if self._running is running:
                await asyncio.shield(self._abandon(running))

    async def _outputs(self, running: _Running) -> AsyncIterator[Output | Calls | Ending]:
        while True:
            try:
                # Not wait_for: before Python 3.12 it swallows a cancellation that comes together with an item.
                async with asyncio.timeout(max(running.overdue_in(time.monotonic()), 0.0)):
                    item = await running.items.get()
            except TimeoutError:
                if running.overdue_in(time.monotonic()) > 0.0:
                    continue
                item = await self._overdue()
            if isinstance(item, _Started):
                continue
            if isinstance(item, Account):
                self._running = None
                yield await self._judge(running, item)
                return
            if isinstance(item, Exit):
                self._running = None
                yield await self._judge_exit(running, item)
                return
            yield item

    async def _overdue(self) -> Exit:
        """Init broke its promise to end the execution: end the sandbox from outside."""
        await self.sandbox.stop()
        return Exit("overdue")

    async def _abandon(self, running: _Running) -> None:
        """The caller no longer listens: stop the program, so that the session's next one can run."""
        with contextlib.suppress(ConnectionError):
            await self._send(Frame.INTERRUPT, {})
        deadline = time.monotonic() + _OVERTIME_SECONDS
        while self._running is running:
            try:
                async with asyncio.timeout(max(deadline - time.monotonic(), 0.0)):
                    item = await running.items.get()
            except TimeoutError:
                item = await self._overdue()
            if isinstance(item, Account):
                self._state_lost |= item.died is not None
            if isinstance(item, Account | Exit):
                self._running = None

    async def _judge(self, running: _Running, account: Account) -> Ending:
        now = time.monotonic()
        after = await self.sandbox.usage()
        lost, self._state_lost = account.died is not None or self._state_lost, False
        lasted = running.lasted(now, timed_out=account.timed_out)
        return account.judged(Measured(running.before, after, lasted), self.spec, state_lost=lost)

    async def _judge_exit(self, running: _Running, end: Exit) -> Ending:
        after = await self.sandbox.usage()
        lasted = time.monotonic() - (running.started or running.sent)
        return exit_judged(end, Measured(running.before, after, lasted), self.spec, closed=self._stopping)

    async def answer(self, answers: Sequence[Answer]) -> int:
        """See `RemoteCalls.answer`."""
        running = self._running
        return 0 if running is None or running.calls is None else await running.calls.answer(answers)

    async def _send_answers(self, answers: Sequence[Any]) -> None:
        await self._send(Frame.ANSWER, {"answers": answers})

    async def interrupt(self) -> None:
        """SIGINT to the running program, as Ctrl-C; it is killed when it does not end within two seconds."""
        if self._running is not None and not self._running.handed_over:
            self._running.interrupted = True  # init would not know yet what to interrupt
            return
        with contextlib.suppress(ConnectionError):
            await self._send(Frame.INTERRUPT, {})

    async def restart(self) -> None:
        """Replace the kernel; files stay, variables go. An execution in flight ends as `killed`."""
        if not self.alive:
            raise SessionClosed("the sandbox is gone; open a new session")
        self._restarts_asked += 1
        number = self._restarts_asked
        restarted = self._restarting[number] = asyncio.get_running_loop().create_future()
        try:
            await self._send(Frame.RESTART, {"number": number})
            async with asyncio.timeout(READY_SECONDS):
                await restarted
        except ConnectionError as error:
            raise SessionClosed("the sandbox is gone; open a new session") from error
        except TimeoutError as error:
            raise SandboxFailed("the kernel did not come back after a restart") from error
        finally:
            del self._restarting[number]
        if not self.alive:
            raise SessionClosed("the sandbox did not survive the restart; open a new session")

    async def stop(self) -> None:
        """End the sandbox and everything in it. May be called twice."""
        if self.sandbox.exited() is None:
            self._stopping = True
        elif not self._stopping:  # it ended by itself; that is told first, and as such
            await asyncio.wait((self._reader,), timeout=_PARTING_SECONDS)
        try:
            await self.sandbox.stop()
        finally:
            self._reader.cancel()
            try:
                await asyncio.wait((self._reader,))
            finally:
                self._fail(Exit("stopped"))

    # Frames.

    async def _send(self, kind: Frame, value: dict[str, Any]) -> None:
        await self.sandbox.channel.write(encode_json(kind, value))

    async def _read(self) -> None:
        decoder = Decoder()
        try:
            while data := await self.sandbox.channel.read():
                # Of frames there may be many: whoever prints a letter at a time is not to hold up everybody else.
                async for piece in in_turns(data[at : at + _AT_ONCE] for at in range(0, len(data), _AT_ONCE)):
                    for kind, body in decoder.feed(piece):
                        await self._on_frame(kind, body)
        except (BadFrame, KeyError, TypeError, ValueError) as error:
            self._cut_off = True
            self._fail(Exit(f"protocol error: {error}"))
            await self._end_it()
            return
        self._cut_off = True
        self._fail(await self._parted())

    async def _parted(self) -> Exit:
        """How the sandbox ended whose channel has: by itself, or else by us."""
        try:
            async with asyncio.timeout(_PARTING_SECONDS):
                await self.sandbox.usage()  # the last reading there will be: what init died of is in it
                return await self.sandbox.wait()
        except TimeoutError:
            await self._end_it()
        end = self.sandbox.exited()
        # Whatever else it died of meanwhile is the truth.
        return Exit("the way to it was lost") if end is None or end.reason.startswith("stopped") else end

    async def _end_it(self) -> None:
        with contextlib.suppress(SandboxFailed):  # whoever stops this kernel tries again
            await self.sandbox.stop()

    def _fail(self, end: Exit) -> None:
        """The sandbox is gone: everybody who waits for something of it is told."""
        self._restarted(self._restarts_asked)
        if not self._ready.done():
            kind = ProtocolError if end.reason.startswith("protocol") else SandboxFailed
            self._ready.set_exception(kind(f"the sandbox ended before its kernel was ready: {end.reason}"))
            self._ready.exception()  # marked as seen: `start` may have been cancelled
        self.files.fail(end.reason)
        if self._running is not None:
            self._running.items.put_nowait(end)

    async def _on_frame(self, kind: Frame, body: bytes) -> None:
        if kind is Frame.READY:
            self._on_ready(decode_json(body)[0])
        elif kind is Frame.REPLY:
            self.files.on_reply(*decode_json(body))
        elif kind is Frame.LISTING:
            self.files.on_reply(*decode_json(body, MAX_BODY), is_listing=True)
        elif self._running is not None and kind is Frame.DONE:
            await self._on_done(self._running, body)
        elif self._running is not None:
            self._on_output(self._running, kind, body)

    def _on_ready(self, value: dict[str, Any]) -> None:
        done = count(value.get("restarts")) or 0
        if not self._ready.done():
            self._ready.set_result(None)
        elif not self._death_told:
            # When nobody asked for a new kernel the next result has to say that the state is gone.
            self._state_lost = self._has_run and done == self._restarts_done
        self._death_told = False
        self._restarts_done = done
        self._restarted(done)

    def _restarted(self, done: int) -> None:
        for number, restarted in self._restarting.items():
            if number <= done and not restarted.done():
                restarted.set_result(None)

    def _on_output(self, running: _Running, kind: Frame, body: bytes) -> None:
        if kind is Frame.STARTED:
            if running.started is not None:
                raise BadFrame("it started twice, which would give it more time")
            self._has_run = True
            running.started = time.monotonic()
            running.deadline.moment = running.started + running.timeout
            running.items.put_nowait(_Started())
        elif kind is Frame.STDOUT or kind is Frame.STDERR:
            name: Literal["stdout", "stderr"] = "stdout" if kind is Frame.STDOUT else "stderr"
            running.items.put_nowait(Stream(name, body.decode("utf-8", "replace")))
        elif kind is Frame.RESULT:
            value, _ = decode_json(body)
            running.items.put_nowait(Result(dict(value["data"]), count(value.get("execution_count"))))
        elif kind is Frame.ERROR:
            value, _ = decode_json(body)
            running.items.put_nowait(_error(value))
        elif kind is Frame.WANTS and running.calls is not None:
            running.items.put_nowait(running.calls.on_wants(decode_json(body)[0]["calls"]))

    async def _on_done(self, running: _Running, body: bytes) -> None:
        value, payload = decode_json(body, MAX_BODY)
        if value["id"] == running.id:
            self._has_run = True
            account = await Account.read(value, rows_of(payload))
            if account.died is not None:
                self._death_told = True  # this execution's own result will say it
            running.items.put_nowait(account)


def _error(value: dict[str, Any]) -> Error:
    names = tuple(str(name) for name in value.get("available") or ())
    where = str(value.get("looked_in") or "")
    return Error(str(value["name"]), str(value["value"]), str(value["traceback"]), where, names)
