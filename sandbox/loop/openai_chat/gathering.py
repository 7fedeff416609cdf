"""A whole answer from an upstream's chunks, with what a `Reply` has no place for: choices, log probabilities."""

from collections.abc import Mapping
from typing import Any

from sandbox.loop.messages import Reply, Request
from sandbox.loop.openai_chat.passing import Passing
from sandbox.loop.openai_chat.writing import counted

_SEVERAL = ("logprobs", "top_logprobs")


def is_plural(request: Request) -> bool:
    """Whether the answer to it can hold more than a `Reply` does."""
    return request.extra.get("n") not in (None, 1) or any(request.extra.get(name) for name in _SEVERAL)


class Gathering:
    """Chunks in, the answer out."""

    def __init__(self, *, id: str, created: int, model: str) -> None:
        """created: seconds since 1970. model: as the program named it."""
        self._head = {"id": id, "object": "chat.completion", "created": created, "model": model}
        self._passing = Passing()
        self._choices: dict[int, dict[str, Any]] = {}
        self._calls: dict[int, dict[int, dict[str, Any]]] = {}

    @property
    def empty(self) -> bool:
        """Whether no chunk had a choice."""
        return not self._choices

    def feed(self, chunk: Mapping[str, Any]) -> None:
        """Take a chunk."""
        for choice in self._passing.choices(chunk):
            self._take(choice)

    def answer(self, reply: Reply) -> dict[str, Any]:
        """All of it. reply: what was read of the same chunks; its tokens count for all choices."""
        for index, calls in self._calls.items():
            self._choices[index]["message"]["tool_calls"] = [calls[at] for at in sorted(calls)]
        return {
            **self._head,
            "choices": [self._choices[index] for index in sorted(self._choices)],
            "usage": counted(reply.usage),
            **reply.extra,
        }

    def _take(self, choice: Mapping[str, Any]) -> None:
        index = choice["index"]
        message = {"role": "assistant", "content": None, "refusal": None}
        made = self._choices.setdefault(
            index, {"index": index, "message": message, "logprobs": None, "finish_reason": "stop"}
        )
        if choice.get("finish_reason"):
            made["finish_reason"] = choice["finish_reason"]
        logprobs = choice.get("logprobs")
        for name, value in logprobs.items() if isinstance(logprobs, Mapping) else ():
            if isinstance(value, list):
                made["logprobs"] = made["logprobs"] or {}
                made["logprobs"][name] = [*(made["logprobs"].get(name) or ()), *value]
        for name, value in choice["delta"].items():
            if name == "tool_calls":
                for piece in value:
                    _call(self._calls.setdefault(index, {}), piece)
            elif name != "role" and isinstance(value, str):
                made["message"][name] = (made["message"].get(name) or "") + value


def _call(calls: dict[int, dict[str, Any]], piece: Mapping[str, Any]) -> None:
    kind, words = ("custom", "input") if "custom" in piece else ("function", "arguments")
    begun = {name: piece.get(name, "") for name in ("id", "type")} | {kind: {"name": "", words: ""}}
    inner = calls.setdefault(piece["index"], begun)[kind]
    inner["name"] += piece[kind].get("name", "")
    inner[words] += piece[kind][words]
