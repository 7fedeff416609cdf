"""An init that lies: what the host makes of its words is an ending, and never a success that the host did not see."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import ProtocolError, SandboxError
from sandbox.execution import Artifact, Spec, Status
from sandbox.guest.frames import HEADER, MAX_ENTRIES, MAX_ROWS, Frame, encode, encode_rows
from sandbox.kernel import READY_SECONDS, Kernel
from tests.fuzzing import bounded
from tests.host import WAIT_SECONDS
from tests.impostor import Impostor, deceived, honest, told
from tests.test_frames import JSON

pytestmark = pytest.mark.attack("E05")


async def test_an_interrupt_that_comes_before_the_code_was_handed_over_is_sent_after_it() -> None:
    async with deceived() as (kernel, impostor):
        impostor.measuring.clear()
        execution = asyncio.create_task(told(kernel))
        await asyncio.sleep(0)
        await kernel.interrupt()
        impostor.measuring.set()
        await impostor.hears(Frame.EXECUTE)
        await impostor.hears(Frame.INTERRUPT)
        await impostor.say_bytes(done(interrupted=True, reply="error"))
        _, ending = await execution
        assert ending.status is Status.INTERRUPTED


async def test_a_restart_waits_for_its_own_kernel_and_is_no_loss() -> None:
    async with deceived() as (kernel, impostor):
        first = asyncio.create_task(kernel.restart())
        second = asyncio.create_task(kernel.restart())
        assert [(await impostor.hears(Frame.RESTART))["number"] for _ in range(2)] == [1, 2]
        await impostor.say(Frame.READY, {"restarts": 1})
        await first
        assert not second.done()
        await impostor.say(Frame.READY, {"restarts": 2})
        await second
        for died, lost in ((None, False), (9, True), (None, False)):
            execution = asyncio.create_task(told(kernel))
            await impostor.hears(Frame.EXECUTE)
            await impostor.say_bytes(done(died=died))
            assert (await execution)[1].state_lost == lost
            if died:
                await impostor.say(Frame.READY, {"restarts": 2})
        await impostor.say(Frame.READY, {"restarts": 2})
        execution = asyncio.create_task(told(kernel))
        await impostor.hears(Frame.EXECUTE)
        await impostor.say_bytes(done())
        assert (await execution)[1].state_lost


async def test_a_kernel_that_is_replaced_before_it_has_run_anything_has_lost_nothing() -> None:
    async with deceived() as (kernel, impostor):
        await impostor.say(Frame.READY, {"restarts": 0})
        await impostor.say(Frame.READY, {"restarts": 0})
        execution = asyncio.create_task(told(kernel))
        await impostor.hears(Frame.EXECUTE)
        await impostor.say_bytes(done())
        assert not (await execution)[1].state_lost


async def ends(*frames: bytes, oom_kills: int = 0) -> Any:
    """How an execution ends whose init says this, and then is gone."""
    async with deceived() as (kernel, impostor):
        execution = asyncio.create_task(told(kernel))
        await impostor.hears(Frame.EXECUTE)
        impostor.oom_kills = oom_kills
        for frame in frames:
            await impostor.say_bytes(frame)
        impostor.hang_up()
        _, ending = await execution
        assert not kernel.alive or ending.status is Status.OK
        return ending


def done(rows: bytes = b"", **more: Any) -> bytes:
    """rows: what comes behind the head."""
    return encode(Frame.DONE, json.dumps(honest(**more)).encode() + b"\n" * bool(rows) + rows)


STARTED = encode(Frame.STARTED, b'{"id": "exe_1"}')


async def test_what_an_honest_init_says_of_files_is_told_whole_however_many_there_are() -> None:
    numbers = range(MAX_ENTRIES)
    made = [[f"{number}.csv", number, "created"] for number in numbers]
    gone = [[f"{number}.old", 0, "removed"] for number in numbers[1:]]
    ending = await ends(STARTED, encode_rows(Frame.DONE, honest(), [*made, ["a", 1, "changed"], *gone]))
    assert ending.artifacts[:-1] == tuple(Artifact(f"{size}.csv", size, "text/csv", "created") for size in numbers)
    assert ending.artifacts[-1] == Artifact("a", 1, "application/octet-stream", "changed")
    assert ending.removed == tuple(f"{number}.old" for number in numbers[1:])


async def test_others_have_their_turn_while_a_long_list_of_files_is_read() -> None:
    rows = [[f"{number}", number, 10**18, "1-2-3-4"] for number in range(MAX_ENTRIES)]
    async with deceived() as (kernel, impostor):
        listing = asyncio.create_task(kernel.files.list())
        call = await impostor.hears(Frame.CALL)
        whole = encode_rows(Frame.LISTING, {"call": call["call"], "complete": True, "shut": [], "unnamed": 0}, rows)
        turns = 0
        saying = asyncio.create_task(impostor.say_bytes(whole))
        while not listing.done():
            turns += 1
            await asyncio.sleep(0)
        await saying
        assert [file.path for file in (await listing).files] == [f"{number}" for number in range(MAX_ENTRIES)]
        assert turns > len(whole) >> 14


async def test_an_honest_init_is_believed() -> None:
    """Without this nothing below would say anything."""
    assert (await ends(STARTED, done())).status is Status.OK


@pytest.mark.attack("E01")
async def test_what_died_of_memory_is_not_ok_whatever_init_says() -> None:
    assert (await ends(STARTED, done(died=9), oom_kills=1)).status is Status.OOM
    assert (await ends(STARTED, oom_kills=1)).status is Status.OOM
    assert (await ends(STARTED, done(died=0))).status is Status.KILLED


@pytest.mark.attack("E01")
async def test_what_timed_out_or_died_is_not_ok_however_well_it_ended() -> None:
    assert (await ends(STARTED, done(timed_out=True))).status is Status.TIMEOUT
    assert (await ends(STARTED)).status is Status.KILLED
    assert (await ends()).status is Status.KILLED


@pytest.mark.attack("E03")
async def test_the_end_of_another_execution_ends_nothing() -> None:
    assert (await ends(STARTED, done(id="exe_2"))).status is Status.KILLED


@pytest.mark.attack("E04")
async def test_what_is_told_again_ends_no_later_execution() -> None:
    async with deceived() as (kernel, impostor):
        first = asyncio.create_task(told(kernel))
        await impostor.hears(Frame.EXECUTE)
        await impostor.say_bytes(STARTED + done())
        assert (await first)[1].status is Status.OK
        second = asyncio.create_task(told(kernel, execution_id="exe_2"))
        await impostor.hears(Frame.EXECUTE)
        await impostor.say_bytes(encode(Frame.STARTED, b'{"id": "exe_2"}') + done() * 3)
        impostor.hang_up()
        assert (await second)[1].status is Status.KILLED


@pytest.mark.parametrize(
    "frame",
    [
        b"\x00\x00\x00\x00\x40",
        HEADER.pack(0xFFFFFFFF, Frame.STDOUT),
        HEADER.pack(3, 200) + b"{}",
        encode(Frame.DONE, b"{"),
        encode(Frame.DONE, b"[]"),
        encode(Frame.DONE, b'{"id": NaN}'),
        encode(Frame.DONE, b"[" * 100_000),
        encode(Frame.DONE, b"{}"),
        encode(Frame.RESULT, b"{}"),
        encode(Frame.RESULT, b'{"data": 7}'),
        encode(Frame.ERROR, b"{}"),
        encode(Frame.REPLY, b"{}"),
        encode(Frame.EXECUTE, b"\xff"),
        done(b"7"),
        done(b"[["),
        done(b"[]"),
        done(b"[7]"),
        done(b'[["a"]]'),
        done(b'[["a", 1, "created"]]\n\n'),
        done(b'[["a", "many", "created"]]'),
        done(b'[["a", 1e308, "created"]]'),
        done(b'[["a", NaN, "created"]]'),
        done(b'[["a", 1, "created"]]\n' * (MAX_ROWS + 1)),
        done(dropped=[0, 0, 0, 0]),
        done(dropped={"a": 1}),
        done(dropped=["x", 0, 0]),
        done(dropped=[-1, 0, 0]),
        done(died="soon"),
        done(died=1 << 70),
    ],
)
async def test_what_no_init_says_ends_the_sandbox(frame: bytes) -> None:
    async with deceived() as (kernel, impostor):
        execution = asyncio.create_task(told(kernel))
        await impostor.hears(Frame.EXECUTE)
        await impostor.say_bytes(STARTED + frame)
        if frame[4] == Frame.EXECUTE:
            impostor.hang_up()  # what only a host says is not even read
        _, ending = await execution
        assert ending.status is Status.KILLED
        assert "protocol error" in ending.reason or frame[4] == Frame.EXECUTE
        assert not kernel.alive


async def test_whose_channel_is_lost_is_asked_for_nothing_more_even_before_it_has_ended() -> None:
    async with deceived() as (kernel, impostor):
        assert kernel.alive
        impostor.cut_off()
        async with asyncio.timeout(WAIT_SECONDS):
            while kernel.alive:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert impostor.exited() is None


@pytest.mark.parametrize("mute", [False, True], ids=["", "whose meters do not answer"])
async def test_who_outlives_the_loss_of_its_channel_is_ended(monkeypatch: pytest.MonkeyPatch, mute: bool) -> None:
    monkeypatch.setattr("sandbox.kernel._PARTING_SECONDS", 0.2)
    async with deceived() as (kernel, impostor), asyncio.timeout(WAIT_SECONDS):
        execution = asyncio.create_task(told(kernel))
        await impostor.hears(Frame.EXECUTE)
        await impostor.say_bytes(STARTED)
        impostor.is_mute = mute
        impostor.cut_off()
        _, ending = await execution
        assert (ending.status, ending.state_lost) == (Status.KILLED, True)
        assert ending.reason == "the sandbox ended: the way to it was lost"
        assert impostor.exited() is not None


async def test_who_does_not_end_when_its_channel_is_lost_ends_with_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.kernel._PARTING_SECONDS", 0.2)
    async with deceived() as (kernel, impostor):
        impostor.failing_stops = 1
        execution = asyncio.create_task(told(kernel))
        await impostor.hears(Frame.EXECUTE)
        impostor.cut_off()
        _, ending = await execution
        assert ending.status is Status.KILLED
        assert impostor.exited() is None
    assert impostor.exited() is not None


async def test_what_it_died_of_after_its_channel_was_lost_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.kernel._PARTING_SECONDS", 0.0)
    async with deceived() as (kernel, impostor):
        execution = asyncio.create_task(told(kernel))
        await impostor.hears(Frame.EXECUTE)
        impostor.hang_up("its container ended with code 70")
        _, ending = await execution
        assert ending.reason == "the sandbox ended: its container ended with code 70"


@pytest.mark.attack("E01")
async def test_a_start_that_is_told_again_gives_no_more_time() -> None:
    ending = await ends(STARTED, STARTED, done())
    assert ending.status is Status.KILLED
    assert "started twice" in ending.reason


FRAMES = st.tuples(
    st.sampled_from([kind for kind in Frame if kind >= Frame.READY]),
    st.binary(max_size=40)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(
        st.sampled_from([*honest(), "call", "data", "name", "value", "traceback", "available", "calls", "error"]),
        JSON | st.just("exe_1"),
        max_size=8,
    ).map(lambda value: json.dumps(value).encode())
    | st.builds(
        lambda value, rows: b"\n".join([json.dumps(value).encode(), *(json.dumps(row).encode() for row in rows)]),
        st.fixed_dictionaries({name: JSON | st.just(value) for name, value in honest().items()}),
        st.lists(JSON | st.just([["a", 1, "created"]]), max_size=3),
    ),
).map(lambda frame: encode(*frame))


@bounded(60)
@given(frames=st.lists(FRAMES, max_size=8))
def test_whatever_init_says_an_execution_has_one_end(frames: list[bytes]) -> None:
    asyncio.run(ends(STARTED, *frames))


@bounded(40)
@given(frames=st.lists(FRAMES | st.binary(max_size=50), max_size=4))
def test_whatever_init_says_of_files_is_an_answer_or_an_error_of_ours(frames: list[bytes]) -> None:
    async def ask() -> None:
        async with deceived() as (kernel, impostor):
            listing = asyncio.create_task(kernel.files.list())
            call = await impostor.hears(Frame.CALL)
            for frame in frames:
                await impostor.say_bytes(frame)
            head = {"call": call["call"], "complete": True, "shut": [], "unnamed": 0}
            await impostor.say(Frame.LISTING, json.dumps(head).encode() + b'\n[["a"]]')
            impostor.hang_up()
            with pytest.raises(SandboxError):
                await listing

    asyncio.run(ask())


async def test_a_path_that_is_nothing_but_directories_is_no_answer() -> None:
    async with deceived() as (kernel, impostor):
        listing = asyncio.create_task(kernel.files.list())
        call = await impostor.hears(Frame.CALL)
        row = ["a/" * 30_000 + "a", 1, 1, "1"]
        await impostor.say_bytes(
            encode_rows(Frame.LISTING, {"call": call["call"], "complete": True, "shut": [], "unnamed": 0}, [row])
        )
        with pytest.raises(ProtocolError, match="deeper than any that is listed"):
            await listing


@pytest.mark.parametrize("row", [[1, 1, 1, 1], [None, 1, 1, None], [{}, 1, 1, []], ["a", "b", 1, "1"], ["a"], []])
async def test_a_row_of_other_things_than_a_file_s_is_read_as_one_or_refused(row: list[Any]) -> None:
    async with deceived() as (kernel, impostor):
        listing = asyncio.create_task(kernel.files.list())
        call = await impostor.hears(Frame.CALL)
        head = {"call": call["call"], "complete": True, "shut": [], "unnamed": 0}
        await impostor.say_bytes(encode_rows(Frame.LISTING, head, [row]))
        try:
            [file] = (await listing).files
            assert file.path == str(row[0])
        except ProtocolError:
            assert len(row) != 4 or row[1] == "b"


@pytest.mark.parametrize(("asked", "frame"), [("read", Frame.LISTING), ("list", Frame.REPLY)])
async def test_an_answer_of_another_kind_ends_the_sandbox(asked: str, frame: Frame) -> None:
    async with deceived() as (kernel, impostor):
        asking = asyncio.create_task(_read(kernel.files.read("a")) if asked == "read" else kernel.files.list())
        call = await impostor.hears(Frame.CALL)
        await impostor.say(frame, {"call": call["call"]})
        with pytest.raises(SandboxError, match="is not answered like this"):
            await asking


async def test_a_file_is_never_longer_than_init_said_first() -> None:
    async with deceived() as (kernel, impostor):
        reading = asyncio.create_task(_read(kernel.files.read("a")))
        opened = await impostor.hears(Frame.CALL)
        await impostor.say(Frame.REPLY, {"call": opened["call"], "size": 10})
        asked = await impostor.hears(Frame.CALL)
        await impostor.say(Frame.REPLY, json.dumps({"call": asked["call"]}).encode() + b"\n" + b"x" * 100_000)
        closing = await impostor.hears(Frame.CALL)
        assert closing["op"] == "close"
        await impostor.say(Frame.REPLY, {"call": closing["call"]})
        assert await reading == b"x" * 10


@pytest.mark.parametrize(
    ("sizes", "data"),
    [
        ([1], b"x"),
        ([1, 1, 1], b"xxx"),
        ([2, -1], b"x"),
        ([1, 1], b"x"),
        ([1, 1], b"xxx"),
        (None, b""),
        (["x", 1], b"x"),
    ],
)
async def test_small_files_of_which_init_says_other_sizes_than_it_sends_are_no_files(sizes: Any, data: bytes) -> None:
    async with deceived() as (kernel, impostor):
        gathering = asyncio.create_task(kernel.files.gather(["a", "b"]))
        call = await impostor.hears(Frame.CALL)
        assert (call["op"], call["paths"]) == ("gather", ["a", "b"])
        head = json.dumps({"call": call["call"], "sizes": sizes}).encode()
        await impostor.say(Frame.REPLY, head + b"\n" + data if data else head)
        with pytest.raises(ProtocolError):
            await gathering


async def _read(pieces: Any) -> bytes:
    return b"".join([piece async for piece in pieces])


@pytest.mark.attack("E01", "D01")
async def test_an_init_that_keeps_no_time_is_ended_by_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.kernel._OVERTIME_SECONDS", 0.2)
    async with deceived() as (kernel, impostor):
        execution = asyncio.create_task(told(kernel, timeout=0.1))
        await impostor.hears(Frame.EXECUTE)
        await impostor.say_bytes(STARTED)
        _, ending = await execution
        assert (ending.status, ending.state_lost) == (Status.TIMEOUT, True)
        assert 300 <= ending.duration_ms < READY_SECONDS * 1000, "it is no longer waited for as for one not yet there"
        assert impostor.exited() is not None


async def test_a_sandbox_that_is_never_ready_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.kernel.READY_SECONDS", 0.2)
    impostor = Impostor()
    with pytest.raises(SandboxError, match="no kernel within"):
        await Kernel.start(impostor, Spec())
    assert impostor.exited() is not None


async def test_one_who_says_something_else_before_it_is_ready_is_given_up() -> None:
    impostor = Impostor()
    await impostor.say(Frame.STDOUT, b"hello")
    await impostor.say_bytes(b"\xff" * 5)
    with pytest.raises(SandboxError, match="protocol"):
        await Kernel.start(impostor, Spec())
    assert impostor.exited() is not None
