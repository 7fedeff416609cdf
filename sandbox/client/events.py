"""An execution's events, from the bytes of one connection or of several."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sandbox.client import requests
from sandbox.client.problems import exception, nonsense
from sandbox.client.requests import Request
from sandbox.client.values import Started, read_artifact, read_error, read_execution
from sandbox.execution import Artifact, Error, Execution, Result, Stream

Event = Started | Stream | Result | Error | Artifact | Execution
"""What a stream yields: `Started` first, the whole `Execution` last."""

_READERS: Mapping[str, Callable[[Any], Event]] = {
    "started": lambda data: Started(data["id"], data["session_id"]),
    "stdout": lambda data: Stream("stdout", data["text"]),
    "stderr": lambda data: Stream("stderr", data["text"]),
    "result": lambda data: Result(data["data"], data.get("execution_count")),
    "error": read_error,
    "artifact": read_artifact,
    "done": read_execution,
}


class Following:
    """Where a reader of one execution's events is. It does no input or output: it says what to ask for next."""

    def __init__(self, session_id: str, first: Request[None], execution_id: str = "") -> None:
        self.ended = False
        self._session_id = session_id
        self._first = first
        self._execution_id = execution_id
        self._last_id = ""
        self._decoder = Decoder()

    @property
    def started(self) -> bool:
        """Whether there is an execution that can be come back to."""
        return bool(self._execution_id)

    def request(self) -> Request[None]:
        """What to send now: the first request, and after a cut what gives the rest."""
        self._decoder = Decoder()
        if self._execution_id:
            return requests.events(self._session_id, self._execution_id, self._last_id)
        return self._first  # nothing has come of it yet; its Idempotency-Key makes it safe to send again

    def feed(self, piece: bytes) -> Iterator[Event]:
        """The events that these bytes complete.

        Raises what the server says has failed it, and `Unreachable` for what no server of ours says.
        """
        for message in self._decoder.feed(piece):
            event = _read(message)
            if event is None:
                continue
            if isinstance(event, Started):
                self._execution_id = event.id
            self._last_id = message.id or self._last_id
            self.ended = isinstance(event, Execution)
            yield event


def _read(message: "Message") -> Event | None:
    try:
        data = json.loads(message.data)
        if message.name in _READERS:
            return _READERS[message.name](data)
        failure = exception(data) if message.name == "problem" else None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise nonsense(error) from error
    if failure is not None:
        raise failure
    return None  # of a newer server


@dataclass(frozen=True, slots=True)
class Message:
    """One server-sent event."""

    name: str
    data: str
    id: str


class Decoder:
    """Server-sent events as the HTML standard has them, from pieces that may end anywhere."""

    def __init__(self) -> None:
        self._unfinished: list[bytes] = []
        self._name = ""
        self._data: list[str] = []
        self._id = ""

    def feed(self, piece: bytes) -> list[Message]:
        """The messages that these bytes complete."""
        self._unfinished.append(piece)
        if b"\n" not in piece and b"\r" not in piece:
            return []  # a line of megabytes is joined once, not once per piece
        # A return at the very end may be the first half of a line's end.
        *lines, rest = re.split(rb"\r\n|\n|\r(?=[^\n])", b"".join(self._unfinished))
        self._unfinished = [rest]
        return [message for line in lines if (message := self._take(line.decode(errors="replace")))]

    def _take(self, line: str) -> Message | None:
        if not line:
            message = Message(self._name or "message", "\n".join(self._data), self._id) if self._data else None
            self._name, self._data = "", []
            return message
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._name = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value
        return None  # comments begin with the colon: they are heartbeats
