"""What an upstream's chunks say, as OpenAI's own would: for SDKs, which join chunks and take much for granted."""

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from sandbox.loop.openai_chat.fields import joined, rest, written_out
from sandbox.loop.openai_chat.reading import Calls

_MOST = 128
"""Choices of an answer, which is as many as OpenAI gives."""


class Passing:
    """Chunks in, their choices out."""

    def __init__(self) -> None:
        self._choices: dict[int, _Choice] = {}

    def choices(self, chunk: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Each with an index and a delta; a tool call has its index always, and id, type and name once."""
        found = chunk.get("choices")
        made = []
        for said in found if isinstance(found, list) else ():
            at = said.get("index") if isinstance(said, Mapping) else None
            at = at if isinstance(at, int) and at >= 0 else 0
            if isinstance(said, Mapping) and (at in self._choices or len(self._choices) < _MOST):
                made.append(self._choices.setdefault(at, _Choice()).take(said) | {"index": at})
        return made


class _Choice:
    """One of them."""

    def __init__(self) -> None:
        self._begun = False
        self._calls = Calls()
        self._ids: dict[int, str] = {}
        """Of the calls that were told, by their place."""
        self._named: set[int] = set()

    def take(self, said: Mapping[str, Any]) -> dict[str, Any]:
        found = (said[name] for name in ("delta", "message") if isinstance(said.get(name), Mapping))
        given: Mapping[str, Any] = next(found, {})
        known = ("tool_calls", "role") if self._begun else ("tool_calls",)  # the SDK joins roles, too
        delta = {name: value for name, value in given.items() if name not in known}
        self._begun = True
        if isinstance(given.get("tool_calls"), list):
            delta["tool_calls"] = [piece for call in given["tool_calls"] for piece in self._piece(call)]
        made = {name: value for name, value in said.items() if name != "message"} | {"delta": delta}
        if made.get("finish_reason") == "stop" and self._ids:
            made["finish_reason"] = "tool_calls"
        return made

    def _piece(self, said: Any) -> Iterator[dict[str, Any]]:
        call = None
        with contextlib.suppress(ValueError):  # too many: what reads the first choice has said so
            call = self._calls.take(said)
        if call is None:
            return
        kind, words = ("custom", "input") if call.custom else ("function", "arguments")
        inner = said.get(kind)
        inner = inner if isinstance(inner, Mapping) else {}
        told: dict[str, Any] = {words: written_out(inner.get(words))}
        if call.name and call.at not in self._named:
            self._named.add(call.at)
            told = {"name": call.name} | told
        made: dict[str, Any] = {"index": call.at}
        if call.at not in self._ids:
            unique = call.id and call.id not in self._ids.values()
            self._ids[call.at] = call.id if unique else f"call_{secrets.token_hex(8)}"
            made |= {"id": self._ids[call.at], "type": kind}
        extra = rest(said, ("id", "type", "index", kind), kind, ("name", "arguments", "input"))
        yield joined(made | {kind: told}, extra, kind)
