"""The memory cap of sandboxes with a kernel of their own, kept before the host's kernel has to.

To the host such a sandbox is one process: at its container's cap Linux kills all of it, with its init and its files.
So what it holds is looked at from outside, the sooner again the less room is left, and at its own cap init is told to
kill what programs have started; the session has another kernel then, and its files. The container's cap is somewhat
above, for the time that this takes. Who is quicker dies of it, as a whole.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from sandbox.runtime.embedded.cgroup import Group

_PART = 4
"""The container has one part in so many more. On gVisor a program that had forked a lot went on for 0.1 s after init
was told, and took 30 MB; with three other programs on two processors 64 MB.
"""
_STEP = 16
"""One part in so many of the cap: between what is full and what is so no longer, and what who stays full may take
before it loses another kernel.
"""
_FASTEST = 2 << 30
"""Bytes a second that a program is taken to fill at most. One processor on gVisor fills 0.6 GB."""
_SOONEST_S, _LATEST_S = 0.004, 0.25
_DIES_IN_S = 1.0
"""What was killed has given back what it will."""


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

    async def keep(self, kill: Callable[[], Awaitable[None]]) -> None:
        """Call `kill` whenever there is none left. Ends when the sandbox has."""
        most, killed = self._cap, 0.0
        while True:
            try:
                held = self._held()
            except (OSError, ValueError):
                return
            now = time.monotonic()
            if held <= self._cap - self._step:
                most, killed = self._cap, 0.0
            elif killed and now - killed >= _DIES_IN_S:  # files, for one, that are still there
                most, killed = max(self._cap, held + self._step), 0.0
            elif not killed and held > most:
                killed = now
                await kill()
            await asyncio.sleep(min(max((most - held) / _FASTEST, _SOONEST_S), _LATEST_S))

    def _held(self) -> int:
        held = self._group.held_bytes()
        # The rest is dearer to read, and cannot be more.
        return held if held <= self._cap - self._step else self._group.pinned_bytes()
