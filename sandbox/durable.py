"""A session that outlives its sandbox: its row, its files, and a sandbox whenever one is needed.

An execution's path: accepted (its row is on its way, `EventLog` begins) → a sandbox is woken if there is none → outputs
go into the log as they come → the end is known → changed files are stored → the row is ended → the log says so. A step
that fails ends the execution with a status, never without one: what was accepted gets an end, if need be from the
next start of the server.

(Long for one file: that path, the sandbox's coming and going, and the session's end all hang on the same few facts.)
"""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sandbox import logs
from sandbox.admission import Admission, Promise
from sandbox.background import Background
from sandbox.engine import Engine
from sandbox.errors import Draining, QueueFull, SandboxError, SessionClosed, SessionExpired
from sandbox.events import EventLog
from sandbox.execution import MIB, Answer, Calls, Execution, Functions, Limits, Status
from sandbox.files import Files
from sandbox.in_flight import Accepted, InFlight
from sandbox.line import Line
from sandbox.metrics import Metrics
from sandbox.session import Session, new_execution_id
from sandbox.store import Store
from sandbox.store.rows import Claim, ExecutionRow, SessionRow
from sandbox.telemetry import EXECUTION_SPAN, execution_attributes, outcome_attributes, span
from sandbox.workspace import Workspace

_ATTEMPTS = 3
"""Sandboxes that an execution gets which die before its code was handed over."""
_SETTLE_S = 5.0
"""In which a sandbox's files have to be stored before it is put to sleep."""
STOPPED = "the server was stopped while it ran"
"""The reason of an execution that a stop or a crash of the server has ended."""

_logger = logs.logger(__name__)


@dataclass(slots=True)
class Parts:
    """What durable sessions of one node share."""

    engine: Engine
    store: Store
    files: Files
    admission: Admission
    metrics: Metrics
    in_flight: InFlight
    stopping: bool = False
    """The sandboxes are about to be ended; their sessions go on with the next server."""
    background: Background = field(default_factory=Background)
    """The node waits for it at its end."""


@dataclass(slots=True, eq=False)
class Awake:
    """The sandbox that a session has, and what the next execution in it has to say of it."""

    session: Session
    lost: bool
    """Another one came before, whose variables are gone."""
    words: str
    """What it lacks."""
    watching: asyncio.Task[None] | None = None
    """Until its memory is given back."""


