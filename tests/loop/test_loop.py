"""Turns until an answer: a scripted model, real sandboxes."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sandbox import telemetry
from sandbox.engine import Engine
from sandbox.errors import UpstreamFailed
from sandbox.execution import Status
from sandbox.interpreters.lazy import LazyInterpreter
from sandbox.interpreters.session import SessionInterpreter
from sandbox.loop.budget import Budget
from sandbox.loop.events import Asked, Ending, Event, Finished, Ran, Repair, Replied, Running, Said, Showed, Unusable
from sandbox.loop.interpreter import Interpreter
from sandbox.loop.loop import Loop
from sandbox.loop.messages import Function, Image, Message, Part, Request, Text, ToolCall, ToolResult
from sandbox.loop.options import Options
from sandbox.session import Session
from tests.loop.models import Scene, ScriptedModels, a_call, cut_off, runs, says

QUESTION = Request("scripted", (Message("user", (Text("How much is it?"),)),))
WEATHER = Function("weather", "The weather.", {"type": "object", "properties": {}})


@pytest.fixture
async def interpreter(engine: Engine, session: Session) -> Interpreter:
    return await SessionInterpreter.of(engine, session)


class Run:
    """What happened."""

    def __init__(self, events: Sequence[Event], models: ScriptedModels) -> None:
        self.events = events
        self.models = models

    @property
    def finished(self) -> Finished:
        last = self.events[-1]
        assert isinstance(last, Finished)
        return last

    @property
    def answer(self) -> str:
        return self.finished.answer.text

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def told(self, turn: int) -> str:
        """What the model was told last before this turn, which counts from 1."""
        last = self.models.asked[turn - 1].messages[-1]
        results = [part for part in last.parts if isinstance(part, ToolResult)]
        parts: list[Part] = [part for result in results for part in result.parts] or list(last.parts)
        return "\n".join(part.text for part in parts if isinstance(part, Text))


async def run(interpreter: Interpreter, *scenes: Scene, request: Request = QUESTION, **options: Any) -> Run:
    models = ScriptedModels(*scenes)
    events = [event async for event in Loop(models, interpreter, Options(**options)).run(request)]
    return Run(events, models)


async def test_an_answer_without_code_is_the_answer(interpreter: Interpreter) -> None:
    done = await run(interpreter, says("42"))
    assert (done.answer, done.finished.why) == ("42", Ending.ANSWERED)
    assert done.finished.spent.turns == 1
    assert done.finished.spent.executions == 0


async def test_the_model_is_offered_the_tool_with_the_truth_about_its_sandbox(
    interpreter: Interpreter, session: Session
) -> None:
    await session.upload("sales.csv", b"price\n1\n")
    done = await run(interpreter, says("42"), functions=(WEATHER,))
    ours, theirs = done.models.asked[0].functions
    assert (ours.name, theirs) == ("run_python", WEATHER)
    assert "sales.csv" in ours.description
    assert "pandas" in ours.description


async def test_code_runs_and_what_came_of_it_is_told_back(interpreter: Interpreter) -> None:
    done = await run(interpreter, runs("print(6 * 7)"), says("It is 42."))
    assert done.answer == "It is 42."
    assert "42" in done.told(2)
    order = [type(event) for event in done.events if not isinstance(event, Said)]
    assert [kind for kind in order if kind.__name__ != "Attempt"] == [
        Asked, Replied, Running, Showed, Ran, Asked, Replied, Finished,
    ]  # fmt: skip
    spent = done.finished.spent
    assert (spent.turns, spent.executions, spent.failures, spent.usage.input_tokens) == (2, 1, 0, 20)
    assert spent.cost == pytest.approx(0.02)


async def test_words_come_as_they_are_said_when_somebody_watches(interpreter: Interpreter) -> None:
    done = await run(interpreter, says("one two three"), whole=False)
    assert [event.text for event in done.of(Said)] == ["one", "two", "three"]


async def test_state_stays_between_the_calls_of_a_run(interpreter: Interpreter) -> None:
    done = await run(interpreter, runs("x = 6"), runs("print(x * 7)"), says("42"))
    assert "42" in done.told(3)


async def test_several_calls_at_once_run_in_their_order(interpreter: Interpreter) -> None:
    done = await run(interpreter, runs("n = [1]", "n.append(2)", "print(n)"), says("done"))
    results = done.models.asked[1].messages[-1].parts
    assert [part.call_id for part in results if isinstance(part, ToolResult)] == ["call_1", "call_2", "call_3"]
    assert "[1, 2]" in done.told(2)


async def test_a_program_that_failed_goes_back_with_its_error_and_can_be_repaired(interpreter: Interpreter) -> None:
    broken = "import pandas as pd\ndf = pd.DataFrame({'price': [1, 2]})\ndf['Price'].sum()"
    done = await run(interpreter, runs(broken), runs("df['price'].sum()"), says("3"))
    assert "KeyError" in done.told(2)
    assert "price" in done.told(2)
    result = done.models.asked[1].messages[-1].parts[0]
    assert isinstance(result, ToolResult)
    assert result.failed
    (repair,) = done.of(Repair)
    assert (repair.error_class, repair.failures, repair.repaired) == ("KeyError", 1, True)
    assert repair.usage.input_tokens == 10


async def test_after_too_many_failures_the_model_is_asked_for_an_honest_answer(interpreter: Interpreter) -> None:
    done = await run(
        interpreter, runs("1 / 0"), runs("int('a')"), says("I could not compute it."), budget=Budget(attempts=2)
    )
    assert (done.answer, done.finished.why) == ("I could not compute it.", Ending.ATTEMPTS)
    assert done.models.asked[-1].tool_choice == "none"
    assert "2 attempts in a row have failed" in done.told(3)
    (repair,) = done.of(Repair)
    assert (repair.error_class, repair.failures, repair.repaired) == ("ZeroDivisionError", 2, False)


async def test_a_model_that_cannot_stop_gets_an_answer_in_our_words(interpreter: Interpreter) -> None:
    done = await run(interpreter, runs("1 / 0"), runs("1 / 0"), budget=Budget(attempts=1))
    assert done.finished.why is Ending.ATTEMPTS
    assert "could not be finished" in done.answer
    assert "ZeroDivisionError" in done.answer
    assert done.of(Said)[-1].text == done.answer


async def test_the_same_failure_again_is_named_as_such(interpreter: Interpreter) -> None:
    done = await run(interpreter, runs("1 / 0"), runs("1 / 0"), runs("1"), says("ok"))
    assert done.told(2) != done.told(3)
    assert "again" in done.told(3).lower() or "same" in done.told(3).lower()


async def test_a_loop_of_the_same_code_is_named_as_such_and_ends_with_the_turns(interpreter: Interpreter) -> None:
    endless = [runs("print('again')") for _ in range(4)]
    done = await run(interpreter, *endless, says("I give up."), budget=Budget(turns=4))
    assert done.finished.why is Ending.TURNS
    assert done.answer == "I give up."
    third = done.models.asked[3].messages[-1].parts[0]
    assert isinstance(third, ToolResult)
    assert "run 3 of the same code" in "".join(part.text for part in third.parts if isinstance(part, Text))


async def test_arguments_that_are_no_code_are_told_back_and_count_as_a_failure(interpreter: Interpreter) -> None:
    nonsense = says("", ToolCall("call_1", "run_python", "{}"))
    done = await run(interpreter, nonsense, runs("print(1)"), says("1"))
    (unusable,) = done.of(Unusable)
    assert "code" in unusable.told
    assert unusable.told in done.told(2)
    assert done.finished.spent.failures == 1
    assert done.of(Repair)[0].error_class == "unusable_call"


async def test_a_call_that_was_cut_off_is_named_as_such(interpreter: Interpreter) -> None:
    done = await run(interpreter, cut_off(says("", ToolCall("call_1", "run_python", ""))), says("ok"))
    assert "cut off" in done.told(2)


async def test_a_tool_that_is_not_there_is_answered_with_those_that_are(interpreter: Interpreter) -> None:
    done = await run(interpreter, says("", ToolCall("call_1", "browser", "{}")), says("ok"), functions=(WEATHER,))
    assert "'browser'" in done.told(2)
    assert "run_python, weather" in done.told(2)


async def test_a_function_of_the_callers_ends_the_run_after_ours_have_run(interpreter: Interpreter) -> None:
    both = says("", a_call("print(1)"), ToolCall("call_w", "weather", "{}"))
    done = await run(interpreter, both, functions=(WEATHER,))
    assert done.finished.why is Ending.CALLS
    assert [call.id for call in done.finished.answer.calls] == ["call_1", "call_w"]
    assistant, tool = done.finished.said
    assert assistant == both.message
    assert [part.call_id for part in tool.parts if isinstance(part, ToolResult)] == ["call_1"]


async def test_an_empty_answer_is_asked_for_again_once(interpreter: Interpreter) -> None:
    done = await run(interpreter, says(""), says("42"))
    assert done.answer == "42"
    done = await run(interpreter, says(""), says("  "))
    assert (done.finished.why, done.answer) == (Ending.EMPTY, "The model gave no answer.")


async def test_an_answer_that_was_cut_off_is_given_as_such(interpreter: Interpreter) -> None:
    done = await run(interpreter, cut_off(says("It is fort")))
    assert (done.finished.why, done.answer) == (Ending.LENGTH, "It is fort")


async def test_tokens_and_dollars_are_bounds(interpreter: Interpreter) -> None:
    for budget, why in ((Budget(tokens=15), Ending.TOKENS), (Budget(usd=0.01), Ending.USD)):
        done = await run(interpreter, runs("print(1)"), budget=budget)
        assert done.finished.why is why
        assert "which is the limit" in done.answer
        assert len(done.models.asked) == 1


async def test_a_program_gets_no_more_seconds_than_the_run_has(interpreter: Interpreter) -> None:
    done = await run(interpreter, runs("import time\ntime.sleep(600)"), budget=Budget(seconds=1.0))
    assert done.of(Ran)[0].execution.status is Status.TIMEOUT
    assert done.finished.why is Ending.SECONDS


async def test_an_oom_is_told_with_what_was_used_and_the_limit(interpreter: Interpreter) -> None:
    done = await run(interpreter, runs("b = bytearray(4 << 30)\nb[::4096] = b'x' * len(b[::4096])"), says("too large"))
    assert done.of(Ran)[0].execution.status in (Status.OOM, Status.ERROR)
    assert "512" in done.told(2)


async def test_a_name_that_went_with_the_kernel_is_told_to_be_lost(interpreter: Interpreter) -> None:
    done = await run(interpreter, runs("x = 1"), runs("import os\nos._exit(1)"), runs("print(x)"), says("hm"))
    assert "NameError" in done.told(4)
    assert "lost" in done.told(4)


async def test_a_model_that_sees_gets_the_picture_and_another_its_description(interpreter: Interpreter) -> None:
    chart = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
    for pictures in (True, False):
        done = await run(interpreter, runs(chart), says("a line"), pictures=pictures)
        (result,) = done.models.asked[1].messages[-1].parts
        assert isinstance(result, ToolResult)
        assert any(isinstance(part, Image) for part in result.parts) is pictures
        assert "image/png" in done.told(2) or pictures


async def test_an_upstream_that_failed_ends_the_run_with_its_error(interpreter: Interpreter) -> None:
    with pytest.raises(UpstreamFailed, match="away"):
        await run(interpreter, runs("print(1)"), UpstreamFailed("the server is away"))


async def test_leaving_early_ends_the_program(interpreter: Interpreter, session: Session) -> None:
    models = ScriptedModels(runs("print('begun', flush=True)\nimport time\ntime.sleep(600)"))
    events: AsyncIterator[Event] = Loop(models, interpreter).run(QUESTION)
    async for event in events:
        if isinstance(event, Showed):
            break
    await events.aclose()  # type: ignore[attr-defined]
    assert (await session.execute("print(1)")).stdout == "1\n"


async def test_attempts_bound_the_calls_of_one_turn_too(interpreter: Interpreter) -> None:
    done = await run(interpreter, runs(*["1 / 0"] * 6), says("It cannot be."), budget=Budget(attempts=2))
    assert (done.finished.spent.executions, done.finished.why) == (2, Ending.ATTEMPTS)
    assert [event.told for event in done.of(Unusable)] == ["Not run: no attempt is left."] * 4
    (results,) = [message for message in done.finished.said if message.role == "tool"]
    assert len(results.parts) == 6  # every call is answered, or upstreams refuse the history


async def test_the_time_limit_that_the_model_is_told_is_the_one_that_holds(interpreter: Interpreter) -> None:
    done = await run(interpreter, runs("import time\ntime.sleep(60)"), says("too slow"), timeout_s=0.5)
    assert "0.5 s per call" in done.models.asked[0].functions[0].description
    assert "0.5 s" in done.told(2)
    assert "30 s" not in done.told(2)


async def test_what_the_caller_wants_called_is_for_the_first_turn(interpreter: Interpreter) -> None:
    wanted = replace(QUESTION, tool_choice="required", extra={"tool_choice": {"type": "allowed_tools"}, "seed": 1})
    done = await run(interpreter, runs("1"), says("1"), request=wanted)
    assert [(each.tool_choice, dict(each.extra)) for each in done.models.asked] == [
        ("required", {"tool_choice": {"type": "allowed_tools"}, "seed": 1}),
        (None, {"seed": 1}),
    ]


async def test_waiting_for_a_sandbox_is_part_of_the_runs_seconds(interpreter: Interpreter) -> None:
    async def never() -> Interpreter:
        await asyncio.Event().wait()
        raise AssertionError

    lazy = LazyInterpreter(interpreter.facts, never)
    done = await run(lazy, runs("print(1)"), budget=Budget(seconds=0.3))
    assert done.finished.why is Ending.SECONDS


async def test_another_program_that_fails_alike_is_not_called_the_same_code(interpreter: Interpreter) -> None:
    done = await run(interpreter, runs("{}['a']"), runs("d = {}\nd['a']"), runs("d = {}\nd['a']"), says("no"))
    assert "same code" not in done.told(3)


async def test_leaving_early_closes_the_models_stream_at_once(interpreter: Interpreter) -> None:
    models = ScriptedModels(says("one two three"))
    events = Loop(models, interpreter, Options(whole=False)).run(QUESTION)
    async for event in events:
        if isinstance(event, Said):
            break
    assert models.open == 1
    await events.aclose()
    assert models.open == 0


async def test_half_a_program_is_not_run(interpreter: Interpreter) -> None:
    bare = cut_off(says("", ToolCall("call_1", "run_python", "import os\nfor name in os.listdir('.'):\n    print(")))
    assert (await run(interpreter, bare, says("ok"))).finished.spent.executions == 0
    fence = cut_off(says("```python\nimport os\nprint(1)\n"))
    assert (await run(interpreter, fence, says("ok"), fenced=True)).finished.spent.executions == 0


async def test_each_turn_is_a_span_below_the_one_that_is_current(interpreter: Interpreter) -> None:
    exporter = InMemorySpanExporter()
    with telemetry.tracing("1", exporter=exporter), telemetry.span("invoke_agent sandbox"):
        await run(interpreter, runs("print(1)"), says("1"))
    first, second, root = exporter.get_finished_spans()
    assert [span.name for span in (first, second)] == ["chat scripted", "chat scripted"]
    assert {span.parent.span_id for span in (first, second) if span.parent} == {root.context.span_id}
    assert (second.attributes or {})["gen_ai.usage.output_tokens"] == 5


# Models without tool calls.


async def test_a_fenced_program_runs_and_what_came_of_it_is_the_users_next_message(interpreter: Interpreter) -> None:
    done = await run(interpreter, says("Sure:\n```python\nprint(6 * 7)\n```"), says("It is 42."), fenced=True)
    assert done.answer == "It is 42."
    first, second = done.models.asked
    assert first.functions == ()
    assert first.messages[0].role == "system"
    assert second.messages[-1].role == "user"
    assert "42" in done.told(2)


async def test_a_fenced_program_that_failed_is_to_be_fixed(interpreter: Interpreter) -> None:
    done = await run(
        interpreter, says("```python\n1 / 0\n```"), says("```python\nprint(1)\n```"), says("1"), fenced=True
    )
    assert "ZeroDivisionError" in done.told(2)
    assert done.of(Repair)[0].repaired
    assert json.loads(done.of(Running)[0].call.arguments)["code"].strip() == "1 / 0"
