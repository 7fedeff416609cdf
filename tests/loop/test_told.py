"""What a model is told of an execution."""

import base64

import pytest

from sandbox.execution import Artifact, Error, Execution, Status, Truncated
from sandbox.loop.interpreter import Facts
from sandbox.loop.messages import Image, Text
from sandbox.loop.told import PICTURES, TOTAL, cut, told, user_frames
from sandbox.remote import File
from sandbox.session import Session

FACTS = Facts("3.11.7", {"pandas": "3.1.1"}, 512, 256, 30)
CHART = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.savefig('chart.png')\nplt.show()"


def text_of(execution: Execution, files: tuple[File, ...] = (), code: str = "", **rest: object) -> str:
    first, *others = told(execution, FACTS, files, code=code, pictures=False, **rest)  # type: ignore[arg-type]
    assert isinstance(first, Text)
    assert not others
    return first.text


async def run(session: Session, code: str, **rest: object) -> str:
    execution = await session.execute(code)
    return text_of(execution, tuple(await session.list()), code, **rest)


async def test_what_was_printed_comes_after_the_status(session: Session) -> None:
    assert await run(session, "print('a'); print('b'); 6 * 7") == "ok\nstdout:\na\nb\nresult: 42"


async def test_a_table_keeps_its_lines(session: Session) -> None:
    told = await run(session, "import pandas as pd\npd.DataFrame({'a': [1, 2]})")
    assert told == "ok\nresult:\n   a\n0  1\n1  2"


async def test_that_nothing_was_printed_is_said(session: Session) -> None:
    assert await run(session, "x = 1") == "ok, but nothing was printed and the last line has no value."


async def test_what_changed_in_the_workspace_is_said(session: Session) -> None:
    await session.upload("old.csv", b"a")
    await session.upload("gone.csv", b"a")
    code = (
        "open('new.csv', 'w').write('x' * 12_345)\nopen('old.csv', 'a').write('b')\nimport os; os.remove('gone.csv');"
    )
    assert (await run(session, code)).splitlines()[1:] == [
        "created in /mnt/data: new.csv (12.3 kB)",
        "changed in /mnt/data: old.csv (2 bytes)",
        "removed from /mnt/data: gone.csv",
    ]


async def test_a_chart_is_described_to_who_cannot_see_it(session: Session) -> None:
    lines = (await run(session, CHART)).splitlines()
    assert lines[0] == "ok"
    assert lines[1].startswith("[figure: image/png, 5")
    assert lines[1].endswith(", shown]")
    assert lines[2].startswith("created in /mnt/data: chart.png (")


async def test_a_chart_is_shown_to_who_can_see_it(session: Session) -> None:
    text, picture = told(await session.execute(CHART), FACTS, code=CHART, pictures=True)
    assert isinstance(text, Text)
    assert "shown below]" in text.text
    assert isinstance(picture, Image)
    assert picture.mime == "image/png"
    assert base64.b64decode(picture.data).startswith(b"\x89PNG")


async def test_a_failure_is_the_programs_own_frames_one_line_each(session: Session) -> None:
    await session.execute("def outer(n):\n    return inner(n)")
    code = "def inner(n):\n    return 1 / n\nprint('before')\nouter(0)"
    assert await run(session, code) == (
        "error\n"
        "  line 4: outer(0)\n"
        "  cell 1, line 2 in outer: return inner(n)\n"
        "  line 2 in inner: return 1 / n\n"
        "ZeroDivisionError: division by zero\n"
        "stdout:\nbefore"
    )


async def test_a_failure_in_a_file_of_the_workspace_names_the_file(session: Session) -> None:
    await session.upload("tools.py", b"def f():\n    raise ValueError('no')\n")
    assert "  tools.py, line 2 in f: raise ValueError('no')\n" in await run(session, "import tools\ntools.f()")


async def test_what_an_exception_was_raised_from_is_told(session: Session) -> None:
    code = "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('bad') from e"
    told = await run(session, code)
    assert told.splitlines()[1:3] == ["  line 2: 1 / 0", "ZeroDivisionError: division by zero"]
    assert told.endswith("  line 4: raise ValueError('bad') from e\nValueError: bad")


