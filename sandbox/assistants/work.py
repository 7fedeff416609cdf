"""A run that goes on: a loop over its thread, whose events become steps, messages and a stream.

It is work of the node: whoever asked for it may leave. What the stream has said is kept before it is said, so that a
client that hears of an object can get it.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sandbox import logs
from sandbox.assistants.lists import latest
from sandbox.assistants.log import Log
from sandbox.assistants.place import Place
from sandbox.assistants.threads import Threads
from sandbox.chats import Chat, Chats
from sandbox.errors import (
    InvalidRequest,
    ObjectMissing,
    RateLimited,
    SandboxError,
    UpstreamBusy,
    UpstreamRefused,
)
from sandbox.keys import Owner
from sandbox.loop import openai_assistants as wire
from sandbox.loop.events import Asked, Ending, Event, Finished, Ran, Replied, Running, Said, Showed
from sandbox.loop.messages import Image, Message, Text, ToolResult, Usage
from sandbox.loop.openai_assistants import StreamEvent, Writing
from sandbox.loop.openai_assistants.objects import ENDED, counted, ended
from sandbox.loop.openai_assistants.writing import Stop
from sandbox.loop.openai_responses import completed
from sandbox.node import Node
from sandbox.objects import new_id
from sandbox.store.rows import ObjectRow
from sandbox.traces.parts import message_from_json, message_to_json

_MESSAGES = 1000
"""The newest of a thread, which the model is told at most."""
_RUNS = 20
"""The newest of a thread, of which the model is told what code has run."""
_CUT_SHORT = {Ending.LENGTH: "max_tokens", Ending.FILTERED: "content_filter"}
_KINDS = {"thread.run.step": "step", "thread.message": "message"}
_logger = logs.logger(__name__)


class Work:
    """One stretch of a run: from its beginning, or from the caller's outputs, until it ends or waits for some.

    A run's row has as its body: `run` as the API tells it; `files` (ids of the assistant's); `said` (what the model
    said and was told); `step` (the one that waits); `made` (ids of its messages); `usage` (tokens in and out).
    """

    def __init__(
        self, node: Node, chats: Chats, threads: Threads, owner: Owner, row: ObjectRow, *, whole: bool
    ) -> None:
        """row: of a run that is queued. whole: nobody watches the words come."""
        self.log = Log()
        self.run: dict[str, Any] = dict(row.body["run"])
        self._node = node
        self._chats = chats
        self._threads = threads
        self.owner = owner
        self._row = row
        self._whole = whole
        self._body = dict(row.body)
        self._usage = Usage(*row.body["usage"])
        self._said = tuple(map(message_from_json, row.body["said"]))
        self._writing = Writing(self.run, new_id, _now)
        self._place = Place(node, threads, owner, self.run)
        self._kept: dict[str, ObjectRow] = {}
        """Steps and messages that are in progress."""
        self._hidden = False
        self._talk: asyncio.Task[Finished | str] | None = None
        self._telling = asyncio.Lock()
        self._ended: asyncio.Task[None] | None = None
        self._end_told = False

    def start(self, first: Iterable[StreamEvent], done: Callable[[], None]) -> None:
        """Begin. first: what the stream says before anything else; it is kept already. done: called at the end."""
        self.log.add(first)
        self._talk = asyncio.create_task(self._converse(), name=f"talk of {self._row.id}")
        self._ended = self._node.work(self._go(self._talk), f"run {self._row.id}")
        self._ended.add_done_callback(lambda _: self.log.close(cut_off=not self._end_told))
        self._ended.add_done_callback(lambda _: done())

    async def cancel(self) -> dict[str, Any]:
        """Begin to end it; the run as it is then. Raises `InvalidRequest` when it has ended."""
        if not self.goes_on or self._talk is None:
            raise InvalidRequest(f"run {self._row.id} is {self.run['status']} and can no longer be cancelled")
        if self.run["status"] == "cancelling":  # a second time would cut off how it ends
            return self.run
        self._talk.cancel()
        return await self._set("cancelling")

    async def wait(self) -> None:
        """Wait until it has ended."""
        if self._ended is not None:
            await asyncio.wait({self._ended})

    async def update(self, metadata: Mapping[str, str]) -> dict[str, Any]:
        """Its metadata, while it goes on."""
        self.run = {**self.run, "metadata": dict(metadata)}
        await self._save()
        return self.run

    # From the beginning to the end.

    async def _go(self, talk: "asyncio.Task[Finished | str]") -> None:
        try:
            await asyncio.wait({talk}, timeout=max(0.0, self.run["expires_at"] - time.time()))
            in_time = talk.done()
        finally:  # the node's end, too: then the run stays as it is, and is found to be abandoned
            talk.cancel()
            await asyncio.gather(talk, return_exceptions=True)
        try:
            await self._end(talk, in_time=in_time)
        except ObjectMissing:  # its thread was deleted, and nobody asks how it ended
            self._end_told = True
        except SandboxError as error:
            _logger.warning("run_lost", run_id=self._row.id, error=str(error))

    async def _end(self, talk: "asyncio.Task[Finished | str]", *, in_time: bool) -> None:
        if not in_time:
            await self._stop("expired")
        elif talk.cancelled():
            await self._stop("cancelled")
        elif (error := talk.exception()) is None:
            await self._finish(talk.result())
        elif isinstance(error, SandboxError):
            await self._stop("failed", {"code": _code(error), "message": str(error)})
        else:
            _logger.error("run failed", run_id=self._row.id, exc_info=error)
            await self._stop("failed", {"code": "server_error", "message": "the server failed; its log has more"})

    async def _converse(self) -> Finished | str:
        """Run the loop. How it ended, or which limit of tokens was reached."""
        await self._set("in_progress", started_at=self.run["started_at"] or _now())
        chat = await self._begin()
        self._hidden = chat.fenced
        finished = None
        async with contextlib.aclosing(chat.events()) as events:
            async for event in events:
                if isinstance(event, Finished):
                    finished = event
                elif isinstance(event, Asked) and (limit := self._limit()):
                    return limit
                else:
                    await self._happened(event, chat)
        assert finished is not None, "a run of a loop ends so, or raises"
        return finished

    async def _begin(self) -> Chat:
        run, objects = self.run, self._node.objects
        rows = await latest(objects, self.owner, "message", run["thread_id"], _MESSAGES)
        messages = [row.body for row in rows if row.body["run_id"] != run["id"]]
        if run["truncation_strategy"]["type"] == "last_messages":
            messages = messages[-run["truncation_strategy"]["last_messages"] :]
        tool = await self._place.tool(self._body["files"]) if _has_interpreter(run) else None
        request = wire.request(
            run,
            messages,
            said=await self._said_before(messages) if run["tools"] else {},
            paths=self._place.paths,
            pictures=await self._place.pictures(messages),
        )
        request = replace(request, messages=(*request.messages, *self._said))
        return await self._chats.begin(self.owner, request, tool, whole=self._whole, resuming=False)

    async def _said_before(self, messages: Sequence[Mapping[str, Any]]) -> dict[str, list[Message]]:
        """What was said in earlier runs, as far as all their messages are still there and wanted."""
        there = {message["id"] for message in messages}
        rows = await latest(self._node.objects, self.owner, "run", self.run["thread_id"], _RUNS)
        return {
            row.id: [message_from_json(each) for each in row.body["said"]]
            for row in rows
            if row.body["run"]["status"] == "completed" and row.body["said"] and there.issuperset(row.body["made"])
        }

    def _limit(self) -> str:
        """Which limit of the run's is reached."""
        for name, used in (
            ("max_prompt_tokens", self._usage.input_tokens),
            ("max_completion_tokens", self._usage.output_tokens),
        ):
            if self.run[name] is not None and used >= self.run[name]:
                return name
        return ""

    # What happens.

    async def _happened(self, event: Event, chat: Chat) -> None:
        writing = self._writing
        match event:
            case Asked():
                await self._end_message()
                await self._tell(writing.end_calls())
            case Said(text) if not self._hidden:
                await self._tell(writing.say(text))
            case Replied(reply=reply):
                writing.count(reply.usage)
                self._usage += reply.usage
            case Running(call, code):
                await self._place.at(chat.session_id)
                await self._end_message()
                await self._tell(writing.call(call, code))
            case Showed(output=output):
                await self._tell(writing.show(output, await self._place.keep_picture(output)))
            case Ran(execution=execution):
                await self._tell(writing.ran(execution))

    async def _end_message(self, cut_short: str = "") -> None:
        if self._writing.text:
            cited = await self._place.cited(self._writing.text)
            await self._tell(self._writing.end_message(cited, cut_short=cut_short))

    async def _finish(self, finished: Finished | str) -> None:
        if isinstance(finished, str):
            await self._end_message()
            await self._tell(self._writing.end_calls())
            await self._set("incomplete", incomplete_details={"reason": finished})
            return
        why = finished.why
        if self._hidden and why is not Ending.CALLS:
            await self._tell(self._writing.say(finished.answer.text))
        await self._end_message(_CUT_SHORT.get(why, ""))
        said = completed((*self._said, *finished.said), self._theirs())
        if why is Ending.CALLS:
            await self._wait_for_caller(finished, said)
            return
        await self._tell(self._writing.end_calls())
        self._body["said"] = [message_to_json(_without_pictures(message)) for message in said]
        if self.run["status"] == "cancelling":  # too late to keep the model from it
            await self._stop("cancelled")
        elif why is Ending.LENGTH:
            await self._set("incomplete", incomplete_details={"reason": "max_completion_tokens"})
        else:
            await self._set("completed", completed_at=_now())

    def _theirs(self) -> set[str]:
        """The caller's own functions."""
        return {each["function"]["name"] for each in self.run["tools"] if each["type"] == "function"}

    async def _wait_for_caller(self, finished: Finished, said: Sequence[Message]) -> None:
        theirs = self._theirs()
        calls = [call for call in finished.answer.calls if call.name in theirs]
        await self._tell(self._writing.want(calls))
        wanted = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
        action = {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": wanted}}
        if self.run["status"] == "cancelling":  # too late to keep the model from it
            await self._stop("cancelled")
            return
        step = self._writing.waiting()
        await self._node.objects.change(self._kept[step["id"]], step)
        self._body |= {"said": [message_to_json(message) for message in said], "step": step}
        await self._set("requires_action", required_action=action)

    async def _stop(self, how: Stop, error: Mapping[str, str] | None = None) -> None:
        await self._tell(self._writing.stop(how, error))
        stopped = ended(self.run, how, _now(), error)
        await self._set(how, **{name: stopped[name] for name in (f"{how}_at", "last_error") if name in self.run})

    # What is kept.

    @property
    def goes_on(self) -> bool:
        """Whether it has neither ended nor come to wait for its caller."""
        return self.run["status"] not in ENDED and self.run["status"] != "requires_action"

    async def _set(self, status: str, **changes: Any) -> dict[str, Any]:
        if status in ENDED:
            changes |= {"expires_at": None, "required_action": None, "usage": counted(self._usage)}
        run = self.run = {**self.run, "status": status, **changes}
        await self._save()
        self.log.add([StreamEvent(f"thread.run.{status}", run)])
        self._end_told |= status in ENDED or status == "requires_action"
        return run

    async def _save(self) -> None:
        usage = [self._usage.input_tokens, self._usage.output_tokens]
        self._body |= {"run": self.run, "usage": usage}
        await self._node.objects.change(self._row, self._body, live=self.goes_on)

    async def _tell(self, events: Iterable[StreamEvent]) -> None:
        """Keep what it has, then say it. All of it, also when the run is cancelled in the middle."""
        told = tuple(events)
        if any(not event.name.endswith(".delta") for event in told):
            keeping = self._node.background(self._tell_all(told), f"keep of {self._row.id}")
            await asyncio.shield(keeping)
        else:
            self.log.add(told)

    async def _tell_all(self, events: Iterable[StreamEvent]) -> None:
        async with self._telling:
            for event in events:
                await self._keep(event)
                self.log.add([event])

    async def _keep(self, event: StreamEvent) -> None:
        thing, _, what = event.name.rpartition(".")
        kind, objects = _KINDS[thing], self._node.objects
        if what == "created":
            parent = self.run["id"] if kind == "step" else self.run["thread_id"]
            row = await objects.add(self.owner, kind, event.data, object_id=event.data["id"], parent=parent)
            self._kept[row.id] = row
            if kind == "message":
                self._body["made"] = [*self._body["made"], event.data["id"]]
        elif what not in ("in_progress", "delta"):
            with contextlib.suppress(ObjectMissing):  # a message that was deleted meanwhile; of a thread, the run tells
                await objects.change(self._kept.pop(event.data["id"]), event.data)


def _now() -> int:
    return int(time.time())


def _has_interpreter(run: Mapping[str, Any]) -> bool:
    return any(each["type"] == "code_interpreter" for each in run["tools"])


def _code(error: SandboxError) -> str:
    """The vendor's word for it."""
    if isinstance(error, RateLimited | UpstreamBusy):
        return "rate_limit_exceeded"
    return "invalid_prompt" if isinstance(error, InvalidRequest | UpstreamRefused) else "server_error"


def _without_pictures(message: Message) -> Message:
    """What a later run is told of it: words, which are small enough to keep."""
    parts = tuple(
        replace(part, parts=tuple(each for each in part.parts if isinstance(each, Text)))
        if isinstance(part, ToolResult)
        else part
        for part in message.parts
        if not isinstance(part, Image)
    )
    return replace(message, parts=parts)
