"""Memory of sandboxes that nobody uses, for who waits for some.

A session that a run has opened by itself stays for whoever goes on with the run, which mostly nobody does. While a
request waits for memory such sessions are put to sleep, one by one, the one that was used longest ago first. Whoever
goes on with it after all finds its files, not its variables, and is told so. A session that a client has opened is the
client's until its idle timeout.
"""

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping

from sandbox import logs
from sandbox.admission import Admission
from sandbox.durable import DurableSession

_OWN_S = 5.0
"""Of idleness, until a session makes room for its own owner's next: who goes on at once keeps the variables."""
_OTHERS_S = 60.0
"""The same for somebody else's next."""
_AGAIN_S = 10.0
"""Until one that was used just then, or that holds what cannot be stored, is tried again."""
_LOOK_S = 0.25
_logger = logs.logger(__name__)


class Reclaim:
    """For one node. sessions: those that are in memory, by their ids."""

    def __init__(self, admission: Admission, sessions: Mapping[str, DurableSession]) -> None:
        self._admission = admission
        self._sessions = sessions
        self._used: Counter[str] = Counter()

    @contextlib.contextmanager
    def using(self, session_id: str) -> Iterator[None]:
        """Within the block a run goes on in the session, also while nothing is executed."""
        self._used[session_id] += 1
        try:
            yield
        finally:
            self._used[session_id] -= 1
            if not self._used[session_id]:
                del self._used[session_id]

    async def go_on(self) -> None:
        """For ever, make room while somebody waits for it."""
        while True:
            await self._admission.crowded()
            try:
                await self._make_room()
            except Exception:  # whoever waits has a longest wait, and the next may be luckier
                _logger.exception("room not made")
                await asyncio.sleep(_LOOK_S)

    async def _make_room(self) -> None:
        stayed = dict[str, float]()
        while (lacking := self._admission.lacking) is not None:
            session = self._idlest(*lacking, stayed)
            if session is None:
                await asyncio.sleep(_LOOK_S)
            elif await session.sleep():
                _logger.info("session put to sleep", session_id=session.row.id, why="others wait for memory")
            else:
                stayed[session.row.id] = time.monotonic()

    def _idlest(self, owner: str, lacking_mb: int, stayed: Mapping[str, float]) -> DurableSession | None:
        """Whose sandbox goes first, for this owner; None where all that could go would not be enough.

        stayed: when sessions could not be put to sleep.
        """
        recently = time.monotonic() - _AGAIN_S
        idle = [
            (idle_s, session)
            for session in self._sessions.values()
            if session.row.yields and session.row.id not in self._used
            if (idle_s := session.idle_s) is not None
            if idle_s >= (_OWN_S if session.row.owner == owner else _OTHERS_S)
            if stayed.get(session.row.id, -math.inf) < recently
        ]
        if not idle or sum(session.row.memory_mb for _, session in idle) < lacking_mb:
            return None
        return max(idle, key=lambda each: each[0])[1]
