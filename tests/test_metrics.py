"""Metrics: what a scrape of the server reads."""

from dataclasses import dataclass

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from sandbox.execution import Status
from sandbox.loop.attempt import Attempt
from sandbox.loop.breaker import STATES
from sandbox.loop.messages import Usage
from sandbox.metrics import Metrics


@dataclass
class Server:
    """A server at rest; tests change what they like."""

    warm: int = 3
    settled: bool = True
    rested: bool = True
    promised_mb: int = 512
    budget_mb: int = 4096
    used_bytes: int = 1000
    waiting: int = 0
    sessions: int = 1
    running: int = 0


def read(metrics: Metrics, name: str, **labels: str) -> float | None:
    """As Prometheus would read it."""
    text, _ = metrics.exposition()
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return None


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def test_gauges_are_read_at_each_scrape(metrics: Metrics) -> None:
    server = Server()
    metrics.observe(server)
    assert read(metrics, "sandbox_pool_warm") == 3
    assert read(metrics, "sandbox_memory_promised_bytes") == 512 << 20
    assert read(metrics, "sandbox_memory_budget_bytes") == 4096 << 20
    server.warm, server.waiting = 0, 7
    assert read(metrics, "sandbox_pool_warm") == 0
    assert read(metrics, "sandbox_admission_waiting") == 7


def test_every_status_is_there_from_the_start(metrics: Metrics) -> None:
    assert [read(metrics, "sandbox_executions_total", status=status) for status in Status] == [0] * len(Status)


def test_executions_are_counted_by_status_and_timed(metrics: Metrics) -> None:
    metrics.execution(Status.OOM, 0.3)
    metrics.execution(Status.OK, 0.004)
    assert read(metrics, "sandbox_executions_total", status="oom") == 1
    assert read(metrics, "sandbox_execution_seconds_count") == 2
    assert read(metrics, "sandbox_execution_seconds_bucket", le="0.005") == 1


def test_claims_tell_warm_from_cold(metrics: Metrics) -> None:
    metrics.claim(0.002, warm=True)
    metrics.claim(0.4, warm=False)
    metrics.claim(0.5, warm=False)
    assert read(metrics, "sandbox_claim_seconds_count", warm="true") == 1
    assert read(metrics, "sandbox_claim_seconds_count", warm="false") == 2


def test_waits_and_rejections_are_counted(metrics: Metrics) -> None:
    metrics.admission(0.2)
    metrics.rejection("queue_full")
    assert read(metrics, "sandbox_admission_wait_seconds_count") == 1
    assert read(metrics, "sandbox_rejections_total", reason="queue_full") == 1


@pytest.mark.attack("E13")
def test_what_a_client_makes_up_is_no_label(metrics: Metrics) -> None:
    metrics.request("POST", "/v1/run", 200, 0.01)
    for number in range(50):
        metrics.request(f"BREW{number}", None, 405, 0.001)
    assert read(metrics, "sandbox_requests_total", method="POST", route="/v1/run", status="200") == 1
    assert read(metrics, "sandbox_requests_total", method="other", route="unmatched", status="405") == 50


def test_two_servers_in_one_process_do_not_share_numbers() -> None:
    first, second = Metrics(), Metrics()
    first.rejection("draining")
    assert read(second, "sandbox_rejections_total", reason="draining") is None


def test_the_format_is_the_one_that_was_asked_for(metrics: Metrics) -> None:
    metrics.observe(Server())
    text, content_type = metrics.exposition("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert "sandbox_sessions" in {family.name for family in parse_openmetrics(text.decode())}  # type: ignore[no-untyped-call]
    assert metrics.exposition("*/*")[1].startswith("text/plain")


def test_the_servers_own_memory_is_told(metrics: Metrics) -> None:
    assert (read(metrics, "process_resident_memory_bytes") or 0) > 0


def test_tries_at_models_servers_are_counted_timed_and_paid_for(metrics: Metrics) -> None:
    used = Usage(input_tokens=100, output_tokens=20, cache_read_tokens=60)
    metrics.attempt(Attempt("a", "m", "answered", seconds=2.0, first_s=0.4, usage=used, cost=0.5))
    metrics.attempt(Attempt("a", "m", "answered", seconds=2.0, first_s=0.4, usage=used, cost=None, shadow=True))
    metrics.attempt(Attempt("a", "m", "failed", seconds=7.0))
    assert read(metrics, "sandbox_upstream_attempts_total", upstream="a", outcome="answered", shadow="false") == 1
    assert read(metrics, "sandbox_upstream_attempts_total", upstream="a", outcome="answered", shadow="true") == 1
    assert read(metrics, "sandbox_upstream_seconds_count", upstream="a") == 3
    assert read(metrics, "sandbox_upstream_first_seconds_bucket", upstream="a", le="0.5") == 2
    tokens = [
        read(metrics, "sandbox_upstream_tokens_total", upstream="a", direction=direction)
        for direction in ("input", "cache_read", "output")
    ]
    assert tokens == [80, 120, 40]
    assert read(metrics, "sandbox_upstream_cost_dollars_total", upstream="a") == 0.5
    assert read(metrics, "sandbox_upstream_unpriced_total", upstream="a") == 1


def test_what_was_not_sent_takes_no_time(metrics: Metrics) -> None:
    for outcome in ("full", "open", "cached"):
        metrics.attempt(Attempt("a", "m", outcome, usage=Usage(), cost=0.0))
        assert read(metrics, "sandbox_upstream_attempts_total", upstream="a", outcome=outcome, shadow="false") == 1
    assert read(metrics, "sandbox_upstream_seconds_count", upstream="a") is None
    assert read(metrics, "sandbox_upstream_unpriced_total", upstream="a") is None


def test_the_state_of_each_breaker_is_read_at_each_scrape(metrics: Metrics) -> None:
    states = {"a": "closed", "b": "closed"}
    metrics.observe_breakers(lambda: states)
    assert read(metrics, "sandbox_upstream_breaker", upstream="b", state="closed") == 1
    states["b"] = "half_open"
    assert [read(metrics, "sandbox_upstream_breaker", upstream="b", state=state) for state in STATES] == [0, 0, 1]
    assert read(metrics, "sandbox_upstream_breaker", upstream="a", state="closed") == 1
