"""How an exception is told: plain text, the user's own frames first.

A model repairs its code from this text, so frames of the runner are left out, frames of libraries come after the
user's and are few, and nothing is coloured.
"""

import linecache
import traceback
from types import TracebackType

_CHAIN = 4
_LIBRARY_FRAMES = 6
_USER_FRAMES = 20
_UNTOLD = ("<frozen", __file__.rpartition("/")[0])
"""Files whose frames say nothing to a program's author: the import system's, and our own."""
_VALUE = 16 << 10
_STORY = 48 << 10
_NAME = 1 << 10


def safe_text(value: BaseException) -> str:
    """`str(value)`, bounded, also when its `__str__` raises."""
    try:
        text = str(value)
    except Exception as error:
        return f"<{type(value).__name__} whose __str__ raised {type(error).__name__}>"
    return _plain(_bounded(text))


def name_of(kind: type[BaseException]) -> str:
    """What it is called, bounded."""
    return _plain(kind.__name__[:_NAME])


def _plain(text: str) -> str:
    """Without halves of characters, which nobody could pass on."""
    return text.encode(errors="backslashreplace").decode()


def bounded(lines: list[str]) -> list[str]:
    """A whole traceback; of one that is too long its beginning and its end."""
    text = "\n".join(lines)
    if len(text) <= _STORY:
        return [_plain(text)]
    half = _STORY // 2
    return [_plain(f"{text[:half]}\n… {len(text) - _STORY} more characters …\n{text[-half:]}")]


def is_users(filename: str) -> bool:
    """Whether a frame's file is a cell, a file of the workspace, or text given to exec()."""
    return filename.startswith(("Cell In[", "/mnt/data/", "/tmp/", "<string>", "<stdin>"))


def render(kind: type[BaseException], value: BaseException, tb: TracebackType | None) -> str:
    """The whole story of one exception. What it was raised from comes first where the user's code saw that happen."""
    tb = _from_users(tb)
    if isinstance(value, SyntaxError):
        if tb is not None and not is_users(tb.tb_frame.f_code.co_filename):
            tb = None  # a cell that does not compile: only the compiler's callers are on the stack
        if value.text is None and value.filename and value.lineno:
            value.text = linecache.getline(value.filename, value.lineno) or None
    return _render(traceback.TracebackException(kind, value, tb, compact=True), depth=0)


def _from_users(tb: TracebackType | None) -> TracebackType | None:
    """Without the runner's frames, whose sources would be read from disk only to be left out."""
    start = tb
    while start is not None and not is_users(start.tb_frame.f_code.co_filename):
        start = start.tb_next
    return start if start is not None else tb


def _render(told: traceback.TracebackException, depth: int) -> str:
    parts = []
    cause, words = _behind(told)
    if cause is not None and depth < _CHAIN and _reaches_users(cause):
        parts += [_render(cause, depth + 1), f"\n{words}\n"]
        cause = None
    frames = _frames(told.stack)
    if frames:
        parts += ["Traceback (most recent call last):", *frames]
    parts += _notes(cause, _words(told))
    parts.append(_words(told))
    for inner in (told.exceptions or [])[:8]:
        parts.append(_indent(_render(inner, depth + 1)))
    return "\n".join(parts)


def _words(told: traceback.TracebackException) -> str:
    return _bounded("".join(told.format_exception_only()).rstrip("\n"))


def _behind(told: traceback.TracebackException) -> tuple[traceback.TracebackException | None, str]:
    """What an exception was raised from, and how Python says that."""
    if told.__cause__ is not None:
        return told.__cause__, "The above exception was the direct cause of the following exception:"
    if told.__suppress_context__:
        return None, ""
    return told.__context__, "During handling of the above exception, another exception occurred:"


def _reaches_users(told: traceback.TracebackException) -> bool:
    """Whether a frame of the user's is on the stack of an exception or of one behind it."""
    link: traceback.TracebackException | None = told
    for _ in range(_CHAIN):
        if link is None:
            return False
        if any(is_users(frame.filename) for frame in link.stack):
            return True
        link, _how = _behind(link)
    return False


def _notes(cause: traceback.TracebackException | None, told: str) -> list[str]:
    """What went wrong inside a library before it told the user: words, no frames, nothing twice."""
    said = [told]
    for _ in range(_CHAIN):
        if cause is None:
            break
        if _words(cause) not in said:
            said.append(_words(cause))
        cause, _how = _behind(cause)
    return [f"Caused by {words}" for words in said[1:]]


def _frames(stack: traceback.StackSummary) -> list[str]:
    first = next((i for i, frame in enumerate(stack) if is_users(frame.filename)), None)
    if first is None:
        # Nothing of the user's on the stack: the end of it is what says something.
        return [_frame(frame) for frame in stack[-2:]]
    below = stack[first:]
    users = [frame for frame in below if is_users(frame.filename)]
    library = [frame for frame in below if not is_users(frame.filename) and not frame.filename.startswith(_UNTOLD)]
    lines = [_frame(frame) for frame in users[: _USER_FRAMES // 2]]
    if len(users) > _USER_FRAMES:
        lines.append(f"  … {len(users) - _USER_FRAMES} more of your frames …")
    lines += [_frame(frame) for frame in users[_USER_FRAMES // 2 :][-_USER_FRAMES // 2 :]]
    if library:
        hidden = len(library) - _LIBRARY_FRAMES
        lines.append(
            "Library frames:" if hidden <= 0 else f"Library frames (last {_LIBRARY_FRAMES} of {len(library)}):"
        )
        lines += [_frame(frame) for frame in library[-_LIBRARY_FRAMES:]]
    return lines


def _frame(frame: traceback.FrameSummary) -> str:
    where = frame.filename if frame.filename.startswith("Cell In[") else f'File "{frame.filename}"'
    line = (frame.line or "").strip()
    return f"  {where}, line {frame.lineno}, in {frame.name}" + (f"\n    {line[:500]}" if line else "")


def _bounded(text: str) -> str:
    return text if len(text) <= _VALUE else f"{text[:_VALUE]}… [{len(text) - _VALUE} more characters]"


def _indent(text: str) -> str:
    return "\n".join(f"  | {line}" for line in text.splitlines())
