"""Runs of a thread, and their steps: begun, waited for, answered, cancelled, and found again after a restart."""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sandbox.assistants.definitions import Definitions
from sandbox.assistants.lists import Part, latest, listed
from sandbox.assistants.log import Log
from sandbox.assistants.messages import Messages
from sandbox.assistants.threads import Threads
from sandbox.assistants.tools import checked_choice, checked_resources, checked_tools, files_of
from sandbox.assistants.work import Work
from sandbox.chats import Chats
from sandbox.errors import InvalidField, InvalidRequest, ObjectMissing, Overloaded
from sandbox.keys import Owner
from sandbox.loop import openai_assistants as wire
from sandbox.loop.messages import Message, Text, ToolResult
from sandbox.loop.openai_assistants import StreamEvent
from sandbox.loop.openai_assistants.objects import ENDED, cut_short, ended
from sandbox.loop.openai_assistants.writing import Stop
from sandbox.node import Node
from sandbox.objects import new_id
from sandbox.store.rows import ObjectRow
from sandbox.traces.parts import message_to_json

LIFETIME_S = 600
"""From its making a run has so long, the time included in which it waits for its caller."""
_MOST_LIVE = 100
"""Runs of one key that go on side by side: no connection bounds them."""
_MOST_OUTPUTS = 1 << 20
"""Characters of what the caller's functions give at a time: later runs are told of it, too."""
_PARTS = 100
"""The newest steps and messages, among which are those that a run has left open."""
_STOPPED = {"code": "server_error", "message": "the server was stopped while this run went on; start it again"}


@dataclass(frozen=True, slots=True)
class Begun:
    """A run as it was when it began or went on, and what its stream will say."""

    run: dict[str, Any]
    log: Log


