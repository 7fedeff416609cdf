"""What a program is told: a response, and the events of its making."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from sandbox.loop.messages import ToolCall, Usage
from sandbox.loop.openai_responses.asked import Asked

Event = dict[str, Any]
"""With `type` and `sequence_number`."""
Status = Literal["completed", "failed", "incomplete", "cancelled"]
"""How a response ends."""
_CALL = "response.code_interpreter_call"


def response(asked: Asked, response_id: str, created_at: float) -> dict[str, Any]:
    """A response that has just been asked for. created_at: seconds since 1970."""
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(created_at),
        "status": "queued" if asked.background else "in_progress",
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "output": [],
        "usage": None,
        **asked.echoed,
    }


def shown(response: Mapping[str, Any], *, outputs: bool) -> dict[str, Any]:
    """As the program wants to see it. outputs: with those of code."""
    return (
        dict(response) if outputs else {**response, "output": [_without_outputs(item) for item in response["output"]]}
    )


def _without_outputs(item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "outputs": None} if item["type"] == "code_interpreter_call" else item


class Writing:
    """A response on its way, one item after the other. Each method gives the events that tell of it."""

    def __init__(self, response: dict[str, Any], *, outputs: bool) -> None:
        """response: filled in as it goes on. outputs: tell what code puts out; the response has it in any case."""
        self.response = response
        self._outputs = outputs
        self._next = 0
        self._open: dict[str, Any] | None = None
        """The item that is not done."""
        self._words: list[str] = []

    @property
    def speaking(self) -> bool:
        """Whether a message is open."""
        return self._open is not None and self._open["type"] == "message"

    @property
    def text(self) -> str:
        """Of the message that is open."""
        return "".join(self._words)

    def queued(self) -> Iterator[Event]:
        """It waits for its turn."""
        yield self._lifecycle("created")
        yield self._lifecycle("queued")

    def begin(self) -> Iterator[Event]:
        """Work on it begins."""
        waited = self.response["status"] == "queued"
        self.response["status"] = "in_progress"
        if not waited:
            yield self._lifecycle("created")
        yield self._lifecycle("in_progress")

    # Messages.

    def say(self, words: str) -> Iterator[Event]:
        """Words of a message, which begins with the first."""
        if not words:
            return
        if not self.speaking:
            yield from self._begin("message", status="in_progress", role="assistant", content=[])
            yield self._of_content("response.content_part.added", part=_text("", ()))
        self._words.append(words)
        yield self._of_content("response.output_text.delta", delta=words, logprobs=[])

    def said(self, annotations: Sequence[Mapping[str, Any]] = ()) -> Iterator[Event]:
        """The message is complete. annotations: of its text."""
        if not self.speaking or self._open is None:
            return
        text, self._words = self.text, []
        for number, annotation in enumerate(annotations):
            yield self._of_content(
                "response.output_text.annotation.added", annotation_index=number, annotation=annotation
            )
        yield self._of_content("response.output_text.done", text=text, logprobs=[])
        part = _text(text, annotations)
        yield self._of_content("response.content_part.done", part=part)
        yield self._end(status="completed", content=[part])

    # Calls.

    def run(self, code: str, container_id: str) -> Iterator[Event]:
        """Code is about to run."""
        outputs: list[Any] | None = [] if self._outputs else None
        yield from self._begin(
            "code_interpreter_call", status="in_progress", code="", container_id=container_id, outputs=outputs
        )
        yield self._of_item(f"{_CALL}.in_progress")
        if code:
            yield self._of_item(f"{_CALL}_code.delta", delta=code)
        yield self._of_item(f"{_CALL}_code.done", code=code)
        yield self._of_item(f"{_CALL}.interpreting")
        if self._open is not None:
            self._open["code"] = code

    def ran(self, status: str, outputs: Sequence[Mapping[str, Any]]) -> Iterator[Event]:
        """It has run."""
        if status == "completed":
            yield self._of_item(f"{_CALL}.completed")
        yield self._end(status=status, outputs=list(outputs))

    def call(self, call: ToolCall) -> Iterator[Event]:
        """A function of the program's own is wanted."""
        arguments = call.arguments or "{}"
        yield from self._begin("function_call", status="in_progress", arguments="", call_id=call.id, name=call.name)
        yield self._of_item("response.function_call_arguments.delta", delta=arguments)
        yield self._of_item("response.function_call_arguments.done", arguments=arguments, name=call.name)
        yield self._end(status="completed", arguments=arguments)

    # The end.

    def end(
        self,
        status: Status,
        usage: Usage | None,
        ended_at: float,
        *,
        error: Mapping[str, str] | None = None,
        reason: str | None = None,
    ) -> Iterator[Event]:
        """It is over. An item that was still open stays incomplete. error: of `failed`. reason: of `incomplete`."""
        yield from self._break_off()
        self.response |= {
            "status": status,
            "completed_at": int(ended_at) if status == "completed" else None,
            "error": error,
            "incomplete_details": None if reason is None else {"reason": reason},
            "usage": None if usage is None else counted(usage),
        }
        if status != "cancelled":  # for which there is no event
            yield self._lifecycle(status)

    def _break_off(self) -> Iterator[Event]:
        if self.speaking:
            part = _text(self.text, ())
            self._words = []
            yield self._end(status="incomplete", content=[part])
        elif self._open is not None:
            yield self._end(status="incomplete")

    # How events are made.

    def _begin(self, kind: str, **fields: Any) -> Iterator[Event]:
        yield from self._break_off()
        index = len(self.response["output"])
        item = {"id": item_id(kind, self.response["id"], index), "type": kind, **fields}
        self.response["output"].append(item)
        self._open = item
        yield self._event("response.output_item.added", output_index=index, item=dict(item))

    def _end(self, **fields: Any) -> Event:
        assert self._open is not None
        self._open |= fields
        item, self._open = self._open, None
        told = dict(item) if self._outputs else _without_outputs(item)
        return self._event("response.output_item.done", output_index=self._index, item=told)

    @property
    def _index(self) -> int:
        return len(self.response["output"]) - 1

    def _of_item(self, kind: str, **fields: Any) -> Event:
        assert self._open is not None
        return self._event(kind, output_index=self._index, item_id=self._open["id"], **fields)

    def _of_content(self, kind: str, **fields: Any) -> Event:
        return self._of_item(kind, content_index=0, **fields)

    def _lifecycle(self, what: str) -> Event:
        told = shown({**self.response, "output": list(self.response["output"])}, outputs=self._outputs)
        return self._event(f"response.{what}", response=told)

    def _event(self, kind: str, **fields: Any) -> Event:
        self._next += 1
        return {"type": kind, "sequence_number": self._next - 1, **fields}


_PREFIXES = {"message": "msg_", "code_interpreter_call": "ci_", "function_call": "fc_"}
_PLACE = re.compile(r"[0-9a-f]{36}")


def item_id(kind: str, response_id: str, index: int) -> str:
    """Of an item of a response; `place` finds the response again."""
    return f"{_PREFIXES[kind]}{response_id.removeprefix('resp_')}{index:04x}"


def place(item_id: str) -> tuple[str, int] | None:
    """The id of an item's response, and its place in the output; None for an id that is none of ours."""
    prefix, _, rest = item_id.rpartition("_")
    if f"{prefix}_" not in _PREFIXES.values() or not _PLACE.fullmatch(rest):
        return None
    return f"resp_{rest[:32]}", int(rest[32:], 16)


def _text(text: str, annotations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": list(annotations), "logprobs": []}


def counted(usage: Usage) -> dict[str, Any]:
    """Tokens as a response counts them."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cache_read_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
