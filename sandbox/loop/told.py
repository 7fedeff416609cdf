"""What a model is told of an execution.

The text is a product. A model, a small one above all, repairs its code from it, so: the status first; its own frames
with their source lines and nobody else's; what is true of the sandbox and not what it might guess; nothing twice; and
a bound on all of it. `scripts/bench-repair` measures it.
"""

import base64
import binascii
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sandbox.execution import Artifact, Execution, Status
from sandbox.loop.hints import hints
from sandbox.loop.interpreter import Facts
from sandbox.loop.messages import Image, Text
from sandbox.loop.tool import shortened, size
from sandbox.remote import File

STDOUT = 5000
"""Characters of stdout; head and tail are kept of more."""
STDERR = 1200
STDERR_OF_FAILURE = 400
"""Warnings of before would bury the error."""
RESULT = 2500
"""Characters of one result."""
RESULTS = 5000
"""Characters of all results."""
_HTML = 100_000
"""Characters of a result in HTML of which the words are taken."""
TRACEBACK = 2500
TOTAL = 16_000
"""Characters of all the text."""
PICTURES = 6
"""Images given as such; more are described."""
PICTURE_BYTES = 3_500_000
"""Bytes of an image in base64; larger ones are described. Upstreams refuse what is larger than 5 MB."""
_VALUE = 400
"""Characters of what an error says."""
_QUOTED_WITHIN = 50
"""Lines after a cause in which the error may quote it."""
_FILES = 12
_SEEN = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff", "image/gif": b"GIF8", "image/webp": b"RIFF"}
"""What models can see, and how its bytes begin."""
_TEXTS = ("text/plain", "text/markdown", "text/latex", "application/json", "text/html")
_SPILLED = re.compile(r"all of it is in (/mnt/data/\.outputs/[\w.-]+)")


