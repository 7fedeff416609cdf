import json
import random
import tracemalloc
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.guest.frames import (
    CHUNK,
    HEADER,
    MAX_BODY,
    MAX_ROWS,
    BadFrame,
    Decoder,
    Frame,
    arguments_of,
    decode_json,
    encode,
    encode_json,
    encode_rows,
    rows_of,
)
from tests.fuzzing import bounded


def cuttings(data: bytes) -> list[list[bytes]]:
    places = sorted(random.sample(range(len(data)), 40))
    return [
        [data],
        [data[index : index + 1] for index in range(len(data))],
        [data[start:end] for start, end in pairwise([0, *places, len(data)])],
    ]


def test_frames_come_out_whole_however_they_were_cut() -> None:
    frames = [(Frame.READY, b""), (Frame.STDOUT, b"x"), (Frame.REPLY, random.randbytes(5000)), (Frame.DONE, b"{}")]
    for pieces in cuttings(b"".join(encode(kind, body) for kind, body in frames)):
        decoder = Decoder()
        assert [frame for piece in pieces for frame in decoder.feed(piece)] == frames


@pytest.mark.attack("E05")
@pytest.mark.parametrize("head", [HEADER.pack(0, Frame.READY), HEADER.pack(102, Frame.READY), HEADER.pack(1, 13)])
def test_a_frame_that_nobody_sends_is_refused_by_its_head(head: bytes) -> None:
    decoder = Decoder(max_body=100)
    assert decoder.feed(head[:-1]) == []
    with pytest.raises(BadFrame):
        decoder.feed(head[-1:])


@pytest.mark.parametrize("payload", [b"", b"\n", b"a\nb", bytes(CHUNK)])
def test_raw_bytes_travel_behind_a_json_head(payload: bytes) -> None:
    [(kind, body)] = Decoder().feed(encode_json(Frame.CALL, {"op": "wri\nte"}, payload))
    assert (kind, decode_json(body)) == (Frame.CALL, ({"op": "wri\nte"}, payload))


@pytest.mark.attack("E05")
def test_more_raw_bytes_than_a_piece_of_a_file_are_refused_at_both_ends() -> None:
    with pytest.raises(BadFrame):
        encode_json(Frame.CALL, {}, bytes(CHUNK + 1))
    with pytest.raises(BadFrame):
        decode_json(b"{}\n" + bytes(CHUNK + 1))


@pytest.mark.attack("E05")
@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"a": NaN}', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadFrame):
        decode_json(body)


# Whatever a sandbox sends: whole frames, or `BadFrame`, and never more memory than was announced.

KINDS = st.sampled_from(Frame)
BODIES = st.binary(max_size=300)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
# Random bytes are refused by their head nearly always; these are frames that somebody has tampered with.
NEARLY = st.lists(
    st.binary(max_size=12)
    | st.builds(encode, KINDS, st.binary(max_size=70))
    | st.builds(HEADER.pack, st.integers(0, 70), KINDS),
    max_size=6,
).map(b"".join)
CUTS = st.lists(st.integers(1, 400), max_size=30)


def cut(data: bytes, lengths: list[int]) -> Iterator[bytes]:
    for length in lengths:
        yield data[:length]
        data = data[length:]
    yield data


@pytest.mark.attack("E05", "D12")
@bounded(100)
@given(frames=st.lists(st.tuples(KINDS, BODIES), max_size=12), cuts=CUTS)
def test_any_frames_in_any_cutting_come_out_as_they_went_in(frames: list[tuple[Frame, bytes]], cuts: list[int]) -> None:
    data = b"".join(encode(kind, body) for kind, body in frames)
    decoder = Decoder()
    assert [frame for piece in cut(data, cuts) for frame in decoder.feed(piece)] == frames


@pytest.mark.attack("E05", "D12")
@bounded(150)
@given(data=NEARLY, cuts=CUTS)
def test_any_bytes_are_frames_or_refused_the_same_way_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    frames, refused = decoded(data[place : place + 1] for place in range(len(data)))
    found, as_well = decoded(cut(data, cuts))
    assert as_well is refused
    assert found == frames[: len(found)], "of a piece that is refused nothing is told, and nothing else is missing"
    assert refused or found == frames


def decoded(pieces: Iterable[bytes]) -> tuple[list[tuple[Frame, bytes]], bool]:
    """What came out, and whether something was refused in the end."""
    decoder = Decoder(max_body=64)
    frames: list[tuple[Frame, bytes]] = []
    try:
        for piece in pieces:
            frames += decoder.feed(piece)
    except BadFrame:
        return frames, True
    return frames, False