async def test_a_long_way_down_is_cut(session: Session) -> None:
    told = await run(session, "def f(n):\n    return f(n + 1)\nf(0)")
    assert "more of your frames" in told
    assert len(told) < 3000


async def test_a_long_message_is_cut(session: Session) -> None:
    told = await run(session, "raise ValueError('a' * 50_000 + 'end')")
    assert len(told) < 1500
    assert "characters left out" in told


async def test_much_output_keeps_head_and_tail_and_names_the_rest(session: Session) -> None:
    told = await run(session, "for n in range(100_000): print('a line of twenty,', n)")
    assert len(told) <= TOTAL
    assert told.startswith("ok\nstdout:\na line of twenty, 0\n")
    assert told.endswith("line of twenty, 99999")
    assert "all of it is in /mnt/data/.outputs/" in told


async def test_everything_at_once_is_bounded(session: Session) -> None:
    code = """
import sys
from IPython.display import display
for n in range(50):
    print('o' * 9999); print('e' * 9999, file=sys.stderr); display('r' * 9999); open(f'{n}' * 40, 'w').close()
raise ValueError('v' * 9999)
"""
    told = await run(session, code)
    assert len(told) <= TOTAL
    assert told.startswith("error\n")
    assert "more results left out" in told
    assert "and 38 more" in told


async def test_a_lost_state_is_said_now_and_explains_the_next_failure(session: Session) -> None:
    await session.execute("df = 1")
    assert await run(session, "import os; os._exit(7)") == (
        "killed: the kernel process exited with code 7\n"
        "All variables and imports are lost; the files in /mnt/data are still there.\n"
        "Hint: The code ended its own process; leave that out."
    )
    assert "The kernel was replaced since" in await run(session, "df", lost=True)


FAILED = Execution("exe_1", "ses_1", Status.ERROR, error=Error("E", "x", "Traceback (most recent call last):\nE: x"))


@pytest.mark.parametrize(
    ("again", "left", "ending"),
    [
        (0, None, "E: x"),
        (0, 2, "E: x\n2 attempts left."),
        (0, 1, "E: x\n1 attempt left."),
        (0, -3, "E: x\nNo attempt is left."),
        (1, None, "E: x\nExactly this failure has come once before. The same code fails the same way: change it."),
        (
            2,
            0,
            "2 times before. The same code fails the same way: change it.\nNo attempt is left. Say honestly",
        ),
    ],
)
def test_repeated_failures_are_named_and_attempts_counted(again: int, left: int | None, ending: str) -> None:
    assert ending in text_of(FAILED, again=again, left=left)


def test_of_other_code_it_is_not_said_that_it_is_the_same() -> None:
    ending = "Exactly this failure has come 2 times before. Try another way."
    assert text_of(FAILED, again=2, same_code=False).endswith(ending)


def test_the_words_of_a_table_are_told_without_its_marks() -> None:
    table = f"<table a='1'>{'<tr><td>a</td> <td>1 < 2</td></tr>' * 40_000}<p>end</p></table>"
    text = text_of(Execution("e", "s", Status.OK, results=({"text/html": table},)))
    assert text.startswith("ok\nresult:  a 1 < 2 a 1 < 2 ")
    assert text.endswith(" end ")
    assert len(text) < 2700


def test_a_success_says_nothing_of_attempts() -> None:
    assert "attempt" not in text_of(Execution("exe_1", "ses_1", Status.OK), left=0, again=3)


@pytest.mark.parametrize(
    ("execution", "first"),
    [
        (Execution("e", "s", Status.TIMEOUT), "timeout: stopped at the limit of 30 s"),
        (
            Execution("e", "s", Status.OOM, peak_memory_bytes=537 << 20),
            "oom: it used 512 MB of the 512 MB that there are",
        ),
        (Execution("e", "s", Status.CANCELLED, "its session was closed"), "cancelled: its session was closed"),
        (Execution("e", "s", Status.INTERRUPTED), "interrupted"),
    ],
)
def test_every_ending_comes_first(execution: Execution, first: str) -> None:
    assert text_of(execution).splitlines()[0].startswith(first)


