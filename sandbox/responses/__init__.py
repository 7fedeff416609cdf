"""OpenAI's Responses: made now or in the background, kept, gone on from, cancelled and shown again.

prepared   a request made ready: the chain before it, its container, its files
earlier    responses and items that a request goes on from
mounts     files that a request brings along
run        one response in the making
log        its events, for those who come later

A response is an object of kind `response`, whose body has the response itself, its input as items, what it has added
to the conversation as messages of the model's, and the session in which its code has run, and how long all that is.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sandbox import logs
from sandbox.chats import Chats
from sandbox.errors import InvalidField, InvalidRequest, ObjectMissing, Overloaded, SandboxError
from sandbox.keys import Owner
from sandbox.loop import openai_responses
from sandbox.loop.openai_responses import Event
from sandbox.node import Node
from sandbox.objects import new_id
from sandbox.responses import earlier
from sandbox.responses.log import Log
from sandbox.responses.prepared import prepare
from sandbox.responses.run import Run
from sandbox.store.rows import ObjectRow

_logger = logs.logger(__name__)
_EVENTS = "response_events"
"""Kind of the object that has the events of a response that was made in the background. It is part of that."""
_MOST_LIVE = 100
"""Responses of one key that are made in the background side by side: no connection bounds them."""
_CUT_OFF = {"code": "server_error", "message": "The server was stopped before this response was complete."}


@dataclass(slots=True)
class _Live:
    """A response that is made in the background."""

    owner: str
    run: Run
    log: Log
    begun: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    task: "asyncio.Task[None] | None" = None


@dataclass(frozen=True, slots=True)
class Items:
    """A page of a response's input."""

    items: tuple[Mapping[str, Any], ...]
    has_more: bool


