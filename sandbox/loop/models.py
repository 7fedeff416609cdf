"""Which upstream a model's name leads to, and what to do when one fails."""

import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Self

from sandbox.loop.attempt import Attempt
from sandbox.loop.catalogue import Catalogue, ModelPlan, UpstreamPlan
from sandbox.loop.clock import Clock
from sandbox.loop.messages import Delta, Reply, Request
from sandbox.loop.upstream import Upstream

__all__ = ["Attempt", "Listed", "Models", "Shadowed"]


@dataclass(frozen=True, slots=True)
class Listed:
    """A model that can be asked for."""

    name: str
    upstream: str
    """Who has it; of several the first."""


@dataclass(frozen=True, slots=True)
class Shadowed:
    """A request that was also sent elsewhere."""

    request: Request
    reply: Reply
    """What was answered."""
    attempt: Attempt
    """At the other."""
    shadow: Reply | None
    """What the other said; None when it failed."""


class Models:
    """All upstreams. Use `open`."""

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
        self.on_shadow = on_shadow

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
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
    ) -> AsyncIterator[Self]:
        """See the constructor. At the end everything is closed."""
        models = cls(
            catalogue,
            connect=connect,
            on_attempt=on_attempt,
            on_shadow=on_shadow,
            cache_entries=cache_entries,
            cache_s=cache_s,
            patience_s=patience_s,
            clock=clock,
            chance=chance,
        )
        try:
            yield models
        finally:
            await models.aclose()

    def plan(self, name: str) -> ModelPlan:
        """What is done for a model's name; empty is the default model. Raises `UnknownModel`."""
        return self.catalogue.plan(name)

    async def stream(self, request: Request, *, whole: bool) -> AsyncGenerator[Delta | Attempt | Reply, None]:
        """One turn: pieces as they come, an `Attempt` after each try, and the `Reply` last. Close it to leave early.

        request: `model` as in `plan`. whole: nobody watches, so no `Delta` is yielded, and it may be tried again at any
        point; otherwise a failure after the first piece is final. Raises `UnknownModel` and `UpstreamError`s.
        """
        raise NotImplementedError
        yield Delta()

    async def list(self) -> list[Listed]:
        """The configured models, then those that the upstreams say they have. One that does not answer is left out."""
        raise NotImplementedError

    def states(self) -> Mapping[str, str]:
        """Each upstream's circuit breaker: `closed`, `open` or `half_open`."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """End what runs, and close all connections. May be called twice."""
