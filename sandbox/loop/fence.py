"""For models without tool calls: one complete program in one fence, and how it is taken out of a reply.

Small models write a fence whatever `tools` says. The protocol that serves them best: ask for one complete program in
one fence, run it, on an error say `AFTER_ERROR` with what `told` tells, on success `AFTER_OUTPUT`.

They do what was said last: when only the instruction asks for a program, a model of half a billion weights guesses
most answers instead; with `ASK` below the question it begins with one.
"""

import ast
import bisect
import enum
import itertools
import json
import re
import textwrap
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sandbox.loop.interpreter import Facts
from sandbox.loop.messages import Message, Part, Text
from sandbox.loop.tool import NAME, Unusable, code_of, description
from sandbox.remote import File

ASK = "Answer with one complete program in one ```python fence."
_IN_A_FENCE = "Answer with the complete corrected program in one ```python fence."
AFTER_ERROR = f"Do not repeat the program: change the line that failed. {_IN_A_FENCE}"
"""Greedy as they are, they gladly say the same program again."""
AFTER_OUTPUT = "Answer the question in one or two sentences from this output, without code."

_PYTHON = frozenset({"python", "py", "python3", "ipython", "pycon", "python-repl", "code"})
_OPEN = re.compile(r"(?P<indent>[ \t>]*+)(?P<fence>`{3,}+|~{3,}+)(?P<info>[^`]*+)")
_CLOSE = re.compile(r"[ \t>]*+(?P<fence>`{3,}+|~{3,}+)[ \t]*+")
_LONGEST = 10
"""Marks of a fence that are counted; longer ones are all the same."""
_ENDS_TRIED = 12
_PARSED = 100_000
"""Characters of one reply that are parsed; a quarter of a second, in which nobody else is served."""


def instruction(facts: Facts, files: Sequence[File] = ()) -> str:
    """What such a model is told before the first turn."""
    about = description(facts, files).partition("\n")[2]
    return (
        f"You answer questions by running Python {facts.python}. Reply with one complete program in one ```python "
        "fence and nothing else. Print what you need to know. It is run and you are given its output; do not guess it. "
        f"When you have seen it, you answer in words, without a fence.\n{about}"
    )


def asking(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation so far, with `ASK` below what the user has said last."""
    if not messages or messages[-1].role != "user":
        return tuple(messages)
    return (*messages[:-1], replace(messages[-1], parts=below(messages[-1].parts, ASK)))


def below(parts: tuple[Part, ...], words: str) -> tuple[Part, ...]:
    """These with words below them; text alone stays one text, because simple servers read no lists of parts."""
    if parts and isinstance(last := parts[-1], Text) and not last.extra:
        return (*parts[:-1], Text(f"{last.text}\n\n{words}"))
    return (*parts, Text(words))


class _Grammar(enum.Enum):
    """What code is by Python's grammar. Magics and shell lines are broken, and yet run."""

    WHOLE = enum.auto()
    IN_STRING = enum.auto()
    """It ends inside a string in triple quotes."""
    BROKEN = enum.auto()
    """Or there was too much to look at."""


@dataclass(frozen=True, slots=True)
class _Fence:
    language: str
    code: str
    grammar: _Grammar
    closed: bool
    """As far as can be told: what would close a fence closes nothing inside a string."""

    @property
    def parses(self) -> bool:
        return self.grammar is _Grammar.WHOLE


def program(text: str, *, whole: bool = False) -> str | None:
    """The one program in a reply, None if there is none.

    Of several fences: those marked as Python before those that are not marked; of these the ones that parse; of these
    the longest, because what else stands in a reply is parts and examples of it; of equals the last. Fences of other
    languages are not programs. An open fence at the end is taken to the end; what is inside a string ends no fence.
    A tool call that was written out as text is taken, too.

    whole: only of fences that are closed and calls that are complete. Of a reply that was cut off, an open fence holds
    the first half of a program.
    """
    found = itertools.takewhile(lambda fence: fence.closed or not whole, _fences(text))
    fences = [fence for fence in found if fence.code.strip()]
    marked = [fence for fence in fences if fence.language in _PYTHON]
    candidates = marked or [fence for fence in fences if not fence.language and fence.parses]
    candidates = [fence for fence in candidates if fence.parses] or candidates
    best: _Fence | None = None
    for fence in candidates:
        if best is None or len(fence.code) >= len(best.code):
            best = fence
    return best.code if best is not None else _written_call(text, whole)


class _Ends:
    """The lines that can close a fence."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = defaultdict[str, list[int]](list)
        for number, line in enumerate(lines):
            if match := _CLOSE.fullmatch(line):
                for length in range(3, min(len(match["fence"]), _LONGEST) + 1):
                    self._lines[match["fence"][:length]].append(number)

    def after(self, start: int, fence: str) -> list[int]:
        """Those from a line on that are worth a try."""
        numbers = self._lines[fence[:_LONGEST]]
        first = bisect.bisect_left(numbers, start)
        return numbers[first : first + _ENDS_TRIED]


class _Parser:
    """Python's, with a bound on all that it is given."""

    def __init__(self) -> None:
        self._left = _PARSED

    def grammar(self, code: str) -> _Grammar:
        if len(code) > self._left:
            return _Grammar.BROKEN
        self._left -= len(code)
        try:
            ast.parse(code)
        except SyntaxError as error:
            return _Grammar.IN_STRING if "unterminated triple-quoted" in error.msg else _Grammar.BROKEN
        except (ValueError, RecursionError, MemoryError):
            return _Grammar.BROKEN
        return _Grammar.WHOLE


def _fences(text: str) -> Iterator[_Fence]:
    lines = text.splitlines()
    ends, parser = _Ends(lines), _Parser()
    at = 0
    while at < len(lines):
        opening = _OPEN.fullmatch(lines[at])
        at += 1
        if opening is None:
            continue
        closings = ends.after(at, opening["fence"])
        end, code, grammar = _body(lines, at, closings or [len(lines)], opening["indent"], parser)
        yield _Fence(_language(opening["info"]), code, grammar, bool(closings) and grammar is not _Grammar.IN_STRING)
        at = end + 1


def _body(lines: list[str], start: int, ends: list[int], indent: str, parser: _Parser) -> tuple[int, str, _Grammar]:
    """Where a fence ends, and what is in it: at the first end at which the code parses, if there is one."""
    tried = []
    for end in ends:
        code = _inside(lines[start:end], indent)
        grammar = parser.grammar(code)
        tried.append((end, code, grammar))
        if grammar is _Grammar.WHOLE:
            return tried[-1]
        if grammar is _Grammar.BROKEN:
            break
    return tried[0]


def _inside(lines: list[str], indent: str) -> str:
    stripped = [line[len(indent) :] if line.startswith(indent) else line.lstrip() for line in lines]
    return textwrap.dedent("\n".join(stripped)).strip("\n")


def _language(info: str) -> str:
    word = re.search(r"[\w.+-]+", info)
    return word[0].lower() if word else ""


def _written_call(text: str, whole: bool) -> str | None:
    """`{"name": "run_python", "arguments": {"code": …}}` as text, alone, in a fence or between tags."""
    start = text.find("{")
    if start < 0 or f'"{NAME}"' not in text:
        return None
    try:
        value, _ = json.JSONDecoder(strict=False).raw_decode(text[start:])
        if not isinstance(value, dict) or value.get("name") != NAME:
            return None
        return code_of(json.dumps(value.get("arguments", value.get("parameters", {})), ensure_ascii=False), whole=whole)
    except (ValueError, RecursionError, Unusable):
        return None
