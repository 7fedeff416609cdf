"""Going on with a run that ended because a function of the caller's was wanted.

The protocol has no place for what we did meanwhile: the caller sees one message of the model's with its own calls in
it. So the ids of those calls are ours, `call_<trace>_<number>`, and from the trace we know what stands behind them.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from sandbox.loop.messages import Message, ToolCall, ToolResult
from sandbox.store import Store
from sandbox.store.rows import TraceRow
from sandbox.traces.recorder import said_messages

_ID = re.compile(r"call_([0-9a-f]{32})_(\d{1,3})")


def renamed(trace_id: str, calls: Sequence[ToolCall], wanted: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
    """Of all calls of a message the wanted ones, with ids that lead back here."""
    trace = trace_id.removeprefix("trc_")
    return tuple(replace(call, id=f"call_{trace}_{calls.index(call)}") for call in wanted)


async def expanded(store: Store, owner: str, messages: Sequence[Message]) -> tuple[tuple[Message, ...], str | None]:
    """The messages as the model knows them, and the session of the last run that they go on with.

    What does not lead to a trace of this owner stays as it is: it may have been purged, and then the caller's own
    words are all there is.
    """
    whole: list[Message] = []
    ids: dict[str, str] = {}
    session_id = None
    for message in messages:
        trace = await _trace(store, owner, message)
        if trace is not None and (said := said_messages(trace.records)):
            ids |= _ids(message, said)
            session_id = trace.session_id or session_id
            whole += said
        else:
            whole.append(_with_ids(message, ids))
    return tuple(whole), session_id


async def _trace(store: Store, owner: str, message: Message) -> TraceRow | None:
    for call in message.calls:
        if found := _ID.fullmatch(call.id):
            return await store.trace(owner, f"trc_{found[1]}")
    return None


def _ids(message: Message, said: Sequence[Message]) -> dict[str, str]:
    """From our ids to the model's own."""
    calls = next((each.calls for each in reversed(said) if each.calls), ())
    found = {call.id: _ID.fullmatch(call.id) for call in message.calls}
    return {ours: calls[int(match[2])].id for ours, match in found.items() if match and int(match[2]) < len(calls)}


def _with_ids(message: Message, ids: dict[str, str]) -> Message:
    if not ids or message.role != "tool":
        return message
    parts = tuple(
        replace(part, call_id=ids.get(part.call_id, part.call_id)) if isinstance(part, ToolResult) else part
        for part in message.parts
    )
    return replace(message, parts=parts)
