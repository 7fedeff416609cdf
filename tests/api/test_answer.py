"""How a long answer goes out to a client that reads as fast as it is sent."""

import asyncio
import itertools
from typing import cast

from starlette.types import Message

from sandbox.api.answer import Answer
from sandbox.api.guests import Guests
from sandbox.api.unread import Unread
from sandbox.api.visit import Bodies, Body, Visit
from sandbox.node import Node

LONG = bytes(1 << 20)


async def nothing() -> Message:
    raise AssertionError("nothing is received")


async def test_others_have_their_turn_between_two_parts_of_it() -> None:
    order = list[str]()

    async def send(message: Message) -> None:
        order.append("part" if message["type"] == "http.response.body" else "start")

    async def others() -> None:
        while order.count("part") < 16:
            order.append("others")
            await asyncio.sleep(0)

    visit = Visit("req_1", Body(nothing, None, Bodies(0), limit=0, patience=1.0), Guests())
    answer = Answer(send, visit, Unread(len(LONG)), cast(Node, None))  # which is asked of a key's answers only
    meanwhile = asyncio.create_task(others())
    await answer({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(LONG))]})
    await answer({"type": "http.response.body", "body": LONG})
    answer.release()
    await meanwhile
    assert order.count("part") == 16
    parts = [number for number, what in enumerate(order) if what == "part"]
    assert all("others" in order[one:other] for one, other in itertools.pairwise(parts))
