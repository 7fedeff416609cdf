"""Functions of the caller's in a run: the model is told of them, its programs await them, and the run goes on."""

import contextlib
from typing import Any

import pytest

from sandbox.engine import Engine
from sandbox.errors import InvalidRequest
from sandbox.execution import Answer, Called, Functions, Status
from sandbox.interpreters.session import SessionInterpreter
from sandbox.loop.budget import Budget
from sandbox.loop.callables import by_name, described, lent, python_name
from sandbox.loop.events import Ending, Event, Finished, Ran, Running, Wants
from sandbox.loop.interpreter import Interpreter
from sandbox.loop.loop import Loop
from sandbox.loop.messages import Function
from sandbox.loop.options import Options
from sandbox.session import Session
from tests.loop.models import Scene, ScriptedModels, a_call, runs, says
from tests.loop.test_loop import QUESTION, Run

WEATHER = Function(
    "get-weather",
    "The weather\nof a city.",
    {
        "type": "object",
        "properties": {
            "unit": {"enum": ["C", "F"], "description": "Celsius or\nFahrenheit."},
            "city": {"type": "string"},
            "days": {"type": "array", "items": {"type": "integer"}},
        },
        "required": ["city"],
    },
)


@pytest.fixture
async def interpreter(engine: Engine, session: Session) -> Interpreter:
    return await SessionInterpreter.of(engine, session)


async def run(interpreter: Interpreter, *scenes: Scene, say: str = "rain", failed: bool = False, **options: Any) -> Run:
    """With every call answered as it comes."""
    models = ScriptedModels(*scenes)
    loop = Loop(models, interpreter, Options(callable=(WEATHER,), **options))
    events: list[Event] = []
    async with contextlib.aclosing(loop.run(QUESTION)) as happening:
        async for event in happening:
            events.append(event)
            if isinstance(event, Wants):
                await loop.answer(*(Answer(called.id, say, failed) for called in event.calls))
    return Run(events, models)


async def test_a_program_gets_what_the_caller_answers_and_the_run_goes_on(interpreter: Interpreter) -> None:
    done = await run(interpreter, runs("print(await get_weather('Oslo', unit='C'))"), says("It rains."))
    assert done.answer == "It rains."
    assert "rain" in done.told(2)
    [wants] = done.of(Wants)
    assert wants.call.id == "call_1"
    [called] = wants.calls
    assert (called.name, called.arguments) == ("get-weather", {"city": "Oslo", "unit": "C"})
    order = [type(event) for event in done.events if isinstance(event, Running | Wants | Ran | Finished)]
    assert order == [Running, Wants, Ran, Finished]


async def test_calls_made_at_once_are_wanted_at_once(interpreter: Interpreter) -> None:
    code = "import asyncio\nprint(await asyncio.gather(*(get_weather(city) for city in ('Oslo', 'Rome'))))"
    done = await run(interpreter, runs(code), says("done"))
    [wants] = done.of(Wants)
    assert [called.arguments["city"] for called in wants.calls] == ["Oslo", "Rome"]
    assert "['rain', 'rain']" in done.told(2)


async def test_a_call_that_failed_can_be_handled_or_repaired(interpreter: Interpreter) -> None:
    done = await run(interpreter, runs("await get_weather('Oslo')"), says("no"), say="no such city", failed=True)
    assert "CallFailed: no such city" in done.told(2)
    [ran] = done.of(Ran)
    assert ran.execution.status is Status.ERROR


async def test_the_program_of_an_impatient_run_sees_a_timeout(interpreter: Interpreter) -> None:
    models = ScriptedModels(runs("await get_weather('Oslo')"), says("Nobody answered."))
    loop = Loop(models, interpreter, Options(callable=(WEATHER,), answer_within_s=0.2))
    done = Run([event async for event in loop.run(QUESTION)], models)
    assert "TimeoutError: get_weather was not answered within 0.2 s" in done.told(2)
    assert done.answer == "Nobody answered."


