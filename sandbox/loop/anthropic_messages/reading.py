"""What an upstream answers."""

import json
from collections.abc import Mapping
from typing import Any

from sandbox.loop.messages import MOST_TOKENS, Delta, Finish, Message, Opaque, Part, Reply, Text, ToolCall, Usage
from sandbox.loop.surrogates import encodable

_FINISHES: Mapping[Any, Finish] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_NOTHING = Delta()


def error(said: Any) -> Mapping[str, Any] | None:
    """What went wrong, if an answer or an event says so: `type` and `message`."""
    found = said.get("error") if isinstance(said, Mapping) else None
    if not found:
        return None
    return found if isinstance(found, Mapping) else {"message": str(found)}


def whole(said: Any, *, upstream: str = "") -> Reply:
    """A reply of a message in one piece. Raises `ValueError`."""
    if not isinstance(said, Mapping) or not isinstance(said.get("content"), list):
        raise ValueError("the message has no content")
    reading = Reading(upstream)
    reading.feed({"type": "message_start", "message": said})
    for at, block in enumerate(said["content"]):
        reading.feed({"type": "content_block_start", "index": at, "content_block": block})
    reading.feed({"type": "message_delta", "delta": said})
    return reading.reply()


class Reading:
    """A reply on its way: events in, deltas out, and the whole in the end."""

    def __init__(self, upstream: str = "") -> None:
        """upstream: its name in the settings."""
        self.finished = False
        """Whether an event said why the model stopped: what ends before has been cut off."""
        self._upstream = upstream
        self._id = ""
        self._model = ""
        self._begun = False
        self._blocks: dict[int, _Block] = {}
        self._finish: Any = None
        self._stopped_at = ""
        self._usage: dict[str, Any] = {}

    def feed(self, event: Any) -> Delta:
        """Take an event. Raises `ValueError` for what is none; ask `error` first."""
        if not isinstance(event, Mapping):
            raise ValueError(f"a JSON object was expected, and not {str(event)[:100]!r}")
        event = encodable(event)
        match event.get("type"):
            case "message_start":
                self._start(_mapping(event, "message"))
            case "content_block_start":
                return self._open(_index(event), _mapping(event, "content_block"))
            case "content_block_delta":
                return self._blocks.setdefault(_index(event), _Block({})).add(_mapping(event, "delta"))
            case "message_delta":
                self._end(_mapping(event, "delta"), _mapping(event, "usage"))
            case _:
                pass  # pings, ends of blocks, and what there will be
        return _NOTHING

    def reply(self) -> Reply:
        """All of it. Raises `ValueError` when there was no message."""
        if not self._begun:
            raise ValueError("the answer has no message")
        parts = tuple(part for _, block in sorted(self._blocks.items()) if (part := block.part(self._upstream)))
        message = Message("assistant", parts)
        finish, used = self._reason(bool(message.calls)), usage(self._usage)
        return Reply(message, finish, used, self._model, self._id, self._upstream, stopped_at=self._stopped_at)

    def _start(self, message: Mapping[str, Any]) -> None:
        self._begun = True
        self._id = str(message.get("id") or "")
        self._model = str(message.get("model") or "")
        self._usage |= _mapping(message, "usage")

    def _open(self, at: int, block: Mapping[str, Any]) -> Delta:
        self._begun = True
        self._blocks[at] = _Block(block)
        text = block.get("text") if block.get("type") == "text" else ""
        return Delta(text) if isinstance(text, str) and text else _NOTHING

    def _end(self, delta: Mapping[str, Any], usage: Mapping[str, Any]) -> None:
        if delta.get("stop_reason"):
            self.finished, self._finish = True, delta["stop_reason"]
        if isinstance(delta.get("stop_sequence"), str):
            self._stopped_at = delta["stop_sequence"]
        # Counts are of all so far, and what is not said again has not changed.
        self._usage |= {name: count for name, count in usage.items() if count is not None}

    def _reason(self, called: bool) -> Finish:
        finish = _FINISHES.get(self._finish, "stop") if isinstance(self._finish, str) else "stop"
        if finish in ("stop", "tool_calls"):
            return "tool_calls" if called else "stop"
        return finish


class _Block:
    """A block from its beginning and what is added to it."""

    def __init__(self, begun: Mapping[str, Any]) -> None:
        self._begun = begun
        self._added: dict[str, list[str]] = {}
        self._others: dict[str, Any] = {}

    def add(self, delta: Mapping[str, Any]) -> Delta:
        """Whatever it is: words, thoughts, a signature, arguments or something new."""
        for name, value in delta.items():
            if name == "citation":
                self._others.setdefault("citations", []).append(value)
            elif isinstance(value, str) and name != "type":
                self._added.setdefault(name, []).append(value)
            elif name != "type":
                self._others[name] = value
        text = delta.get("text")
        return Delta(text) if isinstance(text, str) and text else _NOTHING

    def part(self, upstream: str) -> Part | None:
        """What it has become; None for text without any."""
        kind = self._begun.get("type", "text" if "text" in self._added else None)
        if kind == "text":
            text = self._text("text")
            return Text(text) if text else None
        if kind == "tool_use":
            return ToolCall(str(self._begun.get("id") or ""), str(self._begun.get("name") or ""), self._arguments())
        value = self._value()
        return Opaque("anthropic", value, upstream) if value.get("type") else None

    def _text(self, name: str) -> str:
        begun = self._begun.get(name)
        return (begun if isinstance(begun, str) else "") + "".join(self._added.get(name, ()))

    def _arguments(self) -> str:
        written = "".join(self._added.get("partial_json", ()))
        return written or json.dumps(self._begun.get("input") or {}, ensure_ascii=False)

    def _value(self) -> dict[str, Any]:
        value = dict(self._begun) | self._others
        value |= {name: self._text(name) for name in self._added if name != "partial_json"}
        if "partial_json" in self._added:
            try:
                value["input"] = encodable(json.loads(self._arguments()))
            except (ValueError, RecursionError):
                value["input"] = {}  # it has been cut off
        return value


def usage(said: Mapping[str, Any]) -> Usage:
    """Tokens; cached ones are not in `input_tokens` there, and are here."""
    read, written = _count(said, "cache_read_input_tokens"), _count(said, "cache_creation_input_tokens")
    return Usage(
        input_tokens=_count(said, "input_tokens") + read + written,
        output_tokens=_count(said, "output_tokens"),
        cache_read_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=_count(_mapping(said, "output_tokens_details"), "thinking_tokens"),
    )


def _count(said: Mapping[str, Any], name: str) -> int:
    value = said.get(name)
    return int(value) if isinstance(value, int | float) and 0 < value < MOST_TOKENS else 0


def _mapping(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = value.get(name)
    return found if isinstance(found, Mapping) else {}


def _index(event: Mapping[str, Any]) -> int:
    index = event.get("index")
    return index if isinstance(index, int) else 0
