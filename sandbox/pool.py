"""Sandboxes started before anyone asks.

One spec is kept warm. A claim takes a kernel for good; there is no way to put one back. What all starts share is
prepared in the background, and whoever claims before that waits for it. Then replenishing goes on there: one start,
beside which the pool does nothing else, because the sooner it is over the sooner the pool is ready; from then on two at
a time, or beside what was handed out as many as leave it room. Both back off when they fail, so that a broken image
cannot spin the host. Whoever knows that a claim may follow says so by `expecting`; then more are kept for a while, if
there is memory. When sandboxes begin with more than before, those that wait are replaced, one by one.

Claims that find nothing warm start a kernel of their own, or stand in line for that (`cold_starts`). When all is warm
and nobody waits, the pool has the runtime do ahead what it can of cold starts to come.
"""

import asyncio
import contextlib
import os
import sys
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Self

from sandbox import logs
from sandbox.background import Background
from sandbox.changed import Changed
from sandbox.cold_starts import ColdStarts
from sandbox.errors import SandboxError, SandboxFailed
from sandbox.execution import Spec
from sandbox.kernel import Kernel
from sandbox.runtime import Runtime

_STARTS_AT_ONCE = 2
_UNASKED_AT_ONCE = min(_STARTS_AT_ONCE, max(1, (os.cpu_count() or 1) // 2))
"""Starts beside what was handed out, if nobody is known to be about to need them: half of the processors are its."""
_DEFERENCE_S = 2.0
"""How long the pool lets them go first; a stream of them that never ends must not keep it empty."""
_SPARE_S = 5.0
"""How long more than the target stay for somebody else, when whoever was expected has not come."""
_BACKOFF_FIRST_S, _BACKOFF_MAX_S = 0.1, 30.0

_logger = logs.logger(__name__)


class Pool:
    """Warm kernels of one spec. Use `open`."""

    def __init__(self, runtime: Runtime, spec: Spec, size: int, standing_by: int) -> None:
        self._runtime = runtime
        self._spec = spec
        self._size = size
        self._standing_by = standing_by
        self._warm: deque[Kernel] = deque()
        self._starting = 0
        self._expected = 0
        """Claims that may follow."""
        self._behind: deque[Kernel] = deque()
        """Those of the warm ones that have less than a new one would."""
        self._handed_out: weakref.WeakSet[Kernel] = weakref.WeakSet()
        self._burials = Background()
        """Stops of those that were found dead, and of those that nobody wants."""
        self._changed = Changed()
        self._room: Callable[[], int] = lambda: sys.maxsize
        self._failure: SandboxError | None = None
        self._warming = True
        self._cold = ColdStarts(self._changed.notify)
        self._rested = False
        self._sought = asyncio.Event()
        """Set when a claim has begun to wait for one."""

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, runtime: Runtime, spec: Spec, size: int, standing_by: int = 0) -> AsyncIterator[Self]:
        """Start preparing and filling in the background; at the end, stop what nobody claimed.

        size: how many are kept; with 0 it only prepares. standing_by: how many cold starts the runtime is to do ahead
        as far as it can, and how many sandboxes beyond `size` are started for claims that are expected.
        """
        pool = cls(runtime, spec, size, standing_by)
        work = [asyncio.create_task(pool._prepare_and_fill(), name="pool")]
        work.append(asyncio.create_task(pool._renew(), name="pool's renewal"))
        work.append(asyncio.create_task(pool._stand_by(), name="what cold starts find"))
        work.append(asyncio.create_task(pool._spare(), name="what nobody claimed"))
        try:
            yield pool
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            stops = (kernel.stop() for kernel in pool._warm)
            await asyncio.gather(*stops, pool._burials.settle(), return_exceptions=True)
            pool._warm.clear()

    @property
    def soft(self) -> Mapping[str, str]:
        """See `runtime.Runtime`."""
        return self._runtime.soft

    @property
    def warm(self) -> int:
        """How many kernels wait to be claimed."""
        return len(self._warm)

    @property
    def warming(self) -> bool:
        """Whether it has just been opened and nothing was started yet, so that a claim may have to wait for seconds."""
        return self._warming

    @property
    def settled(self) -> bool:
        """Whether it is full, of kernels as good as they get."""
        full = not self._warming and len(self._warm) >= self._size
        return full and not self._behind and self._runtime.whole(self._spec.image)

    @property
    def rested(self) -> bool:
        """Whether it is settled, and as many sandboxes stand by as are wanted."""
        return self.settled and (self._rested or not self._standing_by)

    @property
    def failure(self) -> SandboxError | None:
        """What made the last start, or what comes before the first one, fail; None when it did not."""
        return self._failure

    @property
    def expected(self) -> int:
        """How many claims may follow; see `expecting`."""
        return self._expected

    @contextlib.contextmanager
    def expecting(self, spec: Spec) -> Iterator[None]:
        """Within the block a claim of this spec may follow. A sandbox is started for it, should none be left."""
        if spec != self._spec:
            yield
            return
        self._expected += 1
        self._changed.notify()
        try:
            yield
        finally:
            self._expected -= 1
            self._changed.notify()

    def share(self, room: Callable[[], int]) -> Callable[[], None]:
        """Keep no more beyond the size than `room` says that there is memory for.

        What is returned is to be called when there is more again.
        """
        self._room = room
        return self._changed.notify

    async def claim(self, spec: Spec) -> Kernel:
        """A kernel for good, of this spec: a warm one, else one that was started since, by the pool or for this claim.

        Raises what `Kernel.start` raises.
        """
        kernel = await self._take_warm(spec)
        if kernel is None:
            self._tire()
            kernel = await self._cold.wait(spec)
        if kernel is not None:
            return self._hand_out(kernel)
        try:
            kernel = self._hand_out(await Kernel.start(self._runtime, spec, awaited=True))
            if spec.image == self._spec.image:
                self._warming = False
            return kernel
        finally:
            self._cold.pass_on()

    def _hand_out(self, kernel: Kernel) -> Kernel:
        kernel.sandbox.on_claimed()
        self._handed_out.add(kernel)
        return kernel

    async def _take_warm(self, spec: Spec) -> Kernel | None:
        while spec == self._spec and self._warm:
            kernel = self._take(self._warm[0])
            if kernel.alive:
                return kernel
            self._bury(kernel)
        return None

    def _take(self, kernel: Kernel) -> Kernel:
        """One of the warm ones."""
        self._warm.remove(kernel)
        with contextlib.suppress(ValueError):
            self._behind.remove(kernel)
        self._changed.notify()
        return kernel

    def _bury(self, kernel: Kernel) -> None:
        """Stop it. Nobody waits: a daemon that is away would make that long."""
        self._burials.spawn(kernel.stop(), "stop a kernel")

    async def fill(self, count: int | None = None) -> None:
        """Wait until no longer warming and `count` kernels (default: the target size) are warm.

        Raises what made the last start fail.
        """
        target = self._size if count is None else count

        def full() -> bool:
            return not self._warming and len(self._warm) >= target

        await self._until(full)

    async def settle(self) -> None:
        """Wait until `settled`. Raises what made the last start fail."""
        await self._until(lambda: self.settled)

    async def rest(self) -> None:
        """Wait until `rested`. Raises what made the last start fail."""
        await self._until(lambda: self.rested)

    async def _until(self, true: Callable[[], bool]) -> None:
        await self._changed.wait_for(lambda: true() or self._failure is not None)
        if self._failure is not None:
            raise self._failure

    async def _prepare_and_fill(self) -> None:
        await self._persist(self._prepare)
        # Told to end, it has to wait for both: each may have a start to take back.
        await asyncio.gather(*(self._replenish() for _ in range(_STARTS_AT_ONCE)), return_exceptions=True)

    async def _replenish(self) -> None:
        while True:
            await self._changed.wait_for(self._has_room)
            if len(self._warm) < self._size:  # what is expected is wanted before anybody waits for it
                await self._defer()
            if not self._has_room():
                continue
            self._starting += 1
            try:
                await self._persist(self._start)
            finally:
                self._starting -= 1
                self._changed.notify()  # should this end for good, the other one has to go on

    async def _defer(self) -> None:
        if not self._warming:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DEFERENCE_S):
                    await self._cold.be_calm()

    def _has_room(self) -> bool:
        """For one more start. Beyond the size there is none while somebody waits for one."""
        if self._warming and self._failure is None:
            return not self._warm and not self._starting and self._size > 0
        if self._starting >= _UNASKED_AT_ONCE and self._is_in_no_haste():
            return False
        may_be_more = self._cold.calm and not self._warming
        return len(self._warm) + self._starting < (self._target() if may_be_more else self._size)

    def _is_in_no_haste(self) -> bool:
        """Whether somebody has a sandbox already, and nobody is expected to find none."""
        if self._failure:  # who has failed only waits to try again
            return False
        is_asked = self._expected > len(self._warm) + self._starting
        return not is_asked and any(kernel.alive for kernel in self._handed_out)

    def _target(self) -> int:
        """How many are to be warm: the size, or more if they are expected and there is memory."""
        return max(self._size, min(self._expected, self._size + min(self._standing_by, self._room())))

    async def _spare(self) -> None:
        """Stop what is more than wanted: after a while, or at once what the memory is promised to others of."""
        while True:
            await self._changed.wait_for(self._has_more)
            try:
                async with asyncio.timeout(_SPARE_S):
                    await self._changed.wait_for(lambda: not self._has_more() or self._has_too_many())
                over = self._has_too_many
            except TimeoutError:
                over = self._has_more
            while over():
                self._bury(self._take(self._warm[-1]))

    def _has_more(self) -> bool:
        return len(self._warm) > self._target()

    def _has_too_many(self) -> bool:
        return len(self._warm) > self._size + max(0, self._room())

    async def _stand_by(self) -> None:
        """What a cold start is quicker with comes last: when nobody waits, and all that should be warm is."""
        while self._standing_by:
            self._sought.clear()
            await self._persist(self._make_ready)
            self._rested = not self._sought.is_set()
            self._changed.notify()
            await self._sought.wait()

    def _tire(self) -> None:
        """Somebody may use what stands by."""
        self._sought.set()
        self._rested = False

    async def _make_ready(self) -> None:
        more = True
        while more:
            await self._changed.wait_for(lambda: self.settled and not self._has_room())
            await self._cold.be_calm()
            more = await self._runtime.stand_by(self._spec, self._standing_by)

    async def _renew(self) -> None:
        image, generation = self._spec.image, 0
        while True:
            await self._runtime.renewed(image, generation)
            if generation != (generation := self._runtime.generation(image)):
                self._behind = deque(self._warm)
            while self._behind:
                kernel = self._take(self._behind[-1])  # claims come from the other end
                with contextlib.suppress(SandboxError):  # it is no longer ours; the runtime says what it leaves
                    await kernel.stop()
                await self._changed.wait_for(lambda: len(self._warm) >= self._size)
            self._changed.notify()

    async def _prepare(self) -> None:
        await self._runtime.prepare(self._spec.image)
        if not self._size:  # else the first start will tell
            self._warming = False

    async def _start(self) -> None:
        if len(self._warm) + self._starting > max(self._size, self._target()):
            return  # whoever was expected while this failed has come, or will not
        ahead = not self._warming and len(self._warm) >= self._size
        if ahead:
            self._tire()
        self._keep(await self._newest(ahead=ahead))

    def _keep(self, kernel: Kernel) -> None:
        if not self._cold.hand_on(kernel, self._spec):
            self._warm.append(kernel)
            kernel.sandbox.on_warm()
        self._warming = False

    async def _newest(self, *, ahead: bool) -> Kernel:
        """ahead: beyond what is always kept; it will be needed at once, or not at all."""
        while True:
            generation = self._runtime.generation(self._spec.image)
            defers = not (ahead or self._warming)  # with the first one we are ready
            kernel = await Kernel.start(self._runtime, self._spec, awaited=ahead, defers=defers)
            kernel.awaited = False
            if generation == self._runtime.generation(self._spec.image):
                return kernel
            await kernel.stop()  # it began with less than one would now

    async def _persist(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """Until it succeeds. What made it fail is told meanwhile."""
        backoff = _BACKOFF_FIRST_S
        while True:
            try:
                await attempt()
            except SandboxError as error:
                self._tell(error)
            except Exception as error:  # nobody else would ever fill it
                _logger.exception("the pool failed")
                self._tell(SandboxFailed(f"the pool failed, its log says how: {type(error).__name__}: {error}"))
            else:
                self._tell(None)
                return
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _BACKOFF_MAX_S)

    def _tell(self, failure: SandboxError | None) -> None:
        self._failure = failure
        self._changed.notify()
