"""One response in the making: what happens in a run of the loop, as its events, and what is kept of it."""

import asyncio
import base64
import binascii
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from typing import Any

from sandbox import containers
from sandbox.chats import Chat
from sandbox.errors import ObjectMissing, SandboxError, UpstreamBusy, UpstreamRefused
from sandbox.keys import Owner
from sandbox.loop import events as loop
from sandbox.loop import openai_responses
from sandbox.loop.events import Ending, Finished
from sandbox.loop.messages import Message, Usage
from sandbox.loop.openai_responses import ContainerFile, Event, Figure, Writing
from sandbox.node import Node
from sandbox.responses import earlier
from sandbox.responses.prepared import Prepared
from sandbox.store.rows import ObjectRow
from sandbox.traces import parts

_MOST_FIGURES = 20
"""Of one execution, that become files."""
_STOPPED = {"code": "server_error", "message": "The server was stopped before this response was complete."}
_BUG = {"code": "server_error", "message": "The server failed; its log has more."}


class Run:
    """Use `events` once."""

    def __init__(self, node: Node, owner: Owner, prepared: Prepared, chat: Chat, response_id: str) -> None:
        self.asked = prepared.asked
        self.withdrawn = False
        """It is cancelled because somebody wants that, and not because the server stops."""
        self.left: list[Event] = []
        """Events of an end that came from outside."""
        self.row: ObjectRow | None = None
        """As it is stored so far."""
        self._node = node
        self._owner = owner
        self._prepared = prepared
        self._chat = chat
        response = openai_responses.response(prepared.asked, response_id, time.time())
        self._writing = Writing(response, outputs=prepared.asked.outputs)
        self._figures: list[ContainerFile] = []
        """Those that no message has cited yet."""
        self._running = False
        """Code runs, and its item is open."""
        self._said = prepared.messages

    @property
    def response(self) -> Mapping[str, Any]:
        """As it is now, with all outputs."""
        return self._writing.response

    def shown(self) -> dict[str, Any]:
        """As it is now, as its request wants to see it."""
        return openai_responses.shown(self.response, outputs=self.asked.outputs)

    def queued(self) -> list[Event]:
        """What comes before `events` of one in the background."""
        return list(self._writing.queued())

    async def events(self, *, failing: bool) -> AsyncGenerator[Event, None]:
        """All events; the response is stored before its end is told. Closing it early cancels it.

        failing: what goes wrong is raised, and the response with it not stored; else it is an event. In any case
        raises `Draining`, `Overloaded` before the first event.
        """
        begun = False
        try:
            async with contextlib.aclosing(self._chat.events()) as events:
                async for event in events:
                    begun = True
                    for told in await self._told(event):
                        yield told
        except SandboxError as error:
            if failing or not begun:
                raise
            for told in await self._end("failed", error=_error(error)):
                yield told
        except (asyncio.CancelledError, GeneratorExit):
            await self._leave()
            raise
        except Exception:
            if not failing:
                for told in await self._end("failed", error=_BUG):
                    yield told
            raise

    async def _leave(self) -> None:
        """Nobody waits for it any more, or the server stops."""
        if self.response["status"] not in ("queued", "in_progress"):
            if self.left:  # it was just being written, which may have been cut off
                await asyncio.shield(self._node.background(self.store(), f"end of {self.response['id']}"))
            return
        stopped = self.asked.background and not self.withdrawn
        ending = self._end("failed", error=_STOPPED) if stopped else self._end("cancelled")
        self.left = await asyncio.shield(self._node.background(ending, f"end of {self.response['id']}"))

    # What happens.

    async def _told(self, event: loop.Event) -> list[Event]:
        writing = self._writing
        match event:
            case loop.Asked(turn=1):
                return list(writing.begin())
            case loop.Said():
                self._running = False
                return [] if self._chat.fenced else list(writing.say(event.text))
            case loop.Replied():
                return list(writing.said(await self._citations(last=not event.reply.message.calls)))
            case loop.Running():
                self._running = True
                return list(writing.run(event.code, self._container_id))
            case loop.Ran():
                self._running = False
                await self._keep_figures(openai_responses.figures(event.execution))
                status = openai_responses.status(event.execution)
                return list(writing.ran(status, openai_responses.outputs(event.execution)))
            case loop.Unusable() if self._running:
                self._running = False
                return list(writing.ran("failed", ()))
            case Finished():
                return await self._finish(event)
        return []

    async def _finish(self, finished: Finished) -> list[Event]:
        writing = self._writing
        told: list[Event] = []
        if self._chat.fenced and finished.why is not Ending.CALLS:
            told += writing.say(finished.answer.text)
        told += writing.said(await self._citations(last=True))
        if finished.why is Ending.CALLS:
            for call in finished.answer.calls:
                if call.name in self._chat.functions:
                    told += writing.call(call)
        self._said += openai_responses.completed(finished.said, self._chat.functions)
        usage = finished.spent.usage
        match finished.why:
            case Ending.LENGTH:
                return await self._end("incomplete", usage, reason="max_output_tokens", before=told)
            case Ending.FILTERED:
                return await self._end("incomplete", usage, reason="content_filter", before=told)
        return await self._end("completed", usage, before=told)

    # Files.

    @property
    def _container_id(self) -> str:
        session_id = self._chat.session_id
        assert session_id is not None, "code runs in a session"
        return containers.container_id(session_id)

    async def _citations(self, *, last: bool) -> list[dict[str, Any]]:
        """Of the message that is open. last: there will be none after it."""
        if not self._writing.speaking:
            return []
        text = self._writing.text
        files = await self._files() if openai_responses.PREFIX in text else []
        cited = list(openai_responses.links(text, files))
        if last:
            linked = {citation["file_id"] for citation in cited}
            cited += [openai_responses.figure(each) for each in self._figures if each.id not in linked]
            self._figures = []
        return cited

    async def _files(self) -> list[ContainerFile]:
        session_id = self._chat.session_id
        if session_id is None:
            return []
        try:
            listed = await self._node.files(self._owner, session_id)
        except SandboxError:  # it has ended meanwhile; the answer is good without
            return []
        return [self._file(row.id, row.path) for row in listed.rows if row.id]

    def _file(self, file_id: str, path: str) -> ContainerFile:
        return ContainerFile(self._container_id, containers.container_file_id(file_id), path)

    async def _keep_figures(self, figures: tuple[Figure, ...]) -> None:
        """As files of the container, as far as it has room: what was displayed can be fetched like what was saved."""
        session_id = self._chat.session_id
        assert session_id is not None, "code has run in a session"
        for figure in figures[:_MOST_FIGURES]:
            try:
                data = base64.b64decode(figure.data, validate=True)
                row = await self._node.put_file(
                    self._owner, session_id, f"figure.{figure.suffix}", _one(data), fresh=True, uploaded=False
                )
            except binascii.Error:  # a program may have displayed anything
                continue
            except SandboxError:
                return
            self._figures.append(self._file(row.id, row.path))

    # The end.

    async def _end(
        self,
        status: openai_responses.Status,
        usage: Usage | None = None,
        *,
        error: Mapping[str, str] | None = None,
        reason: str | None = None,
        before: Iterable[Event] = (),
    ) -> list[Event]:
        """Events, with those `before` it, which are told when it is stored."""
        self.left = [*before, *self._writing.end(status, usage, time.time(), error=error, reason=reason)]
        try:
            await self.store()
        except Exception:  # what is not stored is not told
            self.left = []
            raise
        told, self.left = self.left, []
        return told

    async def store(self, *, live: bool = False) -> None:
        """Write it down as it is now. live: it goes on."""
        if not self.asked.store:
            return
        body: dict[str, Any] = {
            "response": dict(self.response),
            "input": list(self._prepared.items),
            "said": _json(self._said),
            "session_id": self._chat.session_id,
        }
        body["bytes"] = len(json.dumps(body))
        objects, response_id = self._node.objects, self.response["id"]
        if self.row is not None:
            with contextlib.suppress(ObjectMissing):  # it was deleted meanwhile
                self.row = await objects.change(self.row, body, live=live)
        else:
            self.row = await objects.add(
                self._owner, earlier.KIND, body, object_id=response_id, live=live, lifetime_s=earlier.LIFETIME_S
            )


def _json(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    return [parts.message_to_json(message) for message in messages]


def _error(error: SandboxError) -> Mapping[str, str]:
    """Of a response that has failed, with one of the few codes that there are."""
    code = "server_error"
    if isinstance(error, UpstreamBusy) and error.status == 429:
        code = "rate_limit_exceeded"
    elif isinstance(error, UpstreamRefused):
        code = "invalid_prompt"
    return {"code": code, "message": str(error)}


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data
