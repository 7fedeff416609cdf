"""Chat completions of many owners: the model loop over durable sessions, recorded and counted.

A run opens a session when the first code has to run, and ends it with the run; its files can be read for
`file_retention_h`. A run over a session that the caller names leaves that session open. A run that ends because the
caller's own function is wanted leaves its session open, too, and the calls' ids name its trace: when the answers come
in, with a new request as always in this protocol, `resume` puts back what the caller has never seen.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

from sandbox import telemetry
from sandbox.chats import resume
from sandbox.errors import InvalidLimits, SandboxError
from sandbox.interpreters.lazy import LazyInterpreter
from sandbox.interpreters.node import NodeInterpreter, facts
from sandbox.keys import Owner
from sandbox.loop.budget import Budget
from sandbox.loop.events import Ending, Finished, Repair
from sandbox.loop.interpreter import Interpreter
from sandbox.loop.loop import Event, Loop, Options
from sandbox.loop.messages import Delta, Reply, Request
from sandbox.loop.models import Models, Shadowed
from sandbox.node import Node
from sandbox.traces import Recorder, Secrets

_NOBODY = "shadow"
"""No key's id: those who asked are not told of second opinions."""


@dataclass(frozen=True, slots=True)
class Tool:
    """What a caller wants of the code interpreter."""

    timeout_s: float | None = None
    """Of each execution."""
    lifetime_s: float | None = None
    """Of the run, sandbox included."""
    session_id: str | None = None
    """A session of the caller's that is open; default is a new one."""


class Chats:
    """What the chat endpoints call."""

    def __init__(self, node: Node, models: Models, budget: Budget, secrets: Secrets) -> None:
        self.models = models
        self._node = node
        self._budget = budget
        self._secrets = secrets
        models.on_shadow = self._keep_shadow

    def _keep_shadow(self, shadowed: Shadowed) -> None:
        """A second opinion is kept as a trace of nobody's."""
        recorder = Recorder(shadowed.request, _NOBODY, self._secrets)
        recorder.compare(shadowed)
        self._node.background(self._node.store.add_trace(recorder.row()), f"keep {recorder.id}")

    async def pass_through(self, request: Request, *, whole: bool) -> AsyncGenerator[Delta | Reply, None]:
        """A request that wants no tool of ours. See `Models.stream`."""
        async with contextlib.aclosing(self.models.stream(request, whole=whole)) as items:
            async for item in items:
                if isinstance(item, Delta | Reply):
                    yield item

    async def begin(self, owner: Owner, request: Request, tool: Tool, *, whole: bool) -> "Chat":
        """A run that is ready to go; `request.functions` are the caller's own.

        Raises `UnknownModel`, `InvalidLimits`, `SessionMissing`, `SessionClosed`, `TraceMissing`.
        """
        node, plan = self._node, self.models.plan(request.model)
        if tool.timeout_s is not None:
            node.engine.checked_timeout(tool.timeout_s)
        budget = self._budget
        if tool.lifetime_s is not None:
            if tool.lifetime_s <= 0:
                raise InvalidLimits(f"the sandbox's lifetime is {tool.lifetime_s:g} s; choose a value above 0")
            budget = replace(budget, seconds=min(tool.lifetime_s, budget.seconds or tool.lifetime_s))
        messages, former = await resume.expanded(node.store, owner.id, request.messages)
        options = Options(
            budget=budget,
            functions=request.functions,
            fenced=plan.fenced,
            pictures=plan.pictures,
            whole=whole,
            timeout_s=tool.timeout_s,
        )
        hold = _Hold(node, owner, tool.session_id or former, is_callers=tool.session_id is not None)
        interpreter = await hold.interpreter()
        recorder = Recorder(replace(request, messages=messages), owner.id, self._secrets)
        loop = Loop(self.models, interpreter, options)
        return Chat(node, loop, replace(request, messages=messages), recorder, hold, fenced=plan.fenced)


class Chat:
    """One run. `events` may be called once."""

    def __init__(
        self, node: Node, loop: Loop, request: Request, recorder: Recorder, hold: "_Hold", *, fenced: bool
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

    @property
    def session_id(self) -> str | None:
        """Where code has run so far."""
        return self._hold.session_id

    async def events(self) -> AsyncGenerator[Event, None]:
        """See `Loop.run`. Closing it early ends the program that runs, and the trace is kept as cancelled."""
        keep = False
        with telemetry.span("invoke_agent sandbox", **self._attributes()) as span:
            try:
                async with contextlib.aclosing(self._loop.run(self._request)) as events:
                    async for event in events:
                        self._recorder.add(event)
                        self._count(event)
                        if isinstance(event, Finished):
                            keep = event.why is Ending.CALLS
                            span.set(**_finished_attributes(event))
                        yield event
            except SandboxError as error:
                self._recorder.fail(error)
                raise
            finally:
                # Whoever reads this may be on the way out; the trace and the session are not theirs to lose.
                await asyncio.shield(self._node.background(self._end(keep=keep), f"end of {self.trace_id}"))

    def _attributes(self) -> dict[str, telemetry.Attribute | None]:
        return {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": "sandbox",
            "gen_ai.request.model": self._request.model,
            "sandbox.trace.id": self.trace_id,
        }

    async def _end(self, *, keep: bool) -> None:
        await self._node.store.add_trace(self._recorder.row())
        if not keep:
            await self._hold.release()

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

    def __init__(self, node: Node, owner: Owner, session_id: str | None, *, is_callers: bool) -> None:
        self.session_id = session_id
        self._node = node
        self._owner = owner
        self._is_callers = is_callers

    async def interpreter(self) -> Interpreter:
        if self.session_id is not None:
            row = await self._node.session(self._owner, self.session_id)
            if self._is_callers or row.status == "active":
                return await NodeInterpreter.of(self._node, self._owner, row)
        return LazyInterpreter(await facts(self._node), self._open)

    async def _open(self) -> Interpreter:
        row = await self._node.open_session(self._owner)
        self.session_id = row.id
        return await NodeInterpreter.of(self._node, self._owner, row)

    async def release(self) -> None:
        """End what was opened for this run alone; its files stay for a while."""
        if self.session_id is None or self._is_callers:
            return
        with contextlib.suppress(SandboxError):  # it has expired, or somebody has closed it
            await self._node.retire_session(self._owner, self.session_id)
