"""The little of the Jupyter wire that init needs: one request out, messages in. By hand, for bounded input.

Messaging protocol 5.3. The key is empty: user code shares the kernel's process, so a signature would prove nothing.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import zmq

_DELIMITER = b"<IDS|MSG>"
_RECEIVE_QUEUE = 64


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the kernel; `content` is still JSON so that its length can be judged first."""

    kind: str
    parent: str
    """`msg_id` of the request it belongs to, or empty."""
    content: bytes

    def read(self) -> dict[str, Any]:
        """The content; an empty object if it is not JSON."""
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(self.content, parse_constant=_refuse)
            if isinstance(value, dict):
                return value
        return {}


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON, and the host would not take it")


class Connection:
    """The shell and IOPub sockets of one kernel, and its control socket from the first answer on."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", endpoints: dict[str, str]) -> None:
        self._context = context
        self._endpoints = endpoints
        self._control: zmq.Socket[bytes] | None = None
        self.shell = context.socket(zmq.DEALER)
        self.iopub = context.socket(zmq.SUB)
        for sock in (self.shell, self.iopub):
            sock.linger = 0
            sock.setsockopt(zmq.RCVHWM, _RECEIVE_QUEUE)
        self.iopub.connect(endpoints["iopub"])
        self.iopub.setsockopt(zmq.SUBSCRIBE, b"")
        self.shell.connect(endpoints["shell"])

    def execute(self, execution_id: str, code: str, functions: dict[str, Any]) -> None:
        """Send an execute_request whose `msg_id` is the execution's id. functions: those that the code may call."""
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}}
        content |= {"allow_stdin": False, "stop_on_error": False}
        metadata = {"functions": functions} if functions else {}
        self.shell.send_multipart(_request("execute_request", execution_id, content, metadata))

    def answer(self, answers: list[Any]) -> None:
        """Send what became of calls: over the control channel, because the shell's is busy while a cell runs."""
        if self._control is None:
            self._control = self._context.socket(zmq.DEALER)
            self._control.linger = 0
            self._control.connect(self._endpoints["control"])
        with contextlib.suppress(zmq.Again):  # a program that has never looked at a thousand answers
            self._control.send_multipart(_request("answer", "answer", {"answers": answers}), zmq.NOBLOCK)

    def receive(self, sock: "zmq.Socket[bytes]", limit: int) -> Iterator[Message]:
        """What has arrived, `limit` messages at most. Malformed ones are skipped."""
        for _ in range(limit):
            try:
                parts = sock.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            message = _parse(parts)
            if message is not None:
                yield message

    def close(self) -> None:
        """Close all sockets at once."""
        self.shell.close()
        self.iopub.close()
        if self._control is not None:
            self._control.close()


def _request(
    kind: str, message_id: str, content: dict[str, Any], metadata: dict[str, Any] | None = None
) -> list[bytes]:
    header = {
        "msg_id": message_id,
        "session": "init",
        "username": "sandbox",
        "date": "2000-01-01T00:00:00Z",
        "msg_type": kind,
        "version": "5.3",
    }
    return [_DELIMITER, b"", *(json.dumps(part).encode() for part in (header, {}, metadata or {}, content))]


def _parse(parts: list[bytes]) -> Message | None:
    try:
        start = parts.index(_DELIMITER) + 2
        header, parent = json.loads(parts[start]), json.loads(parts[start + 1])
        return Message(str(header["msg_type"]), str(parent.get("msg_id", "")), parts[start + 3])
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, RecursionError):
        return None
