"""What a program is answered: a message as events, and as a whole."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from sandbox.loop.messages import Usage

Event = dict[str, Any]
"""Its `type` is also the event's name."""
_CODE = "code_execution_20260120"
"""What a call that code makes says of who makes it, whichever version of the tool that is: the SDKs know no later."""


class Writing:
    """A message on its way. Every method gives the events of what it adds; `message` is all of it in the end."""

    def __init__(self, message_id: str, model: str) -> None:
        self._content: list[dict[str, Any]] = []
        self._text: list[str] | None = None
        """Of the block that is open."""
        self.stopped_at = ""
        """The stop sequence that ended the model's last turn, if one did."""
        self._pinged = False
        self._executions = 0
        self._message: dict[str, Any] = {
            "id": message_id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "stop_details": None,
            "usage": used(Usage()),
        }

    @property
    def message(self) -> dict[str, Any]:
        """As it is now."""
        return self._message | {"content": self._content}

    def begin(self) -> Iterator[Event]:
        """Comes first."""
        # A copy: what goes out now must not change when the end is known.
        yield {"type": "message_start", "message": dict(self._message)}

    def text(self, piece: str) -> Iterator[Event]:
        """Words; those in a row are one block until `pause`."""
        if not piece:
            return
        if self._text is None:
            self._text = []
            yield from self._open({"type": "text", "text": ""})
        self._text.append(piece)
        yield self._delta("text_delta", text=piece)

    def pause(self) -> Iterator[Event]:
        """The words so far are over."""
        if self._text is not None:
            text, self._text = "".join(self._text), None
            yield self._close({"type": "text", "text": text})

    def call(
        self, called_id: str, name: str, given: Mapping[str, Any], *, hosted: bool, by: str | None = None
    ) -> Iterator[Event]:
        """The model calls a tool: one that runs here, or the caller's own. by: the call whose code does, if not it."""
        yield from self.pause()
        self._executions += hosted
        head = {"type": "server_tool_use" if hosted else "tool_use", "id": called_id, "name": name}
        caller = {"caller": {"type": "direct"} if by is None else {"type": _CODE, "tool_id": by}}
        yield from self._open(head | {"input": {}} | caller)
        for piece in ("", json.dumps(given, ensure_ascii=False)):
            yield self._delta("input_json_delta", partial_json=piece)
        yield self._close(head | {"input": given} | caller)

    def result(self, called_id: str, name: str, content: Mapping[str, Any]) -> Iterator[Event]:
        """What came of a call that has run here."""
        yield from self.whole({"type": f"{name}_tool_result", "tool_use_id": called_id, "content": content})

    def thought(self, block: Mapping[str, Any]) -> Iterator[Event]:
        """A block of thinking."""
        if block.get("type") != "thinking":
            yield from self.whole(block)
            return
        yield from self.pause()
        yield from self._open({"type": "thinking", "thinking": "", "signature": ""})
        yield self._delta("thinking_delta", thinking=str(block.get("thinking") or ""))
        yield self._delta("signature_delta", signature=str(block.get("signature") or ""))
        yield self._close(block)

    def whole(self, block: Mapping[str, Any]) -> Iterator[Event]:
        """A block in one piece."""
        yield from self.pause()
        yield from self._open(block)
        yield self._close(block)

    def end(self, stop_reason: str, usage: Usage, container: Mapping[str, Any] | None) -> Iterator[Event]:
        """Comes last."""
        yield from self.pause()
        counted = used(usage)
        hosted = {"web_search_requests": 0, "web_fetch_requests": 0, "code_execution_requests": self._executions}
        sequence = self.stopped_at if stop_reason == "end_turn" and self.stopped_at else None
        delta: dict[str, Any] = {
            "stop_reason": stop_reason if sequence is None else "stop_sequence",
            "stop_sequence": sequence,
            "stop_details": None,
        }
        delta |= {} if container is None else {"container": container}
        self._message |= delta | {"usage": counted | {"server_tool_use": hosted}}
        cumulative = {name: count for name, count in counted.items() if name not in ("cache_creation", "service_tier")}
        yield {"type": "message_delta", "delta": delta, "usage": cumulative | {"server_tool_use": hosted}}
        yield {"type": "message_stop"}

    def _open(self, block: Mapping[str, Any]) -> Iterator[Event]:
        yield {"type": "content_block_start", "index": len(self._content), "content_block": block}
        if not self._pinged:
            self._pinged = True
            yield {"type": "ping"}

    def _delta(self, kind: str, **delta: str) -> Event:
        return {"type": "content_block_delta", "index": len(self._content), "delta": {"type": kind} | delta}

    def _close(self, block: Mapping[str, Any]) -> Event:
        self._content.append(dict(block))
        return {"type": "content_block_stop", "index": len(self._content) - 1}


def used(usage: Usage) -> dict[str, Any]:
    """Tokens as the dialect counts them: cached ones are not in `input_tokens`."""
    made: dict[str, Any] = {
        "input_tokens": max(0, usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens),
        "output_tokens": usage.output_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_tokens,
            "ephemeral_1h_input_tokens": 0,
        },
        "service_tier": "standard",
    }
    if usage.reasoning_tokens:
        made["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return made
