"""Clients that are slow, silent, endless or too many."""

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from sandbox.api.connection import MOST_CONNECTIONS
from sandbox.api.idle import Idle
from sandbox.api.turnstile import Turnstile, asks_for_the_usual
from sandbox.api.unread import Unread
from sandbox.api.visit import Bodies
from sandbox.errors import Overloaded
from tests.api.conftest import NewDataDir
from tests.api.served import WAIT_SECONDS, Served, enough, lines_about, problem, serving

HEAD = b"POST /v1/run HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GIB = 1 << 30
TCP_REPAIR = 19
"""From linux/tcp.h; the socket module does not have it."""


@pytest.fixture(scope="module")
async def impatient(new_data_dir: NewDataDir, nothing_left: None) -> AsyncIterator[Served]:
    """A server that waits for a second where others wait for half a minute."""
    async with serving(new_data_dir(), body_timeout_s=1) as served:
        await served.warmed()
        yield served


@pytest.mark.attack("H10")
async def test_a_head_that_trickles_in_is_given_up(impatient: Served) -> None:
    async with impatient.connection() as (reader, writer):
        trickle = asyncio.create_task(_trickle(writer, HEAD * 100))
        assert await reader.read() == b""
        await _stopped(trickle)


@pytest.mark.attack("H10")
@pytest.mark.parametrize("start", [b"", b"\r\n", b"GET /hea"])
async def test_a_connection_that_says_nothing_more_is_closed(impatient: Served, start: bytes) -> None:
    async with impatient.connection() as (reader, writer):
        writer.write(start)
        assert await reader.read() == b""


@pytest.mark.attack("H10")
async def test_line_ends_between_requests_do_not_keep_a_connection(impatient: Served) -> None:
    async with impatient.connection() as (reader, writer):
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
        trickle = asyncio.create_task(_trickle(writer, b"\r\n" * 1000))
        with contextlib.suppress(ConnectionResetError):  # what was on its way when it was closed makes it one
            assert await reader.read() == b""
        await _stopped(trickle)


@pytest.mark.attack("H10")
async def test_a_body_that_trickles_in_is_given_up_with_408(impatient: Served) -> None:
    async with impatient.connection() as (reader, writer):
        writer.write(HEAD + b"Content-Length: 10000\r\n\r\n")
        trickle = asyncio.create_task(_trickle(writer, b"x" * 10_000))
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        await _stopped(trickle)


async def test_an_upload_that_trickles_in_is_given_up_and_leaves_nothing(impatient: Served) -> None:
    async with impatient.client() as client, impatient.connection() as (reader, writer):
        session = (await client.post("/v1/sessions", json={})).headers["location"]
        writer.write(f"PUT {session}/files/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n".encode())
        trickle = asyncio.create_task(_trickle(writer, b"x" * 9999))
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        await _stopped(trickle)
        assert (await client.get(f"{session}/files")).json()["data"] == []


@pytest.mark.attack("H10")
async def test_json_has_one_deadline_however_steadily_it_comes(impatient: Served) -> None:
    async with impatient.connection() as (reader, writer):
        writer.write(HEAD + b"Content-Length: 10000000\r\n\r\n")
        trickle = asyncio.create_task(_trickle(writer, b"x" * 10_000_000, at_a_time=1000))
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        await _stopped(trickle)


