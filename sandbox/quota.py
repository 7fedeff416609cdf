"""What one owner may have: sessions, executions running, executions and sessions per minute, stored bytes.

A limit that is reached is refused at once, with `RateLimited`; nothing here waits. Counts live in memory and die with
the process: whoever opens sessions again after a restart says so with `restore_session`, and stored bytes come from the
caller, who has them in a database.

What may be asked for per minute is a bucket of that many, refilled evenly (the generic cell rate algorithm): one number
per owner, kept only until the bucket is full again, so that memory is bounded by the owners of the last minute.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

from sandbox.errors import RateLimited
from sandbox.execution import MIB
from sandbox.keys import Owner

WINDOW_S = 60.0
_SWEEP_AT_LEAST = 1024
_RETRY_S = {"sessions": 2.0, "running": 1.0, "stored_bytes": 60.0}
"""When to look again at what only the client can free."""

Name = Literal["sessions", "running", "per_minute", "stored_bytes"]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an owner stands with one limit; what rate-limit headers are made of."""

    name: Name
    limit: int
    remaining: int
    reset: float | None
    """Seconds until all of it is free again; None where that is up to the client."""


class Slot:
    """One session, or one running execution, that counts until `release`. As a `with` block, until its end."""

    __slots__ = ("_counts", "_owner", "_refund")

    def __init__(self, counts: dict[str, int], owner: str, refund: Callable[[], None] | None = None) -> None:
        self._counts: dict[str, int] | None = counts
        self._owner = owner
        self._refund = refund
        counts[owner] = counts.get(owner, 0) + 1

    def release(self, *, unused: bool = False) -> bool:
        """Stop counting; twice is once, and the second answers False.

        unused: it never ran, so it does not count in its minute either.
        """
        counts, self._counts = self._counts, None
        if counts is None:
            return False
        counts[self._owner] -= 1
        if not counts[self._owner]:
            del counts[self._owner]
        if unused and self._refund is not None:
            self._refund()
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Room:
    """Bytes on their way into an owner's storage. As a `with` block; `keep` before its end, or they are given back."""

    __slots__ = ("_kept", "_ledger", "_ledgers", "_owner", "_stored", "_taken")

    def __init__(self, ledgers: dict[str, "_Ledger"], owner: Owner, stored: int | None) -> None:
        self._ledgers = ledgers
        self._owner = owner
        self._ledger = _Ledger()
        self._stored = stored
        self._taken = 0
        self._kept = False

    def begin(self, stored: int) -> None:
        """stored: bytes the owner has, looked up within the block. What another upload brought before stays."""
        if not self._ledger.known:
            self._ledger.known = True
            self._ledger.bytes += stored

    def take(self, size: int) -> None:
        """Count `size` more bytes, or raise `RateLimited` (`stored_bytes`)."""
        limit = self._owner.limits.stored_bytes
        if limit is not None and self._ledger.bytes + size > limit:
            raise _refused("stored_bytes", limit, limit - self._ledger.bytes)
        self._taken += size
        self._ledger.bytes += size

    def keep(self) -> None:
        """They are stored and a row says so."""
        self._kept = True

    def __enter__(self) -> Self:
        self._ledger = self._ledgers.setdefault(self._owner.id, self._ledger)
        self._ledger.rooms += 1
        if self._stored is not None:
            self.begin(self._stored)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._kept:
            self._ledger.bytes -= self._taken
        self._ledger.rooms -= 1
        if not self._ledger.rooms:
            del self._ledgers[self._owner.id]


@dataclass(slots=True)
class _Ledger:
    bytes: int = 0
    rooms: int = 0
    known: bool = False
    """Whether what the database has is in it."""


