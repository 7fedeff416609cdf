"""A whole answer from an upstream's chunks, with what a `Reply` has no place for: choices, log probabilities."""

from collections.abc import Mapping
from typing import Any

from sandbox.loop.messages import Reply, Request
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
        self._choices: dict[int, dict[str, Any]] = {}

    @property
    def empty(self) -> bool:
        """Whether no chunk had a choice."""
        return not self._choices

    def feed(self, chunk: Mapping[str, Any]) -> None:
        """Take a chunk."""
        for choice in chunk.get("choices") or ():
            if isinstance(choice, Mapping):
                self._take(choice)

    def answer(self, reply: Reply) -> dict[str, Any]:
        """All of it. reply: what was read of the same chunks; its tokens count for all choices."""
        return self._head | {
            "choices": [self._choices[index] for index in sorted(self._choices)],
            "usage": counted(reply.usage),
        }

    def _take(self, choice: Mapping[str, Any]) -> None:
        index = int(choice.get("index") or 0)
        message = {"role": "assistant", "content": None, "refusal": None}
        made = self._choices.setdefault(
            index, {"index": index, "message": message, "logprobs": None, "finish_reason": "stop"}
        )
        if choice.get("finish_reason"):
            made["finish_reason"] = choice["finish_reason"]
        for name, value in (choice.get("logprobs") or {}).items():
            if isinstance(value, list):
                made["logprobs"] = made["logprobs"] or {}
                made["logprobs"][name] = [*(made["logprobs"].get(name) or ()), *value]
        for name, value in (choice.get("delta") or {}).items():
            _join(made["message"], name, value)


def _join(message: dict[str, Any], name: str, value: Any) -> None:
    if name == "tool_calls":
        for piece in value or ():
            _call(message.setdefault("tool_calls", []), piece)
    elif name == "role":
        message[name] = value
    elif isinstance(value, str):
        message[name] = (message.get(name) or "") + value


def _call(calls: list[dict[str, Any]], piece: Mapping[str, Any]) -> None:
    index = int(piece.get("index") or 0)
    while len(calls) <= index:
        calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    call = calls[index]
    call["id"] = piece.get("id") or call["id"]
    function = piece.get("function") or {}
    call["function"]["name"] = function.get("name") or call["function"]["name"]
    call["function"]["arguments"] += function.get("arguments") or ""