async def test_an_upload_that_comes_slowly_but_steadily_is_taken(impatient: Served) -> None:
    async with impatient.client() as client, impatient.connection() as (reader, writer):
        session = (await client.post("/v1/sessions", json={})).headers["location"]
        size = 50_000  # three seconds' worth, where one is allowed without progress
        writer.write(f"PUT {session}/files/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode())
        await _trickle(writer, bytes(size), at_a_time=800)
        assert (await reader.readline()).startswith(b"HTTP/1.1 201")


async def _trickle(writer: asyncio.StreamWriter, data: bytes, at_a_time: int = 1) -> None:
    for start in range(0, len(data), at_a_time):
        writer.write(data[start : start + at_a_time])
        await writer.drain()
        await asyncio.sleep(0.05)  # the client's own slowness, not a wait


async def _stopped(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, ConnectionError):
        await task


@pytest.mark.attack("H08")
async def test_a_declared_length_over_the_limit_is_refused_before_a_byte_of_it(served: Served, session: str) -> None:
    for head in (HEAD, f"PUT {session}/files/big HTTP/1.1\r\nHost: localhost\r\n".encode()):
        async with served.connection() as (reader, writer):
            writer.write(head + f"Content-Length: {5 * GIB}\r\n\r\n".encode())
            assert (await reader.readline()).startswith(b"HTTP/1.1 413")


@pytest.mark.attack("H08")
@pytest.mark.parametrize("kind", ["upload", "json"])
async def test_five_gigabytes_in_chunks_are_refused_early(
    served: Served, client: httpx.AsyncClient, session: str, kind: str
) -> None:
    upload = f"PUT {session}/files/endless HTTP/1.1\r\nHost: localhost\r\n".encode()
    piece = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    sent = 0
    async with served.connection() as (reader, writer):
        answer = asyncio.create_task(reader.readline())
        writer.write((upload if kind == "upload" else HEAD) + b"Transfer-Encoding: chunked\r\n\r\n")
        while not answer.done() and sent < 5 * GIB:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)
        assert (await answer).startswith(b"HTTP/1.1 413")
    assert sent < GIB, "most of it was never sent"
    assert (await client.get(f"{session}/files")).json()["data"] == []


async def test_a_client_that_looks_for_an_answer_only_when_all_is_sent_gets_it(
    client: httpx.AsyncClient, session: str
) -> None:
    response = await client.put(f"{session}/files/large", content=bytes(200 << 20))
    assert problem(response) == (413, "too_large")
    assert (await client.get(session)).status_code == 200


@pytest.mark.attack("H08")
async def test_a_head_without_end_is_refused(served: Served) -> None:
    async with served.connection() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                writer.write(b"X-Filler: " + b"x" * 10_000 + b"\r\n")
                await writer.drain()
        with contextlib.suppress(ConnectionError):
            assert_refused(await reader.read(), 431, "headers_too_large")


@pytest.mark.attack("H12")
@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"hello\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_what_is_not_http_gets_400(served: Served, garbage: bytes) -> None:
    assert_refused(await served.raw(garbage), 400, "invalid_request")


async def test_what_was_refused_before_it_was_a_request_is_counted_and_logged(
    served: Served, client: httpx.AsyncClient
) -> None:
    refused = assert_refused(await served.raw(b"hello\r\n\r\n"), 400, "invalid_request")
    lines = await lines_about(served, client, request_id=refused)
    assert [(line["event"], line["status"], line["problem"]) for line in lines] == [("request", 400, "invalid_request")]
    counted = 'sandbox_requests_total{method="other",route="unmatched",status="400"}'
    assert counted in (await client.get("/metrics")).text


def assert_refused(answer: bytes, status: int, code: str) -> str:
    """That a connection's last answer is as whole as one of the application; its request id."""
    head, _, body = answer.partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    headers = httpx.Headers({name: value for name, _, value in (field.partition(": ") for field in fields)})
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert headers["cache-control"] == "no-store"
    assert headers["connection"] == "close"
    assert problem(httpx.Response(int(line.split()[1]), headers=headers, content=body)) == (status, code)
    return headers["x-request-id"]


@pytest.mark.attack("H02", "H06")
async def test_a_websocket_is_not_spoken(client: httpx.AsyncClient) -> None:
    headers = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-key": "x", "sec-websocket-version": "13"}
    assert (await client.get("/v1/sessions", headers=headers)).status_code == 200


