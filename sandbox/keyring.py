"""Whose request it is: from the secret that it bears to the owner of sessions and files."""

import asyncio
import time

from sandbox.errors import Unauthorized
from sandbox.keys import LOCAL, KeyLimits, Owner, digest
from sandbox.store import Store

_REMEMBERED_S = 1.0
"""A key that was revoked, by another process perhaps, is refused no later than this."""
_REMEMBERED = 1024


class Keyring:
    """The keys of a store, remembered for a moment each. defaults: limits of keys that were made without their own."""

    def __init__(self, store: Store, defaults: KeyLimits, *, open_without_keys: bool) -> None:
        self._store = store
        self._defaults = defaults
        self._open_without_keys = open_without_keys
        self._known: dict[str, tuple[Owner, float]] = {}
        self._any: tuple[bool, float] = (False, 0.0)
        self._asking = asyncio.Lock()

    async def owner(self, secret: str | None) -> Owner:
        """Raises `Unauthorized`. Without any key in the store, whoever can reach a loopback server is `LOCAL`."""
        if secret is None:
            if self._open_without_keys and not await self.any():
                return LOCAL
            words = "send it as `Authorization: Bearer …`, or set SANDBOX_API_KEY for the CLI and the client"
            raise Unauthorized(f"this server wants a key: {words}")
        hashed = digest(secret)
        known = self._known.get(hashed)
        if known is not None and known[1] > time.monotonic():
            return known[0]
        row = await self._store.key(hashed)
        if row is None:
            self._known.pop(hashed, None)
            if self._open_without_keys and not await self.any():
                return LOCAL  # programs written for servers that want a key send one always
            raise Unauthorized("this key is not known here, or revoked; `sandbox key list` shows those that are")
        owner = Owner(row.id, _filled(row.limits, self._defaults))
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[hashed] = (owner, time.monotonic() + _REMEMBERED_S)
        return owner

    async def any(self) -> bool:
        """Whether a key was ever made, revoked or not."""
        # Once there is one, the server is never open again: revoking the last key must lock, not unlock.
        if not self._any[0] and self._any[1] <= time.monotonic():
            async with self._asking:  # of many who come at once, one asks
                if self._any[1] <= time.monotonic():
                    self._any = (await self._store.any_key(), time.monotonic() + _REMEMBERED_S)
        return self._any[0]


def _filled(limits: KeyLimits, defaults: KeyLimits) -> KeyLimits:
    return KeyLimits(
        defaults.sessions if limits.sessions is None else limits.sessions,
        defaults.running if limits.running is None else limits.running,
        defaults.per_minute if limits.per_minute is None else limits.per_minute,
        defaults.stored_bytes if limits.stored_bytes is None else limits.stored_bytes,
    )
