"""What a request goes on from: responses before it, and items that were given out here."""

import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from sandbox import containers
from sandbox.errors import ContainerExpired, ContainerMissing, InvalidField, ObjectMissing, SandboxError
from sandbox.execution import MIB
from sandbox.keys import Owner
from sandbox.loop import openai_responses
from sandbox.loop.messages import MOST_MESSAGES
from sandbox.node import Node
from sandbox.store.rows import ExecutionRow, ObjectRow

KIND = "response"
LIFETIME_S = 30 * 86_400.0
"""Of a response after it was made, or gone on from; then a day more at most."""
_DAY_S = 86_400.0
_MOST = 1000
"""Responses of one chain: each is looked up."""
_MOST_BYTES = 64 * MIB
"""Of a chain, and again of what an input refers to: all of it is read."""
_EXECUTIONS = 100
"""Of a container, in which those of an input's items are looked for."""


async def chain(node: Node, owner: Owner, response_id: str | None) -> tuple[ObjectRow, ...]:
    """The response and those that it goes on from, oldest first, which stay for as long as this is done.

    Raises `ObjectMissing`, `InvalidField`.
    """
    rows: list[ObjectRow] = []
    size = items = 0
    while response_id is not None:
        row = await _earlier(node, owner, response_id, rows)
        if row.live and not node.objects.is_abandoned(row):
            raise InvalidField("previous_response_id", f"response {response_id} is not finished; wait for it")
        rows.append(row)
        size += row.body["bytes"]
        items += len(row.body["input"]) + len(row.body["response"]["output"])
        if len(rows) > _MOST or items > MOST_MESSAGES or size > _MOST_BYTES:
            most = f"{_MOST:,} responses, {MOST_MESSAGES:,} items or {_MOST_BYTES // MIB} MiB"
            raise InvalidField("previous_response_id", f"more than {most} come before; begin a new chain")
        response_id = row.body["response"]["previous_response_id"]
    until = time.time() + LIFETIME_S
    if older := sorted(row.id for row in rows if row.expires_at is not None and row.expires_at < until):
        await node.objects.prolong(owner, older, LIFETIME_S + _DAY_S)  # so that each is written to once a day
    return tuple(reversed(rows))


async def _earlier(node: Node, owner: Owner, response_id: str, later: Sequence[ObjectRow]) -> ObjectRow:
    try:
        return await node.objects.get(owner, KIND, response_id)
    except ObjectMissing:
        which = f", which response '{later[-1].id}' goes on from" if later else ""
        raise ObjectMissing(f"Previous response with id '{response_id}'{which}, not found.") from None


async def remembered(node: Node, owner: Owner, items: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """The items, with what references mean in their place, and what code put out where they do not say it.

    Raises `InvalidField`.
    """
    executions = _Executions(node, owner)
    stored = _Stored(node, owner)
    made: list[Mapping[str, Any]] = []
    size = 0
    for at, item in enumerate(items):
        asked = item
        if item["type"] == "item_reference":
            found = await stored.item(item["id"])
            if found is None:
                raise InvalidField(f"input[{at}].id", f"Item with id '{item['id']}' not found.")
            item = found
        elif item["type"] == "code_interpreter_call" and item.get("outputs") is None:
            found = await stored.item(item["id"])
            item = {**item, "outputs": found["outputs"] if found else await executions.outputs(item)}
        made.append(item)
        if item is not asked and (size := size + len(json.dumps(item))) > _MOST_BYTES:
            most = f"the items that it refers to have more than {_MOST_BYTES // MIB} MiB together"
            raise InvalidField(f"input[{at}]", f"{most}; leave some out")
    return tuple(made)


class _Stored:
    """Items of stored responses."""

    def __init__(self, node: Node, owner: Owner) -> None:
        self._node = node
        self._owner = owner
        self._last: tuple[str, Sequence[Mapping[str, Any]]] = ("", ())
        """Items of one response mostly come one after the other."""

    async def item(self, item_id: str) -> Mapping[str, Any] | None:
        """None when there is none."""
        place = openai_responses.place(item_id)
        if place is None:
            return None
        output = await self._output(place[0])
        item = output[place[1]] if place[1] < len(output) else None
        return item if item is not None and item["id"] == item_id else None

    async def _output(self, response_id: str) -> Sequence[Mapping[str, Any]]:
        if self._last[0] != response_id:
            try:
                row = await self._node.objects.get(self._owner, KIND, response_id)
                self._last = (response_id, row.body["response"]["output"])
            except ObjectMissing:
                self._last = (response_id, ())
        return self._last[1]


class _Executions:
    """What ran in the containers of items whose responses are not stored."""

    def __init__(self, node: Node, owner: Owner) -> None:
        self._node = node
        self._owner = owner
        self._left: dict[str, list[ExecutionRow]] = {}

    async def outputs(self, item: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """Of the first execution of this code that no earlier item has taken; None when it is not known any more."""
        container_id = item["container_id"]
        if container_id not in self._left:
            self._left[container_id] = [row async for row in self._rows(container_id)]
        for row in self._left[container_id]:
            if row.code == item.get("code") and row.execution is not None:
                self._left[container_id].remove(row)
                return openai_responses.outputs(row.execution)
        return None

    async def _rows(self, container_id: str) -> AsyncIterator[ExecutionRow]:
        """Oldest first."""
        try:
            session_id = containers.session_id(container_id)
            page = await self._node.executions(self._owner, session_id, limit=_EXECUTIONS)
        except SandboxError:  # gone, or another's
            return
        for row in reversed(page.items):
            yield row


def container_ids(rows: Sequence[ObjectRow], items: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The containers in which code has run, the last first."""
    for item in reversed(items):
        if item["type"] == "code_interpreter_call":
            yield item["container_id"]
    for row in reversed(rows):
        if row.body["session_id"] is not None:
            yield containers.container_id(row.body["session_id"])


async def session_id(node: Node, owner: Owner, candidates: Iterator[str]) -> tuple[str | None, bool]:
    """The first container that is still there, as a session; and whether there was one that is not."""
    lost = False
    for container_id in dict.fromkeys(candidates):
        try:
            return (await containers.usable(node, owner, container_id)).id, lost
        except (ContainerExpired, ContainerMissing):
            lost = True
    return None, lost
