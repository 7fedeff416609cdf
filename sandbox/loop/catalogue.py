"""What upstreams and models there are, and which of them a model's name means."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from pydantic import SecretStr

from sandbox.errors import InvalidSetting, UnknownModel
from sandbox.loop.messages import Dialect

Policy = Literal["first", "pinned", "cheapest", "fastest"]
"""Which of a model's routes is taken: in order with failover, the first alone, by price, by speed."""
CacheRule = Literal["temperature_0", "always", "never"]
"""Which requests may be answered from the cache of replies: those that ask for temperature 0, all, or none."""

VENDOR_URLS: Mapping[Dialect, str] = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com"}
"""Where each dialect comes from; what an upstream without a URL means."""
KEY_VARIABLES: Mapping[Dialect, str] = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
"""The environment variables that have the vendors' keys. Read for the vendors' own addresses only."""
_URL_VARIABLES: Mapping[Dialect, str] = {"openai": "OPENAI_BASE_URL", "anthropic": "ANTHROPIC_BASE_URL"}


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars per million tokens."""

    input: float
    output: float
    cache_read: float | None = None
    """None: as `input`."""
    cache_write: float | None = None
    """None: as `input`."""


@dataclass(frozen=True, slots=True)
class UpstreamPlan:
    """One model's server: where it is, and how hard it may be asked."""

    name: str
    dialect: Dialect = "openai"
    url: str = ""
    """As the vendor's library wants it: OpenAI's with the version (`http://127.0.0.1:8080/v1`), Anthropic's without it.

    Empty is the vendor's own.
    """
    key: SecretStr | None = None
    """None for servers that need none."""
    key_variable: str = ""
    """The environment variable that the key is from; for messages to people."""
    concurrency: int = 16
    """Requests in flight at a time."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """In and out."""
    timeout_s: float = 120.0
    """Seconds of silence after which a request counts as failed."""
    attempts: int = 3
    """Tries of one request, the first included, before the next route is taken."""
    breaker_failures: int = 5
    """Failures in a row that open the circuit breaker."""
    breaker_rest_s: float = 30.0
    """Seconds for which an open breaker lets nothing through."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with every request. Not shown, because they may hold secrets."""
    prices: Prices | None = None
    """Of all its models, instead of the published ones."""

    @property
    def address(self) -> str:
        """The URL, with the default resolved."""
        return self.url or VENDOR_URLS[self.dialect]

    @property
    def is_vendors(self) -> bool:
        """Whether it is the dialect's own vendor, not a server that speaks the same."""
        mine, vendors = urlsplit(self.address), urlsplit(VENDOR_URLS[self.dialect])
        return (mine.scheme, mine.netloc) == (vendors.scheme, vendors.netloc)


@dataclass(frozen=True, slots=True)
class Route:
    """A model at an upstream."""

    upstream: str
    """Its name."""
    model: str
    """As the upstream names it."""

    def __str__(self) -> str:
        return f"{self.upstream}/{self.model}"


@dataclass(frozen=True, slots=True)
class Shadow:
    """A second opinion that is recorded and never answered."""

    route: Route
    share: float
    """Of the requests, from 0 to 1."""
    usd: float = 1.0
    """US dollars that it may cost while this process lives; replies without a known price count nothing."""


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """What is done for a model's name."""

    name: str
    routes: tuple[Route, ...]
    """At least one."""
    policy: Policy = "first"
    prices: Prices | None = None
    """On all its routes, instead of the upstream's own and the published ones."""
    pictures: bool = False
    """Whether it can see images."""
    fenced: bool = False
    """It makes no tool calls: its code is in Markdown fences."""
    cache: CacheRule = "temperature_0"
    shadow: Shadow | None = None


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All upstreams and models. Raises `InvalidSetting` for a route that leads nowhere."""

    upstreams: Mapping[str, UpstreamPlan] = field(default_factory=dict)
    """By name; the order counts, because of several that could have a model the first is taken."""
    models: Mapping[str, ModelPlan] = field(default_factory=dict)
    """By name."""
    default: str = ""
    """The model for `sandbox chat` that names none."""
    closed: bool = False
    """Only the models above may be asked for, and no others that an upstream may have."""

    def __post_init__(self) -> None:
        for plan in self.models.values():
            for route in (*plan.routes, *((plan.shadow.route,) if plan.shadow else ())):
                if route.upstream not in self.upstreams:
                    known = ", ".join(self.upstreams) or "none"
                    raise InvalidSetting(
                        f"models.{plan.name} leads to {str(route)!r}, but there is no upstream {route.upstream!r}; "
                        f"there are: {known}"
                    )

    def plan(self, name: str) -> ModelPlan:
        """What a model's name means. Raises `UnknownModel`.

        name: a configured one; or `upstream/model`; or any that an upstream may have: `claude…` at the first that
        speaks Anthropic's dialect, all others, and `claude…` where there is no such, at the first that speaks
        OpenAI's. Empty is the default.
        """
        name = name or self.default or next(iter(self.models), "")
        if not self.upstreams:
            raise UnknownModel(
                f"there is no model {name!r}, because there is no upstream: set OPENAI_API_KEY or ANTHROPIC_API_KEY, "
                "OPENAI_BASE_URL for a local server, or [upstreams.NAME] in the settings file"
            )
        if not name:
            raise UnknownModel("the request names no model, and there is no default; set `model`, or SANDBOX_MODEL")
        if name in self.models:
            return self.models[name]
        route = None if self.closed else self._route(name)
        if route is None:
            known = ", ".join(self.models) or f"{next(iter(self.upstreams))}/MODEL"
            raise UnknownModel(f"there is no model {name!r}; choose from: {known}")
        upstream = self.upstreams[route.upstream]
        return ModelPlan(name, (route,), pictures=upstream.is_vendors)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Keys, and what is in headers: nothing of it may be shown."""
        keys = (plan.key.get_secret_value() for plan in self.upstreams.values() if plan.key)
        headers = (value for plan in self.upstreams.values() for value in plan.headers.values())
        return tuple(secret for secret in (*keys, *headers) if secret)

    def name_of(self, route: Route) -> str:
        """The shortest name that means this model at this upstream."""
        meant = None if route.model in self.models else self._route(route.model)
        return route.model if meant == route else str(route)

    def _route(self, name: str) -> Route | None:
        upstream, slash, model = name.partition("/")
        if slash and model and upstream in self.upstreams:  # others are names such as `meta-llama/Llama-3.1-8B`
            return Route(upstream, model)
        dialects: tuple[Dialect, ...] = ("anthropic", "openai") if name.startswith("claude") else ("openai",)
        for dialect in dialects:
            for plan in self.upstreams.values():
                if plan.dialect == dialect:
                    return Route(plan.name, name)
        return None


def environment_upstreams(environment: Mapping[str, str]) -> dict[str, UpstreamPlan]:
    """The upstreams of a process for which none is configured: what its vendors' own variables mean.

    A base URL alone is enough, because a local server needs no key. Raises `InvalidSetting` for one that is none.
    """
    found: dict[str, UpstreamPlan] = {}
    for dialect in VENDOR_URLS:
        key, url = environment.get(KEY_VARIABLES[dialect], ""), environment.get(_URL_VARIABLES[dialect], "")
        if url and not url.startswith(("http://", "https://")):
            raise InvalidSetting(f"{_URL_VARIABLES[dialect]} is {url!r}; it must begin with http:// or https://")
        if key or url:
            found[dialect] = UpstreamPlan(
                dialect,
                dialect,
                url.rstrip("/"),
                key=SecretStr(key) if key else None,
                key_variable=KEY_VARIABLES[dialect],
            )
    return found
