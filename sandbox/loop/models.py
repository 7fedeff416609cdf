"""Which upstream a model's name leads to, and what to do when one fails.

A request takes the model's routes in the order of its policy. At each it passes the upstream's gate, is tried, and
after a failure tried again, as often as the upstream's plan says; then the next route has its turn. All its waiting (in
line, for a rate limit, between tries) is bounded by one patience, of which each route may use an equal part of what is
left.
"""

import asyncio
import contextlib
import dataclasses
import math
import random
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass

from cachetools import TTLCache
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from sandbox import logs
from sandbox.errors import UpstreamBusy, UpstreamError, UpstreamFailed, UpstreamRefused
from sandbox.loop.attempt import Attempt, Outcome
from sandbox.loop.breaker import State
from sandbox.loop.cache import Replies
from sandbox.loop.catalogue import Catalogue, ModelPlan, Route, UpstreamPlan
from sandbox.loop.clock import Clock, Patience
from sandbox.loop.gate import Closed, Gate
from sandbox.loop.messages import Delta, Reply, Request, Usage
from sandbox.loop.prices import cost
from sandbox.loop.routes import Speeds, expected, ordered, price_of
from sandbox.loop.shadow import Shadowed, Shadows
from sandbox.loop.upstream import Upstream

__all__ = ["Attempt", "Listed", "Models", "Shadowed"]

log = logs.logger(__name__)

_backoff = wait_random_exponential(multiplier=0.5, max=8.0)
"""Full jitter: any time up to 0.5, 1, 2, 4, 8 s."""
_AFTER_REST_S = 0.5
"""Up to so much later than an upstream asks for: not all that were sent away come back at once."""
_ELSEWHERE = frozenset({401, 402, 403, 404})
"""Refusals that are about the key or the model's name, not about the request: another upstream may take it."""
_CANNOT_CHAT = re.compile(r"embed|whisper|transcri|tts|dall-e|image|moderation|rerank|realtime|babbage|davinci|sora")
"""In the names of models that the same servers list."""
_LIST_S = 30.0
_LIST_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Listed:
    """A model that can be asked for."""

    name: str
    upstream: str
    """Who has it; of several the first."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What an upstream says it has."""

    models: tuple[str, ...]
    why_none: str = ""
    """Why it could not be asked."""


@dataclass(slots=True)
class _Turn:
    """One request on its way."""

    plan: ModelPlan
    request: Request
    whole: bool
    tokens: int
    patience: Patience
    routes_left: int = 1
    """The one that is being tried included."""
    told: bool = False
    """A piece of an answer was given to the caller, and cannot be taken back."""
    shadow: bool = False

    @property
    def limit_s(self) -> float:
        """Seconds that may be waited at this route."""
        return max(0.0, self.patience.left / self.routes_left)


