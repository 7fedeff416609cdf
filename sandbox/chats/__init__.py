"""Chat completions of many owners: the model loop over durable sessions, recorded and counted.

A run opens a session when the first code has to run, and ends it with the run; its files can be read for
`file_retention_h`. A run over a session that the caller names leaves that session open. A run that ends because the
caller's own function is wanted leaves its session open, too, and the calls' ids name its trace: when the answers come
in, with a new request as always in this protocol, `resume` puts back what the caller has never seen.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace

from sandbox import logs, telemetry
from sandbox.chats import resume
from sandbox.chats.resume import Resumed
from sandbox.errors import SandboxError, SessionClosed, SessionExpired, SessionMissing
from sandbox.execution import Answer
from sandbox.interpreters.lazy import LazyInterpreter
from sandbox.interpreters.node import NodeInterpreter, facts
from sandbox.keys import Owner
from sandbox.loop.budget import Budget
from sandbox.loop.events import Ending, Event, Finished, Repair
from sandbox.loop.hosted import RUN_PYTHON, HostedTool
from sandbox.loop.interpreter import Interpreter
from sandbox.loop.loop import Loop
from sandbox.loop.messages import Delta, Function, Reply, Request
from sandbox.loop.models import Models, Shadowed
from sandbox.loop.options import Options
from sandbox.node import Node, Upload
from sandbox.remote import File
from sandbox.store.rows import Family, PauseRow, SessionRow
from sandbox.traces import Recorder, Secrets

_logger = logs.logger(__name__)


@dataclass(frozen=True, slots=True)
class Opening:
    """A session that a run opens when the first code has to run, and that stays when the run is over."""

    memory_mb: int | None = None
    idle_timeout_s: float | None = None
    files: tuple[Upload, ...] = ()
    family: Family = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tool:
    """What a caller wants of the code interpreter."""

    timeout_s: float | None = None
    """Of each execution."""
    lifetime_s: float | None = None
    """Of the run, sandbox included."""
    session_id: str | None = None
    """A session of the caller's that is open; default is a new one."""
    opening: Opening | None = None
    """What the new one is to be; default is one that ends with the run."""
    tools: tuple[HostedTool, ...] = (RUN_PYTHON,)
    executions: int | None = None
    """How many there may be."""
    lost: bool = False
    """The messages speak of variables that are gone with their session."""
    callable: tuple[Function, ...] = ()
    """The caller's own that programs may await; see `Chat.answer`."""
    pauses: bool = False
    forgives: bool = False
    """These two as `Options` has them."""


class Chats:
    """What the chat endpoints call."""

    def __init__(self, node: Node, models: Models, budget: Budget, secrets: Secrets) -> None:
        self.models = models
        self._node = node
        self._budget = budget
        self._secrets = secrets
        models.on_shadow = self._keep_shadow

    def _keep_shadow(self, shadowed: Shadowed) -> None:
        recorder = Recorder.of_shadow(shadowed, self._secrets)
        self._node.background(self._keep(recorder), f"keep {recorder.id}")

    async def _keep(self, recorder: Recorder) -> None:
        await self._node.store.add_trace(await asyncio.to_thread(recorder.row))

    async def pass_through(self, owner: Owner, request: Request, *, whole: bool) -> AsyncGenerator[Delta | Reply, None]:
        """A request that wants no tool of ours. See `Models.stream`; raises `Draining`, `Overloaded`, too."""
        with self._node.underway():
            asked = replace(request, caller=owner.id)
            async with contextlib.aclosing(self.models.stream(asked, whole=whole)) as items:
                async for item in items:
                    if isinstance(item, Delta | Reply):
                        yield item

    async def begin(
        self, owner: Owner, request: Request, tool: Tool | None, *, whole: bool, resuming: bool = True
    ) -> "Chat":
        """A run that is ready to go; `request.functions` are the caller's own.

        tool: None when nothing is to be executed. resuming: what a caller has not seen of earlier runs is kept here and
        put back; without it the caller keeps `Finished.said` itself. Raises `UnknownModel`, `InvalidLimits`,
        `SessionMissing`, `SessionClosed`, `SessionExpired`, `FileMissing`.
        """
        node, plan = self._node, self.models.plan(request.model)
        request = replace(request, caller=owner.id)
        if tool is None:
            options = Options(budget=self._budget, functions=request.functions, pictures=plan.pictures, whole=whole)
            loop, recorder = Loop(self.models, None, options), Recorder(request, owner.id, self._secrets)
            return Chat(node, loop, request, recorder, _Hold(node, owner, None), fenced=False, pausing=False)
        if tool.timeout_s is not None:
            node.engine.checked_timeout(tool.timeout_s)
        budget = self._budget
        if tool.lifetime_s is not None:
            budget = replace(budget, seconds=min(tool.lifetime_s, budget.seconds or tool.lifetime_s))
        resumed = Resumed(request.messages, None)
        if resuming:
            resumed = await resume.resumed(node.store, owner.id, request.messages)
        hold = _Hold(node, owner, tool.opening)
        interpreter = await hold.interpreter(tool.session_id, resumed.pause)
        options = Options(
            budget=budget,
            tools=tool.tools,
            executions=tool.executions,
            callable=tool.callable,
            pauses=tool.pauses,
            forgives=tool.forgives,
            functions=request.functions,
            fenced=plan.fenced,
            pictures=plan.pictures,
            whole=whole,
            timeout_s=tool.timeout_s,
            lost=tool.lost or hold.lost,
        )
        request = replace(request, messages=resumed.messages)
        recorder = Recorder(request, owner.id, self._secrets)
        loop = Loop(self.models, interpreter, options)
        return Chat(node, loop, request, recorder, hold, fenced=plan.fenced, pausing=resuming)


