"""Who computes lets those go first who do not.

A call wakes half a dozen processes, each for part of a millisecond, and beside a program that computes each may wait
for a tick of the host's clock. So a sandbox that uses much of a processor goes behind all others, which the kernel then
wakes in its place (`cpu.idle`); and off one processor, as long as those like it find room on the rest: what the kernel
itself does meanwhile would else be in the way of whoever has just been woken. It is as others again soon after it uses
less, be it that others leave it less: so none waits for more than a moment because of many that use a little each.

Nothing depends on it: where the kernel has no such thing, or a sandbox ends meanwhile, all stays as it was.
"""

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

from sandbox.runtime.embedded.cgroup import Group

_LOOK_SECONDS, _CALM_LOOK_SECONDS = 0.05, 0.1
_LOOKS_SHARE = 0.02
"""Of the launcher's time, at most, for all looks: there may be hundreds of sandboxes."""
_MUCH = 0.4
"""Of a processor."""
_LONG_SECONDS = 0.1
"""For which it has to have used so much: a chart is made in that, and nobody goes behind for what all do."""
_CALM_SECONDS = 0.3
"""For which it has to have used less; more than the part of a period for which the kernel stops who is at its quota."""


@dataclass(slots=True)
class _Load:
    """What a sandbox has used until it was last looked at."""

    used_ns: int
    busy_since: float = 0.0
    busy_at: float = -_CALM_SECONDS
    """When it had last used much."""
    behind: bool = False
    kept_off: bool = False
    """One processor."""

    def judge(self, used_ns: int, now: float, passed: float) -> bool:
        """Whether it should be behind, after so many seconds more."""
        if _much(used_ns - self.used_ns, passed):
            if not self.is_busy(now):
                self.busy_since = now - passed
            self.busy_at = now
        self.used_ns = used_ns
        return self.is_busy(now) and self.busy_at - self.busy_since >= _LONG_SECONDS

    def is_busy(self, now: float) -> bool:
        """Whether it has used much lately."""
        return now - self.busy_at < _CALM_SECONDS


class Precedence:
    """Of sandboxes. For use from one thread at a time."""

    def __init__(self, whole: Group | None = None) -> None:
        """whole: that they are all below, if there is such a group: then one look tells that nobody computes."""
        self._whole = whole
        self._works = whole is None or whole.share_file() is not None
        self._processors = os.sched_getaffinity(0)
        self._rest = self._processors - {min(self._processors)}
        self._looked = time.monotonic()
        self._pause = 0.0
        self._used_ns = 0
        self._busy = False
        """Whether somebody computes, or did a moment ago."""
        self._loads: dict[Group, _Load] = {}

    def wait(self) -> float | None:
        """Seconds until it should look again; None when it never need."""
        if not self._works:
            return None
        period = _LOOK_SECONDS if self._busy else _CALM_LOOK_SECONDS
        return max(0.0, self._looked + max(period, self._pause) - time.monotonic())

    def look(self, sandboxes: Mapping[Group, float]) -> None:
        """At each of these: its group, and how many processors it may use."""
        now = time.monotonic()
        passed, self._looked = now - self._looked, now
        computes = self._whole_computes(passed)
        if self._busy or computes is not False:
            self._judge(sandboxes, now, passed)
            self._busy = bool(computes) or any(load.behind or load.is_busy(now) for load in self._loads.values())
        else:  # what they have used when they are looked at again says nothing of that moment
            self._loads.clear()
        self._pause = (time.monotonic() - now) / _LOOKS_SHARE

    def _whole_computes(self, passed: float) -> bool | None:
        """None if that cannot be said."""
        if self._whole is None:
            return None
        used_ns = self._used_ns
        with contextlib.suppress(OSError):
            self._used_ns = self._whole.cpu_ns()
        return _much(self._used_ns - used_ns, passed)

    def _judge(self, sandboxes: Mapping[Group, float], now: float, passed: float) -> None:
        loads, self._loads = self._loads, {}
        for group in sandboxes:
            with contextlib.suppress(OSError):  # it ends just now
                used_ns = group.cpu_ns()
                load = self._loads[group] = loads.get(group) or _Load(used_ns)
                behind = load.judge(used_ns, now, passed)
                if load.behind != behind:
                    group.set_idle(idle=behind)
                    load.behind = behind
        self._spread(sandboxes)

    def _spread(self, sandboxes: Mapping[Group, float]) -> None:
        """Leave one processor to all who are not behind, if that takes nothing from those who are."""
        wanted = sum(sandboxes[group] for group, load in self._loads.items() if load.behind)
        for group, load in self._loads.items():
            keep_off = load.behind and wanted <= len(self._rest)
            # Again with each look: there are new threads of those that were missed, and a program may move its own.
            if keep_off or load.kept_off:
                _move(group, self._rest if keep_off else self._processors)
            load.kept_off = keep_off


def _much(used_ns: int, passed: float) -> bool:
    return used_ns > _MUCH * passed * 1e9


def _move(group: Group, processors: set[int]) -> None:
    with contextlib.suppress(OSError):
        for thread in group.threads():
            with contextlib.suppress(OSError):  # it has ended
                os.sched_setaffinity(thread, processors)
