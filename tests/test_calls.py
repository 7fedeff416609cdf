"""Functions of the caller's that a program awaits: real kernels, and answers that come, come late or do not come."""

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sandbox.calls import MAX_ANSWER, RemoteCalls
from sandbox.engine import Engine
from sandbox.errors import TooLarge
from sandbox.execution import Answer, Called, Calls, Execution, Functions, Output, Status
from sandbox.guest.deadline import Deadline
from sandbox.guest.frames import MAX_ARGUMENTS, MAX_WAITING, BadFrame, arguments_of
from sandbox.image import Image
from sandbox.session import Session

WEATHER = Functions({"weather": ("city", "unit")})
IMPATIENT = Functions({"weather": ("city", "unit")}, answer_within_s=0.2)


class Calling:
    """An execution with functions, read in a task of its own."""

    def __init__(self, session: Session, code: str, functions: Functions, timeout: float) -> None:
        self.session = session
        self.batches: asyncio.Queue[Calls] = asyncio.Queue()
        self.outputs: list[Output] = []
        self._task = asyncio.create_task(self._read(code, functions, timeout))

    async def _read(self, code: str, functions: Functions, timeout: float) -> Execution:
        async with contextlib.aclosing(self.session.stream(code, timeout, functions)) as items:
            async for item in items:
                if isinstance(item, Execution):
                    return item
                if isinstance(item, Calls):
                    self.batches.put_nowait(item)
                else:
                    self.outputs.append(item)
        raise AssertionError("the stream had no execution")

    async def calls(self) -> tuple[Called, ...]:
        """Those that the program makes next."""
        waiting = asyncio.create_task(self.batches.get())
        await asyncio.wait((waiting, self._task), return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            raise AssertionError(f"the program made no call: {self._task.result()}")
        return waiting.result().calls

    async def answer_all(self, say: Callable[[Called], str]) -> list[int]:
        """Answer whatever is called, to the end; how many calls came together, each time."""
        sizes: list[int] = []
        while True:
            waiting = asyncio.create_task(self.batches.get())
            await asyncio.wait((waiting, self._task), return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                waiting.cancel()
                return sizes
            calls = waiting.result().calls
            sizes.append(len(calls))
            await self.session.answer(*(Answer(call.id, say(call)) for call in calls))

    async def end(self) -> Execution:
        return await self._task

    def cancel(self) -> None:
        self._task.cancel()


@contextlib.asynccontextmanager
async def calling(
    session: Session, code: str, functions: Functions = WEATHER, timeout: float = 30
) -> AsyncIterator[Calling]:
    running = Calling(session, code, functions, timeout)
    try:
        yield running
    finally:
        running.cancel()
        await asyncio.gather(running._task, return_exceptions=True)


async def answered(session: Session, code: str, functions: Functions = WEATHER) -> Execution:
    """The execution, with every call answered."""
    async with calling(session, code, functions) as program:
        await program.answer_all(lambda call: json.dumps(dict(call.arguments)))
        return await program.end()


async def goes_on(session: Session) -> bool:
    execution = await session.execute("print('on')")
    return (execution.status, execution.stdout, execution.stderr) == (Status.OK, "on\n", "")


class TestACall:
    async def test_leaves_the_sandbox_and_the_program_goes_on_with_the_answer(self, session: Session) -> None:
        code = "print('asking')\nsaid = await weather(city='Oslo')\nprint(type(said).__name__, said)"
        async with calling(session, code) as program:
            [call] = await program.calls()
            assert (call.name, call.arguments) == ("weather", {"city": "Oslo"})
            assert await session.answer(Answer(call.id, "rain ☂")) == 1
            execution = await program.end()
        assert (execution.status, execution.stdout) == (Status.OK, "asking\nstr rain ☂\n")

    async def test_comes_after_what_was_printed_before_it(self, session: Session) -> None:
        async with calling(session, "print('asking', end='')\nawait weather()") as program:
            await program.calls()
            assert [output.text for output in program.outputs if hasattr(output, "text")] == ["asking"]

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ("'Oslo'", {"city": "Oslo"}),
            ("'Oslo', 'C'", {"city": "Oslo", "unit": "C"}),
            ("'Oslo', unit=None", {"city": "Oslo", "unit": None}),
            ("city=[1, {'a': 2.5}], other='ü😀'", {"city": [1, {"a": 2.5}], "other": "ü😀"}),
            ("np.int64(3), np.array([1, 2])", {"city": 3, "unit": [1, 2]}),
            ("pd.Timestamp('2026-01-02'), {1}", {"city": "2026-01-02T00:00:00", "unit": [1]}),
        ],
    )
    async def test_has_arguments_by_name_as_json(
        self, session: Session, arguments: str, expected: dict[str, Any]
    ) -> None:
        code = f"import numpy as np, pandas as pd\nawait weather({arguments})"
        async with calling(session, code) as program:
            [call] = await program.calls()
            assert call.arguments == expected

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ("1, 2, 3", "TypeError: weather(city, unit) takes 2 arguments but 3 were given"),
            ("1, city=2", "TypeError: weather() got multiple values for 'city'"),
            ("object()", "TypeError: weather(): arguments must be what JSON can hold: object is not"),
            ("float('nan')", "TypeError: weather(): arguments must be what JSON can hold"),
            ("'\\ud800'", "ValueError: weather(): the arguments have half a character"),
            ("x * 300_000", f"ValueError: weather(): the arguments are 300,011 characters of JSON; {MAX_ARGUMENTS:,}"),
            ("deep", "ValueError: weather(): the arguments have"),
        ],
    )
    async def test_with_arguments_that_cannot_be_sent_is_refused_where_it_is_made(
        self, session: Session, arguments: str, words: str
    ) -> None:
        code = f"x = 'x'\ndeep = []\nfor _ in range(50): deep = [deep]\nawait weather({arguments})"
        execution = await answered(session, code)
        assert execution.error is not None
        assert words in execution.error.traceback
        assert 'File "' not in execution.error.traceback  # no frames of ours

    async def test_that_failed_raises_in_the_program(self, session: Session) -> None:
        code = "try:\n    await weather('Oslo')\nexcept RuntimeError as error:\n    print(type(error).__name__, error)"
        async with calling(session, code) as program:
            [call] = await program.calls()
            await session.answer(Answer(call.id, "no such city", failed=True))
            assert (await program.end()).stdout == "CallFailed no such city\n"

    async def test_with_an_answer_that_is_too_long_still_waits_for_another(self, session: Session) -> None:
        async with calling(session, "print(len(await weather('Oslo')))") as program:
            [call] = await program.calls()
            with pytest.raises(TooLarge):
                await session.answer(Answer(call.id, "x" * (MAX_ANSWER + 1)))
            await session.answer(Answer(call.id, "😀" * MAX_ANSWER))
            assert (await program.end()).stdout == f"{MAX_ANSWER}\n"

    @pytest.mark.attack("E04")
    async def test_is_answered_once(self, session: Session) -> None:
        async with calling(session, "print(await weather('Oslo'))") as program:
            [call] = await program.calls()
            counts = [await session.answer(Answer(call.id, text)) for text in ("first", "second")]
            assert counts == [1, 0]
            assert (await program.end()).stdout == "first\n"
        assert await session.answer(Answer(call.id, "third"), Answer("cal_made_up", "x")) == 0


