"""Kernels that claims start by themselves, because none was warm: so many at a time, and the others stand in line.

What the pool starts meanwhile goes to the first in line whom it suits.
"""

import asyncio
import contextlib
import math
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from sandbox.execution import Spec
from sandbox.kernel import Kernel

_PER_CORE = 4
"""More at once would make all of them slower, and the first no sooner."""
_CALM_S = 0.5
"""For which nobody has to have waited for a start: those who had to are at work then, on the same processors."""


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """In the line."""

    spec: Spec
    comes: "asyncio.Future[Kernel | None]"
    """A kernel, or None: the turn to start one."""


class ColdStarts:
    """For use from one event loop. on_calm: called when nobody starts one or waits any more."""

    def __init__(self, on_calm: Callable[[], None]) -> None:
        self._on_calm = on_calm
        self._line: deque[_Place] = deque()
        self._turns = self._most_turns = _PER_CORE * (os.cpu_count() or 1)
        """For which there is room. With anybody in line there is none."""
        self._calm = asyncio.Event()
        """Set while no claim waits for a start."""
        self._calm.set()
        self._calm_since = -math.inf

    @property
    def calm(self) -> bool:
        """Whether nobody waits for a start, in line or for one that was begun."""
        return self._calm.is_set()

    async def wait(self, spec: Spec) -> Kernel | None:
        """A kernel that was handed on, or None: it is our turn to start one, until `pass_on` is called."""
        self._calm.clear()
        if self._turns:
            self._turns -= 1
            return None
        place = _Place(spec, asyncio.get_running_loop().create_future())
        self._line.append(place)
        try:
            return await place.comes
        except asyncio.CancelledError:
            if place.comes.cancelled():
                with contextlib.suppress(ValueError):  # whoever came to it meanwhile has taken it out
                    self._line.remove(place)
            elif (kernel := place.comes.result()) is None:
                self.pass_on()
            elif not self.hand_on(kernel, spec):
                await kernel.stop()  # the pool has begun another in its place
            raise

    def pass_on(self) -> None:
        """Our turn is over: it is the next one's."""
        while self._line:
            place = self._line.popleft()
            if not place.comes.done():  # it is when its claim has just been cancelled
                place.comes.set_result(None)
                return
        self._turns += 1
        if self._turns == self._most_turns:
            self._calm_since = time.monotonic()
            self._calm.set()
            self._on_calm()

    def hand_on(self, kernel: Kernel, spec: Spec) -> bool:
        """One of this spec to the first in line whom it suits. Whether there was anybody."""
        for place in self._line:
            if place.spec == spec and not place.comes.done():
                self._line.remove(place)
                place.comes.set_result(kernel)
                return True
        return False

    async def be_calm(self) -> None:
        """Wait until nobody has waited for a start for a while."""
        while (left := self._calm_since + _CALM_S - time.monotonic()) > 0 or not self.calm:
            await (asyncio.sleep(left) if self.calm else self._calm.wait())
