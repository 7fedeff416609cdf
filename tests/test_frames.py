import random
from itertools import pairwise

import pytest

from sandbox.guest.frames import CHUNK, HEADER, BadFrame, Decoder, Frame, decode_json, encode, encode_json


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