class Quota:
    """Counts what owners have. For use from one event loop. `clock`: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sessions: dict[str, int] = {}
        self._running: dict[str, int] = {}
        self._ledgers: dict[str, _Ledger] = {}
        self._full_at: dict[str, float] = {}
        """When an owner's bucket is full again; no entry when it is."""
        self._sweep_above = _SWEEP_AT_LEAST

    def take_session(self, owner: Owner, *, single: bool = False) -> Slot:
        """Count one more open session, and one in this minute: a sandbox is made for it.

        single: it is for one execution, which is what counts. Raises `RateLimited` (`sessions`, `per_minute`); what is
        refused counts in neither.
        """
        self._check("sessions", owner.limits.sessions, self._sessions.get(owner.id, 0))
        return Slot(self._sessions, owner.id) if single else self._in_this_minute(self._sessions, owner)

    def restore_session(self, owner_id: str) -> Slot:
        """Count a session that was open before this process, whatever the limit says now."""
        return Slot(self._sessions, owner_id)

    def take_execution(self, owner: Owner) -> Slot:
        """Count one more running execution, and one in this minute.

        Raises `RateLimited` (`running`, `per_minute`); what is refused counts in neither.
        """
        self._check("running", owner.limits.running, self._running.get(owner.id, 0))
        return self._in_this_minute(self._running, owner)

    def _in_this_minute(self, counts: dict[str, int], owner: Owner) -> Slot:
        per_minute = owner.limits.per_minute
        if per_minute is None:
            return Slot(counts, owner.id)
        self._take_token(owner.id, per_minute)
        return Slot(counts, owner.id, lambda: self._return_token(owner.id, per_minute))

    def check_stored(self, owner: Owner, stored: int) -> None:
        """Whether the owner may let a program write. stored: bytes it has. Raises `RateLimited` (`stored_bytes`)."""
        limit = owner.limits.stored_bytes
        if limit is not None and stored > limit:
            raise _refused("stored_bytes", limit, 0)

    def storing(self, owner: Owner, stored: int | None = None) -> Room:
        """Room for bytes to be stored; `take` them piece by piece. `stored`: bytes the owner has by the database.

        Without it call `begin` first, with a number that was read within the block: one that was read before may lack
        what was stored between, by an upload that is over.
        Uploads of one owner that overlap count together, from the number that the first of them brought; so none
        of them can pass the limit behind another's back, and what is deleted meanwhile counts until they are over.
        """
        return Room(self._ledgers, owner, stored)

    def snapshot(self, owner: Owner) -> tuple[Standing, ...]:
        """Where the owner stands with each limit it has, stored bytes apart."""
        limits, standings = owner.limits, list[Standing]()
        if limits.sessions is not None:
            left = max(0, limits.sessions - self._sessions.get(owner.id, 0))
            standings.append(Standing("sessions", limits.sessions, left, None))
        if limits.running is not None:
            left = max(0, limits.running - self._running.get(owner.id, 0))
            standings.append(Standing("running", limits.running, left, None))
        if limits.per_minute is not None:
            owed = max(0.0, self._full_at.get(owner.id, 0.0) - self._clock())
            standings.append(Standing("per_minute", limits.per_minute, _tokens(owed, limits.per_minute), owed))
        return tuple(standings)

    @property
    def remembered(self) -> int:
        """How many entries it holds, of all kinds."""
        return len(self._sessions) + len(self._running) + len(self._ledgers) + len(self._full_at)

    def _check(self, name: Name, limit: int | None, count: int) -> None:
        if limit is not None and count >= limit:
            raise _refused(name, limit, 0)

    def _take_token(self, owner: str, per_minute: int) -> None:
        now = self._clock()
        full_at = max(now, self._full_at.get(owner, now))
        owed = full_at - now
        if not _tokens(owed, per_minute):
            interval = WINDOW_S / per_minute if per_minute else math.inf
            retry = min(owed - WINDOW_S + interval, WINDOW_S)
            raise RateLimited(
                f"{per_minute} executions and sessions per minute are allowed with this key; try again in "
                f"{retry:.1f} s",
                retry,
                name="per_minute",
                limit=per_minute,
                remaining=0,
                reset=owed,
            )
        self._full_at[owner] = full_at + WINDOW_S / per_minute
        if len(self._full_at) > self._sweep_above:
            self._sweep(now)

    def _return_token(self, owner: str, per_minute: int) -> None:
        if owner in self._full_at:
            self._full_at[owner] -= WINDOW_S / per_minute

    def _sweep(self, now: float) -> None:
        """Forget full buckets. Runs when their number has doubled, so it costs each execution a constant."""
        self._full_at = {owner: full_at for owner, full_at in self._full_at.items() if full_at > now}
        self._sweep_above = max(_SWEEP_AT_LEAST, 2 * len(self._full_at))


def _tokens(owed: float, per_minute: int) -> int:
    """Whole executions left in a bucket that takes `owed` seconds to be full."""
    # The sum of many intervals is off by some rounding; a millionth of a token must not cost one.
    return min(per_minute, max(0, math.floor((WINDOW_S - owed) * per_minute / WINDOW_S + 1e-6)))


def _refused(name: Name, limit: int, remaining: int) -> RateLimited:
    in_mib = f" ({limit // MIB} MiB)" if limit % MIB == 0 else ""
    what, how = {
        "sessions": (f"{limit} open sessions are", "close one"),
        "running": (f"{limit} running executions are", "wait for one to end"),
        "stored_bytes": (f"{limit} stored bytes{in_mib} are", "delete files or sessions"),
    }[name]
    retry = _RETRY_S[name]
    return RateLimited(
        f"{what} allowed with this key; {how}, then try again",
        retry,
        name=name,
        limit=limit,
        remaining=max(0, remaining),
        reset=retry,
    )