class Models:
    """All upstreams. Use it within `contextlib.aclosing`."""

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        connect: Callable[[UpstreamPlan], Upstream],
        on_attempt: Callable[[Attempt], None] | None = None,
        on_shadow: Callable[[Shadowed], None] | None = None,
        cache_entries: int = 0,
        cache_s: float = 3600.0,
        patience_s: float = 30.0,
        clock: Clock | None = None,
        chance: random.Random | None = None,
    ) -> None:
        """Nothing is connected before the first request.

        connect: called once for each upstream that is used. on_attempt, on_shadow: told of each try and each second
        opinion; may be set later. cache_entries: replies that are kept; 0 keeps none. cache_s: seconds for which.
        patience_s: seconds that a request may wait in all, for its turn and between tries.
        """
        self.catalogue = catalogue
        self.on_attempt = on_attempt
        self._connect = connect
        self._clock = clock = clock or Clock()
        self._patience_s = patience_s
        self._gates = {name: Gate(plan, clock) for name, plan in catalogue.upstreams.items()}
        self._upstreams: dict[str, Upstream] = {}
        self._replies = Replies(cache_entries, cache_s, clock)
        self._speeds = Speeds(clock)
        self._listings: TTLCache[str, _Known] = TTLCache(len(self._gates) or 1, _LIST_S, clock.now)
        self._shadows = Shadows(self._reflect, chance or random.Random())
        self.on_shadow = on_shadow

    @property
    def on_shadow(self) -> Callable[[Shadowed], None] | None:
        """Told of each second opinion."""
        return self._shadows.on_shadow

    @on_shadow.setter
    def on_shadow(self, told: Callable[[Shadowed], None] | None) -> None:
        self._shadows.on_shadow = told

    async def warm(self) -> None:
        """Make every upstream ready, in a thread: loading a vendor's library takes seconds, in which no other request
        would get on. For servers; raises what `connect` raises.
        """
        for name, plan in self.catalogue.upstreams.items():
            if name not in self._upstreams:
                upstream = await asyncio.to_thread(self._connect, plan)
                if self._upstreams.setdefault(name, upstream) is not upstream:  # a request was faster
                    await upstream.aclose()
            await asyncio.to_thread(cost, Usage(), "", plan.address)

    def plan(self, name: str) -> ModelPlan:
        """What is done for a model's name; empty is the default model. Raises `UnknownModel`."""
        return self.catalogue.plan(name)

    async def chosen(self, name: str) -> ModelPlan:
        """As `plan`. With neither a name nor a default it is the first model that an upstream says it has; of several
        the first whose name is not that of one that cannot chat.

        Raises `UnknownModel`, and `UpstreamFailed` when there is none because no upstream says what it has.
        """
        if name or self.catalogue.default or self.catalogue.models:
            return self.plan(name)
        found = [each.name for each in await self.list()]
        unasked = [f"{upstream} {known.why_none}" for upstream, known in self._listings.items() if known.why_none]
        if not found and unasked:
            raise UpstreamFailed(f"no model is named, and none can be chosen: {'; '.join(unasked)}")
        talks = (each for each in found if not _CANNOT_CHAT.search(each))
        return self.plan(next(talks, found[0] if found else ""))

    def states(self) -> Mapping[str, State]:
        """Each upstream's circuit breaker."""
        return {name: gate.breaker.state for name, gate in self._gates.items()}

    async def stream(self, request: Request, *, whole: bool) -> AsyncGenerator[Delta | Attempt | Reply, None]:
        """One turn: pieces as they come, an `Attempt` after each try, and the `Reply` last. Close it to leave early.

        request: `model` as in `plan`. whole: nobody watches, so no `Delta` is yielded, and it may be tried again at any
        point; otherwise a failure after the first piece is final. Raises `UnknownModel`, `UpstreamRefused`,
        `UpstreamBusy` and `UpstreamFailed`.
        """
        plan = self.plan(request.model)
        if cached := self._replies.get(plan, request):
            yield self._noted(Attempt(cached.upstream, cached.model, "cached", usage=Usage(), cost=0.0))
            if cached.message.text and not whole:
                yield Delta(cached.message.text)
            yield cached
            return
        tokens = expected(request)
        turn = _Turn(
            plan,
            request,
            whole,
            tokens.input_tokens + tokens.output_tokens,
            Patience(self._patience_s, self._clock),
        )
        async with contextlib.aclosing(self._tried(turn)) as items:
            async for item in items:
                if isinstance(item, Reply):
                    self._replies.put(plan, request, item)
                    self._shadows.consider(plan, request, item)
                yield item

    async def _tried(self, turn: _Turn) -> AsyncGenerator[Delta | Attempt | Reply, None]:
        """At one route after the other."""
        routes = ordered(turn.plan, turn.request, self.catalogue.upstreams, self._speeds)
        failures: list[UpstreamError] = []
        for index, route in enumerate(routes):
            turn.routes_left = len(routes) - index
            try:
                async with contextlib.aclosing(self._tried_at(turn, route)) as items:
                    async for item in items:
                        yield item
                return
            except Closed as closed:
                failures.append(UpstreamBusy(str(closed), upstream=route.upstream, retry_after=closed.retry_after))
            except UpstreamError as error:
                failures.append(error)
                if turn.told or not _may_fail_over(error):
                    raise
        raise _most_useful(failures)

    async def _tried_at(self, turn: _Turn, route: Route) -> AsyncGenerator[Delta | Attempt | Reply, None]:
        """At one route, as often as its upstream's plan says. Raises `Closed` and `UpstreamError`s."""
        async for attempt in self._retrying(turn, self.catalogue.upstreams[route.upstream]):
            try:
                async with contextlib.aclosing(self._try(turn, route)) as items:
                    async for item in items:
                        yield item
                return
            except UpstreamError as error:
                failure = error
            with attempt:  # it swallows everything, so that it gets nothing but what it is to judge
                raise failure

    def _retrying(self, turn: _Turn, upstream: UpstreamPlan) -> AsyncRetrying:
        breaker = self._gates[upstream.name].breaker

        def wait(state: RetryCallState) -> float:
            error = state.outcome and state.outcome.exception()
            asked = error.retry_after if isinstance(error, UpstreamBusy) else None
            return _backoff(state) if asked is None else asked + random.uniform(0.0, _AFTER_REST_S)

        def stop(state: RetryCallState) -> bool:
            out_of_patience = state.upcoming_sleep > turn.limit_s
            return out_of_patience or state.attempt_number >= upstream.attempts or breaker.state == "open"

        return AsyncRetrying(
            sleep=turn.patience.sleep,
            wait=wait,
            stop=stop,
            retry=retry_if_exception(lambda error: not turn.told and isinstance(error, UpstreamBusy | UpstreamFailed)),
            reraise=True,
        )

    async def _try(self, turn: _Turn, route: Route) -> AsyncGenerator[Delta | Attempt | Reply, None]:
        """Once. An `Attempt` comes in any case. Raises `Closed` and `UpstreamError`s."""
        upstream, gate = self._upstream(route.upstream), self._gates[route.upstream]
        began: float | None = None
        first: float | None = None
        reply: Reply | None = None

        def ended(outcome: Outcome, error: Exception | None = None) -> Attempt:
            attempt = Attempt(
                route.upstream,
                route.model,
                outcome,
                str(error or ""),
                error.status if isinstance(error, UpstreamError) else None,
                error.retry_after if isinstance(error, UpstreamBusy | Closed) else None,
                0.0 if began is None else self._clock.now() - began,
                first,
                reply.usage if reply else None,
                reply.cost if reply else None,
                turn.shadow,
            )
            # Of configured models only: there is no end of names that clients can make up.
            if turn.plan.policy == "fastest" and not turn.shadow:
                if outcome == "answered" and first is not None:
                    self._speeds.record(route, first)
                elif isinstance(error, UpstreamError) and _may_fail_over(error):
                    self._speeds.record(route, math.inf)
            return self._noted(attempt)

        try:
            passing = gate.passed(
                turn.tokens, turn.patience, turn.limit_s, caller=turn.request.caller, shadow=turn.shadow
            )
            async with passing as held:
                began = self._clock.now()
                asked = dataclasses.replace(turn.request, model=route.model)
                async with contextlib.aclosing(upstream.stream(asked)) as items:
                    async for item in items:
                        first = self._clock.now() - began if first is None else first
                        if isinstance(item, Reply):
                            reply = self._priced(item, turn.plan, route)
                            held.usage = reply.usage
                        elif not turn.whole:
                            turn.told = turn.told or bool(item.text or item.raw)
                            yield item
                if reply is None:
                    raise UpstreamFailed(f"{route.upstream} ended its answer early", upstream=route.upstream)
        except Closed as closed:
            yield ended(closed.why, closed)
            raise
        except UpstreamError as error:
            yield ended(_outcome(error), error)
            raise
        except BaseException as error:
            if began is not None:
                ended("failed" if isinstance(error, Exception) else "cancelled")
            raise
        yield ended("answered")
        yield reply

    def _priced(self, reply: Reply, plan: ModelPlan, route: Route) -> Reply:
        """With who said it, and what it cost."""
        price = price_of(reply.usage, route, plan, self.catalogue.upstreams[route.upstream])
        return dataclasses.replace(reply, upstream=route.upstream, cost=price)

    def _noted(self, attempt: Attempt) -> Attempt:
        if self.on_attempt:
            self.on_attempt(attempt)
        return attempt

    def _upstream(self, name: str) -> Upstream:
        if name not in self._upstreams:
            self._upstreams[name] = self._connect(self.catalogue.upstreams[name])
        return self._upstreams[name]

    async def _reflect(self, plan: ModelPlan, route: Route, request: Request) -> tuple[Attempt, Reply | None]:
        """One try of a second opinion, without patience."""
        tokens = expected(request)
        turn = _Turn(
            plan, request, True, tokens.input_tokens + tokens.output_tokens, Patience(0.0, self._clock), shadow=True
        )
        attempt: Attempt | None = None
        reply: Reply | None = None
        with contextlib.suppress(Closed, UpstreamError):
            async with contextlib.aclosing(self._try(turn, route)) as items:
                async for item in items:
                    if isinstance(item, Attempt):
                        attempt = item
                    elif isinstance(item, Reply):
                        reply = item
        assert attempt is not None, "every try ends with an attempt"
        return attempt, reply

    async def list(self) -> list[Listed]:
        """The configured models, then those that the upstreams say they have. One that does not answer is left out."""
        found = [Listed(plan.name, plan.routes[0].upstream) for plan in self.catalogue.models.values()]
        if self.catalogue.closed:
            return found
        listings = await asyncio.gather(*(self._listing(name) for name in self._gates))
        for upstream, known in zip(self._gates, listings, strict=True):
            found += [Listed(self.catalogue.name_of(Route(upstream, model)), upstream) for model in known.models]
        return found

    async def _listing(self, name: str) -> _Known:
        """The models of one upstream, as of half a minute ago at most."""
        if (known := self._listings.get(name)) is not None:
            return known
        upstream = self._upstream(name)
        try:
            async with self._clock.timeout(_LIST_WAIT_S):
                known = _Known(tuple(await upstream.models()))
        except (UpstreamError, TimeoutError) as error:
            why = str(error) or f"takes longer than {_LIST_WAIT_S:g} s"
            log.info("an upstream does not list its models", upstream=name, error=why)
            known = _Known((), f"does not list its models ({why})")
        self._listings[name] = known
        return known

    async def settle(self, seconds: float) -> None:
        """Wait for the second opinions that are under way, but no longer than that."""
        await self._shadows.settle(seconds)

    async def aclose(self) -> None:
        """End what runs, and close all connections. May be called twice."""
        await self._shadows.aclose()
        upstreams, self._upstreams = self._upstreams, {}
        await asyncio.gather(*(upstream.aclose() for upstream in upstreams.values()), return_exceptions=True)


def _outcome(error: UpstreamError) -> Outcome:
    if isinstance(error, UpstreamRefused):
        return "refused"
    return "busy" if isinstance(error, UpstreamBusy) else "failed"


def _may_fail_over(error: UpstreamError) -> bool:
    return not isinstance(error, UpstreamRefused) or error.status in _ELSEWHERE


def _most_useful(failures: list[UpstreamError]) -> UpstreamError:
    """Of the errors of all routes the one that a caller can do most about: wait, else try again, else ask otherwise."""
    busy = [error for error in failures if isinstance(error, UpstreamBusy)]
    if busy:
        return min(busy, key=lambda error: math.inf if error.retry_after is None else error.retry_after)
    failed = [error for error in failures if isinstance(error, UpstreamFailed)]
    return (failed or failures)[-1]
