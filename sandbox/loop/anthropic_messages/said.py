"""What was said so far, as a program repeats it with each request.

A message of the assistant's holds all that happened in one of our answers: several turns of a model, with the calls of
hosted tools and what came of them between its words. An upstream gets each turn as a message of its own, and results as
those of tools, whoever ran them.
"""

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sandbox.errors import InvalidRequest
from sandbox.loop.anthropic_messages import results
from sandbox.loop.messages import Image, Message, Opaque, Part, Text, ToolCall, ToolResult

_ID = re.compile(r"(?:srv)?toolu_([0-9a-f]{32}_\d{1,6})_\d{1,6}")
_NOT_RUN = "Not run. Call it again if it is still needed."
_THOUGHTS = ("thinking", "redacted_thinking")


def call_id(run: str, turn: int, number: int, *, hosted: bool) -> str:
    """The id of a call in one of our answers: calls of the same turn are put together again by it.

    run: 32 hexadecimal digits.
    """
    return f"{'srv' if hosted else ''}toolu_{run}_{turn}_{number}"


@dataclass(frozen=True, slots=True)
class Stored:
    """A file that a block names."""

    name: str
    mime: str
    data: str
    """In base64."""


@dataclass(frozen=True, slots=True)
class Given:
    """What has to be known of kept files to read a request that names them."""

    paths: Mapping[str, str] = field(default_factory=dict)
    """Where in a sandbox each lies that is to be there, by its id."""
    contents: Mapping[str, Stored] = field(default_factory=dict)
    """Those that the model itself sees, by id."""
    caching: bool = False
    """The upstream speaks this dialect, so it is told what to cache."""


def blocks(content: Any, where: str) -> list[Mapping[str, Any]]:
    """Text, or a list of blocks, as the latter. Raises `InvalidRequest`."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise InvalidRequest(f"{where}: text or a list of blocks is needed")
    for at, block in enumerate(content):
        if not isinstance(block, Mapping) or not isinstance(block.get("type"), str):
            raise InvalidRequest(f"{where}.{at}.type: a block is an object with a type")
        caller = block.get("caller")
        by = caller.get("tool_id") if isinstance(caller, Mapping) else None
        if not all(isinstance(named, str | None) for named in (block.get("id"), block.get("tool_use_id"), by)):
            raise InvalidRequest(f"{where}.{at}: an id is text")
    return content


def conversation(said: Sequence[tuple[str, list[Mapping[str, Any]]]], given: Given) -> Iterator[Message]:
    """Messages as models know them. said: roles and blocks. Raises `InvalidRequest`."""
    answers = {block.get("tool_use_id"): block for _, found in said for block in found if _is_result(block)}
    inner = {block.get("id") for _, found in said for block in found if _is_inner(block)}
    for at, (role, found) in enumerate(said):
        where = f"messages.{at}.content"
        if role == "assistant":
            yield from _Turns(answers, given).read(found, where)
        else:
            yield from _user(found, inner, given, where)


@dataclass(frozen=True, slots=True)
class Result:
    """What a call that running code has made has come to."""

    call_id: str
    text: str
    failed: bool


def pending(said: Sequence[tuple[str, list[Mapping[str, Any]]]]) -> tuple[Result, ...] | None:
    """What code that is still running gets for its calls; None when the last that was said is for the model.

    Raises `InvalidRequest` for what code cannot be given.
    """
    if not _is_pending(said):
        return None
    role, found = said[-1]
    if role != "user" or any(block["type"] != "tool_result" for block in found):
        raise InvalidRequest(
            f"messages.{len(said) - 1}: code waits for the results of the tools that it has called; send a message of "
            "the user's with nothing but their tool_result blocks"
        )
    return tuple(_result(block, f"messages.{len(said) - 1}.content.{at}") for at, block in enumerate(found))


def _result(block: Mapping[str, Any], where: str) -> Result:
    told = blocks(block.get("content") or [], f"{where}.content")
    if any(inner["type"] != "text" for inner in told):
        raise InvalidRequest(f"{where}.content: code gets text alone")
    text = "\n".join(_text(inner, f"{where}.content.{at}", Given()).text for at, inner in enumerate(told))
    return Result(_needed(block, "tool_use_id", where), text, block.get("is_error") is True)


def _is_pending(said: Sequence[tuple[str, list[Mapping[str, Any]]]]) -> bool:
    """Whether code has made calls and has no result of its own yet."""
    inner = {block.get("id") for _, found in said for block in found if _is_inner(block)}
    answers = {block.get("tool_use_id") for _, found in said for block in found if _is_result(block)}
    callers = {
        block["caller"].get("tool_id"): block.get("id") for _, found in said for block in found if _is_inner(block)
    }
    return bool(inner) and any(caller not in answers for caller in callers)


def _is_result(block: Mapping[str, Any]) -> bool:
    return str(block["type"]).endswith("_tool_result")


def _is_inner(block: Mapping[str, Any]) -> bool:
    """Whether it is a call of the caller's tool that code has made: the model does not know of it."""
    caller = block.get("caller")
    return block["type"] == "tool_use" and isinstance(caller, Mapping) and caller.get("type") not in (None, "direct")