class Chat:
    """One run. `events` may be called once."""

    def __init__(
        self,
        node: Node,
        loop: Loop,
        request: Request,
        recorder: Recorder,
        hold: "_Hold",
        *,
        fenced: bool,
        pausing: bool,
    ) -> None:
        self.trace_id = recorder.id
        self.functions = frozenset(function.name for function in request.functions)
        """The names of the caller's own."""
        self.fenced = fenced
        """What the model says holds programs, which are not for the caller."""
        self._node = node
        self._loop = loop
        self._request = request
        self._recorder = recorder
        self._hold = hold
        self._pausing = pausing
        self._finished: Finished | None = None

    @property
    def session_id(self) -> str | None:
        """Where code has run so far."""
        return self._hold.session_id

    async def events(self) -> AsyncGenerator[Event, None]:
        """See `Loop.run`. Closing it early ends the program that runs, and the trace is kept as cancelled.

        Raises `Draining`, `Overloaded`, and what `Loop.run` raises.
        """
        with self._node.underway(), telemetry.span("invoke_agent sandbox", **self._attributes()) as span:
            try:
                self._hold.begin()
                async with contextlib.aclosing(self._loop.run(self._request)) as events:
                    async for event in events:
                        self._recorder.add(event)
                        self._count(event)
                        if isinstance(event, Finished):
                            self._finished = event
                            span.set(**_finished_attributes(event))
                            await self._pause(event)
                        yield event
            except Exception as error:
                self._recorder.fail(error)
                raise
            finally:
                # Whoever reads this may be on the way out; the trace and the session are not theirs to lose.
                await asyncio.shield(self._node.background(self._end(), f"end of {self.trace_id}"))

    async def answer(self, *answers: Answer) -> int:
        """What calls told of by `Wants` have come to; how many of them a program was waiting for.

        From another task than the one that reads `events`, or before the next event is asked for. Raises `TooLarge`.
        """
        return await self._loop.answer(*answers)

    async def _pause(self, finished: Finished) -> None:
        """Keep what the next request goes on with, before the caller knows of it."""
        if finished.why is Ending.CALLS and self._pausing:
            hold = self._hold
            pause = resume.pause(self.trace_id, hold.owner, hold.session_id, made=hold.is_ours, said=finished.said)
            await self._node.store.add_pause(pause)

    def _attributes(self) -> dict[str, telemetry.Attribute | None]:
        return {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": "sandbox",
            "gen_ai.request.model": self._request.model,
            "sandbox.trace.id": self.trace_id,
        }

    async def _end(self) -> None:
        try:
            await self._node.store.add_trace(await asyncio.to_thread(self._recorder.row))
        except SandboxError as error:  # the answer is good without it
            _logger.warning("trace_lost", trace_id=self.trace_id, error=str(error))
        finally:
            await self._hold.release(self._finished)

    def _count(self, event: Event) -> None:
        metrics = self._node.metrics
        if isinstance(event, Repair):
            used = event.usage.input_tokens + event.usage.output_tokens
            metrics.repair(event.error_class, event.failures, used, event.seconds, repaired=event.repaired)
        elif isinstance(event, Finished):
            metrics.loop(event.why.value, event.spent.turns, event.spent.seconds)


