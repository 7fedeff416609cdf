"""Turns until an answer or the budget.

A turn asks the model with all that was said; its calls of `run_python` are executed in order, and what came of each is
told back. Code that failed goes back with what a colleague would add, so that the next turn can repair it. It ends when
the model answers, wants a function that is the caller's, or a bound of the budget is reached; then the model is asked
once more for an honest answer, or, where it cannot be asked any more, the answer is in our words.

What can fail: an upstream (`models` has tried what can be tried: `UpstreamError` ends the run), the session
(`SandboxError` ends the run), the model (a call that cannot be executed is told back and counts as a failure; an empty
answer is asked for again), the program (the loop's daily bread).

(Long for one file: a run is one state, and every step of it reads or moves that on.)
"""

import contextlib
import json
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Protocol

from sandbox import telemetry
from sandbox.errors import Draining, InvalidCode, Overloaded, SandboxError, SandboxFailed
from sandbox.execution import Answer, Called, Calls, Execution, Status
from sandbox.loop import callables, fence, spans, tool, words
from sandbox.loop.attempt import Attempt
from sandbox.loop.budget import Spent
from sandbox.loop.deadline import Late, timeout_at, until
from sandbox.loop.events import Asked, Ending, Event, Finished, Ran, Replied, Running, Said, Showed, Unusable, Wants
from sandbox.loop.hints import error_class
from sandbox.loop.hosted import HostedTool
from sandbox.loop.interpreter import Facts, Interpreter
from sandbox.loop.messages import Delta, Function, Message, Reply, Request, Text, ToolCall, ToolResult
from sandbox.loop.options import Options
from sandbox.loop.repairs import Streak
from sandbox.loop.repeats import Repeats
from sandbox.loop.told import told
from sandbox.remote import File

_LEAST_S = 0.1
"""What an execution needs to be worth a start."""
_EMPTY_TURNS = 2
_AGAIN = 3
"""From how many runs of the same code with the same outcome on the model is told that it repeats itself."""
_CALLS = 32
"""Calls of one turn that are executed."""
_NO_FACTS = Facts("", {}, 0, 0, 0.0)


class Asks(Protocol):
    """What a loop needs of `Models`."""

    def stream(self, request: Request, *, whole: bool) -> AsyncGenerator[Delta | Attempt | Reply, None]:
        """See `Models.stream`."""


class Loop:
    """A model and an interpreter. `run` may be called more than once, one after the other."""

    def __init__(self, models: Asks, interpreter: Interpreter | None, options: Options | None = None) -> None:
        """interpreter: None is a run in which nothing is executed here: one turn, or those that are empty."""
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

    async def answer(self, *answers: Answer) -> int:
        """Answer calls that `Wants` has told of; how many of them a program was waiting for. Raises `TooLarge`.

        From another task, or before the next event is asked for. Give at once what is there at once.
        """
        return 0 if self._interpreter is None else await self._interpreter.answer(answers)


