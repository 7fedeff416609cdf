"""What an upstream answers."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sandbox.loop.messages import MOST_TOKENS, Delta, Finish, Message, Opaque, Reply, Text, ToolCall, Usage
from sandbox.loop.openai_chat.fields import rest, written_out
from sandbox.loop.surrogates import encodable

_FINISHES: Mapping[Any, Finish] = {
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
_PASSED = ("system_fingerprint", "service_tier")
_MOST_CALLS = 128
"""In one answer: a model that wants more goes round in circles."""
_KNOWN_OF_DELTAS = frozenset({"role", "content", "refusal", "tool_calls", "function_call"})


def error(said: Any) -> Mapping[str, Any] | None:
    """What went wrong, if an answer or a chunk says so: `message`, and maybe `type`, `code` and `param`."""
    found = said.get("error") if isinstance(said, Mapping) else None
    if not found:
        return None
    return found if isinstance(found, Mapping) else {"message": str(found)}


def whole(said: Any, *, upstream: str = "") -> Reply:
    """A reply of an answer in one piece. Raises `ValueError`."""
    reading = Reading(upstream)
    reading.feed(said)
    return reading.reply()


class Reading:
    """A reply on its way: chunks in, deltas out, and the whole in the end."""

    def __init__(self, upstream: str = "") -> None:
        """upstream: its name in the settings."""
        self.finished = False
        """Whether a chunk said why the model stopped: what ends before has been cut off."""
        self._upstream = upstream
        self._id = ""
        self._model = ""
        self._begun = False
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._finish: Any = None
        self._usage = Usage()
        self._calls = Calls()
        self._fields: dict[str, Any] = {}
        self._extra: dict[str, Any] = {}

    def feed(self, chunk: Any) -> Delta:
        """Take a chunk. Raises `ValueError` for what is none; ask `error` first."""
        if not isinstance(chunk, Mapping):
            raise ValueError(f"a JSON object was expected, and not {str(chunk)[:100]!r}")
        chunk = encodable(chunk)
        self._id = self._id or str(chunk.get("id") or "")
        self._model = self._model or str(chunk.get("model") or "")
        if isinstance(chunk.get("usage"), Mapping):
            self._usage = usage(chunk["usage"])
        self._extra |= {name: chunk[name] for name in _PASSED if isinstance(chunk.get(name), str)}
        choices = chunk.get("choices")
        words = "".join([self._choose(choice) for choice in choices]) if isinstance(choices, list) else ""
        return Delta(words, chunk)

    def reply(self) -> Reply:
        """All of it. Raises `ValueError` when no chunk had an answer."""
        if not self._begun:
            raise ValueError("the answer has no choices")
        calls = self._calls.all(self._id, self._upstream)
        text = "".join(self._text)
        fields = Opaque("openai", self._fields, self._upstream)
        parts = (*((Text(text),) if text else ()), *calls, *((fields,) if self._fields else ()))
        return Reply(
            Message("assistant", parts),
            self._reason(bool(calls)),
            self._usage,
            self._model,
            self._id,
            self._upstream,
            refusal="".join(self._refusal),
            refused_as=str(self._finish or "stop") if self._refusal else "",
            extra=self._extra,
        )

    def _choose(self, choice: Any) -> str:
        # With `n` others come along; a loop has use for one.
        if not isinstance(choice, Mapping) or choice.get("index"):
            return ""
        self._begun = True
        if choice.get("finish_reason"):
            self.finished, self._finish = True, choice["finish_reason"]
        delta = choice.get("delta") or choice.get("message")
        return self._take(delta) if isinstance(delta, Mapping) else str(choice.get("text") or "")

    def _take(self, delta: Mapping[str, Any]) -> str:
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            self._calls.take(call)
        if isinstance(delta.get("function_call"), Mapping):
            self._calls.take({"index": 0, "function": delta["function_call"]})
        for name in delta.keys() - _KNOWN_OF_DELTAS:
            self._keep(name, delta[name])
        words = _words(delta.get("content"))
        if isinstance(refused := delta.get("refusal"), str) and refused:
            words += refused
            self._refusal.append(refused)
        if words:
            self._text.append(words)
        return words

    def _keep(self, name: str, value: Any) -> None:
        if value is None:
            return
        before = self._fields.get(name)
        if isinstance(before, str) and isinstance(value, str):
            value = before + value
        elif isinstance(before, list) and isinstance(value, list):
            value = [*before, *value]
        self._fields[name] = value

    def _reason(self, called: bool) -> Finish:
        """Why it stopped; some servers say `stop` and call tools."""
        if self._refusal:
            return "content_filter"
        finish = _FINISHES.get(self._finish, "stop") if isinstance(self._finish, str) else "stop"
        if finish in ("stop", "tool_calls"):
            return "tool_calls" if called else "stop"
        return finish


@dataclass(slots=True)
class Call:
    """One on its way."""

    at: int
    """Its place in the order of coming."""
    index: int | None
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    custom: bool = False


class Calls:
    """Tool calls from their pieces."""

    def __init__(self) -> None:
        self._calls: list[Call] = []

    def take(self, piece: Any) -> Call | None:
        """Add a piece to the call that it belongs to; None for what is no piece. Raises `ValueError` for too many."""
        if not isinstance(piece, Mapping):
            return None
        kind = "custom" if isinstance(piece.get("custom"), Mapping) else "function"
        function = piece.get(kind)
        function = function if isinstance(function, Mapping) else {}
        index = piece.get("index") if isinstance(piece.get("index"), int) else None
        words = written_out(function.get("input" if kind == "custom" else "arguments"))
        call = self._find(index, str(piece.get("id") or ""), str(function.get("name") or ""), words)
        call.id = call.id or str(piece.get("id") or "")
        call.name = call.name or str(function.get("name") or "")
        call.custom = call.custom or kind == "custom"
        if words:
            call.arguments.append(words)
        call.extra |= rest(piece, ("id", "type", "index", kind), kind, ("name", "arguments", "input"))
        return call

    def all(self, reply_id: str, upstream: str) -> list[ToolCall | Opaque]:
        """The calls, in the order of their index, each with an id of its own."""
        calls = sorted(self._calls, key=lambda call: call.index or 0)
        made: list[ToolCall | Opaque] = []
        taken: set[str] = set()
        for at, call in enumerate(calls):
            name = call.id if call.id and call.id not in taken else f"call_{reply_id or secrets.token_hex(8)}_{at}"
            taken.add(name)
            text = "".join(call.arguments)
            if call.custom:
                custom = {"name": call.name, "input": text}
                made.append(Opaque("openai", {"id": name, "type": "custom", "custom": custom}))
            else:
                made.append(ToolCall(name, call.name, text, call.extra, upstream if call.extra else ""))
        return made

    def _find(self, index: int | None, name: str, function: str, words: str) -> Call:
        """The call that a piece continues, or a new one."""
        fitting = [call for call in self._calls if index is None or call.index == index]
        known = [call for call in fitting if name and call.id == name]
        last = (known or fitting)[-1:]
        if last and not _begins(last[0], name, function, index, words):
            return last[0]
        at = len(self._calls)
        if at == _MOST_CALLS:
            raise ValueError(f"more than {_MOST_CALLS} tool calls")
        # Without an index a call is as late as it came.
        self._calls.append(Call(at, at if index is None else index))
        return self._calls[-1]


def _begins(last: Call, name: str, function: str, index: int | None, words: str) -> bool:
    """Whether a piece that bears this id and name is another call than the last one.

    Some servers give every call the same index, others give none or the same id, and some repeat id or name in every
    piece, the empty last one included.
    """
    if not function:
        return False  # a call begins with its name; ids alone change with every piece of some servers
    if name and last.id and name != last.id:
        return True
    if index is not None or not last.name or (name and function == last.name and not words):
        return False
    return _ended("".join(last.arguments))


def _ended(arguments: str) -> bool:
    try:
        json.loads(arguments)
    except (ValueError, RecursionError):
        return False
    return True


def _words(content: Any) -> str:
    """Content that is text or a list of parts, some of which are."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    return "".join(part["text"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str))


def usage(said: Mapping[str, Any]) -> Usage:
    """Tokens as a server counted them; what is no number counts as none."""
    read, written = _mapping(said, "prompt_tokens_details"), _mapping(said, "completion_tokens_details")
    return Usage(
        input_tokens=_count(said.get("prompt_tokens")),
        output_tokens=_count(said.get("completion_tokens")),
        cache_read_tokens=_count(read.get("cached_tokens")) or _count(said.get("prompt_cache_hit_tokens")),
        cache_write_tokens=_count(read.get("cache_write_tokens")),
        reasoning_tokens=_count(written.get("reasoning_tokens")),
    )


def _mapping(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = value.get(name)
    return found if isinstance(found, Mapping) else {}


def _count(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and 0 < value < MOST_TOKENS else 0
