"""What a program asks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sandbox.errors import InvalidRequest
from sandbox.loop import callables
from sandbox.loop.anthropic_messages import said
from sandbox.loop.anthropic_messages.said import Given, Result
from sandbox.loop.anthropic_messages.tools import VERSIONS, Version
from sandbox.loop.messages import MOST_MESSAGES, Function, Message, Request
from sandbox.loop.surrogates import encodable

_2026 = "2026-10-21"
"""The version of the API that no longer takes some fields."""
_SAMPLING = ("temperature", "top_p", "top_k")
_THEIRS = (
    "cache_control",
    "context_management",
    "inference_geo",
    "output_config",
    "service_tier",
    "speed",
    "thinking",
    "top_k",
)
"""Fields that upstreams of this dialect get as they are; others have no words for them."""
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_TOOL = "code_execution"
_FILES = 500
"""That one request names: each is looked up, and has a path of its own."""
_DIRECT = "direct"
_FUNCTION_EXTRA = ("cache_control",)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request."""

    request: Request
    stream: bool
    version: Version | None
    """Of code execution; None when the caller wants none."""
    container: str | None
    """The id that it names."""
    callable: tuple[Function, ...] = ()
    """Tools of the caller's that code may call."""
    results: tuple[Result, ...] | None = None
    """What code that is still running gets for its calls; None when the request is for the model."""


@dataclass(frozen=True, slots=True)
class Named:
    """The kept files that a request names, by id."""

    uploads: tuple[str, ...]
    """Those that are to lie in the sandbox, in order."""
    new: frozenset[str]
    """Of these, the ones that no earlier request had: nothing has been answered since."""
    contents: frozenset[str]
    """Those that the model sees."""


def named(body: Mapping[str, Any]) -> Named:
    """Which files have to be known before `asked` can read it. Raises `InvalidRequest`."""
    uploads: dict[str, None] = {}
    new: set[str] = set()
    contents: set[str] = set()
    for role, found in _said(body):
        if role == "assistant":
            new.clear()
        for block in _all(found):
            source = block.get("source")
            if block["type"] == "container_upload" and isinstance(file_id := block.get("file_id"), str):
                uploads[file_id] = None
                new.add(file_id)
            elif (
                isinstance(source, Mapping) and source.get("type") == "file" and isinstance(source.get("file_id"), str)
            ):
                contents.add(source["file_id"])
    if len(uploads) + len(contents) > _FILES:
        raise InvalidRequest(f"messages: they name more than {_FILES} files; name fewer, or put them into one")
    return Named(tuple(uploads), frozenset(new), frozenset(contents))


def asked(body: Mapping[str, Any], given: Given, api: str, *, counting: bool = False) -> Asked:
    """A program's request. api: the version of the API that it is written for. counting: its tokens are all it wants.

    Raises `InvalidRequest`, whose message begins with the field.
    """
    body = {name: _encodable(value, name) for name, value in body.items()}
    if api >= _2026 and (names := [name for name in _SAMPLING if body.get(name) is not None]):
        raise InvalidRequest(f"{names[0]}: the API has no such field since {_2026}; leave it out")
    if body.get("mcp_servers"):
        raise InvalidRequest("mcp_servers: no other servers are called from here; call them as tools of your own")
    talk = _said(body)
    _check_blocks(talk, api)
    functions, called, version = _tools(body.get("tools"), given)
    if called:
        _check_callable(called, version, body)
    results = said.pending(talk)
    system = said.blocks(body.get("system") or [], "system")
    messages = [Message("system", tuple(said.texts(system, given, "system")))] if system else []
    messages += said.conversation(talk, given)
    choice, extra = _choice(body.get("tool_choice"), version)
    request = Request(
        model=_text(body.get("model"), "model"),
        messages=tuple(messages),
        functions=functions,
        tool_choice=choice,
        max_tokens=None if counting else _whole(body.get("max_tokens"), "max_tokens"),
        temperature=_number(body.get("temperature"), "temperature"),
        stop=_stops(body.get("stop_sequences")),
        extra=extra | _others(body),
        anthropic={name: body[name] for name in _THEIRS if body.get(name) is not None},
    )
    container = _container(body.get("container"))
    if results is not None and container is None:
        raise InvalidRequest("container: the id of the one is needed in which code waits for these results")
    return Asked(request, body.get("stream") is True, version, container, called, results)