@pytest.mark.attack("H10")
async def test_a_thousand_connections_at_once_are_all_answered(served: Served) -> None:
    async def ask() -> bytes:
        return await served.raw(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")

    answers = await asyncio.gather(*(ask() for _ in range(1000)))
    assert {answer[:12] for answer in answers} == {b"HTTP/1.1 204"}


@pytest.mark.attack("H10", "H11")
@pytest.mark.parametrize("said", [b"", b"PUT /v1/nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"])
async def test_who_only_connects_makes_way_for_who_asks(served: Served, said: bytes) -> None:
    ask = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n"
    with contextlib.ExitStack() as stack:
        enough(MOST_CONNECTIONS + 1000, stack)
        async with served.connection() as (reader, writer):
            for _ in range(2):
                writer.write(ask + b"\r\n")
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
                for _ in range(MOST_CONNECTIONS // 2 + 1):
                    other = stack.enter_context(socket.create_connection(served.address))
                    other.sendall(said)
            assert (await served.raw(ask + b"Connection: close\r\n\r\n")).startswith(b"HTTP/1.1 204")
            writer.write(ask + b"\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")


@pytest.mark.attack("H10", "H11")
def test_of_the_idle_those_make_way_first_that_never_asked_and_none_that_would_have_to_be_waited_for() -> None:
    idle: Idle[str] = Idle()
    for name in ("early", "late", "slow"):
        idle.add(name, spare=False)
    for name in ("stranger", "gone"):
        idle.add(name, spare=True)
    idle.discard("gone")
    idle.discard("early")
    idle.add("early", spare=False)  # it has asked again
    assert [idle.take(lambda name: name != "slow") for _ in range(4)] == ["stranger", "late", "early", None]


@pytest.mark.attack("H12")
async def test_requests_in_one_piece_are_answered_in_order(served: Served) -> None:
    one = b"GET /v1/nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = await served.raw(one * 3 + last)
    assert answer.count(b"HTTP/1.1 404") == 3
    assert b"HTTP/1.1 204" in answer.rpartition(b"HTTP/1.1 404")[2]


@pytest.mark.attack("H11", "H13")
async def test_who_asks_without_end_and_reads_nothing_is_answered_up_to_a_bound(served: Served) -> None:
    async with served.connection() as (reader, writer):
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3000)
        answers = (await reader.read()).split(b"HTTP/1.1 ")[1:]
    assert 100 <= len(answers) <= 200
    assert all(answer.startswith(b"204") for answer in answers)
    assert b"connection: close" in answers[-1]


@pytest.mark.attack("H08", "H12")
@pytest.mark.parametrize("line", [b"X-Filler: " + b"x" * 10_000 + b"\r\n", b"x" * 10_000])
async def test_a_head_without_end_is_no_longer_read_behind_a_request_that_runs(
    served: Served, session: str, line: bytes
) -> None:
    code = b'{"code": "import time; time.sleep(1)"}'
    head = f"POST {session}/executions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    async with served.connection() as (reader, writer):
        writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(code) + code)
        writer.write(b"GET / HTTP/1.1\r\nX-First: " + line * 20)
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b"HTTP/1.1") == 1
    assert b"connection: close" in answer


@pytest.mark.attack("H08", "H12")
async def test_what_comes_behind_the_last_piece_of_a_body_has_a_bound(served: Served) -> None:
    async with served.connection() as (_, writer):
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                writer.write(b"X-Filler: " + b"x" * 10_000 + b"\r\n")
                await writer.drain()
            pytest.fail("it reads on")


async def test_a_body_in_pieces_of_a_byte_each_is_a_body(served: Served) -> None:
    body = b'{"code": "print(41 + 1) #' + b"x" * 100_000 + b'"}'
    pieces = b"".join(b"1\r\n%c\r\n" % letter for letter in body)
    async with served.connection() as (reader, writer):
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")


