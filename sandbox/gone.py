"""What has been removed, for a while.

Programs delete what they list while they list it, and then ask for what comes after an item that is no more.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Known = TypeVar("Known")


class Gone(Generic[Key, Known]):
    """The last that this process has removed. Safe to be used from several threads."""

    def __init__(self, most: int) -> None:
        """most: how many are remembered."""
        self._most = most
        self._known: OrderedDict[Key, Known] = OrderedDict()

    def add(self, key: Key, known: Known) -> None:
        """It is removed; known: what has to be remembered of it."""
        self._known[key] = known
        while len(self._known) > self._most:
            self._known.popitem(last=False)

    def get(self, key: Key) -> Known | None:
        """None when it was never removed here, or too many since."""
        return self._known.get(key)
