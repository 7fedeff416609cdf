"""Who may start now: memory is promised before it is used, and who cannot have it yet waits a fair turn or is refused.

A sandbox is promised its whole memory cap for as long as it lives, and the promises never exceed the budget. Requests
that do not fit wait in one queue per owner (a key). The owners take turns; within one, first come is first served.
Who is next is never overtaken, not even by someone smaller who would fit: small requests would starve the large ones.

Both queues are bounded and so is the wait: a refusal costs microseconds and says when to come again.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Self

from sandbox.errors import Draining, InvalidLimits, QueueFull
from sandbox.rota import Rota

MIB = 1 << 20
_DRAIN_RETRY_S = 5.0
"""What a client waits for a server that stops: about a restart."""
_RETRY_MIN_S, _RETRY_MAX_S = 1.0, 60.0
_FIRST_GUESS_S = 0.25
"""Seconds from one release to the next, until some were seen."""
_SMOOTHING = 0.2


class Promise:
    """Memory that is spoken for until `release`. As a `with` block it is released at the end."""

    __slots__ = ("_admission", "memory_mb", "owner")

    def __init__(self, admission: "Admission", owner: str, memory_mb: int) -> None:
        self._admission: Admission | None = admission
        self.owner = owner
        self.memory_mb = memory_mb

    def release(self) -> None:
        """Give the memory back and let those who wait have it. Twice is once."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission._take_back(self.memory_mb)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class _Waiter:
    __slots__ = ("begun", "memory_mb", "owner", "turn")

    def __init__(self, owner: str, memory_mb: int, turn: asyncio.Future[Promise], begun: Callable[[], bool]) -> None:
        self.owner = owner
        self.memory_mb = memory_mb
        self.turn = turn
        self.begun = begun


class Admission:
    """Promises memory up to a budget. For use from one event loop.

    budget_mb: MiB that may be promised at a time. waiting: how many may wait in all; waiting_per_owner: of one
    owner. max_wait_s: seconds after which one that waits is refused after all.
    """

    def __init__(self, budget_mb: int, *, waiting: int, waiting_per_owner: int, max_wait_s: float) -> None:
        self.budget_mb = budget_mb
        self.promised_mb = 0
        """MiB, never above the budget."""
        self._max_waiting = waiting
        self._max_waiting_per_owner = waiting_per_owner
        self._max_wait_s = max_wait_s
        self._waiting = Rota[_Waiter]()
        self._came = asyncio.Event()
        self._draining = self._closed = False
        self.on_release: Callable[[], None] = lambda: None
        """Called when memory was given back."""
        self._interval_s = _FIRST_GUESS_S
        self._last_release = 0.0
        """Or when the queue began, whichever is later."""

    @property
    def waiting(self) -> int:
        """Requests in all queues."""
        return len(self._waiting)

    @property
    def lacking(self) -> tuple[str, int] | None:
        """Whose turn it is, and how many MiB are missing for it; None when nobody waits."""
        if self._waiting.first is None:
            return None
        owner, waiter = self._waiting.first
        return owner, self.promised_mb + waiter.memory_mb - self.budget_mb

    @property
    def room_mb(self) -> int:
        """MiB that are promised to nobody and that nobody waits for."""
        return 0 if self._waiting else self.budget_mb - self.promised_mb

    async def crowded(self) -> None:
        """Return as soon as somebody waits."""
        while not self._waiting:
            self._came.clear()
            await self._came.wait()

    @property
    def retry_after(self) -> float | None:
        """Seconds that whoever comes now is told to wait, however little it wants; None when it may have room."""
        return self._retry_after(self.waiting) if 0 < self._max_waiting <= self.waiting else None

    async def admit(self, owner: str, memory_mb: int, begun: Callable[[], bool] = lambda: False) -> Promise:
        """A promise of `memory_mb` MiB: at once, or when it is this request's turn. begun: whether work waits for it
        that was accepted before, and goes on during a drain.

        Cancelling the wait leaves nothing behind. Raises `InvalidLimits` when it could never fit, `QueueFull` at
        once when the owner's queue or all queues are full and later when the longest wait is over, `Draining`.
        """
        if not 0 < memory_mb <= self.budget_mb:
            raise InvalidLimits(f"memory_mb is {memory_mb}; this server has {self.budget_mb} MiB for all sandboxes")
        if self._closed or (self._draining and not begun()):
            raise _draining()
        if not self._waiting and self.promised_mb + memory_mb <= self.budget_mb:
            return self._promise(owner, memory_mb)
        waiter = self._enqueue(owner, memory_mb, begun)
        timer = waiter.turn.get_loop().call_later(self._max_wait_s, self._give_up, waiter)
        try:
            return await waiter.turn
        except asyncio.CancelledError:
            # The turn may have come in the same step of the loop as the cancellation.
            if waiter.turn.done() and not waiter.turn.cancelled() and waiter.turn.exception() is None:
                waiter.turn.result().release()
            self._waiting.remove(owner, waiter)
            self._advance()
            raise
        finally:
            timer.cancel()

    def drain(self) -> None:
        """Refuse who waits and who comes, but for work that has begun. Promises that were made hold."""
        self._draining = True
        for waiter in [waiter for waiter in self._waiting if not waiter.begun()]:
            self._refuse(waiter)
        self._advance()

    def close(self) -> None:
        """Refuse everybody who waits and everybody who comes. Promises that were made hold."""
        self._closed = True
        for waiter in list(self._waiting):
            self._refuse(waiter)

    def _refuse(self, waiter: _Waiter) -> None:
        if not waiter.turn.done():
            waiter.turn.set_exception(_draining())
        self._waiting.remove(waiter.owner, waiter)

    def _enqueue(self, owner: str, memory_mb: int, begun: Callable[[], bool]) -> _Waiter:
        count = self._waiting.of(owner)
        if count >= self._max_waiting_per_owner:
            retry = self._retry_after(count * self._waiting.owners)
            raise QueueFull(f"{count} requests of this key wait for memory already; try again in {retry:.0f} s", retry)
        if self.waiting >= self._max_waiting:
            retry = self._retry_after(self.waiting)
            raise QueueFull(f"{self.waiting} requests wait for memory already; try again in {retry:.0f} s", retry)
        if not self._waiting:
            self._last_release = time.monotonic()
        waiter = _Waiter(owner, memory_mb, asyncio.get_running_loop().create_future(), begun)
        self._waiting.add(owner, waiter)
        self._came.set()
        return waiter

    def _give_up(self, waiter: _Waiter) -> None:
        if waiter.turn.done():
            return
        retry = self._retry_after(self.waiting)
        waiter.turn.set_exception(
            QueueFull(
                f"no memory became free in {self._max_wait_s:g} s ({self.promised_mb} of {self.budget_mb} MiB are "
                f"promised); close sessions, or try again in {retry:.0f} s",
                retry,
            )
        )
        self._waiting.remove(waiter.owner, waiter)
        self._advance()

    def _advance(self) -> None:
        """Serve whoever is next for as long as it fits. The first that does not fit holds everybody behind it."""
        while (first := self._waiting.first) is not None:
            owner, waiter = first
            if waiter.turn.done():  # cancelled, and its task has not run yet
                self._waiting.remove(owner, waiter)
                continue
            if self.promised_mb + waiter.memory_mb > self.budget_mb:
                return
            self._waiting.serve(owner, waiter)
            waiter.turn.set_result(self._promise(owner, waiter.memory_mb))

    def _promise(self, owner: str, memory_mb: int) -> Promise:
        self.promised_mb += memory_mb
        return Promise(self, owner, memory_mb)

    def _take_back(self, memory_mb: int) -> None:
        self.promised_mb -= memory_mb
        if self._waiting:
            self._observe_release()
            self._advance()
        self.on_release()

    def _observe_release(self) -> None:
        now = time.monotonic()
        self._interval_s += _SMOOTHING * (now - self._last_release - self._interval_s)
        self._last_release = now

    def _retry_after(self, ahead: int) -> float:
        """Seconds until as many as are ahead should have had their turn, at the pace seen lately."""
        return min(max(_RETRY_MIN_S, (ahead + 1) * self._interval_s), _RETRY_MAX_S)