def told(
    execution: Execution,
    facts: Facts,
    files: Sequence[File] = (),
    *,
    code: str,
    pictures: bool,
    again: int = 0,
    same_code: bool = True,
    left: int | None = None,
    lost: bool = False,
) -> tuple[Text | Image, ...]:
    """The status first, then what came out of it, then hints.

    files: what lies in `/mnt/data` now. pictures: the model sees images. again: how often exactly this failure has been
    told before; same_code: each time of this very code. left: attempts that remain after this one; None says nothing
    about it. lost: variables went with an earlier execution of this session.
    """
    shown = _pictures(execution) if pictures else ()
    # A failure comes before what was printed until then, so that nothing stands between it and what it is called.
    parts = [_status(execution, facts), *_note(execution), *_failure(execution)]
    parts += [*_outputs(execution, len(shown)), *_changes(execution)]
    body = "\n".join(part for part in parts if part)
    ending = "\n".join(
        [
            *_state(execution),
            *(f"Hint: {hint}" for hint in hints(execution, code, facts, files, lost=lost)),
            *_attempts(execution, again, left, same_code=same_code),
        ]
    )
    text = cut(body, max(TOTAL - len(ending) - 1, TOTAL // 2))
    return (Text(f"{text}\n{ending}" if ending else text), *shown)


def failed(execution: Execution) -> bool:
    """Whether there is something to repair."""
    return execution.status is not Status.OK


def _status(execution: Execution, facts: Facts) -> str:
    match execution.status:
        case Status.OK:
            return "ok" if _says_anything(execution) else "ok, but nothing was printed and the last line has no value."
        case Status.ERROR:
            return "error" if _has_raised(execution) else f"error: {execution.reason}"
        case Status.TIMEOUT:
            return f"timeout: stopped at the limit of {facts.timeout_s:g} s"
        case Status.OOM:
            used = min(facts.memory_mb, round(execution.peak_memory_bytes / (1 << 20)))
            return f"oom: it used {used} MB of the {facts.memory_mb} MB that there are, and was killed"
        case _:
            return f"{execution.status.value}: {execution.reason}".rstrip(": ")


def _note(execution: Execution) -> Iterator[str]:
    """What else is known of an end whose status line does not tell it: files that are not kept, a child's end."""
    if execution.reason and (execution.status in (Status.OK, Status.TIMEOUT) or _has_raised(execution)):
        yield f"note: {execution.reason}"


def _has_raised(execution: Execution) -> bool:
    return execution.status is Status.ERROR and execution.error is not None


def _says_anything(execution: Execution) -> bool:
    printed = execution.stdout.strip() or execution.stderr.strip()
    return bool(printed or execution.results or execution.truncated.results)


# What came out.


def _outputs(execution: Execution, seen: int) -> Iterator[str]:
    if execution.stdout.strip():
        yield f"stdout:\n{cut(execution.stdout.rstrip(), STDOUT)}"
    if execution.stderr.strip():
        yield f"stderr:\n{cut(execution.stderr.rstrip(), STDERR_OF_FAILURE if execution.error else STDERR)}"
    room = RESULTS
    for number, data in enumerate(execution.results):
        if room <= 0:
            yield f"[… {len(execution.results) - number} more results left out …]"
            break
        text = _result(data, seen)
        seen -= _is_seen(data)
        text = cut(text, min(room, RESULT))
        room -= len(text) + 8
        yield text
    if execution.truncated.results:
        yield f"[… {_results(execution.truncated.results)} too large, or too many, and dropped …]"


def _results(number: int) -> str:
    return "1 more result was" if number == 1 else f"{number} more results were"


def _result(data: Mapping[str, Any], seen: int) -> str:
    mime = next((mime for mime in data if mime.startswith(("image/", "application/pdf"))), None)
    if mime is not None:
        dimensions = _dimensions(data[mime]) if mime == "image/png" else ""
        words = ", ".join(word for word in (mime, dimensions) if word)
        return f"[figure: {words}, shown{' below' if seen > 0 and _is_seen(data) else ''}]"
    if any(mime.startswith("application/vnd.plotly") for mime in data):
        return (
            "[figure: plotly, which not every reader can show; fig.write_html('/mnt/data/figure.html') keeps it, and "
            "matplotlib's are pictures]"
        )
    texts = [mime for mime in _TEXTS if isinstance(data.get(mime), str | list | dict)]
    # An object whose text is only its class says more in another form.
    if len(texts) > 1 and re.match(r"<[\w.]+ object( at \w+)?>", str(data.get("text/plain", ""))):
        texts = texts[1:]
    if not texts:
        return f"[a result of type {', '.join(sorted(data))[:200]}]"
    value = data[texts[0]]
    text = "".join(map(str, value)) if isinstance(value, list) else str(value)
    if texts[0] == "text/html":
        text = re.sub(r"\s+", " ", re.sub(r"<[^<>]*>", " ", cut(text, _HTML)))
    return f"result:\n{text}" if "\n" in text else f"result: {text}"


def _changes(execution: Execution) -> Iterator[str]:
    """The files that it made, changed and removed."""
    for change in ("created", "changed"):
        artifacts = [each for each in execution.artifacts if each.change == change]
        artifacts = [each for each in artifacts if not each.path.startswith(".outputs/")]
        if artifacts:
            yield f"{change} in /mnt/data: {_listed([_artifact(each) for each in artifacts])}"
    if removed := [path for path in execution.removed if not path.startswith(".outputs/")]:
        yield f"removed from /mnt/data: {_listed([shortened(path) for path in removed])}"


def _artifact(artifact: Artifact) -> str:
    return f"{shortened(artifact.path)} ({size(artifact.size)})"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_FILES]) + (f" and {len(names) - _FILES} more" if len(names) > _FILES else "")


# What went wrong.


def _failure(execution: Execution) -> Iterator[str]:
    error = execution.error
    if error is None or execution.status is Status.OK:
        return
    trace = user_frames(error.traceback, execution.execution_count)
    if len(error.value) > _VALUE:
        at = trace.find(f": {error.value[:100]}")
        trace = trace[:at] + cut(trace[at:], _VALUE) if at >= 0 else trace
    if execution.status is not Status.ERROR:
        # How it ended has been said, and the last line will be; where it came from is what a traceback adds.
        trace = re.sub(r"\n?KeyboardInterrupt\s*\Z", "", trace)
        trace = f"It was here:\n{trace}" if trace.count("\n") else ""
    elif not trace.strip():
        trace = f"{error.name}: {cut(error.value, _VALUE)}"
    yield cut(trace, TRACEBACK)


_FRAME = re.compile(
    r"^(?P<indent>[ |]*)  (?:Cell In\[(?P<cell>\d{1,9})\]|File \"(?P<file>[^\"]*)\"), line (?P<line>\d+), "
    r"in (?P<of>.+)$"
)
_SYNTAX = re.compile(r'^([ |]*)  File "(?:Cell In\[\d+\])", line (\d+)$')
_NO_NEWS = re.compile(r" \(/opt/venv/[^()\n]*\)|\(Cell In\[\d+\], line \d+\)")
"""Where a library lies, and what a SyntaxError says of itself twice."""


