"""OpenAI's Chat Completions as bytes, written out by hand so that it owes nothing to the code that it tests."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tests.upstreams.script import Asked, Call, Fails, Says

PREFIX = "/v1"
PATH = "/v1/chat/completions"
MODELS = "/v1/models"
GARBAGE = b'data: {"id":"chatcmpl-1","object":"chat.comp\n\n'
ERROR = b'data: {"error":{"message":"The server had an error.","type":"server_error","param":null,"code":null}}\n\n'


def key(headers: Mapping[str, str]) -> str:
    """The key that a request bears."""
    return headers.get("authorization", "").removeprefix("Bearer ")


def whole(says: Says, asked: Asked, number: int) -> bytes:
    """An answer in one piece."""
    message: dict[str, Any] = {"role": "assistant", "content": says.text or None, "refusal": None}
    if says.calls:
        message["tool_calls"] = [_call(call, number, at) for at, call in enumerate(says.calls)]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(says)}
    answer = _frame(asked, number, "chat.completion") | {"choices": [choice]}
    return _json(answer | ({"usage": _usage(says.usage)} if says.usage else {}))


def events(says: Says, asked: Asked, number: int) -> Iterator[bytes]:
    """An answer as a stream."""
    counting = bool((asked.body.get("stream_options") or {}).get("include_usage")) and says.usage is not None
    frame = _frame(asked, number, "chat.completion.chunk")

    def chunk(delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
        return _event(frame | {"choices": choices} | ({"usage": None} if counting else {}))

    yield chunk({"role": "assistant", "content": "" if says.text or not says.calls else None, "refusal": None})
    for piece in pieces(says.text, says.piece):
        yield chunk({"content": piece})
    for at, call in enumerate(says.calls):
        whole_call = _call(call, number, at)
        arguments = whole_call["function"]["arguments"]
        begun = whole_call | {"function": {"name": call.name, "arguments": ""}}
        yield chunk({"tool_calls": [{"index": at} | begun]})
        for piece in pieces(arguments, says.piece):
            yield chunk({"tool_calls": [{"index": at, "function": {"arguments": piece}}]})
    yield chunk({}, _finish(says))
    if counting and says.usage:
        yield _event(frame | {"choices": [], "usage": _usage(says.usage)})
    yield b"data: [DONE]\n\n"


def failure(fails: Fails) -> bytes:
    """An error's body."""
    kind = "server_error" if fails.status >= 500 else "invalid_request_error"
    return _json({"error": {"message": fails.message, "type": kind, "param": None, "code": fails.code}})


def models(names: tuple[str, ...]) -> bytes:
    """What `GET /v1/models` answers."""
    data = [{"id": name, "object": "model", "created": 1, "owned_by": "tests"} for name in names]
    return _json({"object": "list", "data": data})


def pieces(text: str, size: int) -> Iterator[str]:
    """Text in pieces of so many characters."""
    return (text[at : at + size] for at in range(0, len(text), size))


def arguments(call: Call) -> str:
    """A call's arguments as text."""
    return call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments)


def _frame(asked: Asked, number: int, kind: str) -> dict[str, Any]:
    model = asked.body.get("model", "scripted")
    return {"id": f"chatcmpl-{number}", "object": kind, "created": 1, "model": model, "system_fingerprint": None}


def _call(call: Call, number: int, at: int) -> dict[str, Any]:
    function = {"name": call.name, "arguments": arguments(call)}
    return {"id": call.id or f"call_{number}_{at}", "type": "function", "function": function}


def _finish(says: Says) -> str:
    return says.finish or ("tool_calls" if says.calls else "stop")


def _usage(usage: tuple[int, int]) -> dict[str, int]:
    return {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}


def _event(value: Any) -> bytes:
    return b"data: " + _json(value) + b"\n\n"


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
