"""Messages of a thread: what users write, what runs answer, and the files that come with them."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from sandbox.assistants.lists import Part, listed
from sandbox.assistants.threads import Threads
from sandbox.assistants.tools import files_of
from sandbox.errors import InvalidField, InvalidRequest, ObjectMissing
from sandbox.keys import Owner
from sandbox.loop import openai_assistants as wire
from sandbox.node import Node
from sandbox.objects import new_id
from sandbox.store.rows import ObjectRow

KIND = "message"
_MOST_CHARACTERS = 256_000
"""Of a message's texts and addresses together: a run reads many messages."""
_SEARCH = "file_search is not here; give the file the tool code_interpreter"


class Messages:
    """Of many owners; whatever belongs to another does not exist."""

    def __init__(self, node: Node, threads: Threads) -> None:
        self._node = node
        self._threads = threads

    async def checked(self, owner: Owner, asked: Mapping[str, Any], where: str = "") -> dict[str, Any]:
        """A message that can be added. Raises `InvalidRequest`, `FileMissing`."""
        content = await self._content(owner, asked.get("content"), f"{where}content")
        attachments = [
            await self._attachment(owner, each, f"{where}attachments[{at}]")
            for at, each in enumerate(asked.get("attachments") or ())
        ]
        return {**asked, "content": content, "attachments": attachments}

    async def add(self, owner: Owner, thread: ObjectRow, checked: Mapping[str, Any]) -> dict[str, Any]:
        """Add one to a thread that nobody else changes now; its files are the thread's, too.

        Raises `ObjectMissing`, `InvalidField` when these are too many.
        """
        made = wire.message(
            checked["role"],
            checked["content"],
            id=new_id("msg_"),
            thread_id=thread.id,
            now=int(time.time()),
            attachments=checked["attachments"],
            metadata=checked.get("metadata"),
        )
        await self._threads.attach(owner, thread.id, [each["file_id"] for each in checked["attachments"]])
        await self._threads.use(owner, thread.id)
        await self._node.objects.add(owner, KIND, made, object_id=made["id"], parent=thread.id)
        return made

    async def get(self, owner: Owner, thread_id: str, message_id: str) -> Mapping[str, Any]:
        """Raises `ObjectMissing`."""
        return (await self._row(owner, thread_id, message_id)).body

    async def update(
        self, owner: Owner, thread_id: str, message_id: str, metadata: Mapping[str, str] | None
    ) -> Mapping[str, Any]:
        """Its metadata, which is all that can change. Raises `ObjectMissing`, `InvalidRequest` while it is written."""
        row = await self._row(owner, thread_id, message_id)
        if metadata is None:
            return row.body
        if row.body["status"] == "in_progress":  # its run would write over this, or this over its end
            raise InvalidRequest(f"message {message_id} is still being written; wait for the end of its run")
        return (await self._node.objects.change(row, {**row.body, "metadata": dict(metadata)})).body

    async def delete(self, owner: Owner, thread_id: str, message_id: str) -> dict[str, Any]:
        """Raises `ObjectMissing`."""
        await self._row(owner, thread_id, message_id)
        await self._node.objects.remove(owner, KIND, message_id)
        return {"id": message_id, "object": "thread.message.deleted", "deleted": True}

    async def page(self, owner: Owner, thread_id: str, part: Part, run_id: str | None = None) -> dict[str, Any]:
        """run_id: only those that this run has made. Raises `ObjectMissing`, `InvalidRequest`."""
        await self._threads.row(owner, thread_id)
        return await listed(
            self._node.objects,
            owner,
            KIND,
            part,
            _body,
            parent=thread_id,
            wanted=lambda message: run_id is None or message["run_id"] == run_id,
        )

    async def _row(self, owner: Owner, thread_id: str, message_id: str) -> ObjectRow:
        row = await self._node.objects.get(owner, KIND, message_id)
        if row.parent != thread_id:
            raise ObjectMissing(f"there is no message {message_id} in thread {thread_id}")
        return row

    async def _content(self, owner: Owner, content: Any, where: str) -> list[dict[str, Any]]:
        if isinstance(content, str) and content:
            content = [{"type": "text", "text": content}]
        if not isinstance(content, list) or not content:
            raise InvalidField(where, "text or a list of parts is needed")
        parts = [await self._part(owner, part, f"{where}[{at}]") for at, part in enumerate(content)]
        if sum(map(_length, parts)) > _MOST_CHARACTERS:
            raise InvalidField(where, f"it has more than {_MOST_CHARACTERS} characters; attach a file instead")
        return parts

    async def _part(self, owner: Owner, part: Any, where: str) -> dict[str, Any]:
        kind = str(part.get("type")) if isinstance(part, Mapping) else ""
        given = part.get(kind) if kind in ("text", "image_file", "image_url") else None
        match kind, given:
            case "text", str() if given:
                return _text(given)
            case "text", {"value": str() as value}:  # as they are told
                return _text(value)
            case "image_file", {"file_id": str() as file_id}:
                await self._node.kept.row(owner, "openai", file_id)
                return {"type": kind, kind: {"file_id": file_id, "detail": part[kind].get("detail") or "auto"}}
            case "image_url", {"url": str() as url}:
                return {"type": kind, kind: {"url": url, "detail": part[kind].get("detail") or "auto"}}
        raise InvalidField(where, "a part is {type: text, text}, or an image_file, or an image_url")

    async def _attachment(self, owner: Owner, attachment: Mapping[str, Any], where: str) -> dict[str, Any]:
        file_id, tools = attachment.get("file_id"), attachment.get("tools") or []
        if not isinstance(file_id, str):
            raise InvalidField(f"{where}.file_id", "the id of a file is needed")
        kinds = {each.get("type") for each in tools if isinstance(each, Mapping)} if isinstance(tools, list) else set()
        if kinds != {"code_interpreter"}:
            raise InvalidField(f"{where}.tools", _SEARCH)
        await self._node.kept.row(owner, "openai", file_id)
        return {"file_id": file_id, "tools": [{"type": "code_interpreter"}]}


def attached(messages: Sequence[Mapping[str, Any]], thing: Mapping[str, Any]) -> list[str]:
    """The ids of a thing's files and of those that come with the messages, each once."""
    more = [each["file_id"] for message in messages for each in message["attachments"]]
    return list(dict.fromkeys([*files_of(thing), *more]))


def _length(part: Mapping[str, Any]) -> int:
    match part:
        case {"text": {"value": str() as said}} | {"image_url": {"url": str() as said}}:
            return len(said)
    return 0


def _text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": {"value": value, "annotations": []}}


async def _body(row: ObjectRow) -> Mapping[str, Any]:
    return row.body
