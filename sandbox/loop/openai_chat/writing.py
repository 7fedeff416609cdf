"""What a program is told."""

from collections.abc import Iterator, Mapping
from typing import Any

from sandbox.loop.messages import Reply, Usage
from sandbox.loop.openai_chat.calling import calls, fields
from sandbox.loop.openai_chat.passing import Passing


def answer(reply: Reply, *, id: str, created: int, model: str | None = None) -> dict[str, Any]:
    """The whole answer. created: seconds since 1970. model: as the program named it; None for the upstream's name."""
    content = reply.message.text.removesuffix(reply.refusal)
    message: dict[str, Any] = {"role": "assistant", "content": content or None, "refusal": reply.refusal or None}
    if made := calls(reply.message, reply.upstream):
        message["tool_calls"] = made
    message |= fields(reply.message, reply.upstream)
    finish = reply.refused_as or reply.finish
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    head = {"id": id, "object": "chat.completion", "created": created, "model": model or reply.model}
    return {**head, "choices": [choice], "usage": counted(reply.usage), **reply.extra}


def counted(usage: Usage) -> dict[str, Any]:
    """Tokens as OpenAI counts them."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read_tokens, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens, "audio_tokens": 0},
    }


class Writing:
    """A reply as chunks: words as they come, and then whatever else is in the reply."""

    def __init__(self, *, id: str, created: int, model: str, include_usage: bool = False) -> None:
        """created: seconds since 1970. include_usage: of the program's `stream_options`."""
        self._head = {"id": id, "object": "chat.completion.chunk", "created": created, "model": model}
        self._counting = include_usage
        self._begun = False
        self._passing = Passing()

    def text(self, words: str) -> Iterator[dict[str, Any]]:
        """Chunks that say these words."""
        yield from self._begin()
        if words:
            yield self._chunk({"content": words})

    def given(self, chunk: Mapping[str, Any]) -> dict[str, Any]:
        """An upstream's own chunk, as one of this answer; without its usage, which `count` gives."""
        self._begun = True
        without_usage = {name: value for name, value in chunk.items() if name != "usage"}
        choices = {"choices": self._passing.choices(chunk)}
        return {**without_usage, **self._head, **choices} | ({"usage": None} if self._counting else {})

    def note(self, **extra: Any) -> Iterator[dict[str, Any]]:
        """A chunk that says nothing, with further fields."""
        yield from self._begin()
        yield self._chunk({}) | extra

    def end(self, reply: Reply, **extra: Any) -> Iterator[dict[str, Any]]:
        """What follows its words: tool calls, why it ended (with further fields), and `count`."""
        yield from self._begin()
        for at, call in enumerate(calls(reply.message, reply.upstream)):
            yield from self._call(at, call)
        yield self._chunk({}, reply.finish) | extra
        yield from self.count(reply)

    def count(self, reply: Reply) -> Iterator[dict[str, Any]]:
        """The usage, if that was asked for."""
        if self._counting:
            yield self._head | {"choices": [], "usage": counted(reply.usage)}

    def _begin(self) -> Iterator[dict[str, Any]]:
        if not self._begun:
            self._begun = True
            yield self._chunk({"role": "assistant", "content": "", "refusal": None})

    def _call(self, at: int, call: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        # The SDK joins what comes twice, so that id and name may come once only.
        function = call.get("function")
        if not isinstance(function, Mapping):
            yield self._chunk({"tool_calls": [{"index": at, **call}]})
            return
        begun = {"index": at, **call, "function": {**function, "arguments": ""}}
        yield self._chunk({"tool_calls": [begun]})
        yield self._chunk({"tool_calls": [{"index": at, "function": {"arguments": function["arguments"]}}]})

    def _chunk(self, delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
        choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
        return self._head | {"choices": choices} | ({"usage": None} if self._counting else {})