@pytest.mark.attack("E05")
@bounded(100)
@given(before=st.lists(st.tuples(KINDS, BODIES), max_size=4), junk=st.binary(min_size=5, max_size=5))
def test_a_bad_head_is_refused_at_its_last_byte(before: list[tuple[Frame, bytes]], junk: bytes) -> None:
    length, number = HEADER.unpack(junk)
    decoder = Decoder(max_body=1 << 16)
    whole = b"".join(encode(kind, body) for kind, body in before)
    assert len(decoder.feed(whole + junk[:4])) == len(before)
    if 1 <= length <= (1 << 16) + 1 and number in frozenset(Frame):
        decoder.feed(junk[4:])
    else:
        with pytest.raises(BadFrame):
            decoder.feed(junk[4:])


@pytest.mark.attack("E05")
def test_a_length_that_is_announced_takes_no_memory_before_it_comes() -> None:
    tracemalloc.start()
    try:
        decoders = [Decoder() for _ in range(100)]
        for decoder in decoders:
            assert decoder.feed(HEADER.pack(MAX_BODY + 1, Frame.STDOUT) + b"x") == []
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    with pytest.raises(BadFrame):
        Decoder().feed(HEADER.pack(MAX_BODY + 2, Frame.STDOUT))
    with pytest.raises(BadFrame):
        encode(Frame.STDOUT, bytes(MAX_BODY + 1))


@pytest.mark.attack("E05")
@bounded(50)
@given(head=st.dictionaries(st.text(max_size=10), JSON, max_size=5), payload=st.binary(max_size=200))
def test_any_object_and_any_bytes_behind_it_come_back(head: dict[str, Any], payload: bytes) -> None:
    [(kind, body)] = Decoder().feed(encode_json(Frame.REPLY, head, payload))
    assert (kind, decode_json(body)) == (Frame.REPLY, (head, payload))


ROWS = st.lists(st.lists(JSON, max_size=4), max_size=40)


@pytest.mark.attack("E05")
@bounded(50)
@given(head=st.dictionaries(st.text(max_size=10), JSON, max_size=5), rows=ROWS)
def test_any_rows_behind_an_object_come_back(head: dict[str, Any], rows: list[list[Any]]) -> None:
    [(kind, body)] = Decoder().feed(encode_rows(Frame.LISTING, head, rows))
    told, payload = decode_json(body, MAX_BODY)
    assert (kind, told, [row for some in rows_of(payload) for row in some]) == (Frame.LISTING, head, rows)


def test_of_many_rows_few_have_to_be_read_at_a_time() -> None:
    rows = [[f"{number}" * 20, number, "created"] for number in range(MAX_ROWS)]
    [(_, body)] = Decoder().feed(encode_rows(Frame.DONE, {}, rows))
    parts = list(rows_of(decode_json(body, MAX_BODY)[1]))
    assert [row for part in parts for row in part] == rows
    assert max(len(json.dumps(part)) for part in parts) < 16 << 10


@pytest.mark.attack("E05")
def test_a_line_that_would_take_long_to_read_is_not_read() -> None:
    longest = ["\x01" * 4096, 1, 2, "3"]
    [(_, body)] = Decoder().feed(encode_rows(Frame.LISTING, {}, [["a" * 8000], longest]))
    assert [len(part) for part in rows_of(decode_json(body, MAX_BODY)[1])] == [2]
    with pytest.raises(BadFrame, match="more than 65536 bytes"):
        next(rows_of(b'[["' + b"a" * 65536 + b'"]]'))


def test_rows_are_refused_when_it_is_their_turn_and_not_before() -> None:
    rows = rows_of(b'[["a"]]\n{}')
    assert next(rows) == [["a"]]
    with pytest.raises(BadFrame):
        next(rows)


@pytest.mark.attack("E05")
@bounded(300)
@given(
    payload=st.binary(max_size=200)
    | st.text(alphabet='{}[]",:0123456789eE+-.NaInfity \\ud\n', max_size=60).map(str.encode)
    | st.lists(JSON.map(lambda value: json.dumps(value).encode()), max_size=5).map(b"\n".join)
)
def test_any_bytes_are_rows_or_refused(payload: bytes) -> None:
    try:
        parts = list(rows_of(payload))
    except BadFrame:
        return
    assert all(isinstance(row, list) for part in parts for row in part)


@pytest.mark.attack("E05")
@bounded(300)
@given(
    body=st.binary(max_size=200)
    | st.text(alphabet='{}[]",:0123456789eE+-.NaInfity \\ud\n', max_size=60).map(str.encode)
)
def test_any_body_is_an_object_or_refused(body: bytes) -> None:
    try:
        value, payload = decode_json(body)
    except BadFrame:
        return
    assert isinstance(value, dict)
    assert body.endswith(payload)


@pytest.mark.attack("E05")
@bounded(100)
@given(text=st.text(max_size=80) | JSON.map(json.dumps) | st.builds('{{"a":{}}}'.format, JSON.map(json.dumps)))
def test_arguments_that_are_taken_can_be_written_down_by_everybody(text: str) -> None:
    try:
        arguments = arguments_of(text)
    except BadFrame:
        return
    assert json.loads(json.dumps(arguments, allow_nan=False).encode()) == arguments
