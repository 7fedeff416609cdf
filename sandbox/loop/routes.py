"""The order in which a model's routes are tried."""

import json
import math
import statistics
from collections import deque
from collections.abc import Mapping

from sandbox.loop.catalogue import ModelPlan, Route, UpstreamPlan
from sandbox.loop.clock import Clock
from sandbox.loop.messages import Image, Part, Request, Text, ToolCall, ToolResult, Usage
from sandbox.loop.prices import cost

_LETTERS_PER_TOKEN = 4
_IMAGE_TOKENS = 1000
_OUTPUT_TOKENS = 512
"""What is expected of a turn, which is most often a program or a few sentences."""
_SAMPLES = 20
_FRESH_S = 600.0
"""Seconds after which a speed is no longer known, so that an upstream that was slow is tried again."""


def expected(request: Request) -> Usage:
    """The tokens of a request, by rule of thumb: to compare prices, and for rate limits until the truth is known."""
    letters = sum(len(function.description) + len(function.name) for function in request.functions)
    letters += sum(len(json.dumps(function.parameters, default=str)) for function in request.functions)
    images = 0
    for part in (part for message in request.messages for part in _flat(message.parts)):
        if isinstance(part, Text):
            letters += len(part.text)
        elif isinstance(part, ToolCall):
            letters += len(part.arguments)
        elif isinstance(part, Image):
            images += 1
    output = min(request.max_tokens or _OUTPUT_TOKENS, _OUTPUT_TOKENS)
    return Usage(letters // _LETTERS_PER_TOKEN + images * _IMAGE_TOKENS, output)


def _flat(parts: tuple[Part, ...]) -> list[Part]:
    found: list[Part] = []
    for part in parts:
        found.extend(part.parts if isinstance(part, ToolResult) else [part])
    return found


class Speeds:
    """How fast each route was of late: the median of the seconds to the first piece of its answers."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._samples: dict[Route, deque[tuple[float, float]]] = {}

    def record(self, route: Route, seconds: float) -> None:
        """seconds: infinite for one that did not answer."""
        self._samples.setdefault(route, deque(maxlen=_SAMPLES)).append((self._clock.now(), seconds))

    def median(self, route: Route) -> float | None:
        """Seconds; None when nothing is known of late."""
        since = self._clock.now() - _FRESH_S
        fresh = [seconds for then, seconds in self._samples.get(route, ()) if then >= since]
        return statistics.median_low(fresh) if fresh else None


def ordered(
    plan: ModelPlan, request: Request, upstreams: Mapping[str, UpstreamPlan], speeds: Speeds
) -> tuple[Route, ...]:
    """The routes to try, the best first."""
    if plan.policy == "pinned":
        return plan.routes[:1]
    if plan.policy == "cheapest":
        tokens = expected(request)

        def dollars(route: Route) -> float:
            price = price_of(tokens, route, plan, upstreams[route.upstream])
            return math.inf if price is None else price  # what is not known may be dear

        return tuple(sorted(plan.routes, key=dollars))
    if plan.policy == "fastest":
        # What is not known is tried, or it would never be known.
        return tuple(sorted(plan.routes, key=lambda route: -1.0 if (s := speeds.median(route)) is None else s))
    return plan.routes


def price_of(usage: Usage, route: Route, plan: ModelPlan, upstream: UpstreamPlan) -> float | None:
    """US dollars of the tokens on this route: by the model's own price, the upstream's own, or the published one."""
    return cost(usage, route.model, upstream.address, plan.prices or upstream.prices)
