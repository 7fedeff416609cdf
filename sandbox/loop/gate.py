"""What a request passes before an upstream is asked: its breaker, its rest, a slot, the rate limits.

The token bucket is our own: aiolimiter's cannot say beforehand how long a wait would be, which decides whether another
route is better, takes nothing back, which the estimate of a request's tokens needs, and knows no clock but the event
loop's.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal

from sandbox.errors import UpstreamBusy, UpstreamError, UpstreamFailed
from sandbox.loop.breaker import Breaker
from sandbox.loop.catalogue import UpstreamPlan
from sandbox.loop.clock import Clock, Patience
from sandbox.loop.messages import Usage
from sandbox.loop.slots import Slots

_TOO_MANY = 429
_LONGEST_REST_S = 300.0
"""An upstream that asks to be left alone for a day is asked again sooner; it can say so again."""


class Closed(Exception):
    """The request was not sent."""

    def __init__(self, why: Literal["full", "open"], words: str, retry_after: float) -> None:
        """retry_after: seconds."""
        super().__init__(words)
        self.why = why
        self.retry_after = retry_after


class Bucket:
    """So much a minute, and at most a minute's worth at once. Who cannot have it yet has taken it, and waits."""

    def __init__(self, per_minute: int, clock: Clock) -> None:
        self._size = float(per_minute)
        self._level = self._size
        self._clock = clock
        self._then = clock.now()

    def wait(self, amount: float) -> float:
        """Seconds until so much is there. More than a minute's worth is let through when the bucket is full."""
        now = self._clock.now()
        self._level = min(self._size, self._level + (now - self._then) * self._size / 60)
        self._then = now
        return max(0.0, (min(amount, self._size) - self._level) * 60 / self._size)

    def take(self, amount: float) -> None:
        """Also what is not there yet; a negative amount is given back."""
        self._level -= amount


@dataclass(slots=True)
class Pass:
    """Of a request that was let through. What is known of its tokens in the end is written here."""

    usage: Usage | None = None


_Taken = Sequence[tuple[Bucket, float]]


def _give_back(taken: _Taken) -> None:
    for bucket, amount in taken:
        bucket.take(-amount)