class DurableSession:
    """Made by the node for a row of an active session. Safe for concurrent use."""

    def __init__(self, parts: Parts, row: SessionRow, workspace: Workspace) -> None:
        self.row = row
        """Its status is what was decided, which may not be written yet."""
        self.workspace = workspace
        workspace.guard = self._check_status
        self._parts = parts
        self._awake: Awake | None = None
        self._waking: asyncio.Task[Awake] | None = None
        self._work_waits = False
        """Whether any of those who wait for it goes on during a drain."""
        self._ending = asyncio.Lock()
        self.end_is_written = False
        self._line = Line()
        self._restarting = 0
        self._loss_said = False
        """It is known already that the variables of its last sandbox are gone."""
        self._on_end: Callable[[DurableSession], None] = lambda _: None

    @property
    def running(self) -> int:
        """Executions that run or wait."""
        return self._line.length

    @property
    def live(self) -> Session | None:
        """Its sandbox's session, if it has one now."""
        # One that is ending answers some questions and not others: its stored files do not depend on when it is asked.
        awake = self._awake
        return awake.session if awake and awake.session.open and self.row.status == "active" else None

    @property
    def limits(self) -> Limits:
        """Of its next sandbox. Raises `InvalidLimits` when this host no longer allows them."""
        return self._parts.engine.spec(image=self.row.image, memory_mb=self.row.memory_mb).limits

    @property
    def disk_bytes(self) -> int:
        """What its `/mnt/data` holds."""
        return self.limits.disk * MIB

    def is_idle(self, now: float) -> bool:
        """Whether it sleeps and was not used for its idle timeout. now: seconds since the epoch."""
        return not self.running and self.live is None and now > self.row.last_used_at + self.row.idle_timeout_s

    @property
    def idle_s(self) -> float | None:
        """For how many seconds its sandbox has not been used; None when it has none, or one that is in use."""
        return None if self.running or self.live is None else self.live.idle_s

    # Its sandbox.

    async def wake(self, *, begun: bool = False) -> Awake:
        """A sandbox with its files in it. begun: for work that was accepted before, and goes on during a drain.

        Raises `Overloaded`, `SessionClosed`, `SessionExpired`, `SandboxFailed`. All who ask while it is on its way get
        the same one, or the same refusal: they wait once, not in turn.
        """
        self.check_active()
        if self._awake is not None and self.live is not None:
            return self._awake
        self._work_waits |= begun
        if self._waking is None:
            self._waking = self._parts.background.begin(self._wake(), f"wake {self.row.id}")
            self._waking.add_done_callback(_see)
        return await asyncio.shield(self._waking)

    async def _wake(self) -> Awake:
        try:
            promise = await self._admit()
            session = None
            try:
                self.check_active()
                session = await self._claim()
                words = await self.workspace.restore(session)
                self.check_active()
            except BaseException:
                await self._give_up(session, promise)
                raise
        finally:
            self._waking, self._work_waits = None, False
        awake = self._awake = Awake(session, self.row.used and not self._loss_said, words)
        self._loss_said = False
        awake.watching = self._parts.background.spawn(self._watch(awake, promise), f"watch {self.row.id}")
        return awake

    async def _give_up(self, session: Session | None, promise: Promise) -> None:
        try:
            if session is not None:
                await self._parts.engine.close_session(session)
        finally:
            promise.release()

    async def _admit(self) -> Promise:
        start = time.monotonic()
        promise = await self._parts.admission.admit(self.row.owner, self.row.memory_mb, lambda: self._work_waits)
        self._parts.metrics.admission(time.monotonic() - start)
        return promise

    async def _claim(self) -> Session:
        engine, start = self._parts.engine, time.monotonic()
        with span("claim sandbox", **{"sandbox.session.id": self.row.id, "sandbox.image": self.row.image}):
            session = await engine.open_session(
                image=self.row.image,
                memory_mb=self.row.memory_mb,
                idle_timeout=self.row.idle_timeout_s,
                session_id=self.row.id,
            )
        self._parts.metrics.claim(time.monotonic() - start, warm=session.warm)
        return session

    async def _watch(self, awake: Awake, promise: Promise) -> None:
        try:
            why = await awake.session.ended()
        finally:
            promise.release()
        is_newest = self._awake is awake  # else it took long to end, and the next one is there
        if is_newest:
            self._awake = None
        if why == "died":  # what it leaves here is nobody else's to let go of
            await self._parts.engine.close_session(awake.session)
        # An execution that was accepted while it ended gets a new sandbox: the session was used in time.
        if is_newest and why == "expired" and not self.running and not self._parts.stopping:
            await self.end("expired")

    def check_active(self) -> None:
        """Raises `SessionClosed`, `SessionExpired`, `Draining`."""
        if self._parts.stopping:
            raise Draining("the server is about to stop; try again when it is back", 5.0)
        self._check_status()

    def _check_status(self) -> None:
        check_status(self.row)

    async def sleep(self) -> bool:
        """Give up its sandbox, and go on with its files when it is next used. Whether it did.

        It does not when it is used meanwhile, or when not everything in it can be stored.
        """
        live, awake = self.live, self._awake
        if live is None or awake is None or awake.watching is None or self._is_used():
            return False
        live.workspace_mark = None  # what a program left running writes is not in it
        with live.looked_at():
            try:
                async with asyncio.timeout(_SETTLE_S):
                    left_out, _ = await self._keep()
            except TimeoutError:  # who waits for its memory does not wait for what a program has left running
                return False
        if left_out or self._is_used() or self.live is not live:
            return False
        last_used_at = max(self.row.last_used_at, time.time() - (live.idle_s or 0.0))  # by its files, for one
        self.row = dataclasses.replace(self.row, last_used_at=last_used_at)
        await self._parts.engine.close_session(live)
        await asyncio.wait((awake.watching,))
        await self._parts.store.update_session(self.row.id, last_used_at=last_used_at)
        return True

    def _is_used(self) -> bool:
        return bool(self.running or self._restarting)

    async def touch(self) -> SessionRow:
        """Begin its idle timeout anew."""
        self.row = dataclasses.replace(self.row, last_used_at=time.time())
        if (live := self.live) is not None:
            live.touch()
        await self._parts.store.update_session(self.row.id, last_used_at=self.row.last_used_at)
        return self.row

    # Executions.

    async def execute(
        self,
        code: str,
        timeout: float,
        *,
        functions: Functions | None = None,
        begun: bool = False,
        claim: Callable[[str], Claim] | None = None,
        done: Callable[[Execution | None], None],
    ) -> EventLog | Claim:
        """Accept an execution; its log. A `Claim` when the Idempotency-Key that `claim` makes one of was used before.

        functions: those that the code may call; see `answer`. begun: see `wake`. done: called once at the end, if this
        returns a log. Raises `QueueFull` and what `wake` raises; then nothing was accepted.
        """
        if self.running > self._parts.engine.settings.queue_size:
            waiting = self._parts.engine.settings.queue_size
            raise QueueFull(f"{waiting} executions wait in this session already; wait for one to end")
        self._line.come()
        try:
            await self.wake(begun=begun)
        except BaseException:
            self._line.go()
            raise
        execution_id, now = new_execution_id(), time.time()
        row = ExecutionRow(execution_id, self.row.id, self.row.owner, code, now, None, None)
        writing = self._write_accepted(row, claim(execution_id) if claim else None)
        written: asyncio.Future[Claim | None] = asyncio.ensure_future(writing)
        # Known before it is awaited: whoever comes second with an Idempotency-Key may look for it at once.
        log = self._parts.in_flight.logs[execution_id] = EventLog(execution_id, self.row.id, now)
        self._line.accept(execution_id)
        accepted = Accepted(code, timeout, functions, log, claim is not None, written, done)
        self._parts.background.spawn(self._logged(accepted), f"execution {execution_id}")
        # Without a key there is no need to wait: what runs is written down by the time its first output is shown.
        if claim and (taken := await asyncio.shield(written)) is not None:
            return taken
        self.row = dataclasses.replace(self.row, used=True, last_used_at=now)
        return log

    async def _write_accepted(self, row: ExecutionRow, claim: Claim | None) -> Claim | None:
        if claim is None:
            # Whoever has a sandbox and the turn hands its code over first. The store's thread would take the
            # interpreter away from that; now it writes while the program runs.
            await asyncio.sleep(0)
        return await self._parts.store.add_execution(row, claim)

    async def _logged(self, accepted: Accepted) -> None:
        """`_perform`, with the ids on every line that is logged meanwhile."""
        with logs.bound(session_id=self.row.id, execution_id=accepted.id):
            if self._parts.engine.settings.log_code:  # before it runs, and whatever becomes of it
                _logger.info("execution accepted", code=accepted.code)
            await self._perform(accepted)

    async def _perform(self, accepted: Accepted) -> None:
        accepted.start_once_written()
        attributes = execution_attributes(execution_id=accepted.id, session_id=self.row.id, code=accepted.code)
        try:
            with span(EXECUTION_SPAN, **attributes) as told:
                execution = await self._run(accepted)
                if execution is None:
                    self._parts.in_flight.forget(accepted.id)
                    self._line.go(accepted.id)
                    return
                await accepted.start()
                told.set(**outcome_attributes(execution))
            await self._parts.in_flight.end(execution)
        except Exception as error:
            _logger.exception("execution lost")
            await self._lose(accepted)
            self._line.go(accepted.id)
            accepted.done(None)
            accepted.log.fail(error)
            return
        self._line.go(accepted.id)
        accepted.done(execution)
        _logger.info("execution ended", status=execution.status.value, ms=round(execution.duration_ms, 2))
        accepted.log.end(execution)

    async def _lose(self, accepted: Accepted) -> None:
        """We failed. If it has a row, that row gets an end all the same."""
        await asyncio.wait((accepted.written,))
        if accepted.has_no_row:
            self._parts.in_flight.forget(accepted.id)
        elif not self._parts.in_flight.waits(accepted.id):
            words = "the server failed while it ran; its log says why"
            lost = Execution(accepted.id, self.row.id, Status.KILLED, words, state_lost=True)
            with contextlib.suppress(Exception):  # then it waits for the database
                await self._parts.in_flight.end(lost)

    async def _run(self, accepted: Accepted) -> Execution | None:
        """None when somebody else was first with its Idempotency-Key."""
        if accepted.claimed and await accepted.written is not None:
            return None
        async with self._line.turn(accepted.id):
            return await self._run_now(accepted)

    async def _run_now(self, accepted: Accepted) -> Execution:
        """The execution, whatever happens to its sandbox before its turn."""
        stopped = False
        for _ in range(_ATTEMPTS):
            try:
                if (status := self._line.fate(accepted.id)) is None:
                    awake = await self.wake(begun=True)
                    status = self._line.fate(accepted.id)
                if status is not None:
                    return Execution(accepted.id, self.row.id, status, "it was taken back before it ran")
                execution = await self._stream(awake, accepted)
                break
            except (SessionClosed, SessionExpired) as error:
                # Either it was ended, or the execution before took the sandbox with it, and this one gets a new one.
                execution = Execution(accepted.id, self.row.id, Status.CANCELLED, str(error), state_lost=True)
                if self.row.status != "active" or self._parts.stopping:
                    break
            except SandboxError as error:
                if accepted.has_no_row:
                    raise  # no fault of the program, and there is no row that could say how it ended
                execution = Execution(accepted.id, self.row.id, Status.KILLED, str(error), state_lost=True)
                stopped = self._parts.stopping
                break
        if stopped or (self._parts.stopping and execution.status is Status.CANCELLED):
            return dataclasses.replace(execution, status=Status.KILLED, reason=STOPPED, state_lost=True)
        return execution

    async def _stream(self, awake: Awake, accepted: Accepted) -> Execution:
        streaming = awake.session.stream(accepted.code, accepted.timeout, accepted.functions, execution_id=accepted.id)
        with self._line.at_work(accepted.id):
            async with contextlib.aclosing(streaming) as items:
                async for item in items:
                    await accepted.start()
                    if isinstance(item, Execution):
                        return await self._conclude(awake, item)
                    if isinstance(item, Calls):
                        accepted.log.call(item)
                    else:
                        accepted.log.add(item)
        raise SessionClosed(f"the sandbox of session {self.row.id} is gone")

    async def _conclude(self, awake: Awake, execution: Execution) -> Execution:
        """Say what was lost, and store what was made."""
        if awake.lost and execution.status is not Status.CANCELLED:
            awake.lost = False
            execution = dataclasses.replace(execution, state_lost=True)
        words, awake.words = [execution.reason, awake.words], ""
        is_there = awake.session.open
        if is_there or execution.artifacts or execution.removed or not execution.state_lost:
            told, is_there = await self._keep(execution)
            words.append(told)
        if not is_there:
            execution = self._without_sandbox(execution)
            self._loss_said = execution.state_lost
        return dataclasses.replace(execution, reason="; ".join(word for word in words if word))

    def _without_sandbox(self, execution: Execution) -> Execution:
        """Its sandbox is gone: only what has been stored is left of what it did."""
        return dataclasses.replace(
            execution,
            state_lost=execution.state_lost or execution.status is not Status.CANCELLED,
            artifacts=tuple(made for made in execution.artifacts if self.workspace.is_current(made.path)),
            removed=tuple(path for path in execution.removed if not self.workspace.has(path)),
        )

    async def _keep(self, execution: Execution | None = None) -> tuple[str, bool]:
        """Store what was made; words for what could not be, and whether the sandbox was there to the end.

        Raises nothing: how the program ended is known, and what becomes of its files does not change that.
        """
        try:
            words = await self.workspace.keep([made.path for made in execution.artifacts] if execution else ())
            if execution is not None and self.row.single:
                await self._keep_output(execution)
            return words, True
        except (SessionClosed, SessionExpired):
            words = "its sandbox ended before its files could be stored"
            return words if self.row.status == "active" else "", False
        except SandboxError as error:
            _logger.warning("files not stored", session_id=self.row.id, why=str(error))
            return f"its files could not be stored: {error}", True
        except Exception:  # the sandbox's answers are a hostile program's to make up
            _logger.exception("files not stored", session_id=self.row.id)
            return "its files could not be stored; the server's log says why", True

    async def _keep_output(self, execution: Execution) -> None:
        """What was too long to be told is stored when it is asked for; this sandbox ends before anybody could."""
        for name, dropped in (("stdout", execution.truncated.stdout), ("stderr", execution.truncated.stderr)):
            if dropped:
                await self.workspace.keep_file(f".outputs/{execution.id}.{name}.txt")

    async def withdraw(self, execution_id: str) -> None:
        """Interrupt this execution if it runs; if it waits, it ends as `cancelled` when its turn comes."""
        if self._line.withdraw(execution_id):
            await self.interrupt()

    async def answer(self, answers: Sequence[Answer]) -> int:
        """Answer calls of the running program; how many of them it was waiting for. Raises `TooLarge`."""
        return 0 if self._awake is None else await self._awake.session.answer(*answers)

    async def interrupt(self) -> None:
        """Interrupt the running execution, or keep it from running; without one nothing happens."""
        self.check_active()
        if not self._line.take_back() and (live := self.live) is not None:
            await live.interrupt()

    async def restart(self) -> None:
        """Replace the kernel: variables go, files stay. One that sleeps has no kernel, which is as good."""
        self.check_active()
        if self._awake is not None:
            self._awake.lost = False  # who asks for it knows
        if (live := self.live) is None:
            self._loss_said = True
            return
        self._restarting += 1
        try:
            await live.restart()
        finally:
            self._restarting -= 1

    # Its end.

    def on_end(self, told: "Callable[[DurableSession], None]") -> None:
        """Who is told when it is closed or expires, and again when that is written after all."""
        self._on_end = told

    async def discard(self) -> None:
        """It never was: end its sandbox, if it got one, and write nothing down."""
        if self._waking is not None:
            self._waking.cancel()
            await asyncio.gather(self._waking, return_exceptions=True)
        if self._awake is not None:
            await self._parts.engine.close_session(self._awake.session)

    async def end(self, status: Literal["closed", "expired"]) -> None:
        """End its sandbox and write down how it ended.

        The first call decides. After one that failed, another does what is left to be done. Raises `Unready`.
        """
        if self.row.status == "active":
            self.row = dataclasses.replace(self.row, status=status, ended_at=time.time())
        async with self._ending:
            try:
                if not self.end_is_written:
                    await self._end()
            finally:
                self._on_end(self)

    async def _end(self) -> None:
        try:
            if self._awake is not None:
                await self._parts.engine.close_session(self._awake.session)
        finally:
            await self._parts.store.update_session(self.row.id, status=self.row.status, ended_at=self.row.ended_at)
            self.end_is_written = True

    async def settle(self) -> None:
        """Store what its sandbox holds now, because that is about to end."""
        if (live := self.live) is not None:
            live.workspace_mark = None
            await self._keep()


def check_status(row: SessionRow) -> None:
    """Raises `SessionClosed`, `SessionExpired`."""
    if row.status == "expired":
        raise SessionExpired(f"session {row.id} was idle for {row.idle_timeout_s:g} s; open a new one")
    if row.status == "closed":
        raise SessionClosed(f"session {row.id} is closed; open a new one")


def _see(waking: asyncio.Task[Awake]) -> None:
    """Whoever waited for it may have gone."""
    if not waking.cancelled():
        waking.exception()