@pytest.mark.attack("H12")
@pytest.mark.parametrize("apart", [False, True])
async def test_a_body_behind_a_wish_for_another_protocol_is_still_its_requests(served: Served, apart: bool) -> None:
    body = b'{"code": "print(41 + 1)"}'
    head = HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    async with served.connection() as (reader, writer):
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + (b"" if apart else body))
        await writer.drain()
        if apart:
            writer.write(body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        assert b"42" in await reader.readuntil(b'"results"')


@pytest.mark.attack("H08")
async def test_an_early_answer_reaches_who_wants_the_connection_closed_after_it(served: Served) -> None:
    size = 40 << 20
    async with served.connection() as (reader, writer):
        writer.write(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size >> 20):
            writer.write(bytes(1 << 20))
            await writer.drain()
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer


async def test_a_client_that_vanished_without_a_word_is_noticed_when_it_is_written_to(
    served: Served, client: httpx.AsyncClient, session: str
) -> None:
    code = "import time\nwhile True: print('x' * 1000, flush=True); time.sleep(0.01)"
    body = json.dumps({"code": code, "stream": True, "on_disconnect": "interrupt", "timeout_s": 600}).encode()
    head = f"POST {session}/executions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(served.address) as connection:
        connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        while b"event: stdout" not in await asyncio.to_thread(connection.recv, 1 << 16):
            pass
        connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)  # it is closed as when its machine lost power
    while (row := (await client.get(f"{session}/executions")).json()["data"][0])["status"] == "running":
        pass
    assert row["status"] == "interrupted"


