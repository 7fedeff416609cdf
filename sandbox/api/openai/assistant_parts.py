"""What the routes of the Assistants API share."""

from typing import Annotated, Literal

from fastapi import Depends, Path, Query, Request

from sandbox.api.schemas import ID_PATTERN
from sandbox.assistants import Assistants, Part


def assistants_of(request: Request) -> Assistants:
    """Whom every route here asks."""
    assistants: Assistants = request.app.state.assistants
    return assistants


# A coroutine, because FastAPI runs a dependency that is none in a thread.
async def _part(
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(pattern=ID_PATTERN)] = None,
    before: Annotated[str | None, Query(pattern=ID_PATTERN)] = None,
    order: Literal["asc", "desc"] = "desc",
) -> Part:
    return Part(limit, after, before, order == "desc")


Wanted = Annotated[Part, Depends(_part)]
AssistantId = Annotated[str, Path(pattern=ID_PATTERN)]
ThreadId = Annotated[str, Path(pattern=ID_PATTERN)]
MessageId = Annotated[str, Path(pattern=ID_PATTERN)]
RunId = Annotated[str, Path(pattern=ID_PATTERN)]
StepId = Annotated[str, Path(pattern=ID_PATTERN)]
