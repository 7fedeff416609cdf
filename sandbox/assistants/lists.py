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
    most = part.limit + 1
    while len(found) <= part.limit:
        page = await objects.page(owner, kind, parent=parent, limit=most, after=after, newest_first=newest_first)
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


async def latest(objects: Objects, owner: Owner, kind: str, parent: str, most: int) -> list[ObjectRow]:
    """The newest of a kind that are part of the same, the oldest of them first."""
    rows: list[ObjectRow] = []
    after = None
    while len(rows) < most:
        limit = min(_AT_A_TIME, most - len(rows))
        page = await objects.page(owner, kind, parent=parent, limit=limit, after=after)
        rows += page.items
        if (after := page.next) is None:
            break
    return rows[::-1]
