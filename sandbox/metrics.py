"""Counters and timers for Prometheus. Parts do not know of them: whoever calls a part says what came of it.

What can be read when it is asked for (how many are warm, promised, waiting) is not counted at all but observed at each
scrape. Every label has few values: a route is its template, a reason one of our own words, nothing a client made up.
"""

from collections.abc import Iterable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sandbox.execution import Status

_MIB = 1 << 20
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_FAST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LONG_S = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Observed(Protocol):
    """What a scrape reads from the running server."""

    @property
    def warm(self) -> int:
        """Sandboxes that wait to be claimed."""

    @property
    def promised_mb(self) -> int: ...

    @property
    def budget_mb(self) -> int: ...

    @property
    def used_bytes(self) -> int:
        """Memory that all sandboxes hold now."""

    @property
    def waiting(self) -> int:
        """Requests that wait for memory."""

    @property
    def sessions(self) -> int: ...

    @property
    def running(self) -> int:
        """Executions in flight."""


class Metrics:
    """One server's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "sandbox_requests", "HTTP requests answered.", ["method", "route", "status"], registry=registry
        )
        self._request_seconds = Histogram(
            "sandbox_request_seconds",
            "From a request's arrival to the end of its answer.",
            ["method", "route"],
            buckets=_LONG_S,
            registry=registry,
        )
        self._executions = Counter("sandbox_executions", "Executions that ended.", ["status"], registry=registry)
        self._execution_seconds = Histogram(
            "sandbox_execution_seconds", "Wall clock of one execution.", buckets=_LONG_S, registry=registry
        )
        self._claim_seconds = Histogram(
            "sandbox_claim_seconds",
            "From asking for a sandbox to having one, warm or started cold.",
            ["warm"],
            buckets=_FAST_S,
            registry=registry,
        )
        self._admission_seconds = Histogram(
            "sandbox_admission_wait_seconds",
            "How long the admitted waited for memory.",
            buckets=_LONG_S,
            registry=registry,
        )
        self._rejections = Counter(
            "sandbox_rejections", "Requests refused because something was full.", ["reason"], registry=registry
        )
        # Known series start at zero, so that the first increase of each can be seen.
        for status in Status:
            self._executions.labels(status.value)
        for warm in ("true", "false"):
            self._claim_seconds.labels(warm)

    def observe(self, observed: Observed) -> None:
        """Read these at every scrape. Call once."""
        self._registry.register(_Gauges(observed))

    def request(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """route: the template (`/v1/sessions/{id}`), None where no route matched."""
        method = method if method in _METHODS else "other"
        route = route or "unmatched"
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(method, route).observe(seconds)

    def execution(self, status: Status, seconds: float) -> None:
        self._executions.labels(status.value).inc()
        self._execution_seconds.observe(seconds)

    def claim(self, seconds: float, *, warm: bool) -> None:
        """warm: it came from the pool."""
        self._claim_seconds.labels("true" if warm else "false").observe(seconds)

    def admission(self, seconds: float) -> None:
        self._admission_seconds.observe(seconds)

    def rejection(self, reason: str) -> None:
        """reason: the error's stable code, such as `queue_full`."""
        self._rejections.labels(reason).inc()

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """Everything as text, and its content type, in the newest format that the `Accept` header names."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _Gauges(Collector):
    def __init__(self, observed: Observed) -> None:
        self._observed = observed

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not read a server that is not open yet."""
        return ()

    def collect(self) -> Iterable[Metric]:
        now = self._observed
        for name, documentation, value in (
            ("sandbox_pool_warm", "Sandboxes that wait to be claimed.", now.warm),
            ("sandbox_memory_promised_bytes", "Memory promised to sandboxes.", now.promised_mb * _MIB),
            ("sandbox_memory_budget_bytes", "Memory that may be promised.", now.budget_mb * _MIB),
            ("sandbox_memory_used_bytes", "Memory that sandboxes hold.", now.used_bytes),
            ("sandbox_admission_waiting", "Requests that wait for memory.", now.waiting),
            ("sandbox_sessions", "Open sessions.", now.sessions),
            ("sandbox_executions_running", "Executions in flight.", now.running),
        ):
            yield GaugeMetricFamily(name, documentation, value=value)
