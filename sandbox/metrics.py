"""Counters and timers for Prometheus. Parts do not know of them: whoever calls a part says what came of it.

What can be read when it is asked for (how many are warm, promised, waiting) is not counted at all but observed at each
scrape. Every label has few values: a route is its template, a reason one of our own words, nothing a client made up.
"""

from collections.abc import Callable, Iterable, Mapping
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
    def settled(self) -> bool:
        """Whether the pool is full, of sandboxes as good as they get."""

    @property
    def rested(self) -> bool:
        """Whether, besides, as many stand by as should."""

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


class Tokens(Protocol):
    """What a request to a model used."""

    @property
    def input_tokens(self) -> int:
        """Cached ones included."""

    @property
    def output_tokens(self) -> int: ...

    @property
    def cache_read_tokens(self) -> int: ...


class Attempted(Protocol):
    """One try at a model's server."""

    @property
    def upstream(self) -> str:
        """By its name in the settings."""

    @property
    def outcome(self) -> str: ...

    @property
    def seconds(self) -> float: ...

    @property
    def first_s(self) -> float | None:
        """Seconds to the first piece of its answer."""

    @property
    def usage(self) -> Tokens | None: ...

    @property
    def cost(self) -> float | None:
        """US dollars; None when it is not known."""

    @property
    def shadow(self) -> bool:
        """A second opinion that is never answered."""


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
        self._upstreams = _Upstreams(registry)
        self._loops = _Loops(registry)
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

    def attempt(self, attempt: Attempted) -> None:
        self._upstreams.attempt(attempt)

    def loop(self, ending: str, turns: int, seconds: float) -> None:
        """A run of the model loop is over. ending: one of `Ending`."""
        self._loops.ended(ending, turns, seconds)

    def repair(self, error_class: str, failures: int, tokens: int, seconds: float, *, repaired: bool) -> None:
        """Failures in a row are over. tokens, seconds: spent since the first of them."""
        self._loops.repair(error_class, failures, tokens, seconds, repaired=repaired)

    def observe_breakers(self, states: Callable[[], Mapping[str, str]]) -> None:
        """Read at every scrape: each upstream's circuit breaker, `closed`, `open` or `half_open`. Call once."""
        self._registry.register(_Breakers(states))

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
            ("sandbox_pool_settled", "1 once the pool is full and has all that is preloaded, else 0.", now.settled),
            ("sandbox_pool_rested", "1 once all stand by besides that should, else 0.", now.rested),
            ("sandbox_memory_promised_bytes", "Memory promised to sandboxes.", now.promised_mb * _MIB),
            ("sandbox_memory_budget_bytes", "Memory that may be promised.", now.budget_mb * _MIB),
            ("sandbox_memory_used_bytes", "Memory that sandboxes hold.", now.used_bytes),
            ("sandbox_admission_waiting", "Requests that wait for memory.", now.waiting),
            ("sandbox_sessions", "Open sessions.", now.sessions),
            ("sandbox_executions_running", "Executions in flight.", now.running),
        ):
            yield GaugeMetricFamily(name, documentation, value=value)


class _Upstreams:
    """Of the servers that have models. Their names are of the settings; models' names may be a client's: no label."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._attempts = Counter(
            "sandbox_upstream_attempts",
            "Tries at models' servers, and requests that needed or got none.",
            ["upstream", "outcome", "shadow"],
            registry=registry,
        )
        self._seconds = Histogram(
            "sandbox_upstream_seconds",
            "From sending a request to a model's server to the end of its answer or failure.",
            ["upstream"],
            buckets=_LONG_S,
            registry=registry,
        )
        self._first_seconds = Histogram(
            "sandbox_upstream_first_seconds",
            "From sending a request to a model's server to the first piece of its answer.",
            ["upstream"],
            buckets=_LONG_S,
            registry=registry,
        )
        self._tokens = Counter(
            "sandbox_upstream_tokens", "Tokens of models.", ["upstream", "direction"], registry=registry
        )
        self._cost = Counter(
            "sandbox_upstream_cost_dollars",
            "US dollars of answers with a known price.",
            ["upstream"],
            registry=registry,
        )
        self._unpriced = Counter(
            "sandbox_upstream_unpriced", "Answers without a known price.", ["upstream"], registry=registry
        )

    def attempt(self, attempt: Attempted) -> None:
        upstream = attempt.upstream
        self._attempts.labels(upstream, attempt.outcome, "true" if attempt.shadow else "false").inc()
        if attempt.outcome in ("full", "open", "cached"):  # nothing was sent
            return
        self._seconds.labels(upstream).observe(attempt.seconds)
        if attempt.first_s is not None:
            self._first_seconds.labels(upstream).observe(attempt.first_s)
        if attempt.usage is None:
            return
        used = attempt.usage
        self._tokens.labels(upstream, "input").inc(max(0, used.input_tokens - used.cache_read_tokens))
        self._tokens.labels(upstream, "cache_read").inc(used.cache_read_tokens)
        self._tokens.labels(upstream, "output").inc(used.output_tokens)
        if attempt.cost is None:
            self._unpriced.labels(upstream).inc()
        else:
            self._cost.labels(upstream).inc(attempt.cost)


class _Breakers(Collector):
    def __init__(self, states: Callable[[], Mapping[str, str]]) -> None:
        self._states = states

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not read what is not open yet."""
        return ()

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "sandbox_upstream_breaker", "1 for the state of each circuit breaker.", labels=["upstream", "state"]
        )
        for upstream, now in self._states().items():
            for state in ("closed", "open", "half_open"):
                family.add_metric([upstream, state], float(state == now))
        yield family


class _Loops:
    """Of the model loop. Error classes are a bounded set."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._endings = Counter("sandbox_loops", "Runs of the model loop.", ["ending"], registry=registry)
        self._seconds = Histogram("sandbox_loop_seconds", "How long they took.", buckets=_LONG_S, registry=registry)
        self._turns = Histogram(
            "sandbox_loop_turns", "Turns of a run.", buckets=(1, 2, 3, 4, 6, 8, 12, 16, 32), registry=registry
        )
        self._repairs = Counter(
            "sandbox_loop_repairs",
            "Failures in a row that are over: with an execution that was ok, or without.",
            ["error_class", "repaired"],
            registry=registry,
        )
        self._attempts = Histogram(
            "sandbox_loop_repair_attempts",
            "Failures until one execution was ok.",
            ["error_class"],
            buckets=(1, 2, 3, 4, 6, 8),
            registry=registry,
        )
        self._repair_tokens = Counter(
            "sandbox_loop_repair_tokens", "Tokens spent on repairs.", ["error_class"], registry=registry
        )
        self._repair_seconds = Counter(
            "sandbox_loop_repair_seconds", "Seconds spent on repairs.", ["error_class"], registry=registry
        )

    def ended(self, ending: str, turns: int, seconds: float) -> None:
        self._endings.labels(ending).inc()
        self._seconds.observe(seconds)
        self._turns.observe(turns)

    def repair(self, error_class: str, failures: int, tokens: int, seconds: float, *, repaired: bool) -> None:
        self._repairs.labels(error_class, "true" if repaired else "false").inc()
        if repaired:
            self._attempts.labels(error_class).observe(failures)
        self._repair_tokens.labels(error_class).inc(tokens)
        self._repair_seconds.labels(error_class).inc(seconds)