class TestSeveralCalls:
    async def test_that_are_made_at_once_come_together_and_are_answered_in_any_order(self, session: Session) -> None:
        code = "import asyncio\nprint(await asyncio.gather(*(weather(city) for city in 'abc')))"
        async with calling(session, code) as program:
            calls = await program.calls()
            assert [call.arguments["city"] for call in calls] == ["a", "b", "c"]
            for call in reversed(calls):
                await session.answer(Answer(call.id, call.arguments["city"].upper()))
            assert (await program.end()).stdout == "['A', 'B', 'C']\n"

    async def test_that_follow_answers_given_together_come_together_too(self, session: Session) -> None:
        code = "import asyncio\nasync def both(n):\n    return await weather(n) + await weather(n + 100)\n"
        code += "print(sum(map(len, await asyncio.gather(*(both(n) for n in range(50))))))"
        async with calling(session, code) as program:
            assert await program.answer_all(lambda call: "x") == [50, 50]
            assert (await program.end()).stdout == "100\n"

    async def test_are_bounded_in_number_and_the_rest_waits(self, session: Session) -> None:
        code = "import asyncio\nprint(sum(map(int, await asyncio.gather(*(weather(n) for n in range(1000))))))"
        async with calling(session, code) as program:
            sizes = await program.answer_all(lambda call: str(call.arguments["city"]))
            assert (sum(sizes), max(sizes)) == (1000, MAX_WAITING)
            assert (await program.end()).stdout == f"{sum(range(1000))}\n"

    async def test_with_much_in_them_come_whole(self, session: Session) -> None:
        code = (
            "import asyncio\nprint(sum(map(len, await asyncio.gather(*(weather('\"' * 100_000) for _ in range(20))))))"
        )
        async with calling(session, code) as program:
            await program.answer_all(lambda call: call.arguments["city"])
            assert (await program.end()).stdout == "2000000\n"

    async def test_can_be_made_one_after_the_other_a_thousand_times(self, session: Session) -> None:
        execution = await answered(session, "for n in range(1000): last = await weather(n)\nprint(last)")
        assert execution.stdout == '{"city": 999}\n'

    async def test_from_other_threads_are_answered_too(self, session: Session) -> None:
        code = "import asyncio\nprint(await asyncio.to_thread(lambda: asyncio.run(weather('Oslo'))))"
        assert (await answered(session, code)).stdout == '{"city": "Oslo"}\n'


