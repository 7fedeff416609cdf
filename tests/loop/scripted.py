"""An upstream that says what a test has it say, and time that a test moves."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable

from sandbox.errors import UpstreamBusy, UpstreamFailed, UpstreamRefused
from sandbox.loop.attempt import Attempt
from sandbox.loop.catalogue import Catalogue, ModelPlan, Policy, Route, UpstreamPlan
from sandbox.loop.clock import Clock
from sandbox.loop.messages import Delta, Dialect, Message, Reply, Request, Text, Usage
from sandbox.loop.models import Models

Step = Delta | Reply | Exception | asyncio.Event | float
"""What comes next: a piece, the end, a failure; or a pause, until the event or for so many seconds."""

DEAD = UpstreamFailed("it is away", upstream="a")
BAD = UpstreamRefused("bad field", upstream="a", status=400)
NO_KEY = UpstreamRefused("bad key", upstream="a", status=401)
NO_MODEL = UpstreamRefused("no such model", upstream="a", status=404)
OVERLOADED = UpstreamBusy("overloaded", upstream="a", status=529)


def limited(seconds: float | None = None) -> UpstreamBusy:
    """It was asked too often."""
    return UpstreamBusy("too many requests", upstream="a", status=429, retry_after=seconds)


def said(text: str, *, tokens: tuple[int, int] = (10, 5), model: str = "m") -> Reply:
    return Reply(Message("assistant", (Text(text),)), "stop", Usage(*tokens), model)


def ask(model: str = "m", text: str = "hello", **fields: object) -> Request:
    return Request(model, (Message("user", (Text(text),)),), **fields)  # type: ignore[arg-type]


class Scripted:
    """A real upstream in all but its server."""

    def __init__(
        self, name: str = "a", *turns: Iterable[Step], dialect: Dialect = "openai", time: "Time | None" = None
    ) -> None:
        """turns: one for each request; after the last, it says its name."""
        self.name = name
        self.dialect = dialect
        self.asked: list[Request] = []
        self.in_flight = 0
        self.most = 0
        self.closed = 0
        self.has: list[str] | Exception = []
        self._turns = [list(turn) for turn in turns]
        self._time = time

    async def stream(self, request: Request) -> AsyncGenerator[Delta | Reply, None]:
        self.asked.append(request)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            for step in self._turns.pop(0) if self._turns else [Delta(self.name), said(self.name, model=request.model)]:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, float):
                    assert self._time
                    self._time.pass_(step)
                elif isinstance(step, Delta | Reply):
                    yield step
        finally:
            self.in_flight -= 1

    def will(self, *turns: Iterable[Step]) -> None:
        """Say this next."""
        self._turns += [list(turn) for turn in turns]

    async def models(self) -> list[str]:
        if isinstance(self.has, Exception):
            raise self.has
        return self.has

    async def aclose(self) -> None:
        self.closed += 1


class Time:
    """Stands still until it is told to pass, or jumps over every sleep."""

    def __init__(self, *, jumps: bool = True) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self._jumps = jumps
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now, self._sleep)

    def pass_(self, seconds: float) -> None:
        self.now += seconds
        for until, sleeper in self._sleepers:
            if until <= self.now and not sleeper.done():
                sleeper.set_result(None)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if self._jumps:
            self.now += seconds
            await asyncio.sleep(0)
            return
        sleeper = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, sleeper))
        await sleeper


async def settle() -> None:
    """Let all tasks run as far as they can."""
    for _ in range(20):
        await asyncio.sleep(0)


class Said:
    """All that came of one request."""

    def __init__(self) -> None:
        self.items: list[Delta | Attempt | Reply] = []
        self.error: Exception | None = None

    @property
    def text(self) -> str:
        return "".join(item.text for item in self.items if isinstance(item, Delta))

    @property
    def attempts(self) -> list[Attempt]:
        return [item for item in self.items if isinstance(item, Attempt)]

    @property
    def outcomes(self) -> list[str]:
        return [f"{attempt.upstream} {attempt.outcome}" for attempt in self.attempts]

    @property
    def reply(self) -> Reply:
        last = self.items[-1]
        assert isinstance(last, Reply), self.error
        return last


async def tell(models: Models, request: Request | None = None, *, whole: bool = True) -> Said:
    """Ask, to the end."""
    said = Said()
    try:
        async with contextlib.aclosing(models.stream(request or ask(), whole=whole)) as items:
            async for item in items:
                said.items.append(item)
    except Exception as error:
        said.error = error
    return said


def plans(*plans: UpstreamPlan, policy: Policy = "first", **fields: object) -> Catalogue:
    """A model `m` at each of the upstreams, in order."""
    routes = tuple(Route(plan.name, "m") for plan in plans)
    model = ModelPlan("m", routes, policy, **fields)  # type: ignore[arg-type]
    return Catalogue({plan.name: plan for plan in plans}, {"m": model})


def models(catalogue: Catalogue, *upstreams: Scripted, time: Time | None = None, **options: object) -> Models:
    by_name = {upstream.name: upstream for upstream in upstreams}
    return Models(
        catalogue,
        connect=lambda plan: by_name[plan.name],
        clock=(time or Time()).clock,
        **options,  # type: ignore[arg-type]
    )
