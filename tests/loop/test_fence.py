"""One program out of a reply: for models that write fences whatever `tools` says."""

import hypothesis
import pytest
from hypothesis import strategies

from sandbox.loop.fence import ASK, asking, below, instruction, program
from sandbox.loop.interpreter import Facts
from sandbox.loop.messages import Image, Message, Text
from sandbox.remote import File

CODE = "import math\nprint(math.pi)"


@pytest.mark.parametrize(
    "reply",
    [
        f"```python\n{CODE}\n```",
        f"Here it is:\n\n```py\n{CODE}\n```\nThis prints pi.",
        f"```Python3\n{CODE}\n```",
        f"```\n{CODE}\n```",
        f"~~~python\n{CODE}\n~~~",
        f"````python\n{CODE}\n````",
        f"```python title='a.py'\n{CODE}\n```",
        f"```python\n{CODE}",
        f"```python\r\n{CODE}\r\n```",
        "1. First:\n   ```python\n   import math\n   print(math.pi)\n   ```",
        "> ```python\n> import math\n> print(math.pi)\n> ```",
        f"```python\n\n{CODE}\n\n```",
    ],
)
def test_the_program_in_a_fence_is_found(reply: str) -> None:
    assert program(reply) == CODE


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "The mean is 4.",
        "Use `print(1)` for that.",
        "```json\n{}\n```",
        "```bash\nls\n```",
        "```\nmean: 4, as was printed\n```",
        "```python\n```",
        "```python\n   \n```",
    ],
)
def test_a_reply_without_a_program_has_none(reply: str) -> None:
    assert program(reply) is None


def test_of_several_the_longest_that_parses_is_the_program() -> None:
    part, whole, broken = "import math", CODE, "this is not Python, but it is longer than all of the others are"
    reply = f"First ```python\n```\n```python\n{part}\n```\nthen\n```python\n{whole}\n```\n```python\n{broken}\n```"
    assert program(reply) == whole


def test_of_equals_the_last_is_the_program() -> None:
    assert program("```python\nx = 1\n```\nNo, rather:\n```python\nx = 2\n```") == "x = 2"


def test_output_that_the_model_made_up_is_not_the_program() -> None:
    assert program(f"```python\n{CODE}\n```\nOutput:\n```\n3.141592653589793, {'x' * 100}\n```") == CODE
    assert program(f"```python\n{CODE}\n```\n```text\n{'x = 1;' * 100}\n```") == CODE


def test_a_fence_in_a_string_ends_nothing() -> None:
    code = 'text = """\n```python\nx = 1\n```\n"""\nprint(text)'
    assert program(f"```python\n{code}\n```\nDone.") == code


def test_code_that_does_not_parse_is_still_a_program() -> None:
    assert program("```python\nprint(1\n```") == "print(1"
    assert program("```python\n%matplotlib inline\n!ls\n```") == "%matplotlib inline\n!ls"


@pytest.mark.parametrize(
    "reply",
    [
        '{"name": "run_python", "arguments": {"code": "print(1)"}}',
        '<tool_call>\n{"name": "run_python", "arguments": {"code": "print(1)"}}\n</tool_call>',
        '```json\n{"name": "run_python", "parameters": {"code": "print(1)"}}\n```',
    ],
)
def test_a_tool_call_written_out_as_text_is_taken(reply: str) -> None:
    assert program(reply) == "print(1)"


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        (f"```python\n{CODE}\n```\nThis prints", CODE),
        (f"```python\n{CODE}", None),
        (f"```python\n{CODE}\n```\nor\n```python\n{CODE}\nprint(", CODE),
        ('```python\ntext = """\n```python\nx = 1\n```\nand\n```python\ny = 1\n```\nand', None),
        ('{"name": "run_python", "arguments": {"code": "print(1)"}}', "print(1)"),
        ('{"name": "run_python", "arguments": {"code": "print(1)"}', None),
        ('{"name": "run_python", "arguments": "{\\"code\\": \\"print(1"}', None),
    ],
)
def test_of_a_reply_that_was_cut_off_only_what_is_complete_is_a_program(reply: str, found: str | None) -> None:
    assert program(reply, whole=True) == found


@pytest.mark.parametrize("marks", [4, 9, 10, 40])
def test_a_shorter_fence_closes_nothing(marks: int) -> None:
    code = "# of Markdown:\n# ```\n%magic\n```\nx = 1"
    assert program(f"{'`' * marks}python\n{code}\n{'`' * marks}\n") == code


@hypothesis.given(strategies.text(alphabet="`~python\n '\"{}:1x"))
def test_whatever_is_said_it_is_a_program_or_none(reply: str) -> None:
    found = program(reply)
    assert found is None or found.strip()


def test_the_instruction_tells_the_protocol_and_the_sandbox() -> None:
    text = instruction(Facts("3.11.7", {"pandas": "3.1.1"}, 512, 256, 30.0), [File("a.csv", 10, 0.0)])
    for words in ("one ```python fence", "in words", "pandas 3.1.1", "no network", "/mnt/data holds a.csv (10 bytes)"):
        assert words in text
    assert len(text) < 1500


def test_a_program_is_asked_for_below_what_the_user_says_last() -> None:
    first, answer, last = (Message(role, (Text(role),)) for role in ("user", "assistant", "user"))
    assert asking([first, answer, last]) == (first, answer, Message("user", (Text(f"user\n\n{ASK}"),)))
    assert asking([first, answer]) == (first, answer)
    assert asking([]) == ()


def test_a_picture_stays_a_part_of_its_own() -> None:
    picture = Image(data="aGk=", mime="image/png")
    assert below((Text("ok"), picture), ASK) == (Text("ok"), picture, Text(ASK))