def _said(body: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("messages: a list of at least one message is needed")
    if len(messages) > MOST_MESSAGES:
        raise InvalidRequest(f"messages: a conversation has {MOST_MESSAGES:,} of them at most")
    talk = []
    for at, message in enumerate(_encodable(messages, "messages")):
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in ("user", "assistant"):
            raise InvalidRequest(f"messages.{at}.role: it must be user or assistant")
        talk.append((role, said.blocks(message.get("content"), f"messages.{at}.content")))
    return talk


def _all(found: list[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Blocks, and those in them."""
    for block in found:
        yield block
        source = block.get("source")
        if block["type"] == "tool_result" and isinstance(block.get("content"), list):
            yield from _all(said.blocks(block["content"], "content"))
        elif block["type"] == "document" and isinstance(source, Mapping) and isinstance(source.get("content"), list):
            yield from _all(said.blocks(source["content"], "source.content"))


def _check_blocks(talk: list[tuple[str, list[Mapping[str, Any]]]], api: str) -> None:
    for at, (role, found) in enumerate(talk):
        for number, block in enumerate(found):
            where = f"messages.{at}.content.{number}"
            if api >= _2026 and role == "assistant" and block["type"] == "document":
                raise InvalidRequest(f"{where}: a document is the user's, and not the assistant's, since {_2026}")
            if api >= _2026 and role == "user" and block["type"] == "text" and block.get("citations"):
                raise InvalidRequest(f"{where}.citations: words of the user's have none since {_2026}")


# Tools.


def _tools(tools: Any, given: Given) -> tuple[tuple[Function, ...], tuple[Function, ...], Version | None]:
    """Those that the model calls, those that code calls, and what runs the code."""
    if tools is not None and not isinstance(tools, list):
        raise InvalidRequest("tools: a list is needed")
    functions: list[Function] = []
    called: list[Function] = []
    version: Version | None = None
    for at, tool in enumerate(tools or ()):
        where = f"tools.{at}"
        if not isinstance(tool, Mapping):
            raise InvalidRequest(f"{where}: an object is needed")
        kind = tool.get("type") or "custom"
        if kind == "custom":
            function, by_model, by_code = _function(tool, given, where), *_callers(tool, where)
            functions += [function] * by_model
            called += [function] * by_code
        elif not isinstance(kind, str) or kind not in VERSIONS:
            raise InvalidRequest(
                f"{where}.type: {kind!r} is not offered here; there are {', '.join(VERSIONS)}, and tools of your own "
                "with a name and an input_schema"
            )
        elif version is not None:
            raise InvalidRequest(f"{where}: one code execution tool is enough")
        elif tool.get("name") != _TOOL:
            raise InvalidRequest(f"{where}.name: it must be {_TOOL!r}")
        else:
            version = VERSIONS[kind]
    ours = {hosted.name for hosted in version.tools} | {_TOOL} if version else set()
    if taken := [function.name for function in (*functions, *called) if function.name in ours]:
        raise InvalidRequest(f"tools: {taken[0]!r} is a name of the code execution tool's; choose another")
    return tuple(functions), tuple(called), version


def _callers(tool: Mapping[str, Any], where: str) -> tuple[bool, bool]:
    """Whether the model may call it, and whether code may."""
    callers = tool.get("allowed_callers")
    if callers is None:
        return True, False
    known = {_DIRECT, *(version.type for version in VERSIONS.values() if version.calls)}
    if not isinstance(callers, list) or not callers or not all(isinstance(each, str) for each in callers):
        raise InvalidRequest(f"{where}.allowed_callers: a list with some of {', '.join(sorted(known))} is needed")
    if others := [each for each in callers if each not in known]:
        raise InvalidRequest(
            f"{where}.allowed_callers: {others[0]!r} cannot call tools here; there are {', '.join(sorted(known))}"
        )
    if tool.get("strict") is True and callers != [_DIRECT]:
        raise InvalidRequest(f"{where}.strict: it is for tools that the model alone calls; leave it out")
    return _DIRECT in callers, callers != [_DIRECT]


def _check_callable(called: tuple[Function, ...], version: Version | None, body: Mapping[str, Any]) -> None:
    """Code can call tools only where there is code, and when the model is free to write it."""
    if version is None or not version.calls:
        least = next(version.type for version in VERSIONS.values() if version.calls)
        raise InvalidRequest(f"tools: {called[0].name} is to be called by code; add a tool of the type {least}")
    callables.by_name(called)
    choice = body.get("tool_choice")
    if not isinstance(choice, Mapping):
        return
    if choice.get("disable_parallel_tool_use") is True:
        raise InvalidRequest("tool_choice.disable_parallel_tool_use: code may call several tools; leave it out")
    if choice.get("type") == "tool" and any(choice.get("name") == function.name for function in called):
        raise InvalidRequest(f"tool_choice.name: {choice['name']} is called by code, which cannot be forced")


def _function(tool: Mapping[str, Any], given: Given, where: str) -> Function:
    schema = tool.get("input_schema")
    if not isinstance(schema, Mapping):
        raise InvalidRequest(f"{where}.input_schema: a JSON Schema of an object is needed")
    extra = {name: tool[name] for name in _FUNCTION_EXTRA if given.caching and tool.get(name)}
    return Function(_text(tool.get("name"), f"{where}.name"), str(tool.get("description") or ""), schema, extra)


def _choice(choice: Any, version: Version | None) -> tuple[str | None, dict[str, Any]]:
    """What must be called, and fields of OpenAI's dialect that say so."""
    if choice is None:
        return None, {}
    kind = choice.get("type") if isinstance(choice, Mapping) else None
    extra = {"parallel_tool_calls": False} if kind and choice.get("disable_parallel_tool_use") is True else {}
    if isinstance(kind, str) and kind in _CHOICES:
        return _CHOICES[kind], extra
    if kind != "tool":
        raise InvalidRequest(f"tool_choice.type: it must be one of {', '.join(_CHOICES)}, tool")
    name = _text(choice.get("name"), "tool_choice.name")
    if version and name == _TOOL and all(hosted.name != name for hosted in version.tools):
        return "required", extra  # whichever of its parts
    return name, extra


# Other fields.


def _others(body: Mapping[str, Any]) -> dict[str, Any]:
    """Those that OpenAI's dialect has words for."""
    made: dict[str, Any] = {}
    if body.get("top_p") is not None:
        made["top_p"] = _number(body["top_p"], "top_p")
    metadata, config = body.get("metadata"), body.get("output_config")
    if isinstance(metadata, Mapping) and isinstance(metadata.get("user_id"), str):
        made["user"] = metadata["user_id"]
    form = config.get("format") if isinstance(config, Mapping) else None
    if isinstance(form, Mapping) and form.get("type") == "json_schema":
        schema = {"name": "answer", "schema": form.get("schema"), "strict": True}
        made["response_format"] = {"type": "json_schema", "json_schema": schema}
    return made


def _encodable(value: Any, where: str) -> Any:
    try:
        return encodable(value, finite=True)
    except ValueError as error:
        raise InvalidRequest(f"{where}: {error}") from error


def _container(container: Any) -> str | None:
    if isinstance(container, Mapping):
        if container.get("skills"):
            raise InvalidRequest("container.skills: there are no skills here; leave them out")
        container = container.get("id")
    if container is not None and (not isinstance(container, str) or not container):
        raise InvalidRequest("container: the id of a container is needed, or an object with it")
    return container


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{where}: text is needed")
    return value


def _whole(value: Any, where: str) -> int:
    if type(value) is not int or value < 1:
        raise InvalidRequest(f"{where}: a number of at least 1 is needed")
    return value


def _number(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InvalidRequest(f"{where}: a number from 0 to 1 is needed")
    return value


def _stops(stops: Any) -> tuple[str, ...]:
    if stops is None:
        return ()
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise InvalidRequest("stop_sequences: a list of texts is needed")
    return tuple(stops)