class TestTheNames:
    async def test_are_gone_after_the_execution_and_what_had_them_is_back(self, session: Session) -> None:
        await session.execute("weather = 'mine'")
        assert (await answered(session, "print(await weather())")).stdout == "{}\n"
        assert (await session.execute("weather")).results == ({"text/plain": "'mine'"},)
        await session.execute("del weather")
        await answered(session, "await weather()")
        execution = await session.execute("weather")
        assert execution.error is not None
        assert execution.error.name == "NameError"

    async def test_that_the_program_has_taken_for_itself_stay_its_own(self, session: Session) -> None:
        await answered(session, "weather = 'mine'")
        assert (await session.execute("weather")).results == ({"text/plain": "'mine'"},)

    async def test_that_it_kept_say_that_they_are_not_there(self, session: Session) -> None:
        await answered(session, "kept = weather")
        execution = await session.execute("await kept('Oslo')")
        assert execution.error is not None
        assert "weather() is not there for this code" in execution.error.value
        other = await answered(session, "await kept('Oslo')", Functions({"time": ()}))
        assert other.error is not None
        assert (await answered(session, "print(await kept('Oslo'))")).stdout == '{"city": "Oslo"}\n'

    async def test_do_not_outlive_it_for_tasks_that_it_left_behind(self, session: Session) -> None:
        code = "import asyncio\ntask = asyncio.create_task(weather('Oslo'))\nawait asyncio.sleep(0)"
        async with calling(session, code) as program:
            [call] = await program.calls()
            assert (await program.end()).status is Status.OK
        assert await session.answer(Answer(call.id, "x")) == 0
        execution = await session.execute(
            "try:\n    await task\nexcept asyncio.CancelledError:\n    print('cancelled')"
        )
        assert execution.stdout == "cancelled\n"


class TestNobodyAnswers:
    async def test_the_program_sees_a_timeout(self, session: Session) -> None:
        execution = await answered_by_nobody(session, "await weather('Oslo')")
        assert execution.error is not None
        assert execution.error.name == "TimeoutError"
        assert execution.error.value == "weather was not answered within 0.2 s"

    async def test_an_answer_that_is_late_is_not_waited_for(self, session: Session) -> None:
        async with calling(session, "await weather('Oslo')", IMPATIENT) as program:
            [call] = await program.calls()
            await program.end()
            assert await session.answer(Answer(call.id, "rain")) == 0

    async def test_waiting_is_not_the_programs_own_time(self, session: Session) -> None:
        patient = Functions(WEATHER.parameters, answer_within_s=2.0)
        async with calling(session, "await weather()", patient, timeout=1.0) as program:
            execution = await program.end()
        assert execution.status is Status.ERROR  # not our timeout, after one second
        assert execution.error is not None
        assert execution.error.name == "TimeoutError"

    async def test_who_goes_on_calling_comes_to_an_end(self, session: Session) -> None:
        code = "while True:\n    try:\n        await weather()\n    except TimeoutError:\n        pass"
        async with calling(session, code, IMPATIENT, timeout=1.0) as program:
            execution = await program.end()
        assert execution.status is Status.TIMEOUT
        assert await goes_on(session)

    async def test_who_computes_meanwhile_has_no_more_time_than_the_wait(self, session: Session) -> None:
        code = "import asyncio\ntask = asyncio.create_task(weather())\nawait asyncio.sleep(0)\nwhile True: pass"
        async with calling(session, code, IMPATIENT, timeout=0.5) as program:
            assert (await program.end()).status is Status.TIMEOUT
        assert await goes_on(session)