def _finished_attributes(finished: Finished) -> dict[str, telemetry.Attribute | None]:
    usage = finished.spent.usage
    return {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "sandbox.ending": finished.why.value,
    }


class _Hold:
    """A run's session: the caller's, one of a run before, or one that is opened when code has to run."""

    def __init__(self, node: Node, owner: Owner, opening: Opening | None) -> None:
        self.session_id: str | None = None
        self.is_ours = False
        """It was made for this run, or one that this goes on with, and nobody else knows of it."""
        self.lost = False
        """The one that this run was to go on with is gone."""
        self._node = node
        self._owner = owner
        self._opening = opening
        self._is_new = False
        self._began = False
        self._uses = contextlib.ExitStack()
        self._expectation = contextlib.ExitStack()
        """Of the session that may have to be opened."""
        self._opens = False

    @property
    def owner(self) -> str:
        return self._owner.id

    async def interpreter(self, wanted: str | None, pause: PauseRow | None) -> Interpreter:
        """wanted: the caller's session. pause: what this run goes on with.

        Raises `SessionMissing`, `SessionClosed`, `SessionExpired`.
        """
        if wanted is not None:
            return await self._at(await self._node.active_session(self._owner, wanted))
        if pause is not None and pause.session_id is not None:
            try:
                row = await self._node.active_session(self._owner, pause.session_id)
            except (SessionMissing, SessionClosed, SessionExpired):
                self.lost = True
            else:
                self.is_ours = pause.made
                return await self._at(row)
        wished = self._opening or Opening()
        listed = [await self._listed(upload) for upload in wished.files]
        self._opens = True
        return LazyInterpreter(await facts(self._node, memory_mb=wished.memory_mb), self._open, listed)

    async def _listed(self, upload: Upload) -> File:
        """As it will be. Raises `FileMissing`."""
        if upload.family and upload.file_id is not None:
            row = await self._node.kept.row(self._owner, upload.family, upload.file_id)
            return File(upload.path, row.size, row.created_at, row.digest)
        return File(upload.path, len(upload.content or b""), 0.0)

    async def release(self, finished: Finished | None) -> None:
        """End what is ours alone, when nobody goes on with it; its files stay for a while."""
        self._uses.close()
        self._expectation.close()
        if not self.is_ours or self.session_id is None:
            return
        # One that an earlier run has left is kept when this one fails: the caller may send the same again.
        over = self._is_new if finished is None else finished.why is not Ending.CALLS
        if over:
            with contextlib.suppress(SandboxError):  # it has expired, or somebody has closed it
                await self._node.retire_session(self._owner, self.session_id)

    async def _open(self) -> Interpreter:
        self._expectation.close()
        if (wished := self._opening) is None:
            row = await self._node.open_session(self._owner, begun=True)
            self.is_ours = self._is_new = True
        else:
            row = await self._node.open_session(
                self._owner,
                memory_mb=wished.memory_mb,
                idle_timeout=wished.idle_timeout_s,
                metadata=wished.metadata,
                files=wished.files,
                family=wished.family,
                yields=True,
                begun=True,
            )
        return await self._at(row)

    def begin(self) -> None:
        """Until `release` its session is in use."""
        self._began = True
        self._use()
        if self._opens:
            wished = self._opening or Opening()
            self._expectation.enter_context(self._node.expecting(wished.memory_mb))

    def _use(self) -> None:
        if self._began and self.session_id is not None:
            self._uses.enter_context(self._node.reclaim.using(self.session_id))

    async def _at(self, row: SessionRow) -> Interpreter:
        self.session_id = row.id
        self._use()
        return await NodeInterpreter.of(self._node, self._owner, row, begun=True)