def _draining() -> Draining:
    return Draining("the server is about to stop; try again when it is back, or at another one", _DRAIN_RETRY_S)


def memory_of_machine(root: Path = Path("/")) -> int:
    """MiB that processes like this one can ever have: the machine's, or less where a cgroup above us says so.

    Counts every memory limit of cgroup v1 and v2 from ours up to the top that can be seen from here.
    """
    limits = [_meminfo(root)["MemTotal"]]
    limits += [limit for limit, _ in _cgroup_memory(root)]
    return min(limits) // MIB


def available_mb(root: Path = Path("/")) -> int:
    """MiB that could be had now without swapping: of the machine, and below every cgroup limit above us.

    Reads half a dozen files, for half a millisecond: not for every request.
    """
    rooms = [_meminfo(root)["MemAvailable"]]
    rooms += [limit - used for limit, used in _cgroup_memory(root)]
    return max(0, min(rooms)) // MIB


def _meminfo(root: Path) -> Mapping[str, int]:
    """Bytes by name."""
    lines = (line.split() for line in (root / "proc/meminfo").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}


def _cgroup_memory(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use in bytes of our cgroup and of each above it, where a limit is set."""
    groups = _own_groups((root / "proc/self/cgroup").read_text())
    for line in (root / "proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(maxsplit=2)
        if kind == "cgroup2":
            names, own = ("memory.max", "memory.current", "inactive_file"), groups.get("")
        elif kind == "cgroup" and "memory" in options.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            own = groups.get("memory")
        else:
            continue
        mounted, mount_point = before.split()[3:5]
        for directory in _upwards(root / mount_point.lstrip("/"), mounted, own):
            with contextlib.suppress(OSError, ValueError):  # no such file at the top, "max", or gone in between
                yield _limit_and_use(directory, *names)


def _own_groups(text: str) -> Mapping[str, str]:
    """Controller to our path in its hierarchy, from `/proc/self/cgroup`. Version 2 is the controller ""."""
    fields = (line.split(":", 2) for line in text.splitlines())
    return {controller: path for _, controllers, path in fields for controller in controllers.split(",")}


def _upwards(mount_point: Path, mounted: str, own: str | None) -> Iterator[Path]:
    # In a container that shares the host's cgroup namespace our path is the host's, and what is mounted here is
    # that very directory of it.
    below = Path(own or "/")
    inside = below.relative_to(mounted) if below.is_relative_to(mounted) and ".." not in below.parts else Path()
    directory = mount_point / inside
    yield directory
    while directory != mount_point:
        directory = directory.parent
        yield directory


def _limit_and_use(directory: Path, limit: str, usage: str, cache: str) -> tuple[int, int]:
    """Pages of files that were not touched lately do not count as used: the kernel drops them when it must."""
    most = int((directory / limit).read_text())
    used = int((directory / usage).read_text())
    stat = dict(line.split() for line in (directory / "memory.stat").read_text().splitlines())
    return most, used - int(stat.get(cache, 0))
