"""The channel between the host and a sandbox's init: a byte stream of frames.

    u32 length (big endian, of what follows) | u8 type | body

Both ends treat the other's bytes as hostile: lengths are capped before anything is allocated, bodies are text,
JSON, or a JSON head, one newline and raw bytes, which may be the rows of a list. Nothing is ever unpickled, and no name
in a body is ever used as a path on the host.
"""

import io
import json
import math
import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Any

HEADER = struct.Struct(">IB")
MAX_BODY = 20 << 20
"""No body is longer. The largest honest ones are rich results (16 MiB at most by `Limits`)."""
CHUNK = 256 << 10
"""File contents travel in pieces of this many bytes."""
MAX_ENTRIES = 10_000
"""Files and directories of a workspace that are looked at. By default `/mnt/data` holds fewer."""
MAX_DEPTH = 16
"""Directories in each other; files that lie deeper are not listed."""
MAX_ROWS = 2 * MAX_ENTRIES
"""Of one list: an execution may have removed as many files as it has made."""
_LINE = 8 << 10
"""Bytes of a list's JSON in one line, and a row more: to read a line takes well under a millisecond."""
_LONGEST_LINE = 64 << 10
"""No honest line is longer: a row's path has 4 KiB at most, and six bytes of JSON for each."""
SOCKET = "/run/sandbox/channel"
"""Where the init of a container dials, if the host can be reached by a socket."""
MAX_HANDLES = 32
"""Files that the host may have open in one workspace at a time."""
MAX_WAITING = 128
"""Calls of a program's that wait for their answers at a time."""
MAX_ARGUMENTS = 256 << 10
"""Characters of JSON that one of them may have as arguments."""
_DEPTH = 32
"""Lists and objects in each other, in arguments: what is deeper cannot be written by everybody who can read it."""


class Frame(IntEnum):
    """What a frame says. Host to init below 64, init to host from 64 up."""

    EXECUTE = 1
    """{id, code, timeout, functions?}: run code; `timeout` in seconds. `functions` that it may call: {name: [parameter,
    …]}."""
    INTERRUPT = 2
    """{}: SIGINT to every process; kill them after a grace."""
    RESTART = 3
    """{number}: replace the kernel; each restart has a higher number."""
    CALL = 4
    """{call, op, …} newline bytes: a file operation, answered by one REPLY."""
    BEGIN = 5
    """{policy, filter}: the first frame, where init has no other way to learn what it enforces; `init.Policy`, and the
    kernel's system call filter in base64 or null."""
    ANSWER = 6
    """{answers: [[number, how, text], …]}: what became of calls of WANTS; `how` is `ok`, `failed`, or `late` for one
    that nobody answers any more."""
    INHERIT = 7
    """{number}: another engine has the channel now. A sandbox that nobody has used says READY again; any other ends."""
    KILL = 8
    """{}: kill the kernel and whatever else programs have started, because they hold too much memory."""

    READY = 64
    """{restarts, inherit?}: a kernel listens that was requested after the restart of this number; 0 for none. `inherit`
    is the number of the INHERIT that it answers."""
    STARTED = 65
    """{id}: the code has been handed to the kernel."""
    STDOUT = 66
    """UTF-8 text."""
    STDERR = 67
    """UTF-8 text."""
    RESULT = 68
    """{data, execution_count}: a MIME bundle."""
    ERROR = 69
    """{name, value, traceback}."""
    DONE = 70
    """{id, …} newline rows: the execution's end as init saw it, see `init.Relay._end`; a row is [path, size, change] of
    a file that it has `created`, `changed` or `removed`."""
    REPLY = 71
    """{call, …} newline bytes, or {call, error: {kind, text}}."""
    WANTS = 72
    """{calls: [[number, name, arguments], …]}: the program waits for these functions; arguments are JSON as text."""
    LISTING = 73
    """{call, complete, unnamed} newline rows: answers `list`, as REPLY does all others; a row is [path, size,
    modified_ns, version]."""


_NUMBERS = frozenset(Frame)


class BadFrame(ValueError):
    """The peer sent bytes that are no frame."""


def encode(kind: Frame, body: bytes) -> bytes:
    """One frame. Raises `BadFrame` when the body is over `MAX_BODY`."""
    if len(body) > MAX_BODY:
        raise BadFrame(f"a body of {len(body)} bytes is over the cap of {MAX_BODY}")
    return HEADER.pack(len(body) + 1, kind) + body


