"""Vacant sandboxes: all of one but its kernel, made while nobody waits, for who finds nothing warm.

One holds a fifth of a warm sandbox's memory (`sandbox bench memory`).
"""

from collections import deque

from sandbox.execution import Spec
from sandbox.runtime.embedded.sandbox import EmbeddedSandbox


class Vacant:
    """Those of one runtime."""

    def __init__(self) -> None:
        self._sandboxes: deque[tuple[Spec, EmbeddedSandbox]] = deque()

    def add(self, spec: Spec, sandbox: EmbeddedSandbox) -> None:
        """One that was made for this spec."""
        self._sandboxes.append((spec, sandbox))

    async def count(self, spec: Spec) -> int:
        """How many of this spec live. Others are of no use to whoever asks and end, as those do that are dead."""
        useless = [each for each in self._sandboxes if each[0] != spec or each[1].exited() is not None]
        for each in useless:
            self._sandboxes.remove(each)
        for _, sandbox in useless:  # out of the list before somebody else could take them
            await sandbox.stop()
        return len(self._sandboxes)

    async def take(self, spec: Spec) -> EmbeddedSandbox | None:
        """One of this spec for good."""
        while self._sandboxes and self._sandboxes[0][0] == spec:
            _, sandbox = self._sandboxes.popleft()
            if sandbox.exited() is None:
                return sandbox
            await sandbox.stop()
        return None

    async def aclose(self) -> None:
        """Give them up, after their launcher has ended them."""
        while self._sandboxes:
            _, sandbox = self._sandboxes.popleft()
            await sandbox.stop()
