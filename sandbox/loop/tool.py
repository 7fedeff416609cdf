"""`run_python` as a model sees it, and what a model has written when it wants it."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sandbox.loop.interpreter import Facts
from sandbox.loop.messages import Function
from sandbox.remote import File

NAME = "run_python"

FILES_LISTED = 20
"""Files of `/mnt/data` named in the description; more are counted."""
_PATH = 80
"""Characters of a file's path."""

# What a program asks for first comes first; those that are there only because others need them are not named.
_MAIN = (
    "numpy",
    "pandas",
    "matplotlib",
    "scipy",
    "scikit-learn",
    "statsmodels",
    "seaborn",
    "plotly",
    "sympy",
    "openpyxl",
    "pillow",
    "pypdf",
    "python-docx",
    "polars",
    "torch",
)
_VERSIONED = frozenset({"numpy", "pandas", "matplotlib", "scikit-learn", "scipy", "polars", "torch"})
"""Those whose versions decide how a program is written."""


class Unusable(ValueError):
    """The arguments of a call hold no code. Its words are for the model: how to call the tool right."""


def function(facts: Facts, files: Sequence[File] = ()) -> Function:
    """The tool, with the truth about this sandbox in its description."""
    parameters = {
        "type": "object",
        "properties": {"code": {"type": "string", "description": "A complete piece of Python, without markdown."}},
        "required": ["code"],
        "additionalProperties": False,
    }
    return Function(NAME, description(facts, files), parameters)


def description(facts: Facts, files: Sequence[File] = ()) -> str:
    """What a model must know to write code that runs here; about 250 tokens and 10 for each file, at most 20."""
    return "\n".join(
        (
            f"Run Python {facts.python} in a sandbox, as a notebook cell. Variables and files stay for later calls.",
            f"Libraries: {libraries(facts)}. Nothing can be installed (no pip) and there is no network.",
            f"Limits: {facts.memory_mb} MB of memory, {facts.disk_mb} MB in /mnt/data, "
            f"{facts.timeout_s:g} s per call. input() does not work.",
            "You see what is printed, the value of the last expression, and figures (plt.show()). To give the user a "
            "file, write it to /mnt/data, which is also the working directory.",
            f"/mnt/data holds {listing(files)}.",
        )
    )


def libraries(facts: Facts) -> str:
    """The main libraries with versions where they matter, the rest counted."""
    known = {name.lower(): (name, version) for name, version in facts.libraries.items()}
    told = []
    for name in _MAIN:
        if name in known:
            told.append(f"{name} {known[name][1]}" if name in _VERSIONED else name)
    rest = len(facts.libraries) - len(told)
    if not told:
        return "the standard library" + (f" and {rest} others" if rest else "")
    return ", ".join(told) + (f" and {rest} more" if rest > 0 else "")


def listing(files: Sequence[File], limit: int = FILES_LISTED) -> str:
    """Paths with sizes, the rest counted; `nothing yet` for none."""
    shown = [file for file in files if not file.path.startswith(".outputs/")]
    if not shown:
        return "nothing yet"
    told = [f"{shortened(file.path)} ({size(file.size)})" for file in shown[:limit]]
    return ", ".join(told) + (f" and {len(shown) - limit} more files" if len(shown) > limit else "")


def shortened(path: str) -> str:
    """A path on one line and of bounded length. Its end says what it is."""
    plain = "".join(char if char.isprintable() else "�" for char in path)
    return plain if len(plain) <= _PATH else f"…{plain[1 - _PATH :]}"


def size(count: int) -> str:
    """Bytes as a person says them."""
    if count < 1000:
        return f"{count} bytes" if count != 1 else "1 byte"
    for unit, bound in (("kB", 1e6), ("MB", 1e9)):
        if count < bound * 0.9995:
            return (
                f"{count / bound * 1000:.3g} {unit}"
                if count / bound * 1000 < 100
                else f"{count / bound * 1000:.0f} {unit}"
            )
    return f"{count / 1e9:.3g} GB"


# Reading what models write.

_KEYS = ("code", "python", "source", "input", "script", "program", "python_code", "content", "text", "cell", "command")
_FENCE = re.compile(r"(`{3,}+|~{3,}+)[^\n]*+\n")
_WRAPPERS = ("arguments", "parameters", "args", "kwargs")
_WRAPPED = re.compile(r'\A\s*\{\s*["\']?(?:' + "|".join(_KEYS) + r')["\']?\s*:\s*(["\'`]{1,3})(.*)\Z', re.DOTALL)
_DEPTH = 4
"""How often JSON may be wrapped in JSON."""
LARGEST = 256 << 10
"""Characters of arguments. Who writes more writes data, and reading it would keep everybody else waiting."""


def code_of(arguments: str, *, whole: bool = False) -> str:
    """The code in a call's arguments, however they are written. Raises `Unusable`.

    Read are, besides the object that was asked for: raw line ends in its strings, trailing commas, another key,
    a list of lines, JSON within a string of JSON, code in a fence, quotes left bare, and code that is no JSON at all.

    whole: read only what is seen to be complete, which is JSON with the code in it. Of a reply that was cut off, all
    else may be the first half of a program.
    """
    if len(arguments) > LARGEST:
        raise Unusable(
            f"the code is too long: {len(arguments):,} characters of arguments, {LARGEST:,} at most. Write data to "
            f"files in several calls of {NAME}"
        )
    if whole and not _is_complete(arguments):
        raise _broken_off()
    code = _unwrapped(arguments, _DEPTH, whole)
    if code.strip() in ("", "null", "None"):
        raise Unusable(f'no code came. Call {NAME} with one JSON object: {{"code": "print(1)"}}')
    return code


