"""The packets between a kernel and init, and the memory that init reads when the kernel is dead."""

import os
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.guest import pending
from sandbox.guest.frames import MAX_BODY
from sandbox.guest.link import BODY, Assembler, InitEnd, KernelEnd, Message, packets
from sandbox.guest.pending import CAPACITY


@pytest.fixture
def ends() -> Iterator[tuple[KernelEnd, InitEnd]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    kernel, init = KernelEnd(), InitEnd(ours)
    kernel.attach(theirs)
    yield kernel, init
    init.close()
    theirs.close()


def assembled(pieces: list[bytes]) -> list[Message]:
    assembler = Assembler()
    return [message for piece in pieces if (message := assembler.add(piece)) is not None]


@pytest.mark.parametrize("size", [0, 1, BODY - 1, BODY, BODY + 1, 3 * BODY])
def test_a_message_arrives_whole_whatever_its_length(size: int) -> None:
    content = os.urandom(size)
    assert assembled(list(packets("reply", "exe_1", content))) == [Message("reply", "exe_1", 0, content)]


def test_a_message_that_another_cuts_off_is_skipped() -> None:
    cut = list(packets("execute_result", "exe_1", bytes(3 * BODY)))[:2]
    whole = list(packets("reply", "exe_1", b"{}"))
    assert assembled([*cut, *whole, b"\nnobody's"]) == [Message("reply", "exe_1", 0, b"{}")]


def test_text_says_where_in_its_stream_it_begins() -> None:
    assert assembled([b"stdout exe_1 17\na\nb"]) == [Message("stdout", "exe_1", 17, b"a\nb")]


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\n",
        b"reply",
        b"reply exe_1\n{}",
        b"reply exe_1 2 3\n{}",
        b"reply exe_1 -1\n",
        b"reply exe_1 1\n{}",
        b"reply exe_1 many\n{}",
        b"reply exe_1 %d\n{}" % (MAX_BODY + 1),
        b"\xff\xfe 2\n{}",
    ],
)
def test_what_no_kernel_says_is_skipped(packet: bytes) -> None:
    assert assembled([packet, *packets("reply", "exe_1", b"{}")]) == [Message("reply", "exe_1", 0, b"{}")]


@given(st.lists(st.binary(max_size=64) | st.sampled_from([b"a b 9\n", b"\nccc", b"stderr x 1\n", b"a b 1\n"])))
def test_no_packets_upset_init(pieces: list[bytes]) -> None:
    for message in assembled(pieces):
        message.read(64)


@pytest.mark.parametrize("content", [b'{"a": 12345}', b"[]", b'{"a": 1e999}', b'{"a": -Infinity}', b'{"a": ', b"[" * 9])
def test_what_is_too_long_or_cannot_be_passed_on_is_read_as_nothing(content: bytes) -> None:
    assert Message("reply", "exe_1", 0, b'{"a": 1.5}').read(11) == {"a": 1.5}
    assert Message("reply", "exe_1", 0, content).read(11) == {}


def test_a_message_over_the_cap_arrives_empty(ends: tuple[KernelEnd, InitEnd]) -> None:
    kernel, init = ends
    kernel.send("display_data", "exe_1", bytes(MAX_BODY + 1))
    assert list(init.receive(9)) == [Message("display_data", "exe_1", 0, b"{}")]


def test_init_does_not_wait_for_a_kernel_that_does_not_read(ends: tuple[KernelEnd, InitEnd]) -> None:
    kernel, init = ends
    code = "x" * (4 << 20)
    init.execute("exe_1", code, {})
    assert init.blocked
    heard: list[Message] = []
    while not heard:
        heard += kernel.receive()
        init.flush()
    assert heard[0].read(MAX_BODY) == {"code": code, "functions": {}}
    assert not init.blocked


def test_the_end_of_the_other_side_is_told(ends: tuple[KernelEnd, InitEnd]) -> None:
    kernel, init = ends
    init.close()
    kernel.send("reply", "exe_1", b"{}")  # to nobody
    with pytest.raises(EOFError):
        list(kernel.receive())


@pytest.fixture
def memory() -> Iterator[tuple[dict[str, pending.Pending], int]]:
    streams, fd = pending.shared()
    yield streams, fd
    os.close(fd)


def test_what_waits_can_be_read_by_its_descriptor(memory: tuple[dict[str, pending.Pending], int]) -> None:
    streams, fd = memory
    streams["stdout"].belong_to("exe_1")
    streams["stdout"].add("grüß ".encode())
    streams["stdout"].pass_by(100)
    streams["stdout"].add(b"Gott")
    assert pending.leftovers(fd) == [Message("stdout", "exe_1", 107, b"Gott")]
    streams["stdout"].pass_by()
    assert pending.leftovers(fd) == []


@given(st.binary(max_size=200))
def test_nothing_that_a_program_writes_there_is_more_than_text(forged: bytes) -> None:
    _, fd = pending.shared()
    try:
        os.pwrite(fd, forged, 0)
        assert all(len(message.content) <= CAPACITY for message in pending.leftovers(fd))
        os.ftruncate(fd, 7)
        assert pending.leftovers(fd) == []
    finally:
        os.close(fd)


def test_a_length_that_goes_backwards_is_nothing(memory: tuple[dict[str, pending.Pending], int]) -> None:
    _, fd = memory
    os.pwrite(fd, struct.pack("<QQH", 9, 8, 65535), 0)
    assert pending.leftovers(fd) == []
