"""Turns until an answer or the budget.

A turn asks the model with all that was said; its calls of `run_python` are executed in order, and what came of each is
told back. Code that failed goes back with what a colleague would add, so that the next turn can repair it. It ends when
the model answers, wants a function that is the caller's, or a bound of the budget is reached; then the model is asked
once more for an honest answer, or, where it cannot be asked any more, the answer is in our words.

What can fail: an upstream (`models` has tried what can be tried: `UpstreamError` ends the run), the session
(`SandboxError` ends the run), the model (a call that cannot be executed is told back and counts as a failure; an empty
answer is asked for again), the program (the loop's daily bread).
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from sandbox.errors import InvalidCode, SandboxError
from sandbox.execution import Execution, Status
from sandbox.loop import fence, tool
from sandbox.loop.attempt import Attempt
from sandbox.loop.budget import Budget, Spent
from sandbox.loop.events import Asked, Ending, Finished, Ran, Repair, Replied, Running, Said, Showed, Unusable
from sandbox.loop.hints import error_class
from sandbox.loop.interpreter import Interpreter
from sandbox.loop.messages import Delta, Function, Message, Reply, Request, Text, ToolCall, ToolResult
from sandbox.loop.repairs import Streak
from sandbox.loop.told import told
from sandbox.remote import File

Event = Asked | Attempt | Said | Replied | Running | Showed | Ran | Unusable | Repair | Finished
T = TypeVar("T")

_LEAST_S = 0.1
"""What an execution needs to be worth a start."""
_EMPTY_TURNS = 2
_AGAIN = 3
"""From how many runs of the same code with the same outcome on the model is told that it repeats itself."""
_NUDGE = "Your last message was empty. Write your answer, or call run_python."
_LAST_WORD = (
    "{reason} No more code can be run. Answer now from what you have seen. Say plainly what could not be done, and do "
    "not make up results."
)
_REPEATED = "This is run {count} of the same code with the same outcome. It will not change: answer, or do otherwise."
_CUT_OFF = "Your call was cut off because the answer became too long. Write a shorter program, or do it in steps."


class Asks(Protocol):
    """What a loop needs of `Models`."""

    def stream(self, request: Request, *, whole: bool) -> AsyncGenerator[Delta | Attempt | Reply, None]:
        """See `Models.stream`."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a run is to go."""

    budget: Budget = field(default_factory=Budget)
    functions: tuple[Function, ...] = ()
    """The caller's own. A call of one ends the run with `Ending.CALLS`."""
    fenced: bool = False
    """For models without tool calls: code comes in a Markdown fence, and what came of it goes back as the user's."""
    pictures: bool = True
    """Whether the model can see images."""
    whole: bool = True
    """Nobody watches the words come, so a turn that breaks off can be asked again from its start."""
    timeout_s: float | None = None
    """Of each execution; None is the interpreter's own."""


class Loop:
    """A model and an interpreter. `run` may be called more than once, one after the other."""

    def __init__(self, models: Asks, interpreter: Interpreter, options: Options | None = None) -> None:
        self._models = models
        self._interpreter = interpreter
        self._options = options or Options()

    async def run(self, request: Request) -> AsyncGenerator[Event, None]:
        """What happens, and `Finished` last. Close the generator to leave early.

        request: the caller's, with messages so far; `functions` and `tool_choice` are ours to fill in. Raises
        `UpstreamError`, `UnknownModel`, and what the interpreter raises.
        """
        run = _Run(self._models, self._interpreter, self._options, request)
        await run.begin()
        async with contextlib.aclosing(run.events()) as events:
            async for event in events:
                yield event