@pytest.mark.attack("H11")
async def test_a_slow_reader_of_a_download_costs_no_memory_and_gets_it_all(
    served: Served, client: httpx.AsyncClient, session: str
) -> None:
    size = 60 << 20
    await client.put(f"{session}/files/large", content=bytes(size))
    before = _resident(served)
    async with served.connection() as (reader, writer):
        writer.write(f"GET {session}/files/large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        for _ in range(50):  # while it reads no further, others are served
            assert (await client.get(session)).status_code == 200
        assert _resident(served) - before < 16 << 20
        assert len(await reader.readexactly(size)) == size
        assert await reader.read() == b""


async def test_a_slow_reader_of_events_holds_nothing_up_and_misses_nothing(
    served: Served, client: httpx.AsyncClient, session: str
) -> None:
    code = "for n in range(5): print(str(n) * 200_000, flush=True)\n"
    code += "for n in range(8): display({'text/plain': 'x' * 1_000_000}, raw=True)"
    body = json.dumps({"code": code, "stream": True}).encode()
    head = f"POST {session}/executions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    async with served.connection() as (reader, writer):
        writer.write(head.encode() + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await reader.readuntil(b"\r\n\r\n")
        while (rows := (await client.get(f"{session}/executions")).json()["data"])[:1] == [] or (
            rows[0]["status"] == "running"
        ):
            pass
        assert rows[0]["status"] == "ok"
        told = await reader.read()
        assert told.count(b"event: done") == 1
        assert b"4" * 1000 in told


def _resident(served: Served) -> int:
    """Bytes of memory that the server has."""
    status = Path(f"/proc/{served.process.pid}/status").read_text()
    [kibibytes] = re.findall(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    return int(kibibytes) * 1024


@pytest.fixture(scope="module")
async def narrow(new_data_dir: NewDataDir, nothing_left: None) -> AsyncIterator[Served]:
    """A server with room for one run and another that waits, and for little JSON."""
    room = {"memory_mb": 192, "memory_budget_mb": 192, "max_waiting": 1, "max_body_mb": 1}
    async with serving(new_data_dir(), pool_size=0, **room) as served:
        yield served


async def test_who_does_not_send_a_body_takes_nobodys_place(narrow: Served) -> None:
    async with contextlib.AsyncExitStack() as stack, narrow.client() as client:
        for _ in range(10):
            _, writer = await stack.enter_async_context(narrow.connection())
            writer.write(HEAD + b"Content-Length: 100\r\n\r\n{")
        for _ in range(3):
            assert (await client.post("/v1/run", json={"code": "1"})).json()["status"] == "ok"


async def test_a_body_that_comes_after_its_head_is_run_too(narrow: Served) -> None:
    body = b'{"code": "print(1)"}'
    async with narrow.connection() as (reader, writer), narrow.client() as client:
        writer.write(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:5])
        await client.get("/health/live")
        writer.write(body[5:])
        assert (await reader.read()).startswith(b"HTTP/1.1 200")


async def test_a_body_that_comes_when_there_is_no_more_room_is_refused_then(narrow: Served) -> None:
    async with narrow.connection() as (reader, writer), narrow.client() as client:
        writer.write(HEAD + b"Connection: close\r\nContent-Length: 13\r\n\r\n{")
        await client.get("/health/live")
        async with filled(narrow):
            writer.write(b'"code": "1"}')
            assert_refused(await reader.read(), 503, "queue_full")
        while (await client.post("/v1/run", json={"code": "1"})).status_code == 503:
            pass  # those that filled it are on their way out


@pytest.mark.attack("H08")
async def test_all_json_together_has_a_bound(narrow: Served) -> None:
    size = 1 << 20
    async with narrow.client() as client:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(4):
                _, writer = await stack.enter_async_context(narrow.connection())
                writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % size + b" " * (size - 1))
            while (answer := await client.post("/v1/sessions", json={"metadata": 1})).status_code == 400:
                pass
            assert problem(answer) == (503, "overloaded")
            assert int(answer.headers["retry-after"]) >= 1
            assert problem(await client.post("/v1/run", json={"code": "1"})) == (503, "overloaded")
        while (answer := await client.post("/v1/run", json={"code": "1"})).status_code == 503:
            pass  # those connections are gone
        assert answer.status_code == 200


@pytest.fixture
async def shown(new_data_dir: NewDataDir) -> AsyncIterator[tuple[Served, str]]:
    """A server with room for 32 MiB of answers, and the path of an execution that has shown 12."""
    code = "from IPython.display import display\nfor _ in 'ab': display({'image/png': 'A' * (6 << 20)}, raw=True)"
    async with serving(new_data_dir(), pool_size=1, max_body_mb=4) as served, served.client() as client:
        session = (await client.post("/v1/sessions")).json()["id"]
        execution = (await client.post(f"/v1/sessions/{session}/executions", json={"code": code})).json()["id"]
        yield served, f"/v1/sessions/{session}/executions/{execution}"


async def unread(served: Served, path: str) -> socket.socket:
    """A connection whose answer has begun, and of which no more is read."""
    connection = socket.create_connection(served.address)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)  # else the kernel holds all of it
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await asyncio.to_thread(connection.recv, 1)
    return connection


@pytest.mark.attack("H08")
async def test_all_answers_that_nobody_reads_have_a_bound_together(shown: tuple[Served, str]) -> None:
    served, path = shown
    async with served.client() as client:
        with await unread(served, path):
            # This owner's half is full, and who waits for more than 10 s is refused; so is at once who is one too many.
            answers = await asyncio.gather(*(client.get(path) for _ in range(4)))
            assert [problem(answer) for answer in answers] == [(503, "overloaded")] * 4
            assert int(answers[0].headers["retry-after"]) >= 1
            assert (await client.post("/v1/run", json={"code": "1"})).json()["status"] == "ok"
            text = (await client.get("/metrics")).text
            assert 'sandbox_rejections_total{reason="overloaded"} 4.0' in text
        assert [len(result["image/png"]) for result in (await client.get(path)).json()["results"]] == [6 << 20] * 2
        at_once = await asyncio.gather(*(client.get(path) for _ in range(3)))  # who reads gives room to who waits
        assert [answer.status_code for answer in at_once] == [200] * 3


