"""OpenAI's Assistants, version 2, over our sessions and whatever model there is.

definitions   assistants: instructions, a model, tools
threads       conversations, each with a session of its own
messages      what was written in them
runs          an assistant's work on a thread, in the background, with its steps
work          one run that goes on; `place` is where its code runs, `log` what its stream says

All of it is kept as objects of the node, so it is still there after a restart. A run that the restart has cut off is
told to have failed.
"""

from collections.abc import Mapping
from typing import Any

from sandbox.assistants.definitions import Definitions
from sandbox.assistants.lists import Part
from sandbox.assistants.log import Log
from sandbox.assistants.messages import Messages
from sandbox.assistants.runs import Begun, Runs
from sandbox.assistants.threads import Threads
from sandbox.chats import Chats
from sandbox.keys import Owner
from sandbox.node import Node

__all__ = ["Assistants", "Begun", "Log", "Part"]


class Assistants:
    """What the endpoints call. Everything takes an owner first."""

    def __init__(self, node: Node, chats: Chats) -> None:
        self.definitions = Definitions(node, chats.models)
        self.threads = Threads(node)
        self.messages = Messages(node, self.threads)
        self.runs = Runs(node, chats, self.definitions, self.threads, self.messages)

    async def create_thread(self, owner: Owner, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """With its first messages. Raises `InvalidRequest`, `FileMissing`."""
        messages = [
            await self.messages.checked(owner, each, f"messages[{at}].")
            for at, each in enumerate(asked.get("messages") or ())
        ]
        row = await self.threads.create(owner, asked)
        for message in messages:
            await self.messages.add(owner, row, message)
        return await self.thread(owner, row.id)

    async def thread(self, owner: Owner, thread_id: str) -> Mapping[str, Any]:
        """Raises `ObjectMissing`."""
        thread: Mapping[str, Any] = (await self.threads.row(owner, thread_id)).body["thread"]
        return thread

    async def delete_thread(self, owner: Owner, thread_id: str) -> dict[str, Any]:
        """And all that is in it, what runs included. Raises `ObjectMissing`."""
        async with self.threads.alone(owner, thread_id):
            await self.threads.row(owner, thread_id)
            await self.runs.forsake(thread_id)
            return await self.threads.delete(owner, thread_id)

    async def add_message(self, owner: Owner, thread_id: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Raises `ObjectMissing`, `FileMissing`, `InvalidRequest`; that, too, while a run of the thread goes on."""
        checked = await self.messages.checked(owner, asked)
        async with self.threads.alone(owner, thread_id):
            row = await self.threads.row(owner, thread_id)
            await self.runs.check_free(owner, thread_id, "add a message")
            return await self.messages.add(owner, row, checked)