async def test_the_runs_own_time_stands_still_while_the_caller_is_waited_for(interpreter: Interpreter) -> None:
    code = "try:\n    await get_weather('Oslo')\nexcept TimeoutError:\n    print('late')"
    models = ScriptedModels(runs(code), says("done"))
    options = Options(callable=(WEATHER,), answer_within_s=3.0, budget=Budget(seconds=2.0))
    events = [event async for event in Loop(models, interpreter, options).run(QUESTION)]
    assert Run(events, models).finished.why is Ending.ANSWERED


async def test_whoever_leaves_while_a_program_waits_ends_it(interpreter: Interpreter, session: Session) -> None:
    loop = Loop(ScriptedModels(runs("await get_weather('Oslo')")), interpreter, Options(callable=(WEATHER,)))
    async with contextlib.aclosing(loop.run(QUESTION)) as happening:
        async for event in happening:
            if isinstance(event, Wants):
                break
    assert (await session.execute("print('on')")).stdout == "on\n"


async def test_without_functions_nothing_is_told_or_lent(interpreter: Interpreter) -> None:
    models = ScriptedModels(runs("get_weather"), says("no"))
    done = Run([event async for event in Loop(models, interpreter).run(QUESTION)], models)
    assert "async functions" not in models.asked[0].functions[0].description
    assert "NameError" in done.told(2)


async def test_a_function_can_be_the_models_and_the_programs(interpreter: Interpreter) -> None:
    models = ScriptedModels(says("", a_call("print(await get_weather('Oslo'))"), a_call("1", "call_2")), says("done"))
    loop = Loop(models, interpreter, Options(callable=(WEATHER,), functions=(WEATHER,)))
    async for event in loop.run(QUESTION):
        if isinstance(event, Wants):
            await loop.answer(*(Answer(called.id, "rain") for called in event.calls))
    assert [function.name for function in models.asked[0].functions] == ["run_python", "get-weather"]


async def test_a_fenced_model_is_told_too(interpreter: Interpreter) -> None:
    fence = says("```python\nprint(await get_weather('Oslo'))\n```")
    done = await run(interpreter, fence, says("It rains."), fenced=True)
    assert "await get_weather(" in done.models.asked[0].messages[0].text
    assert "rain" in done.told(2)


async def test_the_model_is_told_how_they_are_called(interpreter: Interpreter) -> None:
    done = await run(interpreter, says("42"))
    told = done.models.asked[0].functions[0].description
    assert told.endswith(
        '\n- await get_weather(city: str, unit: "C" | "F" = ..., days: list[int] = ...): The weather of a city.'
        "\n    unit: Celsius or Fahrenheit."
    )


@pytest.mark.parametrize(
    "schema", [{}, {"properties": None}, {"properties": {"a": 1}, "required": 7}, {"required": [{}]}]
)
def test_schemas_of_any_shape_are_described(schema: dict[str, Any]) -> None:
    named = by_name((Function("f", "", schema),))
    assert "- await f(" in described(named)
    assert isinstance(lent(named, 1.0), Functions)


@pytest.mark.parametrize(
    ("name", "expected"), [("f", "f"), ("a-b.c", "a_b_c"), ("2nd", "_2nd"), ("import", "_import"), ("größe", "gr__e")]
)
def test_names_are_pythons(name: str, expected: str) -> None:
    assert python_name(name) == expected


def test_two_functions_cannot_have_one_name() -> None:
    with pytest.raises(InvalidRequest):
        by_name((Function("a-b", "", {}), Function("a_b", "", {})))


def test_functions_whose_names_would_fit_into_no_frame_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="characters"):
        by_name([Function(f"f{n}", "", {"properties": {"\N{GRINNING FACE}" * 100_000: {}}}) for n in range(20)])


def test_a_call_keeps_what_identifies_it() -> None:
    assert Called("cal_1", "f", {}) != Called("cal_2", "f", {})
