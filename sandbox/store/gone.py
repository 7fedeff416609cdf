"""Where rows stood in their lists that have been removed.

Programs delete what they list while they list it, and then ask for what comes after an item that is no more.
"""

from collections import OrderedDict

_MOST = 10_000


class Gone:
    """The last of them that this process has removed. Safe to be used from several threads."""

    def __init__(self) -> None:
        self._created_at: OrderedDict[tuple[str, str], float] = OrderedDict()

    def add(self, owner: str, row_id: str, created_at: float) -> None:
        """It is removed."""
        self._created_at[owner, row_id] = created_at
        while len(self._created_at) > _MOST:
            self._created_at.popitem(last=False)

    def created_at(self, owner: str | None, row_id: str) -> float | None:
        """When it had been made; None when that is not known, or no longer."""
        return None if owner is None else self._created_at.get((owner, row_id))