def user_frames(traceback: str, cell: int | None = None) -> str:
    """The program's own frames, one line each; no library's. cell: the number of the cell that is meant by `line 3`."""
    kept: list[str] = []
    library = False
    lines = iter(traceback.rstrip().splitlines())
    for line in lines:
        plain = re.sub(r"^(?:  \| )+", "", line)
        if plain.startswith("Library frames"):
            library = True
            continue
        if library and plain.startswith("  "):
            continue
        library = False
        if plain == "Traceback (most recent call last):":
            continue
        if match := _FRAME.match(line):
            kept.append(_frame(match, cell))
        elif line.startswith(" ") and kept and kept[-1].endswith("\0"):
            kept[-1] = f"{kept[-1][:-1]}: {line.strip(' |')}"
        else:
            kept.append(_SYNTAX.sub(r"\1  line \2", line))
    text = "\n".join(line.rstrip("\0") for line in _without_repeats(kept))
    return _NO_NEWS.sub("", text)


def _frame(match: re.Match[str], cell: int | None) -> str:
    """A frame without its source; `\\0` at its end says that this is still to come."""
    where = ""
    if match["cell"] and int(match["cell"]) != cell:
        where = f"cell {match['cell']}, "
    elif match["file"]:
        where = f"{match['file'].removeprefix('/mnt/data/')}, "
    function = "" if match["of"] == "<module>" else f" in {match['of']}"
    return f"{match['indent']}  {where}line {match['line']}{function}\0"


def _without_repeats(lines: list[str]) -> Iterator[str]:
    """Without causes whose words the error itself quotes."""
    for at, line in enumerate(lines):
        words = line.partition(": ")[2]
        later = lines[at + 1 : at + 1 + _QUOTED_WITHIN] if line.startswith("Caused by ") and words else ()
        if any(words in each for each in later):
            continue
        yield line


def _state(execution: Execution) -> Iterator[str]:
    if execution.state_lost and failed(execution):
        yield "All variables and imports are lost; the files in /mnt/data are still there."
    elif execution.state_lost:
        yield "The kernel was new: variables of earlier calls are lost; the files in /mnt/data are still there."


def _attempts(execution: Execution, again: int, left: int | None, *, same_code: bool) -> Iterator[str]:
    if not failed(execution):
        return
    if again > 0:
        times = "once" if again == 1 else f"{again} times"
        how = "The same code fails the same way: change it." if same_code else "Try another way."
        yield f"Exactly this failure has come {times} before. {how}"
    if left is not None and left <= 0:
        yield "No attempt is left. Say honestly what failed and what is known; do not make up a result."
    elif left is not None:
        yield f"{left} attempt{'s' if left != 1 else ''} left."


# Bounds.


def cut(text: str, room: int) -> str:
    """Head and tail of a text that is longer than `room` characters, with a mark between them that counts the rest."""
    if len(text) <= room:
        return text
    head, tail = text[: room * 3 // 5], text[len(text) - room * 3 // 10 :]
    # Whole lines, where lines are short enough.
    if (end := head.rfind("\n")) > len(head) // 2:
        head = head[:end]
    if -1 < (start := tail.find("\n")) < len(tail) // 2:
        tail = tail[start + 1 :]
    middle = text[len(head) : len(text) - len(tail)]
    spilled = _SPILLED.search(middle)
    where = f"; all of it is in {spilled[1]}" if spilled else ""
    return f"{head}\n[… {len(middle):,} characters left out here{where} …]\n{tail}"


# Pictures.


def _pictures(execution: Execution) -> tuple[Image, ...]:
    found: list[Image] = []
    for data in execution.results:
        if _is_seen(data) and len(found) < PICTURES:
            mime = next(mime for mime in _SEEN if isinstance(data.get(mime), str))
            found.append(Image(mime, _plain(data[mime])))
    return tuple(found)


def _is_seen(data: Mapping[str, Any]) -> bool:
    """Whether a result has an image that an upstream takes: what a program calls one may be anything."""
    for mime, magic in _SEEN.items():
        if isinstance(data.get(mime), str):
            encoded = _plain(data[mime])
            if len(encoded) > PICTURE_BYTES:
                return False
            try:
                return base64.b64decode(encoded, validate=True).startswith(magic)
            except (binascii.Error, ValueError):
                return False
    return False


def _plain(encoded: str) -> str:
    return "".join(encoded.split())


def _dimensions(encoded: Any) -> str:
    """Of a PNG, from its first bytes; empty when they say none."""
    if not isinstance(encoded, str):
        return ""
    try:
        head = base64.b64decode(_plain(encoded[:60])[:32])
        width, height = struct.unpack(">II", head[16:24])
    except (binascii.Error, ValueError, struct.error):
        return ""
    return f"{width}x{height}" if head.startswith(_SEEN["image/png"]) else ""
