"""Runs that wait for their caller between two requests: a node, real sandboxes, a scripted upstream."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from sandbox.chats import Chat, Chats, Opening, Tool
from sandbox.chats.parking import Parking, Run
from sandbox.errors import UpstreamFailed
from sandbox.execution import Answer
from sandbox.image import Image
from sandbox.keys import LOCAL
from sandbox.loop.budget import Budget
from sandbox.loop.catalogue import UpstreamPlan
from sandbox.loop.events import Event, Finished, Ran, Wants
from sandbox.loop.messages import Function, Message, Reply, ToolCall, Usage
from sandbox.node import Node
from sandbox.traces import Secrets
from tests.host import until
from tests.loop.scripted import Scripted, ask, models, plans, said
from tests.test_node import opened

WEATHER = Function("weather", "", {"type": "object", "properties": {"city": {"type": "string"}}})


@pytest.fixture(scope="module")
async def node(
    root: None, python_image: Image, nothing_left: None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Node]:
    async with opened(tmp_path_factory.mktemp("parking"), pool_size=1) as node:
        yield node


@pytest.fixture
async def parking() -> AsyncIterator[Parking[str]]:
    async with Parking[str]().open() as parking:
        yield parking


def runs(code: str) -> Reply:
    call = ToolCall("call_1", "run_python", json.dumps({"code": code}))
    return Reply(Message("assistant", (call,)), "tool_calls", Usage(10, 5), "m")


async def begun(node: Node, *replies: Reply | Exception) -> Chat:
    """A run over a session that stays, whose programs may call."""
    upstream = Scripted("a", *([reply] for reply in replies))
    plan = UpstreamPlan("a", "openai", "http://upstream.invalid", attempts=1)
    chats = Chats(node, models(plans(plan), upstream), Budget(), Secrets(()))
    tool = Tool(callable=(WEATHER,), opening=Opening())
    return await chats.begin(LOCAL, ask(), tool, whole=True, resuming=False)


async def read(run: Run) -> list[Event]:
    return [event async for event in run.read()]


def answers(run: Run, text: str = "rain") -> list[Answer]:
    return [Answer(called.id, text) for called in run.waits_for]


async def parked(node: Node, parking: Parking[str], *replies: Reply | Exception, owner: str = "me") -> tuple[Run, str]:
    """A run that waits, and its session."""
    async with parking.run(await begun(node, *replies)) as run:
        await read(run)
        assert run.chat.session_id is not None
        parking.park(owner, run.chat.session_id, run, "note")
        return run, run.chat.session_id


async def test_a_run_is_read_up_to_its_call_and_after_the_answer_to_its_end(node: Node, parking: Parking[str]) -> None:
    chat = await begun(node, runs("print(await weather('Oslo'))"), said("It rains."))
    async with parking.run(chat) as run:
        assert isinstance((await read(run))[-1], Wants)
        assert await read(run) == []  # nothing before the answer
        assert await run.answer(answers(run)) == 1
        events = await read(run)
    [ran] = [event for event in events if isinstance(event, Ran)]
    assert ran.execution.stdout == "rain\n"
    assert isinstance(events[-1], Finished)
    assert (run.ended, run.waits_for) == (True, ())


async def test_it_waits_in_between_for_the_next_request(node: Node, parking: Parking[str]) -> None:
    code = "a = await weather('Oslo')\nprint(a, await weather(a))"
    _, session_id = await parked(node, parking, runs(code), said("done"))
    for text in ("rain", "sun"):
        taken = parking.take("me", session_id)
        assert taken is not None
        run, note = taken
        assert note == "note"
        async with parking.using(run):
            await run.answer(answers(run, text))
            events = await read(run)
            if not run.ended:
                parking.park("me", session_id, run, note)
    [ran] = [event for event in events if isinstance(event, Ran)]
    assert ran.execution.stdout == "rain sun\n"
    assert len(parking) == 0


async def test_it_is_found_by_its_owner_alone_and_once(node: Node, parking: Parking[str]) -> None:
    run, session_id = await parked(node, parking, runs("await weather()"))
    assert parking.take("somebody else", session_id) is None
    assert parking.take("me", "ses_other") is None
    assert parking.take("me", session_id) is not None
    assert parking.take("me", session_id) is None
    await run.aclose()


async def test_a_caller_who_comes_too_late_finds_what_came_of_it(node: Node, parking: Parking[str]) -> None:
    code = "import asyncio\nasync with asyncio.timeout(0.05):\n    await weather('Oslo')"
    run, session_id = await parked(node, parking, runs(code), said("Nobody answered."))
    await run._task
    taken = parking.take("me", session_id)
    assert taken is not None
    assert await run.answer(answers(run)) == 0
    events = await read(run)
    assert isinstance(last := events[-1], Finished)
    assert last.answer.text == "Nobody answered."


async def test_who_was_cut_off_reads_the_same_again(node: Node, parking: Parking[str]) -> None:
    code = "a = await weather('Oslo')\nprint(a, await weather(a))"
    run, session_id = await parked(node, parking, runs(code), said("done"))
    parking.take("me", session_id)
    run.forget()
    given = answers(run)
    for _ in range(2):
        async with parking.using(run):
            await run.answer(given)
            seen = await read(run)
            assert isinstance(seen[-1], Wants)
            parking.park("me", session_id, run, "note")
        assert await parking.take_back("me", session_id) == (run, "note")
        run.rewind()
    await run.aclose()


async def test_who_comes_again_before_the_cut_was_noticed_waits_for_that(node: Node, parking: Parking[str]) -> None:
    run, session_id = await parked(node, parking, runs("await weather('Oslo')"))
    parking.take("me", session_id)
    async with parking.using(run):
        again = asyncio.create_task(parking.take_back("me", session_id))
        await asyncio.wait((again,), timeout=0)
        parking.park("me", session_id, run, "note")
    assert await again == (run, "note")
    assert not parking._readers
    await run.aclose()


async def test_what_fails_is_raised_where_it_is_read(node: Node, parking: Parking[str]) -> None:
    failure = UpstreamFailed("it is away", upstream="a")
    run, _ = await parked(node, parking, runs("await weather()"), failure)
    await run.answer(answers(run))
    with pytest.raises(UpstreamFailed):
        await read(run)
    assert run.ended


async def test_a_reader_who_leaves_without_parking_it_ends_it(node: Node, parking: Parking[str]) -> None:
    chat = await begun(node, runs("await weather()"))
    async with parking.run(chat) as run:
        await read(run)
    assert run._task.done()
    assert chat.session_id is not None
    log = await node.execute(LOCAL, chat.session_id, "print('on')")
    assert (await log.result()).stdout == "on\n"


async def test_there_is_a_bound_and_the_oldest_gives_way(node: Node) -> None:
    async with Parking[str](most=1).open() as parking:
        first, _ = await parked(node, parking, runs("await weather()"))
        second, session_id = await parked(node, parking, runs("await weather()"))
        await asyncio.wait((first._task,))
        assert (len(parking), first._task.done(), second._task.done()) == (1, True, False)
        assert parking.take("me", session_id) is not None
        await second.aclose()


async def test_who_parks_many_ends_none_of_anybody_elses(node: Node) -> None:
    async with Parking[str](most=2).open() as parking:
        theirs, _ = await parked(node, parking, runs("await weather()"), owner="they")
        first, _ = await parked(node, parking, runs("await weather()"))
        second, _ = await parked(node, parking, runs("await weather()"))
        await asyncio.wait((first._task, theirs._task), return_when=asyncio.FIRST_COMPLETED)
        assert (theirs._task.done(), first._task.done(), second._task.done()) == (False, True, False)


async def test_what_nobody_comes_for_is_ended_after_a_while(node: Node) -> None:
    async with Parking[str](kept_s=0.05).open() as parking:
        run, session_id = await parked(node, parking, runs("await weather()"))
        await asyncio.wait((run._task,))
        assert parking.take("me", session_id) is None


async def test_at_the_servers_end_everything_ends(node: Node) -> None:
    async with Parking[str]().open() as parking:
        run, _ = await parked(node, parking, runs("await weather()"))
    assert run._task.done()
    await until(lambda: node.running == 0)


async def test_calls_are_in_no_log_that_others_read_and_in_the_trace(node: Node, parking: Parking[str]) -> None:
    chat = await begun(node, runs("x = await weather('Oslo')"), said("done"))
    async with parking.run(chat) as run:
        await read(run)
        assert chat.session_id is not None
        page = await node.executions(LOCAL, chat.session_id, limit=1)
        log = await node.follow(LOCAL, chat.session_id, page.items[0].id)
        await run.answer(answers(run))
        await read(run)
        async with contextlib.aclosing(log.follow()) as events:
            assert [event.name async for event in events] == ["started", "done"]
    row = await node.store.trace(LOCAL.id, chat.trace_id)
    assert row is not None
    wanted = [record for record in row.records if record["kind"] == "wants"]
    assert wanted[0]["calls"] == [{"name": "weather", "arguments": '{"city": "Oslo"}'}]
