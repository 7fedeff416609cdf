"""For models without tool calls: one complete program in one fence, and how it is taken out of a reply.

Small models write a fence whatever `tools` says. The protocol that serves them best: ask for one complete program in
one fence, run it, on an error say `AFTER_ERROR` with what `told` tells, on success `AFTER_OUTPUT`.

They do what was said last. Of eight questions a model of half a billion weights began one with a program when only the
instruction asked for it, and guessed most of the others; with `ASK` below the question it began all eight with one.
"""

import ast
import json
import re
import textwrap
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
_OPEN = re.compile(r"^(?P<indent>[ \t>]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^\n`]*)$")
_ENDS_TRIED = 12


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


@dataclass(frozen=True, slots=True)
class _Fence:
    language: str
    code: str

    @property
    def whole(self) -> bool:
        """Whether it is Python by its grammar; magics and shell lines are not, and yet run."""
        return _parses(self.code)


def program(text: str) -> str | None:
    """The one program in a reply, None if there is none.

    Of several fences: those marked as Python before those that are not marked; of these the ones that parse; of these
    the longest, because what else stands in a reply is parts and examples of it; of equals the last. Fences of other
    languages are not programs. An open fence at the end is taken to the end; what is inside a string ends no fence.
    A tool call that was written out as text is taken, too.
    """
    fences = [fence for fence in _fences(text) if fence.code.strip()]
    marked = [fence for fence in fences if fence.language in _PYTHON]
    candidates = marked or [fence for fence in fences if not fence.language and fence.whole]
    candidates = [fence for fence in candidates if fence.whole] or candidates
    best: _Fence | None = None
    for fence in candidates:
        if best is None or len(fence.code) >= len(best.code):
            best = fence
    return best.code if best is not None else _written_call(text)


def _fences(text: str) -> Iterator[_Fence]:
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        opening = _OPEN.match(lines[at])
        at += 1
        if opening is None:
            continue
        end = _end(lines, at, opening["fence"])
        yield _Fence(_language(opening["info"]), _inside(lines[at:end], opening["indent"]))
        at = end + 1


def _end(lines: list[str], start: int, fence: str) -> int:
    """The line that closes a fence; the first one at which the code parses, if there is one."""
    closing = re.compile(rf"^[ \t>]*{re.escape(fence[0])}{{{len(fence)},}}[ \t]*$")
    ends = [at for at in range(start, len(lines)) if closing.match(lines[at])]
    if not ends:
        return len(lines)
    for end in ends[:_ENDS_TRIED]:
        if _parses(textwrap.dedent("\n".join(lines[start:end]))):
            return end
        if not _inside_string("\n".join(lines[start:end])):
            break
    return ends[0]


def _inside_string(code: str) -> bool:
    try:
        ast.parse(textwrap.dedent(code))
    except SyntaxError as error:
        return "unterminated triple-quoted" in error.msg
    except (ValueError, RecursionError, MemoryError):
        return False
    return False


def _inside(lines: list[str], indent: str) -> str:
    stripped = [line[len(indent) :] if line.startswith(indent) else line.lstrip() for line in lines]
    return textwrap.dedent("\n".join(stripped)).strip("\n")


def _language(info: str) -> str:
    words = re.findall(r"[\w.+-]+", info)
    return words[0].lower() if words else ""


def _parses(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _written_call(text: str) -> str | None:
    """`{"name": "run_python", "arguments": {"code": …}}` as text, alone, in a fence or between tags."""
    start = text.find("{")
    if start < 0 or f'"{NAME}"' not in text:
        return None
    try:
        value, _ = json.JSONDecoder(strict=False).raw_decode(text[start:])
        if not isinstance(value, dict) or value.get("name") != NAME:
            return None
        return code_of(json.dumps(value.get("arguments", value.get("parameters", {}))))
    except (ValueError, RecursionError, Unusable):
        return None
