"""The benchmark of error texts: what it counts, and how it lets a model try."""

import pytest

from sandbox.engine import Engine
from sandbox.execution import Execution, Status
from tests.repair import prepare, programs
from tests.repair.model import Conversation, code_in
from tests.repair.styles import raw
from tests.repair.tokens import tokens


@pytest.mark.parametrize(("text", "number"), [("", 0), ("print(x)", 3), ("KeyError: 'Price'\n", 5), ("2024", 4)])
def test_tokens_are_counted_the_same_everywhere(text: str, number: int) -> None:
    assert tokens(text) == number


def test_colour_costs() -> None:
    assert tokens("\x1b[38;5;28;01mfor\x1b[39;00m x") > 3 * tokens("for x")


def test_a_program_is_repaired_when_it_prints_what_it_should_and_leaves_its_files() -> None:
    broken = next(program for program in programs() if program.name == "directory-missing")
    assert not broken.repaired(Execution("e", "s", Status.OK, stdout="3\n"))
    assert not broken.repaired(Execution("e", "s", Status.ERROR, stdout="3\n"))


@pytest.mark.parametrize("name", ["column-case", "bracket-open"])
async def test_the_raw_styles_are_those_of_a_runner(engine: Engine, name: str) -> None:
    broken = next(program for program in programs() if program.name == name)
    async with engine.session() as session:
        coloured, plain, formatted = await raw(session, broken)
    assert "\x1b[" in coloured
    assert "\x1b" not in plain + formatted
    assert "_run_user_code" in formatted
    assert all(broken.error in text for text in (coloured, plain, formatted))


async def test_a_setup_has_run_before(engine: Engine) -> None:
    broken = next(program for program in programs() if program.setup)
    async with engine.session() as session:
        await prepare(session, broken)
        assert await session.list()


def test_a_conversation_grows_by_what_failed() -> None:
    conversation = Conversation.about("Print 1.", "print(", "error\nSyntaxError")
    conversation.failed("```python\nprint(\n```", "error again")
    assert [message["role"] for message in conversation.messages] == ["system", "user", "assistant", "user"]
    assert "error again" in conversation.messages[-1]["content"]


@pytest.mark.parametrize("answer", ["```python\nprint(1)\n```", "print(1)", '{"code": "print(1)"}'])
def test_the_code_in_an_answer_is_found(answer: str) -> None:
    assert code_in(answer) == "print(1)"
