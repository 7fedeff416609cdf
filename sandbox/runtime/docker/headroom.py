"""The memory cap of sandboxes with a kernel of their own, kept before the host's kernel has to.

To the host such a sandbox is one process: at its container's cap Linux kills all of it, with its init and its files.
So what it holds is looked at from outside, the sooner again the less room is left, and at its own cap init is told to
kill what programs have started; the session has another kernel then, and its files. The container's cap is somewhat
above, for the time that this takes. Who is quicker dies of it, as a whole.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from sandbox import logs
from sandbox.runtime.embedded.cgroup import Group

_logger = logs.logger(__name__)

_PART = 4
"""The container has one part in so many more. On gVisor a program that had forked a lot went on for 0.1 s after init
was told, and took 30 MB; with three other programs on two processors 0.3 s, and 95 MB.
"""
_STEP = 16
"""One part in so many of the cap: between what is full and what is so no longer, and what who stays full may take
before it loses another kernel.
"""
_FASTEST = 2 << 30
"""Bytes a second that a program is taken to fill at most. One processor on gVisor fills 0.6 GB."""
_SOONEST_S, _LATEST_S = 0.004, 0.25
_RESTING_S = 0.05
"""Who holds no more than at the last look is looked at so much later, however little room is left."""
_DIES_IN_S = 1.0
"""Who is killed may go on to take for so long; from when it gives back, what is taken is another's."""


def container_bytes(cap: int) -> int:
    """What a container may hold at most whose sandbox may hold `cap`."""
    return cap + cap // _PART


class Headroom:
    """What a sandbox may still take before it has to lose its kernel."""

    def __init__(self, group: Group, cap: int) -> None:
        """cap: bytes."""
        self._group = group
        self._cap = cap
        self._step = cap // _STEP
        self._killed = 0.0
        """When it was full, the last time; 0 once it is so no longer."""
        self._at = self._lowest = 0
        """What it held then, and the least that it has held since."""

    async def keep(self, kill: Callable[[], Awaitable[None]]) -> None:
        """Call `kill` whenever there is none left. Ends when the sandbox has."""
        last = 0
        while True:
            try:
                held = self._held()
            except FileNotFoundError:
                return
            except (OSError, ValueError) as error:
                _logger.warning("memory not seen", why=str(error))
                await asyncio.sleep(_LATEST_S)
                continue
            if self._is_full(held, time.monotonic()):
                await kill()
            soonest = _SOONEST_S if held > last else _RESTING_S
            last = held
            await asyncio.sleep(min(max((self._most() - held) / _FASTEST, soonest), _LATEST_S))

    def _is_full(self, held: int, now: float) -> bool:
        """Whether somebody has to be killed now."""
        if held <= self._cap - self._step:
            self._killed = 0.0
            return False
        self._lowest = min(self._lowest, held)
        gives_back = self._lowest <= self._at - self._step // 4
        dies = self._killed and not gives_back and now - self._killed < _DIES_IN_S
        if held <= self._most() or dies:
            return False
        self._killed, self._at, self._lowest = now, held, held
        return True

    def _most(self) -> int:
        """What it may hold: where files stay that fill it, a little more, or nobody could remove them."""
        if not self._killed:
            return self._cap
        return min(max(self._cap, self._lowest + self._step), container_bytes(self._cap) - self._step)

    def _held(self) -> int:
        held = self._group.held_bytes()
        # The rest is dearer to read, and cannot be more.
        return held if held <= self._cap - self._step else self._group.pinned_bytes()
