"""Docstring sessions: programs with known answers that come with every library.

Every docstring with `>>>` is one session: examples that share their names, each with the output or the exception it
must have. Run as a script by the image's own interpreter, this prints the sessions that a plain interpreter gets
right, as JSON: `docstrings.py LIBRARY STEP`, where STEP takes every STEP-th docstring.
"""

import ast
import contextlib
import doctest
import gc
import importlib.util
import io
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SET_UP = "import numpy as np, pandas as pd"
_CHECKER = doctest.OutputChecker()
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Example:
    """One cell, and what it must say."""

    source: str
    want: str
    """The output; for an exception, what a plain interpreter's traceback ends with."""
    raises: bool


@dataclass(frozen=True, slots=True)
class Docstring:
    """One session."""

    name: str
    examples: tuple[Example, ...]


def is_right(want: str, got: str) -> bool:
    """As doctest sees it."""
    return _CHECKER.check_output(want, got, _FLAGS)


def from_json(text: str) -> list[Docstring]:
    """What the script printed."""
    return [
        Docstring(entry["name"], tuple(Example(**example) for example in entry["examples"]))
        for entry in json.loads(text)
    ]


def _docstrings(library: str) -> Iterator[tuple[str, list[doctest.Example]]]:
    spec = importlib.util.find_spec(library)
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    parser = doctest.DocTestParser()
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in sorted(package.rglob("*.py")):
        source = path.read_text()
        for node in ast.walk(ast.parse(source)) if ">>>" in source else ():
            text = ast.get_docstring(node) if isinstance(node, kinds) else None
            if text is None or ">>>" not in text:
                continue
            with contextlib.suppress(ValueError):  # not in doctest's format after all
                examples = [example for example in parser.get_examples(text) if not _is_skipped(example)]
                if examples:
                    line = getattr(node, "lineno", 1)
                    yield f"{path.relative_to(package.parent)}:{line}", examples


def _is_skipped(example: doctest.Example) -> bool:
    return example.options.get(doctest.SKIP, False)


def _plain(name: str, examples: list[doctest.Example]) -> Docstring | None:
    """The session if a plain interpreter gets it right."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(SET_UP, names)
    ran = []
    for example in examples:
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                exec(compile(example.source, "<docstring>", "single"), names)
        except Exception as error:
            if example.exc_msg is None:
                return None
            end = traceback.format_exception_only(error)
            if not is_right(example.exc_msg, end[-1]):
                return None
            ran.append(Example(example.source, "".join(end), raises=True))
        else:
            if example.exc_msg is not None or not is_right(example.want, said.getvalue()):
                return None
            ran.append(Example(example.source, example.want, raises=False))
    return Docstring(name, tuple(ran))


def _fresh(name: str, examples: list[doctest.Example]) -> bool:
    """Whether a plain interpreter that has run nothing else gets it right, too."""
    pid = os.fork()
    if pid == 0:
        with _quiet():
            signal.alarm(_SECONDS)
            right = _plain(name, examples) is not None
        os._exit(0 if right else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """In an empty directory, warnings unheard."""
    with (
        tempfile.TemporaryDirectory() as directory,
        contextlib.chdir(directory),
        open(os.devnull, "w") as null,
        contextlib.redirect_stderr(null),
    ):
        yield


def main(library: str, step: int) -> None:
    """Print the sessions that are right both in a fresh interpreter and after all the others."""
    # What docstrings have imported, in advance, so that not every fork has to.
    exec(f"{SET_UP}, jinja2, matplotlib.pyplot, pyarrow, scipy.sparse", {})
    gc.freeze()
    chosen = list(_docstrings(library))[::step]
    fresh = [entry for entry in chosen if _fresh(*entry)]
    with _quiet():
        kept = [session for entry in fresh if (session := _plain(*entry))]
    json.dump([asdict(session) for session in kept], sys.stdout)
    print(f"{len(chosen)} docstrings, {len(fresh)} right alone, {len(kept)} in a row", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