class _Run:
    """One run."""

    def __init__(self, models: Asks, interpreter: Interpreter | None, options: Options, request: Request) -> None:
        self._models = models
        self._interpreter = interpreter
        self._options = options
        self._tools = {} if interpreter is None else {hosted.name: hosted for hosted in options.tools}
        self._callable = callables.by_name(options.callable)
        self._lent = callables.lent(self._callable, options.answer_within_s) if self._callable else None
        self._request = request
        self._began = time.monotonic()
        seconds = options.budget.seconds
        self._deadline = None if seconds is None else self._began + seconds
        self._said: list[Message] = []
        self._spent = Spent()
        self._streak = Streak(time.monotonic)
        self._repeats = Repeats()
        self._last_failure = ""
        self._reply: Reply | None = None
        self._empty = 0
        self._lost = options.lost
        """An execution of this run has cost the session its variables."""
        self._facts = interpreter.facts if interpreter is not None else _NO_FACTS
        if options.timeout_s is not None:
            self._facts = replace(self._facts, timeout_s=options.timeout_s)

    async def begin(self) -> None:
        """Tell the model of its tool."""
        options, request = self._options, self._request
        if self._interpreter is None:
            self._request = replace(request, functions=options.functions)
            return
        files = await self._interpreter.files()
        if options.fenced:
            instruction = fence.instruction(self._facts, files)
            if self._callable:
                instruction += f"\n{callables.described(self._callable)}"
            system = Message.of("system", instruction)
            messages = (system, *fence.asking(request.messages))
            self._request = replace(request, messages=messages, functions=options.functions)
        else:
            ours = [self._function(hosted, files) for hosted in self._tools.values()]
            self._request = replace(request, functions=(*ours, *options.functions))

    def _function(self, hosted: HostedTool, files: Sequence[File]) -> Function:
        """As the model sees it."""
        function = hosted.function(self._facts, files)
        if not self._callable or not hosted.calls:
            return function
        return replace(function, description=f"{function.description}\n{callables.described(self._callable)}")

    async def events(self) -> AsyncGenerator[Event, None]:
        while (over := self._over()) is None:
            try:
                async with contextlib.aclosing(self._turn()) as events:
                    async for event in events:
                        yield event
            except Late:
                over = Ending.SECONDS
                break
            if isinstance(event, Finished):
                return
        if over is Ending.TURNS and self._options.pauses:
            for ended in self._finish(over, Message("assistant", ())):
                yield ended
        elif over in (Ending.ATTEMPTS, Ending.TURNS):
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
        async with contextlib.aclosing(self._ask(self._messages())) as events:
            async for event in events:
                yield event
        reply = self._answered()
        calls = self._calls(reply)
        self._say(reply.message)
        if not calls:
            for ended in self._conclude(reply):
                yield ended
            return
        self._empty = 0
        theirs = {function.name for function in self._options.functions}
        results = []
        for number, call in enumerate(call for call in calls if call.name not in theirs):
            async with contextlib.aclosing(self._use(call, number, cut_off=reply.finish == "length")) as events:
                async for event in events:
                    yield event
                    if isinstance(event, Ran):
                        results.append(ToolResult(call.id, event.told, event.execution.status is not Status.OK))
                    elif isinstance(event, Unusable):
                        results.append(ToolResult(call.id, (Text(event.told),), failed=True))
        if results:
            self._tell(results)
        if any(call.name in theirs for call in calls):
            for ended in self._finish(Ending.CALLS, reply.message):
                yield ended

    async def _ask(self, messages: tuple[Message, ...], *, last: bool = False) -> AsyncGenerator[Event, None]:
        """The model, with what was said so far; `self._reply` is what came. last: it must not call any more."""
        turn = self._spent.turns + 1
        yield Asked(turn)
        began = time.monotonic()
        request = self._asking(messages, first=turn == 1, last=last)
        items = until(self._models.stream(request, whole=self._options.whole), self._deadline)
        with telemetry.span(f"chat {request.model}", "client", None, **spans.asked(request)) as span:
            async with contextlib.aclosing(items):
                async for item in items:
                    if isinstance(item, Delta):
                        if item.text:
                            yield Said(item.text)
                    elif isinstance(item, Reply):
                        self._reply = item
                        self._count(item)
                        span.set(**spans.replied(item))
                        if self._options.whole and item.message.text:
                            yield Said(item.message.text)
                        yield Replied(turn, item, time.monotonic() - began)
                    else:
                        yield item

    def _asking(self, messages: tuple[Message, ...], *, first: bool, last: bool) -> Request:
        """A turn's request. What the caller wants called is for the first: a model that must call never answers."""
        asked = self._request
        choice = asked.tool_choice if first or asked.tool_choice == "none" else None
        if last:
            choice = "none"
        if not asked.functions or (self._options.fenced and choice == tool.NAME):
            choice = None
        extra = asked.extra
        if last or not first:
            extra = {name: value for name, value in extra.items() if name != "tool_choice"}
        return replace(asked, messages=messages, tool_choice=choice, extra=extra)

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
        if reply.message.calls or not self._options.fenced or self._request.tool_choice == "none":
            return reply.message.calls
        code = fence.program(reply.message.text, whole=reply.finish == "length")
        if code is None:
            return ()
        return (ToolCall(f"call_{self._spent.turns}", tool.NAME, json.dumps({"code": code}, ensure_ascii=False)),)

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

    async def _use(self, call: ToolCall, number: int, *, cut_off: bool) -> AsyncGenerator[Event, None]:
        """Execute one call: `Running`, what it shows and `Ran`, or `Unusable`; and a `Repair` when a streak is over.

        number: of the turn's calls, from 0.
        """
        if number >= _CALLS or self._streak.failures >= self._options.budget.attempts:
            # Not a failure of its own: the model could not know.
            yield Unusable(call, words.TOO_MANY if number >= _CALLS else words.NO_ATTEMPT)
            return
        if self._options.executions is not None and self._spent.executions >= self._options.executions:
            yield Unusable(call, words.NO_EXECUTION)
            return
        try:
            code = self._code(call, cut_off=cut_off)
        except tool.Unusable as error:
            yield self._unusable(call, str(error))
            return
        interpreter = self._interpreter
        assert interpreter is not None, "without one there are no tools"
        lent = self._lent if self._tools[call.name].calls else None
        waits: float | None = None
        try:
            async with timeout_at(self._deadline):
                await interpreter.ready()
            yield Running(call, code)
            timeout = self._timeout()
            async with contextlib.aclosing(interpreter.stream(code, timeout, lent)) as items:
                async for item in items:
                    self._waited(waits)
                    waits = None
                    if isinstance(item, Execution):
                        break
                    if isinstance(item, Calls):
                        waits = time.monotonic()
                        yield Wants(call, tuple(self._named(called) for called in item.calls))
                    else:
                        yield Showed(call.id, item)
                else:
                    raise AssertionError("an interpreter's stream ends with the execution, or raises")
        except InvalidCode as error:  # the model's mistake, not ours
            yield self._unusable(call, str(error))
            return
        except (Overloaded, SandboxFailed) as error:
            if not self._options.forgives or isinstance(error, Draining):
                raise
            yield replace(self._unusable(call, words.UNAVAILABLE.format(error=error)), error=error)
            return
        yield await self._ran(call, code, timeout, item)
        if item.status is Status.OK and (repair := self._streak.end(self._spent.usage, repaired=True)):
            yield repair

    def _waited(self, since: float | None) -> None:
        """For the caller, since then: time that is not the run's own."""
        if since is not None and self._deadline is not None:
            self._deadline += time.monotonic() - since

    def _named(self, called: Called) -> Called:
        """By the function's own name."""
        return replace(called, name=self._callable[called.name].name)

    def _code(self, call: ToolCall, *, cut_off: bool) -> str:
        """Raises `tool.Unusable`."""
        hosted = self._tools.get(call.name)
        if hosted is None:
            known = ", ".join([*self._tools, *(function.name for function in self._options.functions)]) or "none"
            raise tool.Unusable(f"There is no tool {call.name!r}. There are: {known}.")
        try:
            return hosted.code(call.arguments, cut_off)
        except tool.Unusable as error:
            if cut_off:
                raise tool.Unusable(words.CUT_OFF) from error
            raise

    def _timeout(self) -> float:
        """Seconds for the next execution: its own bound, or what is left of the run's. Raises `Late`."""
        if self._deadline is None:
            return self._facts.timeout_s
        left = self._deadline - time.monotonic()
        if left < _LEAST_S:
            raise Late
        return min(self._facts.timeout_s, left)

    def _unusable(self, call: ToolCall, why: str) -> Unusable:
        self._streak.fail("unusable_call", self._spent.usage)
        self._spent = replace(self._spent, failures=self._spent.failures + 1)
        self._last_failure = why
        return Unusable(call, why)

    async def _ran(self, call: ToolCall, code: str, timeout: float, execution: Execution) -> Ran:
        failed = execution.status is not Status.OK
        spent = self._spent
        self._spent = replace(spent, executions=spent.executions + 1, failures=spent.failures + failed)
        if failed:
            self._streak.fail(error_class(execution), spent.usage)
            self._last_failure = words.in_a_line(execution)
        seen = self._repeats.note(code, execution)
        if (telling := self._tools[call.name].told) is not None:
            self._lost = self._lost or execution.state_lost
            return Ran(call, code, execution, telling(execution))
        parts = told(
            execution,
            replace(self._facts, timeout_s=timeout),
            await self._files() if failed else (),
            code=code,
            pictures=self._options.pictures,
            again=seen.count - 1 if failed else 0,
            same_code=seen.same_code,
            left=self._options.budget.attempts - self._streak.failures if failed else None,
            lost=self._lost,
        )
        self._lost = self._lost or execution.state_lost
        if not failed and seen.count >= _AGAIN:
            parts = (*parts, Text(words.REPEATED.format(count=seen.count)))
        return Ran(call, code, execution, parts)

    async def _files(self) -> Sequence[File]:
        if self._interpreter is not None:
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
            self._said.append(Message.of("user", words.NUDGE))
            return ()
        return self._speak(Ending.EMPTY, "The model gave no answer.")

    async def _last_word(self, over: Ending) -> AsyncGenerator[Event, None]:
        """The model's own honest answer after the budget; ours, where it has none."""
        self._said.append(Message.of("user", words.LAST_WORD.format(reason=self._reason(over))))
        try:
            async with contextlib.aclosing(self._ask(self._messages(), last=True)) as events:
                async for event in events:
                    yield event
        except Late:
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

    def _speak(self, why: Ending, text: str) -> tuple[Event, ...]:
        """Answer in our own words."""
        answer = Message.of("assistant", text)
        self._said.append(answer)
        return (Said(text), *self._finish(why, answer))

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