async def answered_by_nobody(session: Session, code: str) -> Execution:
    async with calling(session, code, IMPATIENT) as program:
        return await program.end()


class TestWhileItWaits:
    async def test_an_interrupt_ends_the_program(self, session: Session) -> None:
        async with calling(session, "x = 1\nawait weather()") as program:
            [call] = await program.calls()
            await session.interrupt()
            execution = await program.end()
        assert (execution.status, execution.state_lost) == (Status.INTERRUPTED, False)
        assert await session.answer(Answer(call.id, "x")) == 0
        assert (await session.execute("x")).results == ({"text/plain": "1"},)

    async def test_the_kernel_may_die(self, session: Session) -> None:
        code = "import asyncio, os\ntask = asyncio.create_task(weather())\nawait asyncio.sleep(0.1)\nos._exit(3)"
        async with calling(session, code) as program:
            [call] = await program.calls()
            execution = await program.end()
        assert (execution.status, execution.state_lost) == (Status.KILLED, True)
        assert await session.answer(Answer(call.id, "x")) == 0
        assert (await answered(session, "print(await weather())")).stdout == "{}\n"

    async def test_the_session_may_be_closed(self, engine: Engine) -> None:
        async with engine.session() as session, calling(session, "await weather()") as program:
            [call] = await program.calls()
            await session.close()
            assert (await program.end()).status is Status.CANCELLED
            assert await session.answer(Answer(call.id, "x")) == 0

    async def test_the_kernel_may_be_replaced(self, session: Session) -> None:
        async with calling(session, "await weather()") as program:
            await program.calls()
            await session.restart()
            assert (await program.end()).status is Status.KILLED
        assert (await answered(session, "print(await weather())")).stdout == "{}\n"

    async def test_whoever_listens_may_leave(self, session: Session) -> None:
        async with calling(session, "await weather()") as program:
            await program.calls()
        assert await goes_on(session)

    async def test_what_it_calls_after_that_is_nobodys(self, session: Session) -> None:
        code = "import asyncio\ntry:\n    await weather()\nexcept asyncio.CancelledError:\n    await weather()"
        async with calling(session, code) as program:
            await program.calls()
            running = session._kernel._running
            assert running is not None
            assert running.calls is not None
            calls = running.calls
        assert calls._waiting == {}
        assert (await answered(session, "print(await weather())")).stdout == "{}\n"

    async def test_other_tasks_of_the_program_go_on(self, session: Session) -> None:
        code = "import asyncio\nasync def ticks():\n    for n in range(3): print(n); await asyncio.sleep(0)\n"
        code += "print(await asyncio.gather(weather('Oslo'), ticks()))"
        async with calling(session, code) as program:
            [call] = await program.calls()
            await session.answer(Answer(call.id, "rain"))
            assert (await program.end()).stdout == "0\n1\n2\n['rain', None]\n"


FORGE = """
kernel = get_ipython().kernel
def forge(calls, parent=None):
    parent = parent or kernel.get_parent('shell')
    kernel.session.send(None, 'wants', {'calls': calls}, parent)
"""


