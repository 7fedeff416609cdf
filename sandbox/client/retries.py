"""When to try again, and when to give up."""

import random

from sandbox.client.problems import Again

RETRIES = 3
"""Of a call, about two seconds in all when nothing answers."""
RECONNECTS = 10
"""Of a stream that nothing comes through, about half a minute: a server needs some seconds to start again."""
LONGEST_PAUSE_S = 60.0
"""A server that asks for a longer one is left alone; its answer is raised."""
_FIRST_PAUSE_S = 0.25
_LARGEST_STEP_S = 4.0


class Tries:
    """How often one call may fail before it is given up."""

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._failed = 0

    def pause(self, again: Again) -> float:
        """Seconds to wait before the next try. Raises what the last one failed with when there shall be none."""
        if self._failed >= self._retries or (again.after or 0) > LONGEST_PAUSE_S:
            raise again.error from again.__cause__
        step = min(_LARGEST_STEP_S, _FIRST_PAUSE_S * 2.0**self._failed)
        self._failed += 1
        # Spread, so that many clients of a server that comes back do not all come at once.
        return float(again.after or 0) + step * random.uniform(0.5, 1)

    @property
    def failed(self) -> bool:
        """Whether this is not the first try: the server may have done what it was asked, and its answer got lost."""
        return self._failed > 0