class Responses:
    """What the endpoints call. Everything takes an owner first."""

    def __init__(self, node: Node, chats: Chats) -> None:
        self._node = node
        self._chats = chats
        self._live: dict[str, _Live] = {}

    # Making.

    async def begin(self, owner: Owner, body: Mapping[str, Any]) -> Run:
        """A response that is ready to be made; `Run.events` makes it, or `send_off`.

        Raises `ObjectMissing` when the response before does not exist, `InvalidField`, and as `prepare` and
        `Chats.begin` do.
        """
        asked = openai_responses.read(body)
        prepared = await prepare(self._node, owner, asked)
        # Words of a turn that breaks off cannot be taken back from whoever has read them.
        chat = await self._chats.begin(owner, prepared.request, prepared.tool, whole=not asked.stream, resuming=False)
        return Run(self._node, owner, prepared, chat, new_id("resp_"))

    async def send_off(self, owner: Owner, run: Run) -> Log:
        """Make it in the background, whoever waits. Its events. Raises `Draining`, `Overloaded`."""
        if sum(live.owner == owner.id for live in self._live.values()) >= _MOST_LIVE:
            raise Overloaded(f"{_MOST_LIVE} responses of this key are in the background; wait for one of them", 5.0)
        live = _Live(owner.id, run, Log())
        for event in run.queued():
            live.log.add(event)
        response_id = run.response["id"]
        self._live[response_id] = live  # before anything is awaited: those who come at the same time are counted
        try:
            await run.store(live=True)
        except BaseException:
            del self._live[response_id]
            raise
        live.task = self._node.work(self._make(owner, live), response_id)
        try:
            await live.begun
        except SandboxError:
            await self._node.objects.remove(owner, earlier.KIND, response_id)
            raise
        return live.log

    async def _make(self, owner: Owner, live: _Live) -> None:
        run, response_id = live.run, live.run.response["id"]
        try:
            async with contextlib.aclosing(run.events(failing=False)) as events:
                async for event in events:
                    live.log.add(event)
                    if not live.begun.done():
                        live.begun.set_result(None)
        except Exception as error:
            # Once it has begun a failure is an event; what is raised then is that its end could not be stored.
            if isinstance(error, SandboxError) and not live.begun.done():
                live.begun.set_exception(error)
                return
            _logger.exception("response_failed", response_id=response_id)
        finally:
            if not live.begun.done():
                live.begun.set_result(None)
            for event in run.left:
                live.log.add(event)
            try:
                await asyncio.shield(self._node.background(self._keep_events(owner, live), f"events of {response_id}"))
            finally:
                live.log.end()
                self._live.pop(response_id, None)

    async def _keep_events(self, owner: Owner, live: _Live) -> None:
        response_id = live.run.response["id"]
        with contextlib.suppress(ObjectMissing):
            await self._node.objects.get(owner, earlier.KIND, response_id)  # unless it was deleted meanwhile
            body = {"events": live.log.events}
            await self._node.objects.add(owner, _EVENTS, body, object_id=new_id("rev_"), parent=response_id)

    # What is kept.

    async def get(self, owner: Owner, response_id: str, *, outputs: bool) -> dict[str, Any]:
        """A stored response. outputs: with those of code. Raises `ObjectMissing`."""
        return openai_responses.shown(self._response(await self._row(owner, response_id)), outputs=outputs)

    async def _row(self, owner: Owner, response_id: str) -> ObjectRow:
        return await self._node.objects.get(owner, earlier.KIND, response_id)

    def _response(self, row: ObjectRow) -> Mapping[str, Any]:
        """As it is now."""
        if (live := self._live.get(row.id)) is not None:
            return live.run.response
        response: Mapping[str, Any] = row.body["response"]
        if self._node.objects.is_abandoned(row):
            return {**response, "status": "failed", "error": _CUT_OFF}
        return response

    async def delete(self, owner: Owner, response_id: str) -> None:
        """What is being made in the background is cancelled. Raises `ObjectMissing`."""
        await self._row(owner, response_id)
        await self._withdraw(response_id)
        await self._node.objects.remove(owner, earlier.KIND, response_id)

    async def cancel(self, owner: Owner, response_id: str) -> dict[str, Any]:
        """End one that is made in the background; one that has ended stays as it is.

        Raises `ObjectMissing`, and `InvalidRequest` for one that was never in the background.
        """
        row = await self._row(owner, response_id)
        if not row.body["response"]["background"]:
            raise InvalidRequest("Cannot cancel a synchronous response.")
        await self._withdraw(response_id)
        return await self.get(owner, response_id, outputs=False)

    async def _withdraw(self, response_id: str) -> None:
        if (live := self._live.get(response_id)) is not None and live.task is not None:
            if not live.run.withdrawn:  # a second cancellation would cut off how it ends
                live.run.withdrawn = True
                live.task.cancel()
            await asyncio.wait((live.task,))

    async def input_items(
        self, owner: Owner, response_id: str, *, limit: int, after: str | None, newest_first: bool
    ) -> Items:
        """A page of what it was asked. Raises `ObjectMissing`, `InvalidField` when `after` is none of them."""
        items: Sequence[Mapping[str, Any]] = (await self._row(owner, response_id)).body["input"]
        items = items[::-1] if newest_first else items
        start = 0
        if after is not None:
            known = [item["id"] for item in items]
            if after not in known:
                raise InvalidField("after", f"there is no item {after} in the input of this response")
            start = known.index(after) + 1
        return Items(tuple(items[start : start + limit]), start + limit < len(items))

    async def follow(self, owner: Owner, response_id: str, after: int) -> AsyncGenerator[Event, None]:
        """The events of one that was or is made in the background, from behind that number to its end.

        Raises `ObjectMissing`, and `InvalidRequest` for one that was never in the background.
        """
        row = await self._row(owner, response_id)
        if not row.body["response"]["background"]:
            raise InvalidField("stream", "only responses with background=true can be streamed again")
        if (live := self._live.get(response_id)) is not None:
            return live.log.follow(after)
        return await self._kept(owner, row, after)

    async def _kept(self, owner: Owner, row: ObjectRow, after: int) -> AsyncGenerator[Event, None]:
        page = await self._node.objects.page(owner, _EVENTS, parent=row.id, limit=1)
        if page.items:
            return Log(page.items[0].body["events"], over=True).follow(after)
        # The server was stopped before they could be kept: its beginning and its end are what is known. The end is told
        # whatever was seen, as what comes next.
        begun = {**row.body["response"], "status": "queued"}
        told = ((0, "created", begun), (max(after + 1, 1), "failed", self._response(row)))
        events = [
            {"type": f"response.{what}", "sequence_number": number, "response": response}
            for number, what, response in told
        ]
        return Log(events, over=True).follow(min(after, 0))