def _is_complete(text: str) -> bool:
    """Whether it is JSON of a kind that ends with a mark, as numbers do not."""
    stripped = text.strip()
    return stripped.startswith(("{", '"', "[")) and _json(stripped)[0]


def _broken_off() -> Unusable:
    return Unusable(f"the arguments break off before the code ends. Call {NAME} again, with shorter code")


def _unwrapped(text: str, depth: int, whole: bool) -> str:
    inside = _without_fence(text)
    if inside != text:
        return _unwrapped(inside, depth - 1, whole) if depth else inside
    stripped = text.strip()
    if not stripped.startswith(("{", '"', "[")):
        return text
    found, value = _json(stripped)
    if not found:
        if whole:
            raise _broken_off()
        return _salvaged(text)
    if isinstance(value, str):
        # A bare string of code is a string twice at most; a program that is one string literal is no program.
        return _unwrapped(value, depth - 1, whole) if depth else value
    code = _from_object(value)
    if code is None:
        _refuse_unless_code(value)
        if whole:
            raise _broken_off()
        return text  # a program that is one list or dict
    if depth and _is_wrapped(code):
        return _unwrapped(code, depth - 1, whole)
    if whole and _WRAPPED.match(code):  # what it is wrapped in once more is not complete
        raise _broken_off()
    return _without_fence(code)


def _is_wrapped(code: str) -> bool:
    """Whether this is not code but once more what code comes in. A program may well begin with a brace."""
    if not code.lstrip().startswith("{"):
        return False
    found, value = _json(code.strip())
    return found and isinstance(value, Mapping) and _from_object(value) is not None


def _from_object(value: Any) -> str | None:
    while isinstance(value, Mapping):
        inner = next((value[name] for name in _WRAPPERS if isinstance(value.get(name), Mapping | str)), None)
        if isinstance(inner, str) and not value.keys() & set(_KEYS):
            return inner
        if not isinstance(inner, Mapping):
            break
        value = inner
    if not isinstance(value, Mapping):
        return _lines(value)
    named = {str(key).lower(): each for key, each in value.items()}
    for key in _KEYS:
        if key in named:
            each = named[key]
            return each if isinstance(each, str) else _lines(each)
    # One string under a name that nobody has thought of.
    if len(named) == 1 and isinstance(only := next(iter(named.values())), str) and "\n" in only:
        return only
    return None


def _lines(value: Any) -> str | None:
    if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
        return "\n".join(line.rstrip("\n") for line in value)
    return None


def _refuse_unless_code(value: Any) -> None:
    if isinstance(value, Mapping) and value and all(isinstance(key, str) and key.isidentifier() for key in value):
        if "code" in value:
            raise Unusable(f'"code" must be text. Call {NAME} with one JSON object: {{"code": "print(1)"}}')
        keys = ", ".join(repr(key[:40]) for key in list(value)[:5])
        raise Unusable(
            f'the arguments have {keys} but no "code". Call {NAME} with one JSON object: {{"code": "print(1)"}}'
        )
    if not value:
        raise Unusable(f'no code came. Call {NAME} with one JSON object: {{"code": "print(1)"}}')


def _json(text: str) -> tuple[bool, Any]:
    """Whether it can be read, and the value. Raw control characters in strings pass."""
    for candidate in (text, _without_trailing_commas(text)):
        try:
            return True, json.loads(candidate, strict=False)
        except (ValueError, RecursionError):
            continue
    return False, None


_STRING = re.compile(r'("(?:[^"\\]+|\\.?)*(?:"|\Z))', re.DOTALL)
"""Of JSON, or what is left of the text where it does not end: so that nothing is looked at twice."""


def _without_trailing_commas(text: str) -> str:
    """Outside strings."""
    pieces = _STRING.split(text)
    pieces[::2] = [re.sub(r",(\s*[}\]])", r"\1", piece) for piece in pieces[::2]]
    return "".join(pieces)


def _salvaged(text: str) -> str:
    """Code from what looks like an object but is none: quoted otherwise, or with quotes left bare."""
    match = _WRAPPED.match(text)
    if match is None:
        if re.match(r'\s*\{\s*"[^"]*"\s*:', text):
            raise Unusable(
                f"the arguments are not valid JSON. Call {NAME} with one JSON object, line ends written as \\n: "
                '{"code": "print(1)"}'
            )
        return text
    quote, rest = match[1], match[2]
    end = rest.rstrip().removesuffix("}").rstrip().removesuffix(",").rstrip()
    body = end.removesuffix(quote)
    if body == end or _escapes(body):
        # Half a program may do half of the work, and nobody would know which.
        raise _broken_off()
    if quote == '"' or "\n" not in body:
        body = _unescaped(body)
    return _without_fence(body)


def _escapes(body: str) -> bool:
    """Whether its last backslash is for what comes after it."""
    return (len(body) - len(body.rstrip("\\"))) % 2 == 1


_ESCAPE = re.compile(r'\\(u[0-9a-fA-F]{4}|["\\/bfnrt])')
_ESCAPED = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def _unescaped(body: str) -> str:
    """JSON's escapes resolved, one by one, because the whole could not be read."""
    return _ESCAPE.sub(lambda m: chr(int(m[1][1:], 16)) if m[1][0] == "u" else _ESCAPED[m[1]], body)


def _without_fence(text: str) -> str:
    """What is in the fence that is all of the text; it may be left open."""
    stripped = text.strip()
    opening = _FENCE.match(stripped)
    if opening is None:
        return text
    inside = stripped[opening.end() :]
    code, _, last = inside.rpartition("\n")
    return code if last.lstrip(" \t").startswith(opening[1]) and not last.strip("`~ \t") else inside
