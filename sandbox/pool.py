"""Sandboxes started before anyone asks.

One spec is kept warm. A claim takes a kernel for good; there is no way to put one back. Replenishing goes on in the
background, two starts at a time so that it leaves room for what runs, and backs off when starts fail so that a
broken image cannot spin the host.
"""

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import AsyncIterator
from typing import Self

from sandbox.errors import SandboxError
from sandbox.execution import Spec
from sandbox.kernel import Kernel
from sandbox.runtime import Runtime

_STARTS_AT_ONCE = 2
_COLD_STARTS_PER_CORE = 4
"""More at once would make all of them slower, and the first no sooner."""
_BACKOFF_FIRST_S, _BACKOFF_MAX_S = 0.1, 30.0


class Pool:
    """Warm kernels of one spec. Use `open`."""

    def __init__(self, runtime: Runtime, spec: Spec, size: int) -> None:
        self._runtime = runtime
        self._spec = spec
        self._size = size
        self._warm: deque[Kernel] = deque()
        self._starting = 0
        self._wanted = asyncio.Condition()
        self._filled = asyncio.Condition()
        self._failure: SandboxError | None = None
        self._cold = asyncio.Semaphore(_COLD_STARTS_PER_CORE * (os.cpu_count() or 1))

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, runtime: Runtime, spec: Spec, size: int) -> AsyncIterator[Self]:
        """Start filling in the background; at the end, stop what nobody claimed."""
        pool = cls(runtime, spec, size)
        starters = [asyncio.create_task(pool._replenish(), name=f"pool {n}") for n in range(_STARTS_AT_ONCE)]
        try:
            yield pool
        finally:
            for starter in starters:
                starter.cancel()
            await asyncio.gather(*starters, return_exceptions=True)
            await asyncio.gather(*(kernel.stop() for kernel in pool._warm), return_exceptions=True)
            pool._warm.clear()

    @property
    def warm(self) -> int:
        """How many kernels wait to be claimed."""
        return len(self._warm)

    @property
    def failure(self) -> SandboxError | None:
        """What made the last start fail; None when it did not."""
        return self._failure

    def serves(self, spec: Spec) -> bool:
        """Whether a claim of this spec would be a warm one now."""
        return spec == self._spec and bool(self._warm)

    async def claim(self, spec: Spec) -> Kernel:
        """A kernel for good: a warm one when there is one of this spec, else a cold start.

        Raises what `Kernel.start` raises.
        """
        while spec == self._spec:
            async with self._wanted:
                if not self._warm:
                    break
                kernel = self._warm.popleft()
                self._wanted.notify_all()
            if kernel.alive:
                return kernel
            await kernel.stop()
        async with self._cold:
            return await Kernel.start(self._runtime, spec)

    async def fill(self, count: int | None = None) -> None:
        """Wait until `count` kernels (default: the target size) are warm. Raises what made the last start fail."""
        target = self._size if count is None else count
        async with self._filled:
            await self._filled.wait_for(lambda: len(self._warm) >= target or self._failure is not None)
        if self._failure is not None:
            raise self._failure

    async def _replenish(self) -> None:
        backoff = _BACKOFF_FIRST_S
        while True:
            async with self._wanted:
                await self._wanted.wait_for(lambda: len(self._warm) + self._starting < self._size)
                self._starting += 1
            try:
                self._warm.append(await Kernel.start(self._runtime, self._spec))
            except SandboxError as error:
                await self._tell(error)
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, _BACKOFF_MAX_S)
            else:
                backoff = _BACKOFF_FIRST_S
                await self._tell(None)
            finally:
                self._starting -= 1

    async def _tell(self, failure: SandboxError | None) -> None:
        async with self._filled:
            self._failure = failure
            self._filled.notify_all()