def encode_json(kind: Frame, value: dict[str, Any], payload: bytes | memoryview = b"", most: int = CHUNK) -> bytes:
    """One frame with a JSON body, and raw bytes behind it when `payload` has any, of which there may be `most`."""
    head = json.dumps(value, separators=(",", ":")).encode()
    if not payload:
        return encode(kind, head)
    length = len(head) + 1 + len(payload)
    if len(payload) > most or length > MAX_BODY:
        raise BadFrame(f"{len(payload)} raw bytes are over the cap of {most}")
    return b"".join((HEADER.pack(length + 1, kind), head, b"\n", payload))


def decode_json(body: bytes, most: int = CHUNK) -> tuple[dict[str, Any], bytes]:
    """The JSON object and the raw bytes of a body, `most` at most. Raises `BadFrame`."""
    head, _, payload = body.partition(b"\n")
    if len(payload) > most:
        raise BadFrame(f"{len(payload)} raw bytes are over the cap of {most}")
    value = _read(head, "a body")
    if not isinstance(value, dict):
        raise BadFrame("a body is not a JSON object")
    return value, payload


def encode_rows(kind: Frame, value: dict[str, Any], rows: Iterable[list[Any]]) -> bytes:
    """One frame with a JSON head and the rows of a list behind it."""
    return encode_json(kind, value, b"\n".join(_lines(rows)), MAX_BODY)


def _lines(rows: Iterable[list[Any]]) -> Iterator[bytes]:
    line, size = list[str](), 0
    for row in rows:
        line.append(_to_json(row))
        size += len(line[-1])
        if size >= _LINE:
            yield f"[{','.join(line)}]".encode()
            line, size = [], 0
    if line:
        yield f"[{','.join(line)}]".encode()


def rows_of(payload: bytes) -> Iterator[list[list[Any]]]:
    """The rows behind a head, those of a line at a time, which is read when it is asked for: others can have their turn
    between two. Raises `BadFrame`.
    """
    left = MAX_ROWS
    lines = io.BytesIO(payload)
    while line := lines.readline(_LONGEST_LINE + 1):
        if len(line) > _LONGEST_LINE:
            raise BadFrame(f"a line has more than {_LONGEST_LINE} bytes")
        rows = _read(line, "a line")
        if not isinstance(rows, list) or not rows or not all(isinstance(row, list) for row in rows):
            raise BadFrame("a line is not rows")
        left -= len(rows)
        if left < 0:
            raise BadFrame(f"a list has more than {MAX_ROWS} rows")
        yield rows


_to_json = json.JSONEncoder(separators=(",", ":")).encode


def _read(text: bytes, what: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BadFrame(f"{what} is not JSON") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def arguments_of(text: str) -> dict[str, Any]:
    """The arguments of a program's call. Raises `BadFrame` for what not everybody could hold or write down again."""
    if len(text) > MAX_ARGUMENTS:
        raise BadFrame(f"the arguments are {len(text):,} characters of JSON; {MAX_ARGUMENTS:,} at most")
    try:
        value, _ = decode_json(text.encode())
    except UnicodeError as error:
        raise BadFrame("the arguments are not Unicode") from error
    if not _is_plain(value, _DEPTH):
        raise BadFrame(f"the arguments have half a character in them, infinity, or more than {_DEPTH} levels")
    return value


def _is_plain(value: Any, depth: int) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)  # `1e999` is JSON, and what it is read as cannot be written
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)
    if isinstance(value, dict):
        return depth > 0 and all(_is_plain(key, depth) and _is_plain(each, depth - 1) for key, each in value.items())
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(each, depth - 1) for each in value)
    return True


class Decoder:
    """Bytes in, whole frames out, in any cutting."""

    def __init__(self, max_body: int = MAX_BODY) -> None:
        self._head = bytearray()
        self._body = bytearray()
        self._missing = 0
        """Bytes of the body that are still to come; counts once the head is whole."""
        self._max_body = max_body

    def feed(self, data: bytes) -> list[tuple[Frame, bytes]]:
        """The frames that `data` completes. Raises `BadFrame` for a length over the cap or an unknown type."""
        frames: list[tuple[Frame, bytes]] = []
        start = 0
        while True:
            if len(self._head) < HEADER.size:
                taken = data[start : start + HEADER.size - len(self._head)]
                self._head += taken
                start += len(taken)
                if len(self._head) < HEADER.size:
                    return frames
                self._missing = self._checked_length()
            piece = memoryview(data)[start : start + self._missing]
            self._body += piece
            self._missing -= len(piece)
            start += len(piece)
            if self._missing:
                return frames
            frames.append((Frame(self._head[4]), bytes(self._body)))
            self._head, self._body = bytearray(), bytearray()

    def _checked_length(self) -> int:
        length, number = HEADER.unpack(self._head)
        if not 1 <= length <= self._max_body + 1:
            raise BadFrame(f"a frame of {length} bytes")
        if number not in _NUMBERS:
            raise BadFrame(f"a frame of unknown type {number}")
        return int(length) - 1
