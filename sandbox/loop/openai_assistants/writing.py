"""The events of a loop as steps, messages, and the stream's events about them.

The stream says everything: each `created` has a whole new object, each `completed` (or whatever else its end is) the
object as it stays. Whoever keeps what these events have keeps all that there is.

SDKs add up deltas: texts are joined and numbers summed, so every field but `index` and `type` is sent once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sandbox.execution import Execution, Output, Stream
from sandbox.loop.messages import ToolCall, Usage
from sandbox.loop.openai_assistants import objects, outputs

Stop = Literal["failed", "cancelled", "expired"]


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event, by its name on the wire; `data` does not change any more."""

    name: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Cited:
    """A link to a file: where in the message's text, in code points, and the file's id."""

    start: int
    end: int
    file_id: str


class Writing:
    """One stretch of a run: from its beginning, or from the caller's outputs, until it ends or waits for some."""

    def __init__(self, run: Mapping[str, Any], new_id: Callable[[str], str], now: Callable[[], int]) -> None:
        """run: whose steps these are. new_id: makes one from a prefix. now: seconds since 1970."""
        self._run = run
        self._new_id = new_id
        self._now = now
        self._usage = Usage()
        self._message: dict[str, Any] | None = None
        self._creation: dict[str, Any] | None = None
        """The step that makes the message."""
        self._text = ""
        self._figures: list[str] = []
        """Since the last message."""
        self._step: dict[str, Any] | None = None
        self._calls: list[dict[str, Any]] = []
        self._outputs: list[outputs.Outputs] = []
        """Of each call; those of a function's stay empty."""

    @property
    def text(self) -> str:
        """What the message says that is being written; empty when there is none."""
        return self._text

    @property
    def step_id(self) -> str | None:
        """The step of calls that is open."""
        return self._step["id"] if self._step else None

    def count(self, usage: Usage) -> None:
        """A turn's tokens, which are of the step that ends next."""
        self._usage += usage

    # Messages.

    def say(self, text: str) -> Iterator[StreamEvent]:
        """Words. A message begins with the first that is not blank, and with the figures drawn before it."""
        if self._message is None:
            text = text.lstrip()
            if not text:
                return
            yield from self.end_calls()
            yield from self._begin_message()
            delta: dict[str, Any] = {"value": text, "annotations": []}
        else:
            delta = {"value": text}
        self._text += text
        yield self._message_delta({"index": len(self._figures), "type": "text", "text": delta})

    def _begin_message(self) -> Iterator[StreamEvent]:
        run, now = self._run, self._now()
        message_id = self._new_id("msg_")
        creation = {"type": "message_creation", "message_creation": {"message_id": message_id}}
        self._creation = objects.step(run, creation, id=self._new_id("step_"), now=now)
        self._message = objects.message(
            "assistant",
            (),
            id=message_id,
            thread_id=run["thread_id"],
            now=now,
            status="in_progress",
            assistant_id=run["assistant_id"],
            run_id=run["id"],
        )
        yield from _begun("thread.run.step", self._creation)
        yield from _begun("thread.message", self._message)
        for index, file_id in enumerate(self._figures):
            yield self._message_delta({"index": index, **_image_file(file_id)})

    def _message_delta(self, content: Mapping[str, Any]) -> StreamEvent:
        assert self._message is not None
        data = {"id": self._message["id"], "object": "thread.message.delta", "delta": {"content": [content]}}
        return StreamEvent("thread.message.delta", data)

    def end_message(self, cited: Sequence[Cited] = (), *, cut_short: str = "") -> Iterator[StreamEvent]:
        """The message is complete, if there is one. cut_short: why it is not."""
        if self._message is None or self._creation is None:
            return
        annotations = [self._annotation(each) for each in cited]
        if annotations:
            given = [{"index": index, **each} for index, each in enumerate(annotations)]
            text = {"index": len(self._figures), "type": "text", "text": {"annotations": given}}
            yield self._message_delta(text)
        said = {"type": "text", "text": {"value": self._text, "annotations": annotations}}
        message, now = {**self._message, "content": [*map(_image_file, self._figures), said]}, self._now()
        if cut_short:
            yield StreamEvent("thread.message.incomplete", objects.cut_short(message, cut_short, now))
        else:
            message |= {"status": "completed", "completed_at": now}
            yield StreamEvent("thread.message.completed", message)
        creation, self._message, self._creation, self._text, self._figures = self._creation, None, None, "", []
        yield self._completed(creation)

    def _annotation(self, cited: Cited) -> dict[str, Any]:
        return {
            "type": "file_path",
            "text": self._text[cited.start : cited.end],
            "start_index": cited.start,
            "end_index": cited.end,
            "file_path": {"file_id": cited.file_id},
        }

    # Calls.

    def call(self, call: ToolCall, code: str) -> Iterator[StreamEvent]:
        """A program is about to run. What was said before it must have been ended."""
        yield from self._begin_call(
            {"id": call.id, "type": "code_interpreter", "code_interpreter": {"input": "", "outputs": []}}
        )
        self._calls[-1]["code_interpreter"] = {"input": code}
        yield self._call_delta({"input": code})

    def _begin_call(self, call: dict[str, Any]) -> Iterator[StreamEvent]:
        if self._step is None:
            details = {"type": "tool_calls", "tool_calls": []}
            self._step = objects.step(self._run, details, id=self._new_id("step_"), now=self._now())
            yield from _begun("thread.run.step", self._step)
        self._calls.append(call)
        self._outputs.append(outputs.Outputs())
        yield self._step_delta({"index": len(self._calls) - 1, **call})

    def show(self, output: Output, file_id: str | None = None) -> Iterator[StreamEvent]:
        """Something that the program put out. file_id: of the file that a picture was made."""
        if file_id is not None:
            self._figures.append(file_id)
            yield self._call_delta({"outputs": [self._outputs[-1].add_picture(file_id)]})
        elif shown := self._outputs[-1].add_text(outputs.text(output), own_line=not isinstance(output, Stream)):
            yield self._call_delta({"outputs": [shown]})

    def ran(self, execution: Execution) -> Iterator[StreamEvent]:
        """The program has ended."""
        if shown := self._outputs[-1].add_text(outputs.ending(execution), own_line=True):
            yield self._call_delta({"outputs": [shown]})

    def want(self, calls: Sequence[ToolCall]) -> Iterator[StreamEvent]:
        """Functions of the caller's are wanted, whose outputs end the step."""
        for call in calls:
            function = {"name": call.name, "arguments": "", "output": None}
            yield from self._begin_call({"id": call.id, "type": "function", "function": function})
            self._calls[-1] = {
                "id": call.id,
                "type": "function",
                "function": {**function, "arguments": call.arguments},
            }
            yield self._step_delta(
                {"index": len(self._calls) - 1, "type": "function", "function": {"arguments": call.arguments}}
            )

    def _call_delta(self, fields: Mapping[str, Any]) -> StreamEvent:
        return self._step_delta(
            {"index": len(self._calls) - 1, "type": "code_interpreter", "code_interpreter": dict(fields)}
        )

    def _step_delta(self, call: Mapping[str, Any]) -> StreamEvent:
        delta = {"step_details": {"type": "tool_calls", "tool_calls": [call]}}
        return StreamEvent(
            "thread.run.step.delta", {"id": self.step_id, "object": "thread.run.step.delta", "delta": delta}
        )

    def end_calls(self) -> Iterator[StreamEvent]:
        """The turn's calls are done, if there were any."""
        if self._step is not None:
            step = self._with_calls()
            self._step, self._calls, self._outputs = None, [], []
            yield self._completed(step)

    def waiting(self) -> dict[str, Any]:
        """The open step, as it waits for outputs of the caller's."""
        return {**self._with_calls(), "usage": self._counted()}

    def _with_calls(self) -> dict[str, Any]:
        assert self._step is not None
        calls = [
            {**call, "code_interpreter": {**call["code_interpreter"], "outputs": shown.shown()}}
            if call["type"] == "code_interpreter"
            else call
            for call, shown in zip(self._calls, self._outputs, strict=True)
        ]
        return {**self._step, "step_details": {"type": "tool_calls", "tool_calls": calls}}

    def _completed(self, step: Mapping[str, Any]) -> StreamEvent:
        done = objects.ended(step, "completed", self._now()) | {"usage": self._counted()}
        return StreamEvent("thread.run.step.completed", done)

    def _counted(self) -> dict[str, int]:
        usage, self._usage = self._usage, Usage()
        return objects.counted(usage)

    # The end before the end.

    def stop(self, how: Stop, error: Mapping[str, str] | None = None) -> Iterator[StreamEvent]:
        """Whatever is open ends so. error: of the run, when it has failed."""
        now = self._now()
        if self._message is not None and self._creation is not None:
            said = {"type": "text", "text": {"value": self._text, "annotations": []}}
            message = {**self._message, "content": [*map(_image_file, self._figures), said]}
            yield StreamEvent("thread.message.incomplete", objects.cut_short(message, f"run_{how}", now))
            yield StreamEvent(f"thread.run.step.{how}", objects.ended(self._creation, how, now, error))
            self._message = self._creation = None
        if self._step is not None:
            yield StreamEvent(f"thread.run.step.{how}", objects.ended(self._with_calls(), how, now, error))
            self._step = None


def answered(step: Mapping[str, Any], given: Mapping[str, str], now: int) -> StreamEvent:
    """A step that has waited, with the outputs that were given for its calls by id."""
    calls = [
        {**call, "function": {**call["function"], "output": given.get(call["id"])}}
        if call["type"] == "function"
        else call
        for call in step["step_details"]["tool_calls"]
    ]
    done = {**step, "step_details": {"type": "tool_calls", "tool_calls": calls}}
    return StreamEvent("thread.run.step.completed", objects.ended(done, "completed", now))


def _begun(kind: str, thing: Mapping[str, Any]) -> Iterator[StreamEvent]:
    yield StreamEvent(f"{kind}.created", thing)
    yield StreamEvent(f"{kind}.in_progress", thing)


def _image_file(file_id: str) -> dict[str, Any]:
    return {"type": "image_file", "image_file": {"file_id": file_id}}
