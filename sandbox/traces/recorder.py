"""From what happens in a run to its trace."""

import dataclasses
import json
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Self

from sandbox.execution import as_json
from sandbox.loop.attempt import Attempt
from sandbox.loop.events import Event, Finished, Ran, Repair, Replied, Unusable, Wants
from sandbox.loop.messages import Message, Request, Text
from sandbox.loop.shadow import Shadowed
from sandbox.store.rows import TraceRow
from sandbox.traces import parts
from sandbox.traces.secrets import Secrets

_PROMPT = 200
_DATA_KEPT = 8 << 20
"""Characters of pictures and other encoded data that one trace keeps; what comes after is left out."""
_TEXT_KEPT, _TEXTS_KEPT = 512 << 10, 4 << 20
"""Characters of one text, and of all, that a trace keeps; of what is longer beginning and end."""
_LEAST_KEPT = 1000
"""Of each text, whatever came before."""
_NOBODY = "shadow"
"""No key's id."""
_ARGUMENTS = 2000
"""Characters that are kept of what a program gives a function of the caller's."""
_CALLS = 1000
"""Calls of such functions that one trace keeps: a program whose calls are answered may make any number of them."""
_TEXTUAL = ("text/", "application/json", "image/svg+xml")


def new_trace_id() -> str:
    return f"trc_{uuid.uuid4().hex}"


class Recorder:
    """The trace of one run. `clock`: seconds since the epoch."""

    def __init__(
        self,
        request: Request,
        owner: str,
        secrets: Secrets,
        *,
        trace_id: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.id = trace_id or new_trace_id()
        self._owner = owner
        self._model = request.model
        self._secrets = secrets
        self._clock = clock
        self._created_at = clock()
        self._records: list[dict[str, Any]] = []
        self._session_id: str | None = None
        self._usage = {"input_tokens": 0, "output_tokens": 0}
        self._cost: float | None = None
        self._turns = self._executions = self._failures = 0
        self._ending = "cancelled"
        self._data_left = _DATA_KEPT
        self._texts_left = _TEXTS_KEPT
        self._calls_left = _CALLS
        self._prompt = _prompt(request.messages)
        for message in request.messages:
            self._keep("message", **parts.message_to_json(message), text=message.text)

    def add(self, event: Event) -> None:
        """Something happened. What only passes by, such as words on their way, is not kept."""
        if isinstance(event, Replied):
            self._replied(event)
        elif isinstance(event, Attempt):
            self._keep("attempt", **dataclasses.asdict(event))
        elif isinstance(event, Ran):
            self._ran(event)
        elif isinstance(event, Wants):
            kept = event.calls[: self._calls_left]
            self._calls_left -= len(kept)
            calls = [{"name": each.name, "arguments": _json(dict(each.arguments))[:_ARGUMENTS]} for each in kept]
            if calls:
                self._keep("wants", call_id=event.call.id, calls=calls)
        elif isinstance(event, Unusable):
            self._failures += 1
            call = event.call
            self._keep("unusable", call_id=call.id, name=call.name, arguments=call.arguments, told=event.told)
        elif isinstance(event, Repair):
            told = dataclasses.asdict(event)
            self._keep("repair", **told)
        elif isinstance(event, Finished):
            self._ending = event.why.value
            self._keep("end", why=event.why.value, answer=event.answer.text)

    def fail(self, error: Exception) -> None:
        """We or the upstream failed."""
        self._ending = "failed"
        self._keep("end", error=type(error).__name__, detail=str(error))

    @classmethod
    def of_shadow(cls, shadowed: Shadowed, secrets: Secrets) -> Self:
        """No run, but one turn that was also asked elsewhere: what was answered, and what the other said.

        It is nobody's trace: those who asked are not told of second opinions.
        """
        recorder = cls(shadowed.request, _NOBODY, secrets)
        recorder._ending = "shadow"
        recorder.add(Replied(1, shadowed.reply, 0.0))
        recorder.add(shadowed.attempt)
        if shadowed.shadow is not None:
            recorder.add(Replied(2, shadowed.shadow, shadowed.attempt.seconds))
        return recorder

    def row(self) -> TraceRow:
        """The trace as far as it has come, without secrets; a run that has not finished was cancelled.

        It takes long where there is much to look through, so call it in a thread where others wait.
        """
        return TraceRow(
            id=self.id,
            owner=self._owner,
            session_id=self._session_id,
            model=self._model,
            prompt=self._secrets.blot(self._prompt),
            ending=self._ending,
            created_at=self._created_at,
            ended_at=self._clock(),
            turns=self._turns,
            executions=self._executions,
            failures=self._failures,
            input_tokens=self._usage["input_tokens"],
            output_tokens=self._usage["output_tokens"],
            cost=self._cost,
            records=tuple(self._secrets.blot_all(record) for record in self._records),
        )

    def _replied(self, event: Replied) -> None:
        reply = event.reply
        self._turns += 1
        for name in self._usage:
            self._usage[name] += getattr(reply.usage, name)
        if reply.cost is not None:
            self._cost = (self._cost or 0.0) + reply.cost
        self._keep(
            "turn",
            turn=event.turn,
            model=reply.model,
            upstream=reply.upstream,
            response_id=reply.id,
            seconds=event.seconds,
            usage=dataclasses.asdict(reply.usage),
            cost=reply.cost,
            cached=reply.cached,
            finish=reply.finish,
            text=reply.message.text,
            calls=[dataclasses.asdict(call) for call in reply.message.calls],
            parts=parts.to_json(reply.message.parts),
        )

    def _ran(self, event: Ran) -> None:
        self._executions += 1
        self._failures += event.execution.status.value != "ok"
        self._session_id = event.execution.session_id
        told = "\n".join(part.text for part in event.told if isinstance(part, Text))
        outcome = as_json(event.execution)
        outcome["results"] = [_texts(bundle) for bundle in outcome["results"]]
        self._keep("execution", call_id=event.call.id, code=event.code, execution=outcome, told=told)

    def _keep(self, kind: str, **fields: Any) -> None:
        self._records.append({"kind": kind, "at": self._clock(), **self._bounded(fields)})

    def _bounded(self, value: Any, key: str = "") -> Any:
        """Without what is too much."""
        if isinstance(value, Mapping):
            return {name: self._bounded(each, name) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [self._bounded(each) for each in value]
        if not isinstance(value, str):
            return value
        if key == "data" or ("/" in key and not key.startswith(_TEXTUAL)):
            self._data_left -= len(value)
            return value if self._data_left >= 0 else ""
        kept = _cut(value, min(_TEXT_KEPT, max(_LEAST_KEPT, self._texts_left)))
        self._texts_left -= len(kept)
        return kept


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}… {len(text) - most:,} characters left out …{text[len(text) - most + most // 2 :]}"


def _prompt(messages: tuple[Message, ...]) -> str:
    said = [message for message in messages if message.role == "user"]
    texts = [part.text for part in said[-1].parts if isinstance(part, Text)] if said else []
    words = " ".join(" ".join(texts).split())
    return words if len(words) <= _PROMPT else words[: _PROMPT - 1] + "…"


def _texts(bundle: Mapping[str, Any]) -> dict[str, str]:
    """A result with JSON as text: it can be nested more deeply than what goes through a trace."""
    return {mime: content if isinstance(content, str) else _json(content) for mime, content in bundle.items()}


def _json(content: Any) -> str:
    try:
        return json.dumps(content)
    except RecursionError:
        return "null"
