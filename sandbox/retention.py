"""What is forgotten, and when: rows that have been kept long enough, and bytes that no row names."""

from sandbox.files import Files
from sandbox.store import Store

_COLLECT_S = 600.0
"""Bytes that no row names may stay so long: to find them, the store is asked about everything that is kept."""
_CLAIMS_KEPT_S = 24 * 3600.0
"""For how long an Idempotency-Key is remembered."""
_PAUSES_KEPT_S = 24 * 3600.0
"""For how long a chat that waits for its caller's functions can be gone on with."""


class Retention:
    """Of one node's store and files. rows_s, files_s: seconds for which those of ended sessions are kept."""

    def __init__(self, store: Store, files: Files, *, rows_s: float, files_s: float) -> None:
        self._store = store
        self._files = files
        self._rows_s = rows_s
        self._files_s = files_s
        self._collect_at = 0.0

    async def enforce(self, now: float) -> None:
        """Forget what is over. now: seconds since the epoch. Raises `Unready` and `Overloaded`; the next goes on."""
        await self._store.purge_files(now - self._files_s)
        await self._store.purge(now - self._rows_s)
        await self._store.purge_traces(now - self._rows_s)
        await self._store.drop_claims(now - _CLAIMS_KEPT_S)
        await self._store.purge_pauses(now - _PAUSES_KEPT_S)
        await self._store.purge_kept(now)
        await self._store.purge_objects(now)
        if now >= self._collect_at:
            self._collect_at = now + _COLLECT_S
            await self._files.collect(self._store.unreferenced)
