"""Telemetry: spans as the OpenTelemetry SDK sees them, and none at all unless somebody asks."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import httpx
import pytest

pytest.importorskip("opentelemetry.sdk", reason="needs the extra: sandbox-engine[otel]")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from sandbox import telemetry
from sandbox.execution import Error, Execution, Status
from sandbox.image import Image
from tests.server import serving

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
DONE = Execution("exe_1", "ses_1", Status.OK, stdout="42\n", cpu_ms=3.0, peak_memory_bytes=1000)
RAISED = Execution("exe_1", "ses_1", Status.ERROR, error=Error("SecretError", "boom", "…"))


@pytest.fixture(autouse=True)
def no_otel_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER", CAPTURE):
        monkeypatch.delenv(name, raising=False)


def execute(execution: Execution, code: str = "print(42)") -> ReadableSpan:
    """The span of an execution that ended so."""
    exporter = InMemorySpanExporter()
    with telemetry.tracing("1.2.3", exporter=exporter):
        attributes = telemetry.execution_attributes(
            session_id="ses_1", execution_id="exe_1", code=code, tool_call_id="call_1"
        )
        with telemetry.span(telemetry.EXECUTION_SPAN, **attributes) as span:
            span.set(**telemetry.outcome_attributes(execution))
    (finished,) = exporter.get_finished_spans()
    return finished


def test_an_execution_is_a_tool_call_by_the_genai_conventions() -> None:
    span = execute(DONE)
    assert span.name == "execute_tool run_python"
    assert span.kind is SpanKind.INTERNAL
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "run_python",
        "gen_ai.tool.type": "extension",
        "gen_ai.tool.call.id": "call_1",
        "sandbox.session.id": "ses_1",
        "sandbox.execution.id": "exe_1",
        "sandbox.execution.status": "ok",
        "sandbox.execution.cpu_ms": 3.0,
        "sandbox.execution.peak_memory_bytes": 1000,
        "sandbox.execution.state_lost": False,
    }


def test_a_program_that_raised_is_a_failed_span_with_the_status_as_its_type() -> None:
    span = execute(RAISED)
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "error"
    assert "SecretError" not in span.to_json()


@pytest.mark.parametrize("asked", ["true", "SPAN_ONLY", "span_and_event"])
def test_content_is_captured_when_asked_for(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setenv(CAPTURE, asked)
    attributes = execute(DONE).attributes or {}
    assert json.loads(str(attributes["gen_ai.tool.call.arguments"])) == {"code": "print(42)"}
    assert json.loads(str(attributes["gen_ai.tool.call.result"]))["stdout"] == "42\n"


@pytest.mark.parametrize("asked", ["", "false", "no_content", "event_only"])
def test_content_is_not_captured_otherwise(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setenv(CAPTURE, asked)
    assert "print(42)" not in execute(DONE).to_json()


def test_captured_content_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CAPTURE, "true")
    arguments = str((execute(DONE, "x" * 1_000_000).attributes or {})["gen_ai.tool.call.arguments"])
    assert len(arguments) < 20_000
    assert "983616 more characters" in json.loads(arguments)["code"]


def test_spans_nest_and_a_callers_span_is_the_parent_of_the_request() -> None:
    exporter = InMemorySpanExporter()
    caller = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    with (
        telemetry.tracing("1", exporter=exporter),
        telemetry.span("POST /v1/run", "server", caller, **{"http.request.method": "POST"}),
        telemetry.span("claim"),
    ):
        pass
    claim, request = exporter.get_finished_spans()
    assert request.kind is SpanKind.SERVER
    assert request.parent is not None
    assert request.parent.span_id == 0xB7AD6B7169203331
    assert claim.parent is not None
    assert request.context is not None
    assert claim.parent.span_id == request.context.span_id


def test_who_asks_for_an_execution_adds_to_its_span_and_may_say_what_it_is_below() -> None:
    exporter = InMemorySpanExporter()
    caller = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    with telemetry.tracing("1", exporter=exporter):
        for carrier in (caller, None):
            with telemetry.carried(carrier, **{"mcp.method.name": "tools/call", "mcp.session.id": None}):
                attributes = telemetry.execution_attributes(session_id="s", execution_id="e", code="c")
                with telemetry.span(telemetry.EXECUTION_SPAN, **attributes):
                    pass
        assert "mcp.method.name" not in telemetry.execution_attributes(session_id="s", execution_id="e", code="c")
    below, alone = exporter.get_finished_spans()
    assert below.parent is not None
    assert below.parent.span_id == 0xB7AD6B7169203331
    assert alone.parent is None
    assert (below.attributes or {})["mcp.method.name"] == "tools/call"
    assert "mcp.session.id" not in (below.attributes or {})


def test_a_malformed_traceparent_begins_a_new_trace() -> None:
    exporter = InMemorySpanExporter()
    with telemetry.tracing("1", exporter=exporter), telemetry.span("GET /", "server", {"traceparent": "00-zz-\n-1"}):
        pass
    assert exporter.get_finished_spans()[0].parent is None


def test_an_exception_marks_the_span_and_goes_on_without_its_words() -> None:
    exporter = InMemorySpanExporter()
    with telemetry.tracing("1", exporter=exporter), pytest.raises(LookupError), telemetry.span("claim"):
        raise LookupError("quoted code")
    (span,) = exporter.get_finished_spans()
    assert (span.attributes or {})["error.type"] == "LookupError"
    assert span.status.status_code is StatusCode.ERROR
    assert "quoted code" not in span.to_json()


def test_off_there_is_one_span_for_all_and_nothing_is_computed() -> None:
    with telemetry.tracing("1") as on:
        assert not on
        first, second = telemetry.span("a"), telemetry.span("b", "server", {}, n=1)
        assert first is second
        with first as span:
            span.set(n=1)
        assert telemetry.execution_attributes(session_id="s", execution_id="e", code="c") == {}
        assert telemetry.outcome_attributes(DONE) == {}


def test_off_opentelemetry_is_not_even_imported() -> None:
    program = (
        "import sys\nfrom sandbox import telemetry\nwith telemetry.tracing('1'), telemetry.span('x'):\n    pass\n"
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], timeout=60, check=True)


def test_asked_for_without_the_extra_it_says_so_and_the_server_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    # None in sys.modules is how Python itself marks a module that cannot be imported.
    program = (
        "import sys\nsys.modules['opentelemetry'] = None\nfrom sandbox import telemetry\n"
        "with telemetry.tracing('1') as on, telemetry.span('x'):\n    assert not on\n"
    )
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ".[otel]" in ended.stderr


@pytest.mark.parametrize(
    ("variable", "value"), [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")], ids=str
)
def test_the_standard_switches_turn_it_off(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv(variable, value)
    with telemetry.tracing("1") as on:
        assert not on


class Collector(BaseHTTPRequestHandler):
    """What receives spans over HTTP, as far as this needs one."""

    received: ClassVar[list[ExportTraceServiceRequest]] = []

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return None


@pytest.fixture
def collector() -> Iterator[str]:
    Collector.received.clear()
    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_server_sends_a_span_for_the_request_the_execution_and_the_claim(
    root: None, python_image: Image, collector: str, tmp_path: Path
) -> None:
    with serving(tmp_path, env={"OTEL_EXPORTER_OTLP_ENDPOINT": collector}) as server:
        httpx.post(f"{server.url}/v1/run", json={"code": "print(42)"}, timeout=60).raise_for_status()
    sent = [scope for request in Collector.received for each in request.resource_spans for scope in each.scope_spans]
    spans = {span.name: span for scope in sent for span in scope.spans}
    assert spans.keys() == {"POST", "claim sandbox", "execute_tool run_python"}
    request = spans.pop("POST")
    for span in spans.values():
        assert (span.trace_id, span.parent_span_id) == (request.trace_id, request.span_id)


def test_spans_reach_the_endpoint_of_the_environment_before_the_block_ends(
    collector: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector)
    with telemetry.tracing("1.2.3") as on, telemetry.span("claim"):
        assert on
    (request,) = Collector.received
    (resource,) = request.resource_spans
    told = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert (told["service.name"], told["service.version"]) == ("sandbox", "1.2.3")
    assert resource.scope_spans[0].spans[0].name == "claim"


def test_the_services_name_is_the_operators(collector: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector}/v1/traces")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "interpreter")
    with telemetry.tracing("1"), telemetry.span("claim"):
        pass
    told = {each.key: each.value.string_value for each in Collector.received[0].resource_spans[0].resource.attributes}
    assert told["service.name"] == "interpreter"