class TestAForger:
    @pytest.mark.attack("E05")
    @pytest.mark.parametrize(
        "calls",
        [
            "None",
            "7",
            "['weather']",
            "[[1, 'weather']]",
            "[[1, 'weather', '{}', 4]]",
            "[['1', 'weather', '{}']]",
            "[[-1, 'weather', '{}']]",
            "[[True, 'weather', '{}']]",
            "[[1 << 60, 'weather', '{}']]",
            "[[1, 'launch_missiles', '{}']]",
            "[[1, 'weather', {}]]",
            "[[1, 'weather', '[]']]",
            "[[1, 'weather', 'x']]",
            "[[1, 'weather', '[' * 100_000]]",
            "[[1, 'weather', '{\"a\":' * 40 + '1' + '}' * 40]]",
            "[[1, 'weather', '{\"a\": NaN}']]",
            "[[1, 'weather', '{\"a\": 1e999}']]",
            "[[1, 'weather', '{\"a\": \"\\\\ud800\"}']]",
            "[[1, 'weather', '{\"a\": \"' + 'x' * (1 << 20) + '\"}']]",
            "[[1, 'weather', '{}']] * 300_000",
        ],
    )
    async def test_of_calls_that_no_kernel_makes_is_not_heard(self, session: Session, calls: str) -> None:
        async with calling(session, f"{FORGE}\nforge({calls})\nprint('sent')") as program:
            execution = await program.end()
            heard = 1 if calls.endswith("300_000") else 0  # the longest is not even read
            assert program.batches.qsize() <= heard
        assert (execution.status, execution.stdout) == (Status.OK, "sent\n")
        assert await goes_on(session)

    async def test_of_many_calls_is_heard_as_often_as_is_allowed(self, session: Session) -> None:
        code = f"{FORGE}\nfor n in range(1, 1000): forge([[n, 'weather', '{{}}']])"
        async with calling(session, code) as program:
            execution = await program.end()
            assert program.batches.qsize() == MAX_WAITING
        assert execution.status is Status.OK
        assert await goes_on(session)

    async def test_is_not_heard_where_nothing_can_be_called(self, session: Session) -> None:
        execution = await session.execute(f"{FORGE}\nforge([[1, 'weather', '{{}}']])\nprint('sent')")
        assert (execution.status, execution.stdout) == (Status.OK, "sent\n")

    @pytest.mark.attack("E03")
    async def test_who_claims_another_execution_is_not_heard(self, session: Session) -> None:
        code = f"{FORGE}\nforge([[1, 'weather', '{{}}']], {{'header': {{'msg_id': 'exe_other'}}}})"
        async with calling(session, code) as program:
            await program.end()
            assert program.batches.empty()

    async def test_of_answers_deceives_nobody_but_itself(self, session: Session) -> None:
        code = "import asyncio\nkernel = get_ipython().kernel\ntask = asyncio.create_task(weather('Oslo'))\n"
        code += (
            "await asyncio.sleep(0.01)\nkernel.calls.answer([(number, 'ok', 'sun') for number in kernel.calls._sent])\n"
        )
        code += "print(await task)"
        async with calling(session, code) as program:
            [call] = await program.calls()
            assert (await program.end()).stdout == "sun\n"
            assert await session.answer(Answer(call.id, "rain")) == 0
        assert await goes_on(session)

    @pytest.mark.attack("E08")
    async def test_who_breaks_the_kernels_own_calls_breaks_only_those(self, session: Session) -> None:
        await session.execute("get_ipython().kernel.calls = None")
        execution = await answered(session, "print('here')")
        assert execution.status is Status.ERROR
        assert await goes_on(session)


async def test_the_example_of_the_documentation_does_what_it_says(root: None, python_image: Image) -> None:
    page = (Path(__file__).parent.parent / "docs" / "python.md").read_text()
    [example] = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "Functions" in code]
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", example, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert f"# {out.decode().strip()}\n" in example


@pytest.mark.parametrize(
    "call", [[float("inf"), "weather", "{}"], ["1", "weather", "{}"], [1, ["weather"], "{}"], [1, "weather", ["{}"]]]
)
async def test_a_call_that_no_init_would_let_through_is_refused(call: list[Any]) -> None:
    async def send(answers: Sequence[Any]) -> None:
        raise AssertionError("nothing is to be sent")

    calls = RemoteCalls(WEATHER, Deadline(0.0), send)
    with pytest.raises(BadFrame):
        calls.on_wants([call])


class TestDeadline:
    def test_it_stands_still_while_somebody_is_waited_for(self) -> None:
        deadline = Deadline(10.0)
        deadline.stop(4.0)
        assert deadline.left(100.0) == 6.0
        deadline.go_on(104.0)
        assert (deadline.moment, deadline.left(105.0)) == (110.0, 5.0)

    def test_it_does_not_any_more_once_it_was_in_vain(self) -> None:
        deadline = Deadline(10.0)
        deadline.stop(4.0)
        deadline.give_up(9.0)
        deadline.stop(9.0)
        assert deadline.left(12.0) == 3.0


@pytest.mark.parametrize("text", ['{"a": 1}', "{}", '{"a": [[{"b": "ü"}]]}'])
def test_arguments_are_an_object(text: str) -> None:
    assert arguments_of(text) == json.loads(text)


@pytest.mark.parametrize(
    "text", ["", "[]", '"x"', "{", '{"a": Infinity}', '{"a": -1e999}', '{"\\ud800": 1}', "\ud800", "[" * 99_999]
)
def test_arguments_that_are_none_are_refused(text: Sequence[str]) -> None:
    with pytest.raises(BadFrame):
        arguments_of(str(text))
