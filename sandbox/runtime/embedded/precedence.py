"""Who computes lets those go first who do not.

A call wakes half a dozen processes, each for part of a millisecond, and beside a program that computes each may wait
for a tick of the host's clock. So a sandbox that uses much of a processor goes behind the others beside it, which the
kernel then wakes in its place (`cpu.idle`); and off one processor, as long as those like it find room on the rest: what
the kernel itself does meanwhile would else be in the way of whoever has just been woken. It is as others again soon
after it uses less, be it that others leave it less: so none waits for more than a moment because of many that use a
little each. Who starts and is waited for by nobody is kept off that processor as well.

Nothing depends on it: where the kernel has no such thing, or a sandbox ends meanwhile, all stays as it was.
"""

import contextlib
import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from sandbox.runtime.embedded.cgroup import Group

_LOOK_SECONDS, _CALM_LOOK_SECONDS, _LONGEST_SECONDS = 0.05, 0.1, 0.3
_LOOKS_SHARE = 0.02
"""Of a processor, at most, for all looks, but for the longest pause: there may be hundreds of sandboxes."""
_MUCH, _STILL_MUCH = 0.6, 0.55
"""Of a processor, to go behind and to stay there. On gVisor who has one line after the other run uses nearly half of
one, and should be behind nobody.
"""
_LONG_SECONDS = 0.1
"""For which it has to have used so much: a chart is made in that, and nobody goes behind for what all do."""
_CALM_SECONDS = 0.3
"""Over which it has to have used less; more than a period in which the kernel stops who is at its quota."""


@dataclass(slots=True)
class _Load:
    """What a sandbox uses, as far as it was looked at."""

    since: float
    """When it was last judged, or had last used little."""
    since_ns: int
    """What it had used then."""
    busy: bool = False
    """Whether it has used much since."""
    behind: bool = False
    kept_off: bool = False
    """One processor."""
    processors: set[int] = field(default_factory=set)
    """Where it was before."""

    def judge(self, used_ns: int, now: float) -> bool:
        """Whether it should be behind, by what it has used until now."""
        passed = now - self.since
        self.busy = _uses(_STILL_MUCH if self.behind else _MUCH, used_ns - self.since_ns, passed)
        if passed < (_CALM_SECONDS if self.behind else _LONG_SECONDS) and (self.behind or self.busy):
            return self.behind
        self.since, self.since_ns = now, used_ns
        return self.busy

    def begin(self, used_ns: int, now: float) -> None:
        """Nothing that it has used until now counts."""
        self.since, self.since_ns, self.busy = now, used_ns, False


class Precedence:
    """Of one engine's sandboxes. For use from one thread at a time."""

    def __init__(self, whole: Group | None = None) -> None:
        """whole: that they are all below, if there is such a group: then one look tells that nobody computes."""
        self._whole = whole
        self._works = whole is None or whole.share_file() is not None
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

    def look(self, sandboxes: Mapping[Group, float], starting: Collection[Group] = ()) -> None:
        """At each of these: its group, and how many processors it may use. starting: those that nobody waits for."""
        began, now = time.thread_time(), time.monotonic()
        passed, self._looked = now - self._looked, now
        computes = self._whole_computes(passed)
        if self._busy or computes is not False:
            self._judge(sandboxes, starting)
            self._spread(sandboxes, starting)
            loads = self._loads.values()
            self._busy = bool(computes) or any(load.behind or load.busy or load.kept_off for load in loads)
        else:  # what they have used when they are looked at again says nothing of that moment
            self._loads.clear()
        self._pause = min(_LONGEST_SECONDS, (time.thread_time() - began) / _LOOKS_SHARE)

    def _whole_computes(self, passed: float) -> bool | None:
        """None if that cannot be said."""
        if self._whole is None:
            return None
        used_ns = self._used_ns
        with contextlib.suppress(OSError, ValueError):
            self._used_ns = self._whole.cpu_ns()
        return _uses(_STILL_MUCH, self._used_ns - used_ns, passed)

    def _judge(self, sandboxes: Mapping[Group, float], starting: Collection[Group]) -> None:
        loads, self._loads = self._loads, {}
        for group in sandboxes:
            if group in loads:
                self._loads[group] = loads.pop(group)
            with contextlib.suppress(OSError, ValueError):  # it ends just now
                used_ns, now = group.cpu_ns(), time.monotonic()
                load = self._loads.setdefault(group, _Load(now, used_ns))
                if group in starting:
                    load.begin(used_ns, now)
                    continue
                behind = load.judge(used_ns, now)
                if load.behind != behind:
                    group.set_idle(idle=behind)
                    load.behind = behind
        for group, load in loads.items():  # that has started, or has no kernel any more
            if load.behind or load.kept_off:
                self._loads[group] = load
                load.behind = False
                with contextlib.suppress(OSError):
                    group.set_idle(idle=False)

    def _spread(self, sandboxes: Mapping[Group, float], starting: Collection[Group]) -> None:
        """Leave one processor to all who are not behind, as long as those who are find room on the rest beside those
        who start, who have to.
        """
        wanted = sum(sandboxes[group] for group, load in self._loads.items() if load.behind or group in starting)
        # Of several engines one may, or all their sandboxes would be on the same processors.
        may = False
        with contextlib.suppress(OSError):
            may = wanted > 0 and (self._whole is None or self._whole.is_first())
        for group, load in self._loads.items():
            starts = group in starting
            try:
                self._place(group, load, may=may and (load.behind or starts), wanted=0.0 if starts else wanted)
            except (OSError, ValueError):  # it ends just now
                load.kept_off = False

    def _place(self, group: Group, load: _Load, *, may: bool, wanted: float) -> None:
        if not may and not load.kept_off:
            return
        threads = group.threads()
        if not load.kept_off:
            load.processors = os.sched_getaffinity(min(threads))
        rest = load.processors - {min(load.processors)}
        keep_off = may and bool(rest) and wanted <= len(rest)
        # Again with each look: there are new threads of those that were missed, and a program may move its own.
        moved = _move(threads, rest if keep_off else load.processors) if keep_off or load.kept_off else False
        load.kept_off = keep_off or moved


def release(group: Group) -> None:
    """Whoever has started it may have kept it off a processor, and cannot take that back any more. Raises `OSError`."""
    _move(group.threads(), os.sched_getaffinity(0))


def _uses(much: float, used_ns: int, passed: float) -> bool:
    return used_ns > much * passed * 1e9


def _move(threads: set[int], processors: set[int]) -> bool:
    """Whether one of them was elsewhere."""
    moved = False
    for thread in threads:
        with contextlib.suppress(OSError):  # it has ended, or is not ours to move
            if os.sched_getaffinity(thread) != processors:
                os.sched_setaffinity(thread, processors)
                moved = True
    return moved
