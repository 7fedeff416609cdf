"""As much of OpenAI's chat completions as a model needs that does nothing but write: streamed or whole, one at a time.

Only the standard library is used, because it runs where the model does.
"""

import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

_MAX_TOKENS = 600
"""For requests that name no limit: a small model that repeats itself never stops."""
_MAX_BODY = 4 << 20


class TooLong(ValueError):
    """What was said does not fit into what the model can hold."""


class Writer(Protocol):
    """A model."""

    name: str

    def write(self, messages: Sequence[tuple[str, str]], most: int) -> Iterator[str]:
        """The answer to these (role, text), a piece for each token, at most so many. Raises `TooLong` before any."""

    def usage(self) -> tuple[int, int, bool]:
        """Tokens in and out of the last answer, and whether it was cut off."""


class Completions(ThreadingHTTPServer):
    """The server, on loopback at a port that is free."""

    daemon_threads = True

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.turn = threading.Lock()
        """Whose request it is: there is one model, and it has one memory."""
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        """What OpenAI's SDK takes as its base URL."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Completions

    def do_GET(self) -> None:
        if self.path != "/v1/models":
            self._refuse(404, "there is nothing here")
            return
        model = {"id": self.server.writer.name, "object": "model", "created": 0, "owned_by": "local"}
        self._send(200, {"object": "list", "data": [model]})

    def do_POST(self) -> None:
        if self.path != "/v1/chat/completions":
            self._refuse(404, "there is nothing here")
            return
        try:
            asked = json.loads(self.rfile.read(min(int(self.headers["content-length"]), _MAX_BODY)))
            messages = [(message["role"], _text(message.get("content"))) for message in asked["messages"]]
            most = int(asked.get("max_tokens") or asked.get("max_completion_tokens") or _MAX_TOKENS)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            self._refuse(400, f"this cannot be read: {error!r}")
            return
        with self.server.turn:
            try:
                self._answer(self.server.writer.write(messages, most), streamed=bool(asked.get("stream")))
            except TooLong as error:
                self._refuse(400, str(error))
            except (BrokenPipeError, ConnectionResetError):
                return  # whoever asked has left, so nothing more is written

    def _answer(self, pieces: Iterator[str], *, streamed: bool) -> None:
        first = next(
            pieces, ""
        )  # what cannot be answered is refused here, while there is still a status to say it with
        if not streamed:
            text = first + "".join(pieces)
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": self._finish()}
            self._send(200, self._object("chat.completion", [choice], usage=True))
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self._chunk({"role": "assistant", "content": first})
        for piece in pieces:
            self._chunk({"content": piece})
        self._chunk({}, self._finish())
        self.wfile.write(b"data: [DONE]\n\n")

    def _chunk(self, delta: dict[str, str], finish: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        value = self._object("chat.completion.chunk", [choice], usage=finish is not None)
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")

    def _finish(self) -> str:
        return "length" if self.server.writer.usage()[2] else "stop"

    def _object(self, kind: str, choices: list[dict[str, Any]], *, usage: bool) -> dict[str, Any]:
        writer = self.server.writer
        value = {"id": "chatcmpl-1", "object": kind, "created": int(time.time()), "model": writer.name}
        if usage:
            into, out, _ = writer.usage()
            counted = {"prompt_tokens": into, "completion_tokens": out, "total_tokens": into + out}
            return value | {"choices": choices, "usage": counted}
        return value | {"choices": choices}

    def _refuse(self, status: int, words: str) -> None:
        self._send(status, {"error": {"message": words, "type": "invalid_request_error", "code": None}})

    def _send(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the model says how fast it was."""


def _text(content: object) -> str:
    """Of a message: a string, or parts of which it reads the text."""
    if isinstance(content, list):
        return "\n".join(str(part["text"]) for part in content if part.get("type") == "text")
    return str(content or "")


def serve(writer: Writer) -> None:
    """Print the URL, and answer until standard input ends: whoever has started us may be killed, and is then gone."""
    with Completions(writer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(server.url, flush=True)
        sys.stdin.read()
