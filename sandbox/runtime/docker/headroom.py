"""The memory cap of sandboxes with a kernel of their own, kept before the host's kernel has to.

To the host such a sandbox is one process: at its container's cap Linux kills all of it, with its init and its files.
So what it holds is looked at from outside, the sooner again the less room is left, and at its own cap init is told to
kill what programs have started; the session has another kernel then, and its files. The container's cap is somewhat
above, for the time that this takes. Who is quicker dies of it, as a whole.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from sandbox import logs
from sandbox.execution import MIB
from sandbox.runtime.embedded.cgroup import Group

_logger = logs.logger(__name__)

_LEAST_CAP = 384 * MIB
"""Below it there is no room for this: on gVisor a sandbox in which nothing was run holds some 200 MiB."""
_PART, _LEAST_ROOM = 4, 128 * MIB
"""The container has one part in so many more, or so much. On gVisor a program that had forked a lot went on for 0.1 s
after init was told, and took 30 MB; with three other programs on two processors 0.3 s, and 95 MB.
"""
_STEP, _LEAST_STEP = 16, 32 * MIB
"""One part in so many of the cap, or so much: between what is full and what is so no longer, and what who stays full
may take before it loses another kernel. A kernel takes some 20 MB.
"""
_FASTEST = 2 << 30
"""Bytes a second that a program is taken to fill at most. One processor on gVisor fills 0.6 GB."""
_SOONEST_S, _LATEST_S = 0.004, 0.25
_RESTING_S = 0.05
"""Who holds no more than at the last look is looked at so much later, however little room is left."""
_DIES_IN_S = 1.0
"""Who is killed may go on to take for so long; from when it gives back, what is taken is another's."""
_FRUITLESS = 5
"""Kills, from which on the container's own cap is all that there is: something else than programs fills it."""


def container_bytes(cap: int) -> int:
    """What a container may hold at most whose sandbox may hold `cap`; the same where there is to be no headroom."""
    return cap if cap < _LEAST_CAP else cap + max(cap // _PART, _LEAST_ROOM)


class Fill:
    """Whether a sandbox holds too much, look by look."""

    def __init__(self, cap: int) -> None:
        """cap: bytes."""
        self._cap = cap
        self._step = max(cap // _STEP, _LEAST_STEP)
        self.kills = 0
        """Since it was last not full."""
        self._killed = 0.0
        self._peak = self._lowest = 0
        """The most that it held while what was killed went on, and the least since."""

    @property
    def much(self) -> int:
        """Bytes above which it may be full."""
        return self._cap - self._step

    @property
    def most(self) -> int:
        """Bytes that it may hold: where files stay that fill it, a little more, or nobody could remove them."""
        if not self.kills:
            return self._cap
        return min(max(self._cap, self._lowest + self._step), container_bytes(self._cap) - self._step)

    def look(self, held: int, now: float) -> bool:
        """Whether somebody has to be killed. now: seconds of any clock."""
        if held <= self.much:
            self.kills = 0
            return False
        if self.kills and self._goes_on(now):
            if held > self._peak:
                self._peak = self._lowest = held
            self._lowest = min(self._lowest, held)
            return False
        self._lowest = min(self._lowest, held) if self.kills else held
        if held <= self.most or (self.kills and held == self._lowest):
            return False
        self.kills += 1
        self._killed, self._peak, self._lowest = now, held, held
        return True

    def _goes_on(self, now: float) -> bool:
        """Whether what is held now is still that of who was killed."""
        return now - self._killed < _DIES_IN_S and self._lowest > self._peak - self._step // 2


class Headroom:
    """What a sandbox may still take before it has to lose its kernel."""

    def __init__(self, group: Group, cap: int) -> None:
        """cap: bytes."""
        self._group = group
        self._fill = Fill(cap)

    async def keep(self, kill: Callable[[], Awaitable[None]]) -> None:
        """Call `kill` whenever there is none left. Ends with the sandbox, or when that does not help."""
        fill, last = self._fill, 0
        with contextlib.suppress(FileNotFoundError):  # it has ended
            while fill.kills < _FRUITLESS:
                held = self._held(last)
                if fill.look(held, time.monotonic()):
                    await kill()
                soonest = _SOONEST_S if held > last else _RESTING_S
                last = held
                await asyncio.sleep(min(max((fill.most - held) / _FASTEST, soonest), _LATEST_S))
            _logger.warning("memory stays full", group=self._group.name, held=last)

    def _held(self, last: int) -> int:
        """Raises `FileNotFoundError`."""
        try:
            held = self._group.held_bytes()
            # The rest is dearer to read, and cannot be more.
            return held if held <= self._fill.much else self._group.pinned_bytes()
        except FileNotFoundError:
            raise
        except (OSError, ValueError):  # no descriptors, for one; or it ends just now
            return last
