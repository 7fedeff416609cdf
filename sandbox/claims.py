"""What an Idempotency-Key promises: the same request with the same key is done once, and its answer repeated.

A claim is written when the work is done, or accepted: one that failed, or was cut off by a crash, has claimed nothing,
and the same request does it anew.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from sandbox.errors import IdempotencyConflict
from sandbox.keys import Owner
from sandbox.store import Store
from sandbox.store.rows import Claim


@dataclass(frozen=True, slots=True)
class Once:
    """An Idempotency-Key, and what its request was: the same key with another fingerprint is a mistake."""

    key: str
    fingerprint: str


class Claims:
    """Those of one server's requests. Every method takes the request's key, which is None where it has none."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turns = _Turns()

    @contextlib.asynccontextmanager
    async def one_with(self, owner: Owner, once: Once | None) -> AsyncIterator[Claim | None]:
        """For one request with this key at a time; what an earlier one has claimed, if it came to its end.

        Raises `IdempotencyConflict` when that was another request.
        """
        if once is None:
            yield None
            return
        async with self._turns.alone((owner.id, once.key)):
            claim = await self._store.claim(owner.id, once.key)
            if claim is not None and claim.fingerprint != once.fingerprint:
                raise conflict()
            yield claim

    async def add(self, owner: Owner, once: Once | None, resource: str) -> Claim | None:
        """What it was about is done. Who was first, if that was somebody else."""
        if once is None:
            return None
        return await self._store.add_claim(Claim(owner.id, once.key, once.fingerprint, resource), time.time())


def claimer(owner: Owner, once: Once | None, session_id: str) -> Callable[[str], Claim] | None:
    """For an execution that gets its id only when it is accepted, which is when it claims."""
    if once is None:
        return None
    return lambda execution_id: Claim(owner.id, once.key, once.fingerprint, f"{session_id}/{execution_id}")


def conflict() -> IdempotencyConflict:
    """The same key came with another request before."""
    return IdempotencyConflict("this Idempotency-Key was used with another request; send a new one")


class _Turns:
    """A lock for each key that somebody holds or waits for."""

    def __init__(self) -> None:
        self._locks: dict[tuple[str, str], tuple[asyncio.Lock, int]] = {}

    @contextlib.asynccontextmanager
    async def alone(self, key: tuple[str, str]) -> AsyncIterator[None]:
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(key)
            if users > 1:
                self._locks[key] = lock, users - 1
