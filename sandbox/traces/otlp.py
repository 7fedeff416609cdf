"""A trace as OpenTelemetry spans, in the JSON that OTLP collectors read from files and over HTTP.

The GenAI conventions: `invoke_agent` around all, `chat` for each turn and `execute_tool` for each execution. A turn's
span is made from the time of its end and its seconds, so clocks that jump show. Content is left out unless it is asked
for, as the conventions want.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from sandbox.store.rows import TraceRow

_INTERNAL, _CLIENT = 1, 3
_ERROR = 2
_AGENT = "sandbox"
_TOOL = "run_python"


def to_otlp(trace: TraceRow, *, version: str, content: bool) -> dict[str, Any]:
    """An `ExportTraceServiceRequest`. version: of this program. content: with what was said and run."""
    spans = [_root(trace, content), *_spans(trace, content)]
    scope = {"name": "sandbox", "version": version}
    resource = {"attributes": _attributes({"service.name": "sandbox", "service.version": version})}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": scope, "spans": spans}]}]}


def _root(trace: TraceRow, content: bool) -> dict[str, Any]:
    told = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": _provider(trace.records),
        "gen_ai.agent.name": _AGENT,
        "gen_ai.request.model": trace.model,
        "gen_ai.usage.input_tokens": trace.input_tokens,
        "gen_ai.usage.output_tokens": trace.output_tokens,
        "sandbox.trace.id": trace.id,
        "sandbox.session.id": trace.session_id,
        "sandbox.ending": trace.ending,
        "error.type": next((each["error"] for each in trace.records if "error" in each), None),
        "gen_ai.input.messages": _messages(trace.records) if content else None,
    }
    return _span(trace.id, "", f"invoke_agent {_AGENT}", _INTERNAL, (trace.created_at, trace.ended_at), told)


def _spans(trace: TraceRow, content: bool) -> Iterator[dict[str, Any]]:
    for number, record in enumerate(trace.records):
        if record["kind"] == "turn":
            name, kind, seconds = f"chat {record['model']}", _CLIENT, record["seconds"]
            told = _turn(record, content)
        elif record["kind"] == "execution":
            name, kind, seconds = f"execute_tool {_TOOL}", _INTERNAL, record["execution"]["duration_ms"] / 1000
            told = _execution(record, content)
        else:
            continue
        yield _span(trace.id, str(number), name, kind, (record["at"] - seconds, record["at"]), told)


def _turn(record: Mapping[str, Any], content: bool) -> dict[str, Any]:
    usage = record["usage"]
    output = {"role": "assistant", "parts": _parts(record), "finish_reason": record["finish"]}
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": record["upstream"] or "openai",
        "gen_ai.request.model": record["model"],
        "gen_ai.response.model": record["model"],
        "gen_ai.response.id": record["response_id"] or None,
        "gen_ai.response.finish_reasons": [record["finish"]],
        "gen_ai.usage.input_tokens": usage["input_tokens"],
        "gen_ai.usage.output_tokens": usage["output_tokens"],
        "gen_ai.usage.cache_read.input_tokens": usage["cache_read_tokens"] or None,
        "gen_ai.usage.cache_write.input_tokens": usage["cache_write_tokens"] or None,
        "gen_ai.usage.reasoning.output_tokens": usage["reasoning_tokens"] or None,
        "gen_ai.output.messages": json.dumps([output]) if content else None,
    }


def _execution(record: Mapping[str, Any], content: bool) -> dict[str, Any]:
    execution = record["execution"]
    failed = execution["status"] != "ok"
    return {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": _TOOL,
        "gen_ai.tool.type": "extension",
        "gen_ai.tool.call.id": record["call_id"],
        "gen_ai.tool.call.arguments": json.dumps({"code": record["code"]}) if content else None,
        "gen_ai.tool.call.result": record["told"] if content else None,
        "sandbox.session.id": execution["session_id"],
        "sandbox.execution.id": execution["id"],
        "sandbox.execution.status": execution["status"],
        "sandbox.execution.cpu_ms": execution["cpu_ms"],
        "sandbox.execution.peak_memory_bytes": execution["peak_memory_bytes"],
        "sandbox.execution.state_lost": execution["state_lost"],
        "error.type": execution["status"] if failed else None,
    }


def _parts(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    said = [{"type": "text", "content": record["text"]}] if record["text"] else []
    return said + [{"type": "tool_call", **call} for call in record["calls"]]


def _messages(records: tuple[Mapping[str, Any], ...]) -> str:
    told = [
        {"role": record["role"], "parts": [{"type": "text", "content": record["text"]}]}
        for record in records
        if record["kind"] == "message"
    ]
    return json.dumps(told)


def _provider(records: tuple[Mapping[str, Any], ...]) -> str:
    return next((each["upstream"] for each in records if each["kind"] == "turn" and each["upstream"]), "openai")


def _span(
    trace_id: str, part: str, name: str, kind: int, times: tuple[float, float], told: Mapping[str, Any]
) -> dict[str, Any]:
    start, end = times
    span = {
        "traceId": hashlib.sha256(trace_id.encode()).hexdigest()[:32],
        "spanId": _span_id(trace_id, part),
        "name": name,
        "kind": kind,
        "startTimeUnixNano": str(round(start * 1e9)),
        "endTimeUnixNano": str(round(max(start, end) * 1e9)),
        "attributes": _attributes(told),
    }
    if part:
        span["parentSpanId"] = _span_id(trace_id, "")
    if told.get("error.type") is not None:
        span["status"] = {"code": _ERROR}
    return span


def _span_id(trace_id: str, part: str) -> str:
    return hashlib.sha256(f"{trace_id}/{part}".encode()).hexdigest()[:16]


def _attributes(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in told.items() if value is not None]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [_value(each) for each in value]}}
    return {"stringValue": str(value)}
