"""Second opinions: a share of requests is also sent elsewhere, once answered. They are recorded, never answered."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sandbox import logs
from sandbox.background import Background
from sandbox.loop.attempt import Attempt
from sandbox.loop.catalogue import ModelPlan, Route
from sandbox.loop.messages import Reply, Request

log = logs.logger(__name__)

_AT_ONCE = 8
"""More are left out: what is compared is a sample in any case."""


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


class Shadows:
    """All second opinions that are being asked for."""

    def __init__(
        self,
        ask: Callable[[ModelPlan, Route, Request], Awaitable[tuple[Attempt, Reply | None]]],
        chance: random.Random,
    ) -> None:
        """ask: tries once. chance: decides which requests are of the share."""
        self.on_shadow: Callable[[Shadowed], None] | None = None
        self._ask = ask
        self._chance = chance
        self._tasks = Background()
        self._spent: dict[str, float] = {}

    def consider(self, plan: ModelPlan, request: Request, reply: Reply) -> None:
        """Ask for one in the background, if it is this request's turn. Does not wait, and does not fail."""
        shadow = plan.shadow
        if shadow is None or self._chance.random() >= shadow.share:
            return
        if len(self._tasks) >= _AT_ONCE or self._spent.get(plan.name, 0.0) >= shadow.usd:
            return
        self._tasks.spawn(self._reflect(plan, shadow.route, request, reply), f"shadow {shadow.route}")

    async def _reflect(self, plan: ModelPlan, route: Route, request: Request, reply: Reply) -> None:
        try:
            attempt, second = await self._ask(plan, route, request)
            if second and second.cost:
                self._spent[plan.name] = self._spent.get(plan.name, 0.0) + second.cost
            if self.on_shadow:
                self.on_shadow(Shadowed(request, reply, attempt, second))
        except Exception as error:  # a bug of ours, which must not be the caller's trouble
            log.warning("a second opinion was lost", route=str(route), error=repr(error))

    async def settle(self, seconds: float) -> None:
        """Wait for those that run, but no longer than that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._tasks.settle()

    async def aclose(self) -> None:
        """End those that run."""
        await self._tasks.aclose()