class _Turns:
    """One message of the assistant's, taken apart."""

    def __init__(self, answers: Mapping[Any, Mapping[str, Any]], given: Given) -> None:
        self._answers = answers
        self._given = given
        self._parts: list[Part] = []
        self._results: list[ToolResult] = []
        self._turn: str | None = None

    def read(self, found: list[Mapping[str, Any]], where: str) -> Iterator[Message]:
        for at, block in enumerate(found):
            if _is_result(block) or _is_inner(block):
                continue
            part, turn = self._part(block, f"{where}.{at}")
            if self._results and (turn is None or turn != self._turn):
                yield from self._end()
            self._parts.append(part)
            self._turn = turn
            if block["type"] == "server_tool_use":
                self._results.append(self._result(str(block.get("id"))))
        yield from self._end()

    def _part(self, block: Mapping[str, Any], where: str) -> tuple[Part, str | None]:
        """It, and the turn that its id says."""
        match block["type"]:
            case "text":
                return _text(block, where, self._given), None
            case "tool_use" | "server_tool_use":
                named = _needed(block, "id", where)
                match = _ID.fullmatch(named)
                arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
                return ToolCall(named, _needed(block, "name", where), arguments), match[1] if match else None
            case kind if kind in _THOUGHTS:
                return Opaque("anthropic", block), None
            case kind:
                raise InvalidRequest(f"{where}.type: {kind!r} cannot be read here in a message of the assistant's")

    def _result(self, called: str) -> ToolResult:
        block = self._answers.get(called)
        if block is None:
            return ToolResult(called, (Text(_NOT_RUN),), failed=True)
        content = block.get("content")
        if not isinstance(content, Mapping):
            return ToolResult(called, (Text(json.dumps(content, ensure_ascii=False)),))
        return ToolResult(called, results.told(content), results.failed(content))

    def _end(self) -> Iterator[Message]:
        if self._parts:
            yield Message("assistant", tuple(self._parts))
        if self._results:
            yield Message("tool", tuple(self._results))
        self._parts, self._results = [], []


def texts(found: list[Mapping[str, Any]], given: Given, where: str) -> Iterator[Text]:
    """Blocks that are words alone. Raises `InvalidRequest`."""
    for at, block in enumerate(found):
        if block["type"] != "text":
            raise InvalidRequest(f"{where}.{at}.type: only text can be here")
        yield _text(block, f"{where}.{at}", given)


def _user(found: list[Mapping[str, Any]], inner: set[Any], given: Given, where: str) -> Iterator[Message]:
    answers: list[Part] = []
    rest: list[Part] = []
    for at, block in enumerate(found):
        here = f"{where}.{at}"
        if block["type"] == "tool_result":
            if block.get("tool_use_id") not in inner:
                answers.append(_tool_result(block, given, here))
        else:
            rest.extend(_seen(block, given, here))
    if answers:
        yield Message("tool", tuple(answers))
    if rest:
        yield Message("user", tuple(rest))


def _tool_result(block: Mapping[str, Any], given: Given, where: str) -> ToolResult:
    parts: list[Text | Image] = []
    for at, inner in enumerate(blocks(block.get("content") or [], f"{where}.content")):
        for part in _seen(inner, given, f"{where}.content.{at}"):
            if not isinstance(part, Text | Image):
                raise InvalidRequest(f"{where}.content.{at}: a tool's result is text and images here")
            parts.append(part)
    return ToolResult(_needed(block, "tool_use_id", where), tuple(parts), block.get("is_error") is True)