@pytest.mark.attack("H08")
async def test_events_that_nobody_reads_are_among_them(shown: tuple[Served, str]) -> None:
    served, path = shown
    async with served.client() as client:
        with await unread(served, f"{path}/events") as first, contextlib.ExitStack() as stack:
            first.settimeout(WAIT_SECONDS)
            others = [stack.enter_context(await unread(served, f"{path}/events")) for _ in range(2)]
            assert problem(await client.get(path)) == (503, "overloaded")
            for other in others:  # begun, and cut before what has no room
                assert b"event: done" not in await asyncio.to_thread(_all_of, other)
        while (await client.get(path)).status_code == 503:
            pass  # that connection is gone
        events = (await client.get(f"{path}/events")).text
    [done] = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: ") and "results" in line]
    assert len(done["results"]) == 2


def _all_of(connection: socket.socket) -> bytes:
    connection.settimeout(WAIT_SECONDS)
    data = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(1 << 16):
            data += piece
    return data


@pytest.mark.attack("H08")
async def test_the_longest_answer_can_be_had_alone() -> None:
    room = Unread(100)
    await room.take("ann", 1000)
    waiting = asyncio.ensure_future(room.take("ann", 10))
    await asyncio.sleep(0)
    await room.take("bob", 1000)
    with pytest.raises(Overloaded):
        await room.take("bob", 91)
    assert not waiting.done()
    room.give_back("ann", 1000)
    room.give_back("bob", 1000)
    await waiting


@pytest.mark.attack("H08")
def test_no_owner_has_all_the_memory_for_bodies() -> None:
    bodies = Bodies(100)
    bodies.take("ann", 50)
    with pytest.raises(Overloaded):
        bodies.take("ann", 1)
    bodies.take("bob", 50)
    with pytest.raises(Overloaded):
        bodies.take("cid", 1)
    bodies.give_back("ann", 50)
    bodies.take("cid", 1)


@pytest.fixture(scope="module")
async def full(new_data_dir: NewDataDir) -> AsyncIterator[Served]:
    """A server with one sandbox, which is taken, and one place to wait, which is taken, too."""
    room = {"memory_mb": 192, "memory_budget_mb": 192, "max_waiting": 1}
    async with serving(new_data_dir(), pool_size=0, **room) as served, filled(served):
        yield served


@contextlib.asynccontextmanager
async def filled(served: Served) -> AsyncIterator[None]:
    """Within the block one runs and one waits, which is all that there is room for."""
    async with served.client() as client:
        code = {"code": "import time; time.sleep(60)", "on_disconnect": "interrupt"}
        inside = [asyncio.ensure_future(client.post("/v1/run", json=code)) for _ in range(2)]
        while "sandbox_admission_waiting 1.0" not in (await client.get("/metrics")).text:
            assert not any(each.done() for each in inside)
        yield
        for each in inside:
            each.cancel()
        await asyncio.gather(*inside, return_exceptions=True)


async def test_as_many_come_in_as_could_find_room_of_the_usual_size_and_of_any() -> None:
    turnstile = Turnstile(3, 2, lambda: None)
    assert [turnstile.enter(usual=usual) for usual in (True, True, True, False, False)] == [
        True,
        True,
        False,
        True,
        False,
    ]
    turnstile.leave(usual=True)
    assert turnstile.enter(usual=True)


@pytest.mark.parametrize(
    ("body", "usual"),
    [
        (b'{"code": "print(1)\\n"}', True),
        (b'{"code": "1", "memory_mb": 192}', False),
        (b'{"code": "1", "\\u006demory_mb": 192}', False),
        ('{"code": "1", "memory_mb": 192}'.encode("utf-16"), False),
    ],
)
def test_who_may_ask_for_other_than_the_usual_memory_is_not_taken_for_one_who_does_not(
    body: bytes, usual: bool
) -> None:
    assert asks_for_the_usual(body) is usual


