"""Anthropic's Messages as bytes, written out by hand so that it owes nothing to the code that it tests."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tests.upstreams.openai import arguments, pieces
from tests.upstreams.script import Asked, Call, Fails, Says

PREFIX = ""
PATH = "/v1/messages"
MODELS = "/v1/models"
GARBAGE = b'event: content_block_delta\ndata: {"type":"content_block_delta","ind\n\n'
ERROR = (
    b"event: error\n"
    b'data: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"req_1"}\n\n'
)
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def key(headers: Mapping[str, str]) -> str:
    """The key that a request bears: old SDKs and new ones differ in where."""
    return headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")


def whole(says: Says, asked: Asked, number: int) -> bytes:
    """An answer in one piece."""
    text = [{"type": "text", "text": says.text}] if says.text else []
    calls = [_call(call, number, at) | {"input": _input(call)} for at, call in enumerate(says.calls)]
    ended = {"content": text + calls, "stop_reason": _finish(says), "usage": _usage(says.usage or (0, 0))}
    return _json(_message(asked, number) | ended)


def events(says: Says, asked: Asked, number: int) -> Iterator[bytes]:
    """An answer as a stream."""
    usage = says.usage or (0, 0)
    yield _event("message_start", message=_message(asked, number) | {"usage": _usage((usage[0], 1))})
    yield _event("ping")
    if says.text:
        yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        for piece in pieces(says.text, says.piece):
            yield _event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
        yield _event("content_block_stop", index=0)
    for at, call in enumerate(says.calls):
        yield from _called(call, number, at, index=at + bool(says.text), size=says.piece)
    delta = {"stop_reason": _finish(says), "stop_sequence": None}
    yield _event("message_delta", delta=delta, usage={"output_tokens": usage[1]})
    yield _event("message_stop")


def failure(fails: Fails) -> bytes:
    """An error's body."""
    error = {"type": _KINDS.get(fails.status, "api_error"), "message": fails.message}
    return _json({"type": "error", "error": error, "request_id": "req_1"})


def models(names: tuple[str, ...]) -> bytes:
    """What `GET /v1/models` answers."""
    data = [{"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z"} for name in names]
    first, last = (names[0], names[-1]) if names else (None, None)
    return _json({"data": data, "has_more": False, "first_id": first, "last_id": last})


def _called(call: Call, number: int, at: int, *, index: int, size: int) -> Iterator[bytes]:
    yield _event("content_block_start", index=index, content_block=_call(call, number, at) | {"input": {}})
    for piece in ("", *pieces(arguments(call), size)):
        yield _event("content_block_delta", index=index, delta={"type": "input_json_delta", "partial_json": piece})
    yield _event("content_block_stop", index=index)


def _message(asked: Asked, number: int) -> dict[str, Any]:
    message = {"id": f"msg_{number}", "type": "message", "role": "assistant", "model": asked.body.get("model", "m")}
    return message | {"content": [], "stop_reason": None, "stop_sequence": None}


def _call(call: Call, number: int, at: int) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id or f"toolu_{number}_{at}", "name": call.name}


def _input(call: Call) -> Any:
    try:
        return json.loads(arguments(call))
    except ValueError:
        return {}


def _finish(says: Says) -> str:
    return says.finish or ("tool_use" if says.calls else "end_turn")


def _usage(usage: tuple[int, int]) -> dict[str, Any]:
    cache = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {"input_tokens": usage[0], "output_tokens": usage[1], **cache, "service_tier": "standard"}


def _event(name: str, **fields: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + _json({"type": name} | fields) + b"\n\n"


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
