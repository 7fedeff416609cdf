"""Readers of an execution's events: whenever they come and wherever they were cut, they get everything once."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import InvalidRequest, SandboxFailed
from sandbox.events import Cursor, Event, EventLog
from sandbox.execution import Artifact, Called, Calls, Error, Execution, Output, Result, Status, Stream

_TEXT = st.text(min_size=1, max_size=8)
_OUTPUTS = st.lists(
    st.one_of(
        st.builds(Stream, st.just("stdout"), _TEXT),
        st.builds(Stream, st.just("stderr"), _TEXT),
        st.builds(Result, st.fixed_dictionaries({"text/plain": _TEXT}), st.none()),
    ),
    max_size=12,
)


def _execution(outputs: list[Output], error: Error | None) -> Execution:
    text = {name: "".join(o.text for o in outputs if isinstance(o, Stream) and o.name == name) for name in _STREAMS}
    return Execution(
        "exe_1",
        "ses_1",
        Status.OK if error is None else Status.ERROR,
        stdout=text["stdout"],
        stderr=text["stderr"],
        results=tuple(output.data for output in outputs if isinstance(output, Result)),
        error=error,
        artifacts=(Artifact("a.csv", 3, "text/csv", "created"), Artifact("b.csv", 4, "text/csv", "changed")),
    )


_STREAMS = ("stdout", "stderr")
_ERRORS = st.none() | st.just(Error("ValueError", "no", "Traceback"))


def _live(outputs: list[Output], execution: Execution) -> EventLog:
    log = EventLog("exe_1", "ses_1", 0.0)
    log.start()
    for output in outputs:
        log.add(output)
    if execution.error is not None:
        log.add(execution.error)
    log.end(execution)
    return log


async def test_calls_are_kept_until_they_are_read_and_no_longer() -> None:
    log = EventLog("exe_1", "ses_1", 0.0)
    log.start()
    log.call(Calls((Called("cal_1", "f", {"a": "long"}),)))
    log.end(Execution("exe_1", "ses_1", Status.OK))

    async def calls() -> list[Calls]:
        return [event.data["calls"] async for event in log.follow(calls=True) if event.name == "calls"]

    assert [len(each.calls) for each in await calls()] == [1]
    assert [len(each.calls) for each in await calls()] == [0]


async def test_the_start_is_told_once_and_first() -> None:
    log = EventLog("exe_1", "ses_1", 0.0)
    log.start()
    log.add(Stream("stdout", "a"))
    log.start()
    log.end(Execution("exe_1", "ses_1", Status.OK, stdout="a"))
    assert [event.name for event in await _all(log)] == ["started", "stdout", "done"]


async def _all(log: EventLog, last_id: str | None = None) -> list[Event]:
    return [event async for event in log.follow(last_id)]


def _told(events: list[Event]) -> dict[str, object]:
    """What a reader knows after these events."""
    return {
        "stdout": "".join(event.data["text"] for event in events if event.name == "stdout"),
        "stderr": "".join(event.data["text"] for event in events if event.name == "stderr"),
        "results": [event.data["data"] for event in events if event.name == "result"],
        "errors": [event.data["value"] for event in events if event.name == "error"],
        "artifacts": [event.data["path"] for event in events if event.name == "artifact"],
        "ends": [event.data["execution"].id for event in events if event.name == "done"],
        "starts": sum(event.name == "started" for event in events),
    }


@given(_OUTPUTS, _ERRORS)
def test_whoever_is_cut_anywhere_gets_the_rest_and_nothing_twice(outputs: list[Output], error: Error | None) -> None:
    async def check() -> None:
        execution = _execution(outputs, error)
        live = await _all(_live(outputs, execution))
        whole = _told(live)
        for seen in range(1, len(live) + 1):
            first = live[:seen]
            assert _told(first + await _all(_live(outputs, execution), first[-1].id)) == whole
            assert _told(first + await _all(EventLog.of(execution, 0.0), first[-1].id)) == whole

    asyncio.run(check())


@given(_OUTPUTS, _ERRORS)
def test_whoever_is_cut_twice_and_finds_the_server_restarted_gets_the_rest_too(
    outputs: list[Output], error: Error | None
) -> None:
    async def check() -> None:
        execution = _execution(outputs, error)
        live = await _all(_live(outputs, execution))
        for seen in range(1, len(live) + 1):
            first = live[:seen]
            for more in range(1, len(live) + 1):
                second = (await _all(EventLog.of(execution, 0.0), first[-1].id))[:more]
                third = await _all(EventLog.of(execution, 0.0), (first + second)[-1].id)
                assert _told(first + second + third) == _told(live)

    asyncio.run(check())


async def test_many_small_texts_are_few_events_and_a_reader_in_between_misses_none() -> None:
    log = EventLog("exe_1", "ses_1", 0.0)
    log.start()
    for _ in range(10_000):
        log.add(Stream("stdout", "x"))
    early, texts = log.follow(), list[str]()
    assert (await anext(early)).name == "started"
    texts.append((await anext(early)).data["text"])
    for _ in range(10_000):
        log.add(Stream("stdout", "y"))
    log.end(_execution([Stream("stdout", "x" * 10_000 + "y" * 10_000)], None))
    texts += [event.data["text"] async for event in early if event.name == "stdout"]
    assert "".join(texts) == "x" * 10_000 + "y" * 10_000
    assert len(texts) < 10


async def test_readers_who_come_early_see_events_as_they_come() -> None:
    log = EventLog("exe_1", "ses_1", 0.0)
    log.start()
    events = log.follow()
    assert (await anext(events)).name == "started"
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    assert not waiting.done()
    log.add(Stream("stdout", "now"))
    assert (await waiting).data == {"text": "now"}
    log.end(_execution([Stream("stdout", "now")], None))
    assert [event.name async for event in events] == ["artifact", "artifact", "done"]
    assert (await log.result()).stdout == "now"


async def test_readers_are_told_when_we_fail() -> None:
    log = EventLog("exe_1", "ses_1", 0.0)
    log.start()
    log.fail(SandboxFailed("the disk is gone"))
    with pytest.raises(SandboxFailed, match="disk"):
        await _all(log)
    with pytest.raises(SandboxFailed, match="disk"):
        await log.result()


@pytest.mark.parametrize(
    "text", ["", "1", "1.2.3", "a.0.0.0.0.0", "-1.0.0.0.0.0", "1" * 20 + ".0.0.0.0.0", "٣.0.0.0.0.0"]
)
def test_an_id_that_was_never_given_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="last id"):
        Cursor.parse(text)
