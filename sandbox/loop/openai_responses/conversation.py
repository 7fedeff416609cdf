"""The items of a program's input as the messages that a model gets."""

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

from sandbox.errors import InvalidField
from sandbox.loop import tool as run_python
from sandbox.loop.messages import Image, Message, Opaque, Part, Role, Text, ToolCall, ToolResult
from sandbox.loop.openai_responses import checks
from sandbox.loop.openai_responses.items import contents, file

_FORGOTTEN = "What it put out is not known any more."
_CUT_OFF = "It did not come to its end."
Files = Mapping[str, tuple[Text | Image | Opaque, ...]]
"""What the model gets of each file, by `Given.key`."""


def messages(items: Sequence[Mapping[str, Any]], files: Files) -> tuple[Message, ...]:
    """What stands beside each other in the items of a model is one message of its. Raises `InvalidField`."""
    conversation = _Conversation(files)
    for at, item in enumerate(items):
        conversation.add(item, f"input[{at}]")
    return conversation.all()


def check_answered(conversation: Sequence[Message]) -> None:
    """Every call has its result and the reverse: no model's server takes anything else. Raises `InvalidField`."""
    called: dict[str, bool] = {}
    for message in conversation:
        called |= {call.id: False for call in message.calls}
        for part in message.parts:
            if isinstance(part, ToolResult):
                if part.call_id not in called:
                    raise InvalidField(
                        "input", f"No tool call found for function call output with call_id {part.call_id}."
                    )
                called[part.call_id] = True
    for call_id, answered in called.items():
        if not answered:
            raise InvalidField("input", f"No tool output found for function call {call_id}.")


def completed(said: Sequence[Message], functions: Container[str]) -> tuple[Message, ...]:
    """What was said in a run, with a result for every call that is not the caller's: a run may end before there is one.

    functions: the caller's own.
    """
    done = {part.call_id for message in said for part in message.parts if isinstance(part, ToolResult)}
    made: list[Message] = []
    for message in said:
        made.append(message)
        open_ = [call for call in message.calls if call.id not in done and call.name not in functions]
        if open_:
            made.append(Message("tool", tuple(ToolResult(call.id, (Text(_CUT_OFF),), failed=True) for call in open_)))
    return tuple(made)


class _Conversation:
    def __init__(self, files: Files) -> None:
        self._files = files
        self._messages: list[Message] = []
        self._saying: list[Part] = []
        """What the model says in one go."""

    def add(self, item: Mapping[str, Any], field: str) -> None:
        match item["type"]:
            case "message" if item["role"] == "assistant":
                self._saying += self._parts(item, field)
            case "message":
                self._end()
                role: Role = "user" if item["role"] == "user" else "system"
                fields = {"role": "developer"} if item["role"] == "developer" else {}
                parts = self._parts(item, field)
                self._messages.append(Message(role, (*parts, Opaque("openai", fields)) if fields else tuple(parts)))
            case "function_call":
                self._saying.append(ToolCall(item["call_id"], item["name"], item.get("arguments") or "{}"))
            case "code_interpreter_call":
                arguments = json.dumps({"code": item.get("code") or ""}, ensure_ascii=False)
                self._saying.append(ToolCall(item["id"], run_python.NAME, arguments))
                self._end()
                self._messages.append(Message("tool", (ToolResult(item["id"], tuple(_outputs(item))),)))
            case "function_call_output":
                self._end()
                self._answer(ToolResult(item["call_id"], self._output(item, field)))

    def all(self) -> tuple[Message, ...]:
        self._end()
        return tuple(self._messages)

    def _end(self) -> None:
        if self._saying:
            self._messages.append(Message("assistant", tuple(self._saying)))
            self._saying = []

    def _answer(self, result: ToolResult) -> None:
        if self._messages and self._messages[-1].role == "tool":
            last = self._messages.pop()
            self._messages.append(Message("tool", (*last.parts, result)))
        else:
            self._messages.append(Message("tool", (result,)))

    def _output(self, item: Mapping[str, Any], field: str) -> tuple[Text | Image, ...]:
        if isinstance(item["output"], str):
            return (Text(item["output"]),)
        parts = self._parts(item, field)
        if any(not isinstance(part, Text | Image) for part in parts):
            raise InvalidField(f"{field}.output", "such a file cannot be shown to the model; say it in words")
        return tuple(part for part in parts if isinstance(part, Text | Image))

    def _parts(self, item: Mapping[str, Any], field: str) -> list[Text | Image | Opaque]:
        found: list[Text | Image | Opaque] = []
        for at, part in enumerate(contents(item)):
            found += self._part(part, f"{field}.content[{at}]")
        return found

    def _part(self, part: Mapping[str, Any], field: str) -> Iterator[Text | Image | Opaque]:
        given = file(part, field)
        if given is not None:
            yield from self._files[given.key]
        elif part["type"] == "input_image":
            detail = part.get("detail")
            extra = {"image_url": {"detail": detail}} if detail not in (None, "auto") else {}
            url = checks.name(part.get("image_url"), f"{field}.image_url")
            yield _image(url, extra)
        elif said := checks.text(part.get("refusal" if part["type"] == "refusal" else "text"), f"{field}.text"):
            yield Text(said)


def _image(url: str, extra: Mapping[str, Any] | None = None) -> Image:
    head, comma, data = url.partition(",")
    if comma and head.startswith("data:") and head.endswith(";base64"):
        return Image(head.removeprefix("data:").removesuffix(";base64"), data, extra=extra or {})
    return Image(url=url, extra=extra or {})


def _outputs(item: Mapping[str, Any]) -> Iterator[Text | Image]:
    """What came of code that ran before, as far as the item says."""
    if item.get("outputs") is None:
        yield Text(_FORGOTTEN)
        return
    outputs = [output for output in item["outputs"] if isinstance(output, Mapping)]
    logs = "".join(output["logs"] for output in outputs if isinstance(output.get("logs"), str))
    yield Text(logs or "Nothing was printed.")
    for output in outputs:
        if output.get("type") == "image" and isinstance(output.get("url"), str):
            yield _image(output["url"])
