"""The bytes of answers that their clients have not read yet, of all requests together."""

import asyncio
from collections import Counter

from sandbox.errors import Overloaded

_WAIT_S = 10.0
_RETRY_S = 1.0


class Unread:
    """Room for them. For use from one event loop."""

    def __init__(self, most: int) -> None:
        """most: bytes. One owner can have half of them, and as many may wait for room."""
        self._most = most
        self._by_owner: Counter[str] = Counter()
        self._all = 0
        self._waiting = 0
        self._changed = asyncio.Event()

    async def take(self, owner: str, size: int) -> None:
        """Wait for room. Who has none gets some, however little there is: the longest answer can be had, alone.

        Raises `Overloaded` when too much waits already, or it takes too long.
        """
        if not self._fits(owner, size):
            await self._wait(owner, size)
        self._all += size
        self._by_owner[owner] += size

    def give_back(self, owner: str, size: int) -> None:
        """It is read, or nobody will read it."""
        self._all -= size
        self._by_owner[owner] -= size
        if not self._by_owner[owner]:
            del self._by_owner[owner]
        self._changed.set()

    async def _wait(self, owner: str, size: int) -> None:
        if self._waiting + size > self._most:
            raise _refusal()
        self._waiting += size
        try:
            async with asyncio.timeout(_WAIT_S):
                while not self._fits(owner, size):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise _refusal() from None
        finally:
            self._waiting -= size

    def _fits(self, owner: str, size: int) -> bool:
        had = self._by_owner.get(owner, 0)
        return not had or (self._all + size <= self._most and had + size <= self._most // 2)


def _refusal() -> Overloaded:
    return Overloaded("too many bytes of answers are in memory, because nobody reads them; try again", _RETRY_S)
