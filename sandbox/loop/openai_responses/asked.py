"""What a program asks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from sandbox.errors import InvalidField
from sandbox.loop import tool as run_python
from sandbox.loop.messages import Function
from sandbox.loop.openai_responses import checks
from sandbox.loop.openai_responses.items import normalised
from sandbox.loop.surrogates import encodable

OUTPUTS = "code_interpreter_call.outputs"
"""Of `include`: whether outputs are told; without it they are null."""
_INTERPRETER = "code_interpreter"
_PASSED = ("top_p", "service_tier", "safety_identifier", "prompt_cache_key", "user")
"""Fields that Chat Completions has, too."""
_REFUSED = {
    "conversation": "conversations are not kept here; go on with previous_response_id, or send the items",
    "prompt": "there are no stored prompts here; send instructions and input",
}
_PAIRS, _KEY, _VALUE = 16, 64, 512
"""Of `metadata`."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The tool `code_interpreter` of a request."""

    field: str
    """Where it is in the request."""
    container: str | None = None
    """The id of the one to use; None for `auto`."""
    file_ids: tuple[str, ...] = ()
    memory_limit: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request."""

    model: str
    items: tuple[Mapping[str, Any], ...]
    """Of the input, each with a type and an id."""
    instructions: str
    functions: tuple[Function, ...]
    interpreter: Interpreter | None
    tool_choice: str | None
    """As `messages.Request` has it."""
    max_tokens: int | None
    temperature: float | None
    extra: Mapping[str, Any]
    """For upstreams that speak OpenAI's Chat Completions, in its words."""
    previous: str | None
    store: bool
    background: bool
    stream: bool
    outputs: bool
    """Whether outputs of code are to be told."""
    max_tool_calls: int | None
    echoed: Mapping[str, Any]
    """What the response says again."""


def read(body: Mapping[str, Any]) -> Asked:
    """A request. Raises `InvalidField`."""
    body = {name: _encodable(value, name) for name, value in body.items()}
    for field, why in _REFUSED.items():
        if body.get(field) is not None:
            raise InvalidField(field, why)
    functions, interpreter = _tools(body.get("tools"))
    choice, functions, interpreter = _chosen(body.get("tool_choice"), functions, interpreter)
    store = checks.flag(body.get("store"), "store", default=True)
    background = checks.flag(body.get("background"), "background", default=False)
    if background and not store:
        raise InvalidField("background", "it needs store: nobody could fetch the response")
    return Asked(
        model=checks.name(body.get("model"), "model"),
        items=normalised(body.get("input")),
        instructions=checks.text(body.get("instructions"), "instructions"),
        functions=functions,
        interpreter=interpreter,
        tool_choice=choice,
        max_tokens=checks.whole(body.get("max_output_tokens"), "max_output_tokens"),
        temperature=checks.number(body.get("temperature"), "temperature"),
        extra=_extra(body, tools=bool(functions or interpreter)),
        previous=checks.text(body.get("previous_response_id"), "previous_response_id") or None,
        store=store,
        background=background,
        stream=checks.flag(body.get("stream"), "stream", default=False),
        outputs=OUTPUTS in checks.sequence(body.get("include"), "include"),
        max_tool_calls=checks.whole(body.get("max_tool_calls"), "max_tool_calls"),
        echoed=_echoed(body, store=store, background=background),
    )


def _encodable(value: Any, field: str) -> Any:
    try:
        return encodable(value, finite=True)
    except ValueError as error:
        raise InvalidField(field, str(error)) from error


# Tools.


def _tools(tools: Any) -> tuple[tuple[Function, ...], Interpreter | None]:
    functions: list[Function] = []
    interpreter = None
    for at, tool in enumerate(checks.sequence(tools, "tools")):
        field = f"tools[{at}]"
        match checks.kind(tool, field):
            case "function":
                functions.append(_function(tool, field))
            case "code_interpreter" if interpreter is None:
                interpreter = _interpreter(tool, field)
            case "code_interpreter":
                raise InvalidField(field, "there can be one code_interpreter")
            case other:
                _refuse(f"{field}.type", other)
    if interpreter is not None and any(function.name == run_python.NAME for function in functions):
        raise InvalidField("tools", f"{run_python.NAME} is the name of the interpreter's own function; choose another")
    return tuple(functions), interpreter


def _refuse(field: str, kind: str) -> NoReturn:
    raise InvalidField(field, f"{kind[:80]!r} is not offered here; there are code_interpreter and function")


def _function(tool: Mapping[str, Any], field: str) -> Function:
    strict = tool.get("strict")
    return Function(
        checks.name(tool.get("name"), f"{field}.name"),
        checks.text(tool.get("description"), f"{field}.description"),
        checks.mapping(tool.get("parameters"), f"{field}.parameters"),
        {"function": {"strict": strict}} if strict is not None else {},
    )


def _interpreter(tool: Mapping[str, Any], field: str) -> Interpreter:
    container, where = tool.get("container"), f"{field}.container"
    if isinstance(container, str) and container:
        return Interpreter(field, container)
    if not isinstance(container, Mapping) or container.get("type") != "auto":
        raise InvalidField(where, 'it is needed: {"type": "auto"}, or the id of a container')
    policy = checks.mapping(container.get("network_policy"), f"{where}.network_policy").get("type", "disabled")
    if policy != "disabled":
        raise InvalidField(f"{where}.network_policy", "containers have no network here; leave it out")
    if container.get("skills"):
        raise InvalidField(f"{where}.skills", "there are no skills here; put files into the container instead")
    file_ids = checks.sequence(container.get("file_ids"), f"{where}.file_ids")
    return Interpreter(
        field,
        None,
        tuple(checks.name(each, f"{where}.file_ids[{at}]") for at, each in enumerate(file_ids)),
        checks.text(container.get("memory_limit"), f"{where}.memory_limit") or None,
    )