class _Run:
    """One run."""

    def __init__(self, models: Asks, interpreter: Interpreter, options: Options, request: Request) -> None:
        self._models = models
        self._interpreter = interpreter
        self._options = options
        self._request = request
        self._began = time.monotonic()
        seconds = options.budget.seconds
        self._deadline = None if seconds is None else self._began + seconds
        self._said: list[Message] = []
        self._spent = Spent()
        self._streak = Streak(time.monotonic)
        self._outcomes: dict[tuple[str, ...], int] = {}
        self._last_failure = ""
        self._reply: Reply | None = None
        self._empty = 0
        self._lost = False
        """An execution of this run has cost the session its variables."""

    async def begin(self) -> None:
        """Tell the model of its tool."""
        options, request = self._options, self._request
        facts, files = self._interpreter.facts, await self._interpreter.files()
        if options.fenced:
            system = Message("system", (Text(fence.instruction(facts, files)),))
            messages = (system, *fence.asking(request.messages))
            self._request = replace(request, messages=messages, functions=options.functions)
        else:
            self._request = replace(request, functions=(tool.function(facts, files), *options.functions))

    async def events(self) -> AsyncGenerator[Event, None]:
        while (over := self._over()) is None:
            try:
                async with contextlib.aclosing(self._turn()) as events:
                    async for event in events:
                        yield event
            except _Late:
                over = Ending.SECONDS
                break
            if isinstance(event, Finished):
                return
        if over in (Ending.ATTEMPTS, Ending.TURNS):
            async with contextlib.aclosing(self._last_word(over)) as events:
                async for event in events:
                    yield event
        else:
            for ended in self._give_up(over):
                yield ended

    def _over(self) -> Ending | None:
        """The bound of the budget that is reached."""
        budget, spent = self._options.budget, self._spent
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return Ending.SECONDS
        if budget.tokens is not None and spent.usage.input_tokens + spent.usage.output_tokens >= budget.tokens:
            return Ending.TOKENS
        if budget.usd is not None and (spent.cost or 0.0) >= budget.usd:
            return Ending.USD
        if self._streak.failures >= budget.attempts:
            return Ending.ATTEMPTS
        return Ending.TURNS if spent.turns >= budget.turns else None

    async def _turn(self) -> AsyncGenerator[Event, None]:
        """One turn; ends with `Finished` when it was the last."""
        async for event in self._ask(self._messages()):
            yield event
        reply = self._answered()
        calls = self._calls(reply)
        self._say(reply.message)
        if not calls:
            for event in self._conclude(reply):
                yield event
            return
        self._empty = 0
        theirs = {function.name for function in self._options.functions}
        results = []
        for call in calls:
            if call.name in theirs:
                continue
            async for event in self._use(call, cut_off=reply.finish == "length"):
                yield event
                if isinstance(event, Ran):
                    results.append(ToolResult(call.id, event.told, event.execution.status is not Status.OK))
                elif isinstance(event, Unusable):
                    results.append(ToolResult(call.id, (Text(event.told),), failed=True))
        if results:
            self._tell(results)
        if any(call.name in theirs for call in calls):
            for event in self._finish(Ending.CALLS, reply.message):
                yield event

    async def _ask(self, messages: tuple[Message, ...], *, choice: str | None = None) -> AsyncGenerator[Event, None]:
        """The model, with what was said so far; `self._reply` is what came."""
        turn = self._spent.turns + 1
        yield Asked(turn)
        began = time.monotonic()
        if choice is None:  # what the caller wants is for the first turn: a model that must call never answers
            choice = self._request.tool_choice if turn == 1 or self._request.tool_choice == "none" else None
        choice = choice if self._request.functions else None
        request = replace(self._request, messages=messages, tool_choice=choice)
        async for item in _until(self._models.stream(request, whole=self._options.whole), self._deadline):
            if isinstance(item, Delta):
                if item.text:
                    yield Said(item.text)
            elif isinstance(item, Reply):
                self._reply = item
                self._count(item)
                if self._options.whole and item.message.text:
                    yield Said(item.message.text)
                yield Replied(turn, item, time.monotonic() - began)
            else:
                yield item

    def _messages(self) -> tuple[Message, ...]:
        return (*self._request.messages, *self._said)

    def _answered(self) -> Reply:
        assert self._reply is not None, "a stream of `Models` ends with a reply, or raises"
        return self._reply

    def _count(self, reply: Reply) -> None:
        spent = self._spent
        cost = spent.cost if reply.cost is None else (spent.cost or 0.0) + reply.cost
        self._spent = replace(spent, turns=spent.turns + 1, usage=spent.usage + reply.usage, cost=cost)

    def _calls(self, reply: Reply) -> tuple[ToolCall, ...]:
        """What the model wants done; of a fenced model, the program in its words."""
        if reply.message.calls or not self._options.fenced:
            return reply.message.calls
        code = fence.program(reply.message.text)
        if code is None:
            return ()
        return (ToolCall(f"call_{self._spent.turns}", tool.NAME, json.dumps({"code": code})),)

    def _say(self, message: Message) -> None:
        if message.parts:  # an empty one is refused by most upstreams
            self._said.append(message)

    def _tell(self, results: Sequence[ToolResult]) -> None:
        """Tell the model what came of its calls."""
        if self._options.fenced and not self._said[-1].calls:
            parts = tuple(part for result in results for part in result.parts)
            after = fence.AFTER_ERROR if results[-1].failed else fence.AFTER_OUTPUT
            self._said.append(Message("user", fence.below(parts, after)))
        else:
            self._said.append(Message("tool", tuple(results)))

    async def _use(self, call: ToolCall, *, cut_off: bool) -> AsyncGenerator[Event, None]:
        """Execute one call: `Running`, what it shows and `Ran`, or `Unusable`; and a `Repair` when a streak is over."""
        try:
            code = self._code(call, cut_off=cut_off)
        except tool.Unusable as error:
            yield self._unusable(call, str(error))
            return
        yield Running(call, code)
        try:
            async with contextlib.aclosing(self._interpreter.stream(code, self._timeout())) as items:
                async for item in items:
                    if isinstance(item, Execution):
                        break
                    yield Showed(call.id, item)
                else:
                    raise AssertionError("an interpreter's stream ends with the execution, or raises")
        except InvalidCode as error:  # the model's mistake, not ours
            yield self._unusable(call, str(error))
            return
        yield await self._ran(call, code, item)
        if item.status is Status.OK and (repair := self._streak.end(self._spent.usage, repaired=True)):
            yield repair

    def _code(self, call: ToolCall, *, cut_off: bool) -> str:
        """Raises `tool.Unusable`."""
        if call.name != tool.NAME:
            known = ", ".join([tool.NAME, *(function.name for function in self._options.functions)])
            raise tool.Unusable(f"There is no tool {call.name!r}. There are: {known}.")
        if self._deadline is not None and self._deadline - time.monotonic() < _LEAST_S:
            raise _Late
        try:
            return tool.code_of(call.arguments)
        except tool.Unusable as error:
            if cut_off:
                raise tool.Unusable(_CUT_OFF) from error
            raise

    def _timeout(self) -> float | None:
        """Seconds for the next execution: its own bound, or what is left of the run's."""
        own = self._options.timeout_s
        if self._deadline is None:
            return own
        return min(own or self._interpreter.facts.timeout_s, self._deadline - time.monotonic())

    def _unusable(self, call: ToolCall, words: str) -> Unusable:
        self._streak.fail("unusable_call", self._spent.usage)
        self._spent = replace(self._spent, failures=self._spent.failures + 1)
        self._last_failure = words
        return Unusable(call, words)

    async def _ran(self, call: ToolCall, code: str, execution: Execution) -> Ran:
        failed = execution.status is not Status.OK
        spent = self._spent
        self._spent = replace(spent, executions=spent.executions + 1, failures=spent.failures + failed)
        if failed:
            self._streak.fail(error_class(execution), spent.usage)
            self._last_failure = _in_a_line(execution)
        seen = self._seen(code, execution)
        words = told(
            execution,
            self._interpreter.facts,
            await self._files() if failed else (),
            code=code,
            pictures=self._options.pictures,
            again=seen - 1 if failed else 0,
            left=self._options.budget.attempts - self._streak.failures if failed else None,
            lost=self._lost,
        )
        self._lost = self._lost or execution.state_lost
        if not failed and seen >= _AGAIN:
            words = (*words, Text(_REPEATED.format(count=seen)))
        return Ran(call, code, execution, words)

    def _seen(self, code: str, execution: Execution) -> int:
        """How often this outcome has been seen in this run, this time included."""
        if execution.status is Status.OK:
            outcome: tuple[str, ...] = (code, execution.stdout, execution.stderr)
        else:
            error = execution.error
            outcome = (execution.status, error.name, error.value) if error else (execution.status, code)
        self._outcomes[outcome] = seen = self._outcomes.get(outcome, 0) + 1
        return seen

    async def _files(self) -> Sequence[File]:
        with contextlib.suppress(SandboxError):  # the sandbox may have died of it; there is enough to tell without
            return await self._interpreter.files()
        return ()

    def _conclude(self, reply: Reply) -> tuple[Event, ...]:
        """The model wants nothing more."""
        if reply.message.text.strip():
            endings = {"length": Ending.LENGTH, "content_filter": Ending.FILTERED}
            return self._finish(endings.get(reply.finish, Ending.ANSWERED), reply.message)
        if reply.finish == "content_filter":
            return self._speak(Ending.FILTERED, "The model's answer was held back by a filter of its server.")
        self._empty += 1
        if self._empty < _EMPTY_TURNS:
            self._said.append(Message("user", (Text(_NUDGE),)))
            return ()
        return self._speak(Ending.EMPTY, "The model gave no answer.")

    async def _last_word(self, over: Ending) -> AsyncGenerator[Event, None]:
        """The model's own honest answer after the budget; ours, where it has none."""
        self._said.append(Message("user", (Text(_LAST_WORD.format(reason=self._reason(over))),)))
        try:
            async for event in self._ask(self._messages(), choice="none"):
                yield event
        except _Late:
            over = Ending.SECONDS
        else:
            message = self._answered().message
            if message.text.strip() and not message.calls:
                self._say(message)
                for ended in self._finish(over, message):
                    yield ended
                return
        for ended in self._give_up(over):
            yield ended

    def _give_up(self, over: Ending) -> tuple[Event, ...]:
        last = f" The last failure was: {self._last_failure}" if self._last_failure and self._streak.failures else ""
        return self._speak(over, f"This could not be finished. {self._reason(over)}{last}")

    def _speak(self, why: Ending, words: str) -> tuple[Event, ...]:
        """Answer in our own words."""
        answer = Message("assistant", (Text(words),))
        self._said.append(answer)
        return (Said(words), *self._finish(why, answer))

    def _reason(self, over: Ending) -> str:
        budget = self._options.budget
        used = {
            Ending.ATTEMPTS: f"{self._streak.failures} attempts in a row have failed",
            Ending.TURNS: f"{budget.turns} turns are used up",
            Ending.TOKENS: f"{budget.tokens} tokens are used up",
            Ending.USD: f"{budget.usd} US dollars are spent",
            Ending.SECONDS: f"{budget.seconds} seconds are over",
        }[over]
        return f"{used}, which is the limit."

    def _finish(self, why: Ending, answer: Message) -> tuple[Event, ...]:
        spent = replace(self._spent, seconds=time.monotonic() - self._began)
        model = self._reply.model if self._reply else ""
        repair = self._streak.end(self._spent.usage, repaired=False)
        finished = Finished(why, answer, tuple(self._said), spent, model)
        return (repair, finished) if repair else (finished,)


class _Late(Exception):
    """The run's seconds are over."""


async def _until(items: AsyncGenerator[T, None], deadline: float | None) -> AsyncGenerator[T, None]:
    """The items, until the deadline by the monotonic clock. Raises `_Late`."""
    async with contextlib.aclosing(items):
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            try:
                async with asyncio.timeout(left) as bound:
                    item = await anext(items)
            except StopAsyncIteration:
                return
            except TimeoutError:
                if bound.expired():
                    raise _Late from None
                raise
            yield item


def _in_a_line(execution: Execution) -> str:
    error = execution.error
    words = f"{error.name}: {error.value}" if error else f"{execution.status}: {execution.reason}"
    return words.strip().partition("\n")[0][:300]