@pytest.mark.attack("H14", "H15")
async def test_with_full_queues_a_run_of_any_size_is_refused_and_one_that_was_done_is_answered(
    new_data_dir: NewDataDir, nothing_left: None
) -> None:
    room = {"memory_mb": 384, "memory_budget_mb": 384, "max_waiting": 1}
    async with serving(new_data_dir(), pool_size=0, **room) as wide, wide.client() as client:
        small = {"code": "print(1)", "memory_mb": 192}
        done = await client.post("/v1/run", json=small, headers={"idempotency-key": "once"})
        async with filled(wide):
            refused = await client.post("/v1/run", json=small, headers={"x-request-id": "refused-1"})
            assert problem(refused) == (503, "queue_full")
            assert int(refused.headers["retry-after"]) == refused.json()["retry_after"] >= 1
            assert (refused.headers["x-request-id"], refused.headers["cache-control"]) == ("refused-1", "no-store")
            again = await client.post("/v1/run", json=small, headers={"idempotency-key": "once"})
            assert again.json() == done.json()


class TestTurnstile:
    """Runs for which there is no room, not even to wait."""

    @pytest.mark.attack("H15")
    async def test_they_are_refused_at_once_and_told_when_to_come_back(self, full: Served) -> None:
        async with full.client() as client:
            answers = await asyncio.gather(*(client.post("/v1/run", json={"code": "1"}) for _ in range(50)))
        assert {problem(answer) for answer in answers} == {(503, "queue_full")}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
        assert all(answer.headers["x-content-type-options"] == "nosniff" for answer in answers)
        assert len({answer.headers["x-request-id"] for answer in answers}) == 50

    async def test_they_are_counted_and_logged_like_any_other(self, full: Served) -> None:
        async with full.client(**{"x-request-id": "refused-1"}) as client:
            answer = await client.post("/v1/run", json={"code": "1"})
            assert answer.headers["x-request-id"] == "refused-1"
            counted = 'sandbox_requests_total{method="POST",route="/v1/run",status="503"}'
            while counted not in (metrics := (await client.get("/metrics")).text):
                pass
            assert 'sandbox_rejections_total{reason="queue_full"}' in metrics
            lines = await lines_about(full, client, path="/v1/run")
            assert (lines[-1]["event"], lines[-1]["status"], lines[-1]["problem"]) == ("request", 503, "queue_full")

    async def test_the_connection_of_one_that_is_refused_takes_the_next_request(self, full: Served) -> None:
        run = HEAD + b"content-length: 100000\r\n\r\n"
        end = b"GET /health/live HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
        answer = await full.raw((run + bytes(100_000)) * 2 + end)
        assert answer.count(b"HTTP/1.1 503") == 2
        assert b"HTTP/1.1 204" in answer

    async def test_what_is_refused_in_one_piece_is_not_taken_for_one_large_head(self, full: Served) -> None:
        run = HEAD + b"content-length: 2\r\n\r\n{}"
        answer = await full.raw(run * 999 + run.replace(b"localhost", b"localhost\r\nConnection: close"))
        assert answer.count(b"HTTP/1.1 503") == 1000

    async def test_who_does_not_read_that_it_is_refused_is_not_read_either(self, full: Served) -> None:
        run = HEAD + b"content-length: 2\r\n\r\n{}"
        with socket.create_connection(full.address, timeout=2) as refused, pytest.raises(TimeoutError):
            await asyncio.to_thread(refused.sendall, run * 1_000_000)
        async with full.client() as client:
            assert (await client.get("/health/live")).status_code == 204

    async def test_a_body_that_waits_for_permission_is_not_waited_for(self, full: Served) -> None:
        head = HEAD + b"expect: 100-continue\r\ncontent-length: 100000\r\n\r\n"
        assert (await full.raw(head)).startswith(b"HTTP/1.1 503")
