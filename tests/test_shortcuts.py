"""What an ordinary cell is spared changes nothing that it does."""

import random

import pytest
from IPython.core.formatters import DisplayFormatter
from IPython.core.inputtransformer2 import TransformerManager

from sandbox.guest.shortcuts import Formatter, Transformer

CELLS = [
    "",
    "\n\n  x = 1\n  y = 2",
    "print('a')",
    "x = 7 % 3",
    "%matplotlib inline\nx = 1",
    "%%time\nsum(range(9))",
    "!ls",
    "  !ls",
    "files = !ls",
    "value = %pwd",
    "str?",
    "str.join??",
    "?str",
    ",print a b",
    "  ;print a b",
    "/print 1",
    "x = (1\n, 2)",
    "a = '''\n!not a command\n%nor magic\n?nor help\n'''",
    ">>> x = 1\n... y = 2",
    "In [3]: x = 1\n   ...: y = 2",
    "def f():\n    return '?'",
    "if True:\n    /print 1",
    "x = 1;\n; y",
    "x = [\n/1]",
    "open(",
    "print('ü')  # ¿",
]


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_becomes_the_same_python(cell: str) -> None:
    assert Transformer().transform_cell(cell) == TransformerManager().transform_cell(cell)


def test_any_mixture_of_lines_becomes_the_same_python() -> None:
    lines = [line for cell in CELLS for line in cell.splitlines()]
    chance = random.Random(4)
    for _ in range(500):
        cell = "\n".join(chance.choices(lines, k=3))
        try:
            TransformerManager().transform_cell(cell)
        except IndentationError:  # that of its tokens; ours leaves it to the compiler, which knows the line
            continue
        assert Transformer().transform_cell(cell) == TransformerManager().transform_cell(cell), cell


class Sub(int):
    def _repr_html_(self) -> str:
        return f"<b>{int(self)}</b>"


@pytest.mark.parametrize("value", [1, True, 2.5, 1j, "a", b"a", [1, Sub(2)], (1,), {"a": 1}, {1}, None, Sub(3), ...])
def test_a_value_has_the_same_representations(value: object) -> None:
    assert Formatter().format(value) == DisplayFormatter().format(value)
    assert Formatter().format(value, include={"text/html"}) == DisplayFormatter().format(value, include={"text/html"})


@pytest.mark.parametrize("kind", [int, object])
def test_a_representation_that_a_program_registers_is_used(kind: type) -> None:
    formatter = Formatter()
    formatter.formatters["text/html"].for_type(kind, lambda value: f"<i>{value}</i>")
    assert formatter.format(3)[0] == {"text/plain": "3", "text/html": "<i>3</i>"}


def test_a_precision_that_a_program_sets_is_used() -> None:
    formatter = Formatter()
    formatter.formatters["text/plain"].float_precision = 2
    assert formatter.format(3.14159)[0] == {"text/plain": "3.14"}
