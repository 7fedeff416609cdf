"""Every chat that others have recorded of real providers is read as the recording says."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from sandbox.client.events import Decoder
from sandbox.loop import anthropic_messages, openai_chat
from sandbox.loop.messages import Reply

LEAST = {"openai": 257, "openai stream": 97, "anthropic": 91, "anthropic stream": 58}
"""How many recordings these versions have."""

Heard = tuple[str, list[tuple[str, str, Any]], tuple[int, int]]
"""Text, calls with their arguments read, tokens in and out."""


def test_every_recorded_answer_is_read_as_it_was_meant(answers: list[tuple[str, str]]) -> None:
    seen: Counter[str] = Counter()
    for name, body in answers:
        kind, pieces = sort(body)
        if kind:
            seen[kind] += 1
            assert heard(read(kind, pieces)) == meant(kind, pieces), name
    assert {kind: seen[kind] for kind in LEAST if seen[kind] < LEAST[kind]} == {}, seen


def test_every_recorded_error_is_found(answers: list[tuple[str, str]]) -> None:
    errors = [
        said for _, body in answers if isinstance(said := parsed(body), dict) and isinstance(said.get("error"), dict)
    ]
    assert len(errors) >= 10
    assert all(openai_chat.error(each) == anthropic_messages.error(each) == each["error"] for each in errors)


def sort(body: str) -> tuple[str, list[Any]]:
    """Whose answer it is, and its pieces."""
    if isinstance(said := parsed(body), dict):
        kind = {"chat.completion": "openai", "message": "anthropic"}.get(
            said.get("object") or said.get("type") or "", ""
        )
        return kind, [said]
    pieces = list(events(body))
    first = pieces[0] if pieces and isinstance(pieces[0], dict) else {}
    if first.get("object") == "chat.completion.chunk" or "prompt_filter_results" in first:
        return "openai stream", pieces
    return ("anthropic stream" if first.get("type") == "message_start" else ""), pieces


def parsed(body: str) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def events(body: str) -> Iterator[Any]:
    for message in Decoder().feed(body.encode() + b"\n\n"):
        if not message.data.startswith("[DONE]"):
            yield parsed(message.data)


def read(kind: str, pieces: list[Any]) -> Reply:
    if not kind.endswith("stream"):
        return openai_chat.whole(pieces[0]) if kind == "openai" else anthropic_messages.whole(pieces[0])
    reading = openai_chat.Reading() if kind == "openai stream" else anthropic_messages.Reading()
    words = "".join(reading.feed(piece).text for piece in pieces)
    assert reading.finished
    assert words == reading.reply().message.text
    return reading.reply()


def heard(reply: Reply) -> Heard:
    called = [(call.id, call.name, json.loads(call.arguments or "{}")) for call in reply.message.calls]
    return reply.message.text, called, (reply.usage.input_tokens, reply.usage.output_tokens)


def meant(kind: str, pieces: list[Any]) -> Heard:
    """The same, by what little it takes where everything is as documented."""
    if kind == "openai":
        # Azure leaves out what its filter keeps back.
        message = pieces[0]["choices"][0].get("message", {})
        return (
            message.get("content") or message.get("refusal") or "",
            openais(calls_in(message, pieces[0]["id"])),
            counted(pieces),
        )
    if kind == "openai stream":
        deltas = [choice["delta"] for piece in pieces for choice in piece["choices"] if choice["index"] == 0]
        text = "".join(delta.get("content") or delta.get("refusal") or "" for delta in deltas)
        return text, openais(whole_calls(deltas)), counted(pieces)
    if kind == "anthropic":
        blocks = pieces[0]["content"]
        text = "".join(block["text"] for block in blocks if block["type"] == "text")
        calls = [(block["id"], block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"]
        return text, calls, tokens(pieces[0]["usage"])
    return streamed(pieces)


def calls_in(message: Mapping[str, Any], id: str) -> Any:
    legacy = message.get("function_call")  # has no id, and gets one
    return [{"id": f"call_{id}_0", "function": legacy}] if legacy else message.get("tool_calls")


def openais(calls: Any) -> list[tuple[str, str, Any]]:
    functions = [(call["id"], call["function"]) for call in calls or () if "function" in call]
    return [(id, function["name"], json.loads(function["arguments"] or "{}")) for id, function in functions]


def whole_calls(deltas: list[Any]) -> list[Any]:
    calls: dict[int, Any] = {}
    for piece in (piece for delta in deltas for piece in delta.get("tool_calls") or ()):
        if piece["index"] not in calls:
            calls[piece["index"]] = {
                "id": piece["id"],
                "function": {"name": piece["function"]["name"], "arguments": ""},
            }
        calls[piece["index"]]["function"]["arguments"] += piece["function"].get("arguments") or ""
    return list(calls.values())


def counted(pieces: list[Any]) -> tuple[int, int]:
    usage: Mapping[str, int] = next((piece["usage"] for piece in reversed(pieces) if piece.get("usage")), {})
    return usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)


def streamed(pieces: list[Any]) -> Heard:
    deltas = [(piece["index"], piece["delta"]) for piece in pieces if piece["type"] == "content_block_delta"]
    begun = [(piece["index"], piece["content_block"]) for piece in pieces if piece["type"] == "content_block_start"]
    calls = []
    for index, block in begun:
        if block["type"] == "tool_use":
            written = "".join(delta["partial_json"] for at, delta in deltas if at == index)
            # The input of a call that a program made is there from the beginning.
            calls.append((block["id"], block["name"], json.loads(written) if written else block["input"]))
    usage = pieces[0]["message"]["usage"]
    for piece in pieces:
        if piece["type"] == "message_delta":
            usage |= piece["usage"]
    return "".join(delta.get("text", "") for _, delta in deltas), calls, tokens(usage)


def tokens(usage: Mapping[str, Any]) -> tuple[int, int]:
    cached = (usage.get(name) or 0 for name in ("cache_read_input_tokens", "cache_creation_input_tokens"))
    return usage["input_tokens"] + sum(cached), usage["output_tokens"]
