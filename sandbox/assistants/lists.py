"""Lists as these programs page through them."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sandbox.keys import Owner
from sandbox.objects import Objects
from sandbox.store.rows import ObjectRow

Wanted = Callable[[Mapping[str, Any]], bool]
Shown = Callable[[ObjectRow], Awaitable[Mapping[str, Any]]]
_AT_A_TIME = 100


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of a list."""

    limit: int = 20
    after: str | None = None
    before: str | None = None
    newest_first: bool = True


async def listed(
    objects: Objects,
    owner: Owner,
    kind: str,
    part: Part,
    show: Shown,
    *,
    parent: str = "",
    wanted: Wanted = lambda shown: True,
) -> dict[str, Any]:
    """A page in its envelope. show: an object as it is told. wanted: which of them are in the list.

    Raises `InvalidRequest` when `after` or `before` is none of them.
    """
    backwards = part.before is not None and part.after is None
    newest_first = part.newest_first is not backwards
    after = part.before if backwards else part.after
    found: list[Mapping[str, Any]] = []
    while len(found) <= part.limit:
        page = await objects.page(
            owner, kind, parent=parent, limit=part.limit + 1, after=after, newest_first=newest_first
        )
        found += [shown for row in page.items if wanted(shown := await show(row))]
        if (after := page.next) is None:
            break
    items = found[: part.limit]
    data = items[::-1] if backwards else items
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(found) > part.limit,
    }


async def everything(objects: Objects, owner: Owner, kind: str, parent: str) -> list[ObjectRow]:
    """All of a kind that are part of the same, the oldest first."""
    rows: list[ObjectRow] = []
    after = None
    while True:
        page = await objects.page(owner, kind, parent=parent, limit=_AT_A_TIME, after=after, newest_first=False)
        rows += page.items
        if (after := page.next) is None:
            return rows
