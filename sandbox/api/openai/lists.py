"""Lists as OpenAI's API has them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import Depends, Query


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of a list is wanted."""

    limit: int
    after: str | None
    newest_first: bool


# A coroutine, because FastAPI runs a dependency that is none in a thread.
async def _part(
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query()] = None,
    order: Annotated[Literal["asc", "desc"], Query()] = "desc",
) -> Part:
    return Part(limit, after, order == "desc")


async def _long_part(
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    after: Annotated[str | None, Query()] = None,
    order: Annotated[Literal["asc", "desc"], Query()] = "desc",
) -> Part:
    return Part(limit, after, order == "desc")


Wanted = Annotated[Part, Depends(_part)]
"""At most 100 items; 20, unless the client says otherwise."""
LongWanted = Annotated[Part, Depends(_long_part)]
"""At most 10,000, which is also what is sent when the client does not say."""


def listed(data: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A list's JSON. data: objects with an `id`."""
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more}