def _seen(block: Mapping[str, Any], given: Given, where: str) -> Iterator[Part]:
    """A block of the user's."""
    match block["type"]:
        case "text":
            yield _text(block, where, given)
        case "image":
            yield _image(block, given, where)
        case "document":
            yield from _document(block, given, where)
        case "search_result":
            told = [_needed(block, name, where) for name in ("title", "source")]
            texts = [str(inner.get("text")) for inner in blocks(block.get("content"), f"{where}.content")]
            yield Text("\n".join((*told, *texts)))
        case "container_upload":
            path = given.paths[_needed(block, "file_id", where)]
            yield Text(f"The user has put a file into the sandbox: /mnt/data/{path}")
        case kind:
            raise InvalidRequest(f"{where}.type: {kind!r} cannot be read here; send text, images and documents")


def _text(block: Mapping[str, Any], where: str, given: Given) -> Text:
    text = block.get("text")
    if not isinstance(text, str):
        raise InvalidRequest(f"{where}.text: text is needed")
    cached = given.caching and block.get("cache_control")
    return Text(text, {"cache_control": block["cache_control"]} if cached else {})


def _image(block: Mapping[str, Any], given: Given, where: str) -> Image:
    source = _source(block, where)
    cached = {"cache_control": block["cache_control"]} if given.caching and block.get("cache_control") else {}
    match source.get("type"):
        case "base64":
            return Image(
                _needed(source, "media_type", f"{where}.source"), _needed(source, "data", f"{where}.source"), "", cached
            )
        case "url":
            return Image(url=_needed(source, "url", f"{where}.source"), extra=cached)
        case "file":
            stored = given.contents[_needed(source, "file_id", f"{where}.source")]
            if not stored.mime.startswith("image/"):
                raise InvalidRequest(f"{where}.source: the file is of the type {stored.mime}, and no image")
            return Image(stored.mime, stored.data, "", cached)
    raise InvalidRequest(f"{where}.source.type: base64, url or file is needed")


def _document(block: Mapping[str, Any], given: Given, where: str) -> Iterator[Part]:
    source = _source(block, where)
    head = [str(block[name]) for name in ("title", "context") if block.get(name)]
    match source.get("type"):
        case "text":
            yield Text("\n".join((*head, _needed(source, "data", f"{where}.source"))))
        case "content":
            yield from (Text(words) for words in head)
            for at, inner in enumerate(blocks(source.get("content"), f"{where}.source.content")):
                yield from _seen(inner, given, f"{where}.source.content.{at}")
        case "base64":
            data = _needed(source, "data", f"{where}.source")
            yield from _file(Stored("document.pdf", _needed(source, "media_type", f"{where}.source"), data), block)
        case "file":
            stored = given.contents[_needed(source, "file_id", f"{where}.source")]
            if stored.mime.startswith("text/"):
                yield Text("\n".join((*(head or [stored.name]), _plain(stored.data))))
            elif stored.mime == "application/pdf":
                yield from _file(stored, block)
            else:
                raise InvalidRequest(
                    f"{where}.source: a document is text or a PDF, and not {stored.mime}; send the file as a "
                    "container_upload block, and the code can read it"
                )
        case kind:
            raise InvalidRequest(f"{where}.source.type: {kind!r} cannot be read here; send its text or its bytes")


def _file(stored: Stored, block: Mapping[str, Any]) -> Iterator[Part]:
    """A document in both dialects: each upstream sees the one that it speaks."""
    source = {"type": "base64", "media_type": stored.mime, "data": stored.data}
    yield Opaque("anthropic", {**block, "source": source})
    url = f"data:{stored.mime};base64,{stored.data}"
    yield Opaque("openai", {"type": "file", "file": {"filename": stored.name, "file_data": url}})


def _plain(data: str) -> str:
    return base64.b64decode(data).decode("utf-8", "replace")


def _source(block: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    source = block.get("source")
    if not isinstance(source, Mapping):
        raise InvalidRequest(f"{where}.source: an object is needed")
    return source


def _needed(block: Mapping[str, Any], name: str, where: str) -> str:
    value = block.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{where}.{name}: text is needed")
    return value
