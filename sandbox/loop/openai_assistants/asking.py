"""A thread and a run as what a model is asked."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sandbox.loop import tool
from sandbox.loop.messages import Function, Image, Message, Part, Request, Text
from sandbox.loop.openai_chat import LIMIT

_FILES = (
    "Figures that your code shows are shown to the user, too. Link every other file that you make for the user as "
    "[its name](sandbox:/mnt/data/its-name)."
)
_PASSED = ("top_p", "reasoning_effort")


def request(
    run: Mapping[str, Any],
    messages: Sequence[Mapping[str, Any]],
    *,
    said: Mapping[str, Sequence[Message]],
    paths: Mapping[str, str],
    pictures: Mapping[str, Image],
) -> Request:
    """run, messages: objects of the API, the oldest first. said: what the model said and was told in runs, by the ids
    of the runs: it takes the place of their messages. paths: of files in `/mnt/data`, by their ids. pictures: by the
    ids of the files that messages show.
    """
    tools = run["tools"]
    choice, named = run["tool_choice"], None
    if isinstance(choice, Mapping):
        named = tool.NAME if choice["type"] == "code_interpreter" else choice["function"]["name"]
    elif choice != "auto":
        named = choice
    limit = run["max_completion_tokens"]
    return Request(
        model=run["model"],
        messages=(*_instructions(run), *_conversation(messages, said, paths, pictures)),
        functions=tuple(_function(each["function"]) for each in tools if each["type"] == "function"),
        tool_choice=named,
        max_tokens=limit,
        temperature=run["temperature"],
        extra=dict(_extra(run)) | ({LIMIT: limit} if limit is not None else {}),
    )


def _extra(run: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in _PASSED:
        if run.get(name) is not None:
            yield name, run[name]
    if run["response_format"] != "auto":
        yield "response_format", run["response_format"]
    if run["tools"] and not run["parallel_tool_calls"]:
        yield "parallel_tool_calls", False


def _instructions(run: Mapping[str, Any]) -> Iterator[Message]:
    has_interpreter = any(each["type"] == "code_interpreter" for each in run["tools"])
    told = [run["instructions"], _FILES if has_interpreter else ""]
    if any(told):
        yield Message.of("system", "\n\n".join(text for text in told if text))


def _function(function: Mapping[str, Any]) -> Function:
    strict = function.get("strict")
    extra = {} if strict is None else {"function": {"strict": strict}}
    return Function(function["name"], function.get("description") or "", function.get("parameters") or {}, extra)


def _conversation(
    messages: Sequence[Mapping[str, Any]],
    said: Mapping[str, Sequence[Message]],
    paths: Mapping[str, str],
    pictures: Mapping[str, Image],
) -> Iterator[Message]:
    told = set[str]()
    for message in messages:
        run_id = message["run_id"]
        if run_id in said:
            if run_id not in told:
                yield from said[run_id]
            told.add(run_id)
        elif parts := _joined(_parts(message, paths, pictures)):
            yield Message(message["role"], parts)


def _parts(
    message: Mapping[str, Any], paths: Mapping[str, str], pictures: Mapping[str, Image]
) -> Iterator[Text | Image]:
    theirs = message["role"] == "user"  # an upstream takes pictures from no one else
    attached = [f"/mnt/data/{paths[each['file_id']]}" for each in message["attachments"] if each["file_id"] in paths]
    if attached:
        yield Text(f"Attached: {', '.join(attached)}")
    for part in message["content"]:
        if part["type"] == "text":
            yield Text(part["text"]["value"])
        elif theirs and part["type"] == "image_url":
            detail = part["image_url"].get("detail")
            yield Image(url=part["image_url"]["url"], extra={"image_url": {"detail": detail}} if detail else {})
        elif theirs and part["type"] == "image_file" and part["image_file"]["file_id"] in pictures:
            yield pictures[part["image_file"]["file_id"]]


def _joined(parts: Iterator[Text | Image]) -> tuple[Part, ...]:
    """Texts that follow each other as one, because many servers take nothing but one."""
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, Text) and joined and isinstance(last := joined[-1], Text):
            joined[-1] = Text(f"{last.text}\n\n{part.text}")
        else:
            joined.append(part)
    return tuple(joined)