class Gate:
    """One upstream's."""

    def __init__(self, plan: UpstreamPlan, clock: Clock) -> None:
        self.breaker = Breaker(clock, failures=plan.breaker_failures, rest_s=plan.breaker_rest_s)
        self._name = plan.name
        self._clock = clock
        self._slots = Slots(plan.concurrency)
        self._requests = Bucket(plan.requests_per_minute, clock) if plan.requests_per_minute else None
        self._tokens = Bucket(plan.tokens_per_minute, clock) if plan.tokens_per_minute else None
        self._rests_until = 0.0
        self._failure = ""
        """The last that counted against it, without its words: they may be about what one caller has asked."""
        self._blaming = set[str]()
        """Whose requests have failed since one went well."""
        self._trying = set[str]()
        """Who has a request on its way although the breaker is open."""

    @contextlib.asynccontextmanager
    async def passed(
        self, tokens: int, patience: Patience, limit_s: float, *, caller: str = "", shadow: bool = False
    ) -> AsyncIterator[Pass]:
        """Hold a slot for the block, and judge the upstream by how it ends.

        tokens: expected, in and out. limit_s: the most seconds of the patience to wait here. caller: whose turn it is
        in the line, and who is not shut out for what others' requests have come to: one of theirs may go ahead although
        the breaker is open. shadow: must not do harm, so it neither waits nor is a reason to open the breaker. Raises
        `Closed`.
        """
        self._check(limit_s, caller, shadow)
        async with contextlib.AsyncExitStack() as stack:
            with patience.waiting():
                began = self._clock.now()
                await self._take_slot(caller, limit_s)
                stack.callback(self._slots.release)
                taken = await self._take_rate(tokens, began + limit_s)
            # Last, so that the one try of a half-open breaker never waits in line.
            number, trying = self.breaker.enter(), False
            if number is None and not shadow and self._may_try(caller):
                number, trying = self.breaker.enter_anyway(), True
                self._trying.add(caller)
                stack.callback(self._trying.discard, caller)
            if number is None:
                _give_back(taken)
                raise self._open()
            held = Pass()
            try:
                yield held
            except UpstreamError as error:
                self._judge(error, number, caller, shadow=shadow, trying=trying)
                if self._tokens and not held.usage:  # as far as is known, nothing was used
                    self._tokens.take(-tokens)
                raise
            except BaseException:  # we left, or are at fault ourselves
                if not trying:
                    self.breaker.abandoned(number)
                raise
            self._is_well(number)
            if self._tokens and held.usage:
                self._tokens.take(held.usage.input_tokens + held.usage.output_tokens - tokens)

    def _may_try(self, caller: str) -> bool:
        return caller not in self._blaming and caller not in self._trying

    def _check(self, limit_s: float, caller: str, shadow: bool) -> None:
        """What can be refused without waiting in line."""
        if (self.breaker.wait > 0 and not self._may_try(caller)) or (shadow and self.breaker.state != "closed"):
            raise self._open()
        rest = self._rests_until - self._clock.now()
        if rest > limit_s:
            raise Closed("full", f"{self._name} asked to be left alone for {rest:.1f} s more", rest)

    def _open(self) -> Closed:
        wait = self.breaker.wait
        when = f" for {wait:.0f} s more" if wait > 0 else ""
        why = f"; what failed last: {self._failure}" if self._failure else ""
        return Closed("open", f"the circuit breaker of {self._name} is open{when}{why}", wait)

    async def _take_slot(self, caller: str, limit_s: float) -> None:
        if not self._slots.full:
            await self._slots.take(caller)
            return
        try:
            async with self._clock.timeout(limit_s):
                await self._slots.take(caller)
        except TimeoutError:
            raise Closed("full", f"all slots of {self._name} were taken for {limit_s:.1f} s", 1.0) from None

    async def _take_rate(self, tokens: int, until: float) -> _Taken:
        taken = [(bucket, amount) for bucket, amount in ((self._requests, 1), (self._tokens, tokens)) if bucket]
        wait = max((bucket.wait(amount) for bucket, amount in taken), default=0.0)
        # Without a wait there is nothing to be late for, also for whoever may not wait at all.
        if wait > 0 and self._clock.now() + wait > until:
            raise Closed("full", f"the rate limit of {self._name} has room in {wait:.1f} s", wait)
        for bucket, amount in taken:
            bucket.take(amount)
        try:
            if wait > 0:
                await self._clock.sleep(wait)
            await self._rest(until)
        except BaseException:
            _give_back(taken)
            raise
        return taken

    async def _rest(self, until: float) -> None:
        """Until the upstream takes requests again, which others may have learnt while we stood in line."""
        while (rest := self._rests_until - self._clock.now()) > 0:
            if self._rests_until > until:
                raise Closed("full", f"{self._name} asked to be left alone for {rest:.1f} s more", rest)
            await self._clock.sleep(rest)

    def _judge(self, error: UpstreamError, number: int, caller: str, *, shadow: bool, trying: bool) -> None:
        if isinstance(error, UpstreamBusy) and error.retry_after:
            until = self._clock.now() + min(error.retry_after, _LONGEST_REST_S)
            self._rests_until = max(self._rests_until, until)
        limited = isinstance(error, UpstreamBusy) and error.status == _TOO_MANY
        if limited or shadow:
            if not trying:
                self.breaker.abandoned(number)  # it is well, and has said that we ask too often
        elif isinstance(error, UpstreamBusy | UpstreamFailed):
            self._failure = f"HTTP {error.status}" if error.status else "no connection, or no whole answer"
            self._blaming.add(caller)
            if not trying:
                self.breaker.failed(number)
        else:
            self._is_well(number)  # it has read the request and said no

    def _is_well(self, number: int) -> None:
        if self.breaker.succeeded(number):
            self._blaming.clear()
