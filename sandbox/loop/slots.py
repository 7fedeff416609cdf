"""So many requests at a time, of all callers, who take turns."""

import asyncio

from sandbox.rota import Rota


class Slots:
    """For use from one event loop."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting = Rota[asyncio.Future[None]]()

    @property
    def full(self) -> bool:
        """Whether whoever comes now has to wait."""
        return not self._free

    async def take(self, caller: str) -> None:
        """One of them, at once or when it is this caller's turn, until `release`."""
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(caller, turn)
        try:
            await turn
        except asyncio.CancelledError:
            # The turn may have come in the same step of the loop as the cancellation.
            if turn.done() and not turn.cancelled():
                self.release()
            self._waiting.remove(caller, turn)
            raise

    def release(self) -> None:
        """It is whose turn comes."""
        while (first := self._waiting.first) is not None:
            caller, turn = first
            if turn.done():  # cancelled, and its task has not run yet
                self._waiting.remove(caller, turn)
                continue
            self._waiting.serve(caller, turn)
            turn.set_result(None)
            return
        self._free += 1
