"""Assistants: instructions, a model and tools, under an id."""

import time
from collections.abc import Mapping
from typing import Any

from sandbox.assistants.lists import Part, listed
from sandbox.assistants.tools import checked_resources, checked_tools
from sandbox.keys import Owner
from sandbox.loop import openai_assistants as wire
from sandbox.loop.models import Models
from sandbox.node import Node
from sandbox.objects import new_id
from sandbox.store.rows import ObjectRow

_KIND = "assistant"
_NEVER_NULL = ("model", "tools", "tool_resources", "metadata", "response_format")


class Definitions:
    """Of many owners; whatever belongs to another does not exist."""

    def __init__(self, node: Node, models: Models) -> None:
        self._node = node
        self._models = models

    async def create(self, owner: Owner, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Raises `UnknownModel`, `InvalidRequest`, `FileMissing`."""
        made = wire.assistant(await self._checked(owner, asked), id=new_id("asst_"), now=int(time.time()))
        await self._node.objects.add(owner, _KIND, made, object_id=made["id"])
        return made

    async def get(self, owner: Owner, assistant_id: str) -> Mapping[str, Any]:
        """Raises `ObjectMissing`."""
        return (await self._node.objects.get(owner, _KIND, assistant_id)).body

    async def update(self, owner: Owner, assistant_id: str, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """Only the fields that are given. Raises as `create` and `get` do."""
        row = await self._node.objects.get(owner, _KIND, assistant_id)
        given = await self._checked(owner, asked)
        changed = {
            name: value
            for name, value in given.items()
            if name in row.body and not (value is None and name in _NEVER_NULL)
        }
        return (await self._node.objects.change(row, {**row.body, **changed})).body

    async def delete(self, owner: Owner, assistant_id: str) -> dict[str, Any]:
        """What its threads and runs have of it they keep. Raises `ObjectMissing`."""
        await self._node.objects.remove(owner, _KIND, assistant_id)
        return {"id": assistant_id, "object": "assistant.deleted", "deleted": True}

    async def page(self, owner: Owner, part: Part) -> dict[str, Any]:
        """Raises `InvalidRequest`."""
        return await listed(self._node.objects, owner, _KIND, part, _body)

    async def _checked(self, owner: Owner, asked: Mapping[str, Any]) -> dict[str, Any]:
        checked = dict(asked)
        if asked.get("model") is not None:
            self._models.plan(asked["model"])
        if "tools" in asked:
            checked["tools"] = checked_tools(asked["tools"])
        if "tool_resources" in asked:
            checked["tool_resources"] = await checked_resources(self._node, owner, asked["tool_resources"])
        return checked


async def _body(row: ObjectRow) -> Mapping[str, Any]:
    return row.body
