"""Traces for OpenTelemetry: a span per request, execution and claim. Off, it costs a function call and does nothing.

It is on inside `tracing()` when the extra `sandbox-engine[otel]` is installed and the environment names where to send
spans: `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or `OTEL_TRACES_EXPORTER=otlp` (over HTTP).
Sampling, resource and limits are the standard OTEL_* variables. An execution's span follows the GenAI conventions for
`execute_tool`; code and output are in it only when OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT asks.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sandbox import logs
from sandbox.execution import Execution, Status

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import StatusCode

TOOL = "run_python"
EXECUTION_SPAN = f"execute_tool {TOOL}"
_MAX_CONTENT = 16_384
"""Characters of code, and of each output. Spans wait in memory by the thousand until they are sent."""

Kind = Literal["internal", "server", "client"]
Attribute = str | int | float | bool
log = logs.logger(__name__)


class Span(Protocol):
    """What a `with span(...)` block gets."""

    def set(self, **attributes: Attribute | None) -> None:
        """Add attributes; None is left out. `error.type` among them makes the span one that failed."""


class _Off:
    """The span of a process that traces nothing."""

    __slots__ = ()

    def __enter__(self) -> "_Off":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def set(self, **_: Attribute | None) -> None:
        return None


_OFF = _Off()
_carried: ContextVar[Mapping[str, Attribute | None]] = ContextVar("carried", default=MappingProxyType({}))
_tracing: "_Tracing | None" = None


def span(
    name: str, kind: Kind = "internal", carrier: Mapping[str, str] | None = None, /, **attributes: Attribute | None
) -> AbstractContextManager[Span]:
    """A span around a block, below the one that is current; the current one inside.

    carrier: headers of a request that may carry its caller's span (`traceparent`), lower case. An exception that
    leaves the block marks the span as failed and goes on. Enter and leave it in the same task.
    """
    if _tracing is None:
        return _OFF
    return _tracing.span(name, kind, carrier, attributes)


@contextmanager
def carried(carrier: Mapping[str, str] | None, /, **attributes: Attribute | None) -> Iterator[None]:
    """For whoever asks for an execution: attributes of its span, which begins within the block and elsewhere.

    carrier: as in `span`; the execution's span is then below the one that it carries.
    """
    if _tracing is None:
        yield
        return
    token = _carried.set(attributes)
    try:
        with _tracing.below(carrier):
            yield
    finally:
        _carried.reset(token)


def execution_attributes(
    *,
    session_id: str,
    execution_id: str,
    code: str,
    tool_call_id: str | None = None,
    conversation_id: str | None = None,
) -> dict[str, Attribute | None]:
    """What is known of an execution when its span, `EXECUTION_SPAN`, begins.

    tool_call_id and conversation_id: as the model's side named them; never made up here.
    """
    if _tracing is None:
        return {}
    return {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": TOOL,
        "gen_ai.tool.type": "extension",
        "gen_ai.tool.call.id": tool_call_id,
        "gen_ai.conversation.id": conversation_id,
        "gen_ai.tool.call.arguments": json.dumps({"code": _cut(code)}) if _tracing.content else None,
        "sandbox.session.id": session_id,
        "sandbox.execution.id": execution_id,
        **_carried.get(),
    }


def outcome_attributes(execution: Execution) -> dict[str, Attribute | None]:
    """How it ended. `error.type` is the status, because what a program raises can have any name."""
    if _tracing is None:
        return {}
    return {
        "sandbox.execution.status": execution.status.value,
        "sandbox.execution.cpu_ms": execution.cpu_ms,
        "sandbox.execution.peak_memory_bytes": execution.peak_memory_bytes,
        "sandbox.execution.state_lost": execution.state_lost,
        "error.type": None if execution.status is Status.OK else execution.status.value,
        "gen_ai.tool.call.result": _result(execution) if _tracing.content else None,
    }


@contextmanager
def tracing(version: str, *, exporter: "SpanExporter | None" = None) -> Iterator[bool]:
    """Trace inside the block where the environment asks for it; yields whether it does. At the end, send what is left.

    version: of this server. exporter: where to send spans instead, asked or not. One block at a time.
    """
    global _tracing
    opened = _open(version, exporter) if exporter is not None or _asked() else None
    _tracing = opened
    try:
        yield opened is not None
    finally:
        _tracing = None
        if opened is not None:
            opened.close()


def _open(version: str, exporter: "SpanExporter | None") -> "_Tracing | None":
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        log.warning("tracing is asked for but not installed; pip install '.[otel]' in the checkout", missing=error.name)
        return None
    resource = Resource.create({"service.version": version})
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "sandbox"}))
    # Its lifetime is the block's, and it is nobody's global: a program that imports us keeps its own provider.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
    return _Tracing(provider, version)


class _Tracing:
    """What is open while spans are made."""

    def __init__(self, provider: "TracerProvider", version: str) -> None:
        from opentelemetry import context, propagate, trace

        self.content = _captures()
        self._provider = provider
        self._tracer = provider.get_tracer("sandbox", version)
        self._extract = propagate.extract
        self._attach, self._detach = context.attach, context.detach
        self._kinds = {
            "internal": trace.SpanKind.INTERNAL,
            "server": trace.SpanKind.SERVER,
            "client": trace.SpanKind.CLIENT,
        }
        self._failed = trace.StatusCode.ERROR

    @contextmanager
    def span(
        self, name: str, kind: Kind, carrier: Mapping[str, str] | None, attributes: Mapping[str, Attribute | None]
    ) -> Iterator[Span]:
        with self._tracer.start_as_current_span(
            name,
            context=None if carrier is None else self._extract(carrier),
            kind=self._kinds[kind],
            attributes={key: value for key, value in attributes.items() if value is not None},
            record_exception=False,
            set_status_on_exception=False,
        ) as otel:
            opened = _Open(otel, self._failed)
            try:
                yield opened
            except Exception as error:
                # The type alone: a message or a stack may quote code.
                opened.set(**{"error.type": type(error).__qualname__})
                raise

    @contextmanager
    def below(self, carrier: Mapping[str, str] | None) -> Iterator[None]:
        """Spans of the block are below the one in the carrier, if there is one."""
        if carrier is None:
            yield
            return
        token = self._attach(self._extract(carrier))
        try:
            yield
        finally:
            self._detach(token)

    def close(self) -> None:
        self._provider.shutdown()


class _Open:
    __slots__ = ("_failed", "_otel")

    def __init__(self, otel: "OtelSpan", failed: "StatusCode") -> None:
        self._otel = otel
        self._failed = failed

    def set(self, **attributes: Attribute | None) -> None:
        for key, value in attributes.items():
            if value is not None:
                self._otel.set_attribute(key, value)
        if attributes.get("error.type") is not None:
            self._otel.set_status(self._failed)


def _asked() -> bool:
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporters:
        return "otlp" in exporters.split(",")
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return any(os.environ.get(name, "").strip() for name in endpoints)


def _captures() -> bool:
    """Older conventions say true or false, newer ones where the content should go."""
    asked = os.environ.get("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "").strip().lower()
    return asked in ("true", "1", "span_only", "span_and_event")


def _cut(text: str) -> str:
    dropped = len(text) - _MAX_CONTENT
    return text if dropped <= 0 else f"{text[:_MAX_CONTENT]}… ({dropped} more characters)"


def _result(execution: Execution) -> str:
    """As JSON, without images and tables: those are too large for a span."""
    result: dict[str, Any] = {
        "status": execution.status.value,
        "stdout": _cut(execution.stdout),
        "stderr": _cut(execution.stderr),
        "results": [_cut(str(bundle.get("text/plain", ""))) for bundle in execution.results[:10]],
    }
    if execution.error is not None:
        result["error"] = {"name": _cut(execution.error.name), "value": _cut(execution.error.value)}
    return json.dumps(result)
