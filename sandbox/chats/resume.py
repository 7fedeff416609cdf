"""Going on with a run that ended because a function of the caller's was wanted.

The protocol has no place for what we did meanwhile: the caller sees one message of the model's with its own calls in
it. So the ids of those calls are ours, `call_<trace>_<number>`, and lead to what stands behind them, which is kept as
it was: unlike in the trace, secrets are in it, because the model has to see its own words again.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sandbox.errors import InvalidRequest
from sandbox.loop.messages import Message, ToolCall, ToolResult
from sandbox.store import Store
from sandbox.store.rows import PauseRow
from sandbox.traces import parts

_ID = re.compile(r"call_([0-9a-f]{32})_(\d{1,3})")
_MOST = 50
"""Runs that one request may go on with: each is looked up and put back whole."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """A caller's messages as the model knows them."""

    messages: tuple[Message, ...]
    pause: PauseRow | None
    """The last run that they go on with."""


def renamed(trace_id: str, calls: Sequence[ToolCall], wanted: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
    """Of all calls of a message the wanted ones, with ids that lead back here."""
    trace = trace_id.removeprefix("trc_")
    return tuple(replace(call, id=f"call_{trace}_{calls.index(call)}") for call in wanted)


def pause(trace_id: str, owner: str, session_id: str | None, *, made: bool, said: Sequence[Message]) -> PauseRow:
    """What `resumed` will find. made: the session was made for the run."""
    told = tuple(parts.message_to_json(message) for message in said)
    return PauseRow(trace_id, owner, session_id, made, told, time.time())


async def resumed(store: Store, owner: str, messages: Sequence[Message]) -> Resumed:
    """What the caller has not seen is put back. What leads nowhere, or to another owner, stays as it is: it may have
    been purged, and then the caller's own words are all there is. Raises `InvalidRequest` when it is too much.
    """
    whole: list[Message] = []
    ids: dict[str, str] = {}
    seen: set[str] = set()
    last = None
    for message in messages:
        found = await _pause(store, owner, message, seen)
        if found is None:
            whole.append(_with_ids(message, ids))
            continue
        last = found
        said = [parts.message_from_json(told) for told in found.said]
        ids |= _ids(message, said)
        whole += said
    return Resumed(tuple(whole), last)


async def _pause(store: Store, owner: str, message: Message, seen: set[str]) -> PauseRow | None:
    """The run that this message ended, once."""
    match = next((match for call in message.calls if (match := _ID.fullmatch(call.id))), None)
    if match is None or match[1] in seen:
        return None
    seen.add(match[1])
    if len(seen) > _MOST:
        raise InvalidRequest(f"messages: they go on with more than {_MOST} earlier runs; begin a new conversation")
    return await store.pause(owner, f"trc_{match[1]}")


def _ids(message: Message, said: Sequence[Message]) -> dict[str, str]:
    """From our ids to the model's own."""
    calls = next((each.calls for each in reversed(said) if each.calls), ())
    found = {call.id: _ID.fullmatch(call.id) for call in message.calls}
    return {ours: calls[int(match[2])].id for ours, match in found.items() if match and int(match[2]) < len(calls)}


def _with_ids(message: Message, ids: dict[str, str]) -> Message:
    if not ids or message.role != "tool":
        return message
    changed = tuple(
        replace(part, call_id=ids.get(part.call_id, part.call_id)) if isinstance(part, ToolResult) else part
        for part in message.parts
    )
    return replace(message, parts=changed)