class Runs:
    """Of many owners; whatever belongs to another does not exist."""

    def __init__(
        self, node: Node, chats: Chats, definitions: Definitions, threads: Threads, messages: Messages
    ) -> None:
        self._node = node
        self._chats = chats
        self._definitions = definitions
        self._threads = threads
        self._messages = messages
        self._works: dict[str, Work] = {}
        self._beginning: Counter[str] = Counter()
        """Runs by owner, which are about to be among those."""

    async def create(self, owner: Owner, thread_id: str, asked: Mapping[str, Any], *, stream: bool) -> Begun:
        """Begin one. Raises `ObjectMissing`, `UnknownModel`, `InvalidRequest` (the thread has an active run, too),
        `FileMissing`, `Draining`, `Overloaded`.
        """
        assistant, asked = await self._checked(owner, asked)
        more = [
            await self._messages.checked(owner, each, f"additional_messages[{at}].")
            for at, each in enumerate(asked.get("additional_messages") or ())
        ]
        async with self._threads.alone(owner, thread_id):
            thread = await self._threads.row(owner, thread_id)
            await self.check_free(owner, thread_id, "begin another")
            for message in more:
                await self._messages.add(owner, thread, message)
            return await self._begin(owner, thread, assistant, asked, (), stream=stream)

    async def create_with_thread(self, owner: Owner, asked: Mapping[str, Any], *, stream: bool) -> Begun:
        """A thread and its first run. Raises as `create`."""
        given = asked.get("thread") or {}
        assistant, asked = await self._checked(owner, asked)
        messages = [
            await self._messages.checked(owner, each, f"thread.messages[{at}].")
            for at, each in enumerate(given.get("messages") or ())
        ]
        thread = await self._threads.create(owner, given)
        for message in messages:
            await self._messages.add(owner, thread, message)
        thread = await self._threads.row(owner, thread.id)
        first = [StreamEvent("thread.created", thread.body["thread"])]
        return await self._begin(owner, thread, assistant, asked, first, stream=stream)

    async def _checked(self, owner: Owner, asked: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """The assistant, with the files that the run is to have, and a request that can be followed."""
        assistant = await self._definitions.get(owner, asked["assistant_id"])
        tools = checked_tools(asked.get("tools"))
        checked_choice(asked.get("tool_choice"), assistant["tools"] if tools is None else tools)
        resources = await checked_resources(self._node, owner, asked.get("tool_resources"))
        if resources is not None:
            assistant = {**assistant, "tool_resources": resources}
        truncation = asked.get("truncation_strategy") or {}
        if truncation.get("type") == "last_messages" and not truncation.get("last_messages"):
            raise InvalidField("truncation_strategy.last_messages", "a number of messages is needed")
        self._chats.models.plan(asked.get("model") or assistant["model"])
        self._check_room(owner)
        return assistant, {**asked, "tools": tools}

    def _check_room(self, owner: Owner) -> None:
        """Raises `Draining`, `Overloaded`: here, and not by a run that fails."""
        with self._node.underway():
            pass
        live = sum(work.owner.id == owner.id for work in self._works.values())
        if live + self._beginning[owner.id] >= _MOST_LIVE:
            raise Overloaded(f"{_MOST_LIVE} runs of this key go on; wait for one of them", 5.0)

    @contextlib.contextmanager
    def _room(self, owner: Owner) -> Iterator[None]:
        """A place for a run that is begun in the block: others may come at the same time. Raises as `_check_room`."""
        self._check_room(owner)
        self._beginning[owner.id] += 1
        try:
            yield
        finally:
            self._beginning[owner.id] -= 1
            self._beginning += Counter()  # without those of whom nothing is left

    async def _begin(
        self,
        owner: Owner,
        thread: ObjectRow,
        assistant: Mapping[str, Any],
        asked: Mapping[str, Any],
        first: Sequence[StreamEvent],
        *,
        stream: bool,
    ) -> Begun:
        now = int(time.time())
        run_id = new_id("run_")
        run = wire.run(asked, assistant, id=run_id, thread_id=thread.id, now=now, expires_at=now + LIFETIME_S)
        body = {"run": run, "files": files_of(assistant), "said": [], "step": None, "made": [], "usage": [0, 0]}
        told = [StreamEvent("thread.run.created", run), StreamEvent("thread.run.queued", run)]
        with self._room(owner):
            await self._threads.use(owner, thread.id)
            row = await self._node.objects.add(owner, "run", body, object_id=run_id, parent=thread.id, live=True)
            return self._start(owner, row, [*first, *told], stream=stream)

    def _start(self, owner: Owner, row: ObjectRow, first: Sequence[StreamEvent], *, stream: bool) -> Begun:
        work = Work(self._node, self._chats, self._threads, owner, row, whole=not stream)
        self._works[row.id] = work
        run = work.run
        work.start(first, lambda: self._done(row.id, work))
        return Begun(run, work.log)

    def _done(self, run_id: str, work: Work) -> None:
        if self._works.get(run_id) is work:
            del self._works[run_id]

    async def check_free(self, owner: Owner, thread_id: str, what: str) -> None:
        """Raises `InvalidRequest` while a run of the thread goes on, or waits for its caller. what: is not done."""
        page = await self._node.objects.page(owner, "run", parent=thread_id, limit=1)
        for row in page.items:
            run = (await self._current(owner, row)).body["run"]
            if run["status"] not in ENDED:
                raise InvalidRequest(
                    f"thread {thread_id} has an active run {run['id']} ({run['status']}); wait for its end, or cancel "
                    f"it, to {what}"
                )

    async def submit(
        self, owner: Owner, thread_id: str, run_id: str, outputs: Sequence[Mapping[str, str]], *, stream: bool
    ) -> Begun:
        """What the caller's functions have given; the run goes on. Raises `ObjectMissing`, `InvalidRequest`."""
        async with self._threads.alone(owner, thread_id):
            row = await self._row(owner, thread_id, run_id)
            run = row.body["run"]
            if run["status"] != "requires_action":
                raise InvalidRequest(f"run {run_id} is {run['status']} and waits for no outputs")
            wanted = [call["id"] for call in run["required_action"]["submit_tool_outputs"]["tool_calls"]]
            given = {each["tool_call_id"]: each.get("output") or "" for each in outputs}
            if given.keys() == set(wanted):
                given = {each: given[each] for each in wanted}
            else:
                raise InvalidField(
                    "tool_outputs",
                    f"outputs of the calls {', '.join(wanted)} are needed, and none else; there came "
                    f"those of {', '.join(given) or 'none'}",
                )
            if sum(map(len, given.values())) > _MOST_OUTPUTS:
                raise InvalidField("tool_outputs", f"they have more than {_MOST_OUTPUTS} characters; say what matters")
            with self._room(owner):
                return await self._resume(owner, row, given, stream=stream)

    async def _resume(self, owner: Owner, row: ObjectRow, given: Mapping[str, str], *, stream: bool) -> Begun:
        run, step = row.body["run"], row.body["step"]
        done = wire.answered(step, given, int(time.time()))
        await self._node.objects.change(await self._node.objects.get(owner, "step", step["id"]), done.data)
        results = Message("tool", tuple(ToolResult(each, (Text(given[each]),)) for each in given))
        run = {**run, "status": "queued", "required_action": None}
        body = {**row.body, "run": run, "step": None, "said": [*row.body["said"], message_to_json(results)]}
        row = await self._node.objects.change(row, body, live=True)
        return self._start(owner, row, [done, StreamEvent("thread.run.queued", run)], stream=stream)

    async def cancel(self, owner: Owner, thread_id: str, run_id: str) -> dict[str, Any]:
        """The run as it is while it ends. Raises `ObjectMissing`, `InvalidRequest` when it has ended."""
        async with self._threads.alone(owner, thread_id):
            work = self._works.get(run_id)  # first: the row may be older
            row = await self._row(owner, thread_id, run_id)
            if work is not None:
                if work.goes_on:
                    return await work.cancel()
                await work.wait()
                row = await self._row(owner, thread_id, run_id)
            run: dict[str, Any] = row.body["run"]
            if run["status"] in ENDED:
                raise InvalidRequest(f"run {run_id} is {run['status']} and can no longer be cancelled")
            await self._end(owner, row, "cancelled")
            return {**run, "status": "cancelling"}

    async def update(
        self, owner: Owner, thread_id: str, run_id: str, metadata: Mapping[str, str] | None
    ) -> Mapping[str, Any]:
        """Its metadata, which is all that can change. Raises `ObjectMissing`."""
        async with self._threads.alone(owner, thread_id):
            work = self._works.get(run_id)  # first: the row may be older
            row = await self._row(owner, thread_id, run_id)
            if metadata is None:
                return _run(row)
            if work is not None:
                return await work.update(metadata)
            body = {**row.body, "run": {**row.body["run"], "metadata": dict(metadata)}}
            return _run(await self._node.objects.change(row, body))

    async def get(self, owner: Owner, thread_id: str, run_id: str) -> Mapping[str, Any]:
        """Raises `ObjectMissing`."""
        return _run(await self._row(owner, thread_id, run_id))

    async def page(self, owner: Owner, thread_id: str, part: Part) -> dict[str, Any]:
        """Raises `ObjectMissing`, `InvalidRequest`."""
        await self._threads.row(owner, thread_id)

        async def show(row: ObjectRow) -> Mapping[str, Any]:
            return _run(await self._current(owner, row))

        return await listed(self._node.objects, owner, "run", part, show, parent=thread_id)

    async def step(self, owner: Owner, thread_id: str, run_id: str, step_id: str) -> Mapping[str, Any]:
        """Raises `ObjectMissing`."""
        await self._row(owner, thread_id, run_id)
        row = await self._node.objects.get(owner, "step", step_id)
        if row.parent != run_id:
            raise ObjectMissing(f"there is no step {step_id} in run {run_id}")
        return row.body

    async def steps(self, owner: Owner, thread_id: str, run_id: str, part: Part) -> dict[str, Any]:
        """Raises `ObjectMissing`, `InvalidRequest`."""
        await self._row(owner, thread_id, run_id)

        async def show(row: ObjectRow) -> Mapping[str, Any]:
            return row.body

        return await listed(self._node.objects, owner, "step", part, show, parent=run_id)

    async def forsake(self, thread_id: str) -> None:
        """End what runs in a thread, before it is deleted."""
        for work in [each for each in self._works.values() if each.run["thread_id"] == thread_id]:
            if work.run["status"] not in ENDED and work.run["status"] != "requires_action":
                await work.cancel()
            await work.wait()

    async def _row(self, owner: Owner, thread_id: str, run_id: str) -> ObjectRow:
        row = await self._node.objects.get(owner, "run", run_id)
        if row.parent != thread_id:
            raise ObjectMissing(f"there is no run {run_id} in thread {thread_id}")
        return await self._current(owner, row)

    async def _current(self, owner: Owner, row: ObjectRow) -> ObjectRow:
        """A run whose end nobody was there to write is ended now."""
        run = row.body["run"]
        if run["status"] in ENDED or row.id in self._works:
            return row
        if self._node.objects.is_abandoned(row):
            return await self._end(owner, row, "failed", _STOPPED)
        return await self._end(owner, row, "expired") if time.time() >= run["expires_at"] else row

    async def _end(self, owner: Owner, row: ObjectRow, how: Stop, error: Mapping[str, str] | None = None) -> ObjectRow:
        """With what is open in it."""
        objects, now = self._node.objects, int(time.time())
        for step in await latest(objects, owner, "step", row.id, _PARTS):
            if step.body["status"] == "in_progress":
                await objects.change(step, ended(step.body, how, now, error))
        for message in await latest(objects, owner, "message", row.parent, _PARTS):
            if message.body["run_id"] == row.id and message.body["status"] == "in_progress":
                await objects.change(message, cut_short(message.body, f"run_{how}", now))
        used, written = row.body["usage"]
        usage = {"prompt_tokens": used, "completion_tokens": written, "total_tokens": used + written}
        stopped = ended(row.body["run"], how, now, error)
        stopped.pop("expired_at", None)
        run = {**stopped, "expires_at": None, "required_action": None, "usage": usage}
        return await objects.change(row, {**row.body, "run": run}, live=False)


def _run(row: ObjectRow) -> Mapping[str, Any]:
    run: Mapping[str, Any] = row.body["run"]
    return run