def _chosen(
    choice: Any, functions: tuple[Function, ...], interpreter: Interpreter | None
) -> tuple[str | None, tuple[Function, ...], Interpreter | None]:
    """The choice as `messages.Request` has it, and what of the tools it leaves."""
    if choice is None or choice in ("auto", "none", "required"):
        if choice == "required" and not functions and interpreter is None:
            raise InvalidField("tool_choice", "there are no tools that could be required")
        return choice, functions, interpreter
    match checks.kind(choice, "tool_choice"):
        case "allowed_tools":
            return _allowed(choice, functions, interpreter)
        case "code_interpreter" | "function":
            return _named(choice, functions, interpreter), functions, interpreter
        case other:
            _refuse("tool_choice.type", other)


def _named(choice: Mapping[str, Any], functions: tuple[Function, ...], interpreter: Interpreter | None) -> str:
    if choice["type"] == _INTERPRETER:
        if interpreter is None:
            raise InvalidField("tool_choice", "there is no code_interpreter among the tools")
        return run_python.NAME
    named = checks.name(choice.get("name"), "tool_choice.name")
    if all(function.name != named for function in functions):
        raise InvalidField("tool_choice.name", f"there is no function {named[:80]!r} among the tools")
    return named


def _allowed(
    choice: Mapping[str, Any], functions: tuple[Function, ...], interpreter: Interpreter | None
) -> tuple[str, tuple[Function, ...], Interpreter | None]:
    mode = checks.name(choice.get("mode"), "tool_choice.mode")
    if mode not in ("auto", "required"):
        raise InvalidField("tool_choice.mode", "it must be auto or required")
    tools = [tool for tool in checks.sequence(choice.get("tools"), "tool_choice.tools") if isinstance(tool, Mapping)]
    names = {_named(tool, functions, interpreter) for tool in tools if tool.get("type") in ("function", _INTERPRETER)}
    if not names:
        raise InvalidField("tool_choice.tools", "none of the tools is allowed; choose none")
    kept = tuple(function for function in functions if function.name in names)
    return mode, kept, interpreter if run_python.NAME in names else None


# What goes on, and what is said again.


def _extra(body: Mapping[str, Any], *, tools: bool) -> dict[str, Any]:
    extra = {name: body[name] for name in _PASSED if body.get(name) is not None}
    if tools and body.get("parallel_tool_calls") is not None:
        extra["parallel_tool_calls"] = checks.flag(body["parallel_tool_calls"], "parallel_tool_calls", default=True)
    if effort := checks.mapping(body.get("reasoning"), "reasoning").get("effort"):
        extra["reasoning_effort"] = effort
    wanted = checks.mapping(body.get("text"), "text")
    if wanted.get("verbosity") is not None:
        extra["verbosity"] = wanted["verbosity"]
    form = checks.mapping(wanted.get("format"), "text.format")
    match form.get("type", "text"):
        case "text":
            pass
        case "json_object":
            extra["response_format"] = {"type": "json_object"}
        case "json_schema":
            schema = {name: value for name, value in form.items() if name != "type" and value is not None}
            extra["response_format"] = {"type": "json_schema", "json_schema": schema}
        case _:
            raise InvalidField("text.format.type", "it must be text, json_object or json_schema")
    return extra


def _echoed(body: Mapping[str, Any], *, store: bool, background: bool) -> dict[str, Any]:
    reasoning = checks.mapping(body.get("reasoning"), "reasoning")
    parallel = checks.flag(body.get("parallel_tool_calls"), "parallel_tool_calls", default=True)
    text = checks.mapping(body.get("text"), "text")
    return {
        "background": background,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "max_tool_calls": body.get("max_tool_calls"),
        "model": body.get("model"),
        "parallel_tool_calls": parallel,
        "previous_response_id": body.get("previous_response_id"),
        "prompt_cache_key": body.get("prompt_cache_key"),
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "safety_identifier": body.get("safety_identifier"),
        "service_tier": body.get("service_tier") or "auto",
        "store": store,
        "temperature": _or(body.get("temperature"), 1.0),
        "text": {"format": {"type": "text"}, **{name: value for name, value in text.items() if value is not None}},
        "tool_choice": _or(body.get("tool_choice"), "auto"),
        "tools": _or(body.get("tools"), []),
        "top_logprobs": _or(body.get("top_logprobs"), 0),
        "top_p": _or(body.get("top_p"), 1.0),
        "truncation": _or(body.get("truncation"), "disabled"),
        "user": body.get("user"),
        "metadata": _metadata(body.get("metadata")),
    }


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _metadata(given: Any) -> dict[str, str]:
    metadata = checks.mapping(given, "metadata")
    if len(metadata) > _PAIRS:
        raise InvalidField("metadata", f"there can be {_PAIRS} pairs")
    for key, value in metadata.items():
        if len(key) > _KEY or not isinstance(value, str) or len(value) > _VALUE:
            raise InvalidField("metadata", f"keys have at most {_KEY} characters, values are text of at most {_VALUE}")
    return dict(metadata)