@pytest.mark.parametrize(
    ("status", "error", "noted"),
    [
        (Status.OK, None, True),
        (Status.TIMEOUT, None, True),
        (Status.ERROR, Error("E", "e", "E: e"), True),
        (Status.ERROR, None, False),
        (Status.INTERRUPTED, Error("KeyboardInterrupt", "", "KeyboardInterrupt"), False),
        (Status.KILLED, Error("E", "e", "E: e"), False),
    ],
)
def test_a_reason_is_told_once(status: Status, error: Error | None, noted: bool) -> None:
    lines = text_of(Execution("e", "s", status, error=error, reason="it was full")).splitlines()
    assert ("note: it was full" in lines) is noted
    assert sum("it was full" in line for line in lines) == 1


def test_what_a_program_calls_an_image_may_be_anything() -> None:
    results = ({"image/png": 7, "image/jpeg": base64.b64encode(b"\xff\xd8\xff").decode()},)
    _, picture = told(Execution("e", "s", Status.OK, results=results), FACTS, (), code="", pictures=True)
    assert isinstance(picture, Image)
    assert picture.mime == "image/jpeg"


def test_a_result_that_was_too_large_is_not_told_as_none() -> None:
    execution = Execution("e", "s", Status.OK, truncated=Truncated(results=1))
    assert text_of(execution) == "ok\n[… 1 more result was too large, or too many, and dropped …]"


def test_dropped_results_are_counted() -> None:
    execution = Execution("e", "s", Status.OK, results=({"text/plain": "1"},), truncated=Truncated(results=3))
    assert text_of(execution) == "ok\nresult: 1\n[… 3 more results were too large, or too many, and dropped …]"


PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + b"\0\0\2\x80\0\0\1\xe0").decode()


@pytest.mark.parametrize(
    "data",
    [
        {"image/png": "no base64!"},
        {"image/png": base64.b64encode(b"<svg>").decode()},
        {"image/png": ["x"]},
        {"image/png": PNG + "A" * 4_000_000},
        {"image/svg+xml": "<svg/>"},
    ],
)
def test_what_is_no_picture_that_models_take_is_described(data: dict[str, object]) -> None:
    execution = Execution("e", "s", Status.OK, results=(data,))
    [part] = told(execution, FACTS, code="", pictures=True)
    assert isinstance(part, Text)
    assert part.text.startswith("ok\n[figure: image/")


def test_some_pictures_are_shown_and_the_others_described() -> None:
    execution = Execution("e", "s", Status.OK, results=({"image/png": PNG},) * (PICTURES + 2))
    text, *pictures = told(execution, FACTS, code="", pictures=True)
    assert isinstance(text, Text)
    assert len(pictures) == PICTURES
    assert text.text.count("[figure: image/png, 640x480, shown below]") == PICTURES
    assert text.text.count("[figure: image/png, 640x480, shown]") == 2


def test_files_are_counted_where_they_are_many() -> None:
    made = tuple(Artifact(f"{n}.csv", n, "text/csv", "created") for n in range(100))
    assert text_of(Execution("e", "s", Status.OK, artifacts=made)).endswith("11.csv (11 bytes) and 88 more")


def test_library_frames_of_a_group_are_left_out() -> None:
    trace = (
        "Traceback (most recent call last):\n  Cell In[1], line 2, in <module>\n    f()\n"
        'Library frames:\n  File "/opt/x.py", line 9, in f\n    g()\nExceptionGroup: two (1 sub-exception)\n'
        "  | Traceback (most recent call last):\n  |   Cell In[1], line 5, in g\n  |     h()\n"
        '  | Library frames:\n  |   File "/opt/y.py", line 9, in h\n  |     i()\n  | ValueError: x'
    )
    assert user_frames(trace, 1) == (
        "  line 2: f()\nExceptionGroup: two (1 sub-exception)\n  |   line 5 in g: h()\n  | ValueError: x"
    )


def test_a_cut_counts_what_it_leaves_out() -> None:
    text = "\n".join(f"line {n}" for n in range(1000))
    short = cut(text, 200)
    assert len(short) < 260
    head, mark, tail = short.partition("[… ")
    left_out = int(mark and tail.split(" characters")[0].replace(",", ""))
    assert left_out + len(head.rstrip("\n")) + len(tail.partition("…]\n")[2]) == len(text)
