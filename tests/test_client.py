"""The clients, against a server that misbehaves by script and against a real one."""

import asyncio
import contextlib
import inspect
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import anyio
import pytest
import uvloop
from anyio.streams.tls import TLSAttribute

from sandbox import errors
from sandbox.api import problems as served
from sandbox.client import (
    Artifact,
    AsyncClient,
    Client,
    Error,
    Execution,
    Result,
    Started,
    Status,
    Stream,
    Truncated,
    requests,
)
from sandbox.client.content import replacing
from sandbox.client.events import Decoder, Message
from sandbox.client.problems import Again, refusal
from sandbox.client.requests import Address
from sandbox.client.retries import Tries
from sandbox.client.wire import failures
from sandbox.errors import (
    Draining,
    FileMissing,
    ImageNotBuilt,
    InvalidCode,
    InvalidLimits,
    InvalidPath,
    InvalidRequest,
    RateLimited,
    SandboxError,
    SandboxFailed,
    SessionClosed,
    SessionMissing,
    TooLarge,
    Unauthorized,
    Unreachable,
)
from sandbox.image import Image
from tests.server import COMMAND, Server, environment, serving

WAIT_SECONDS = 30.0


class Driven:
    """An asynchronous client or session that is called as the blocking one is, so that one test is for both."""

    def __init__(self, inner: Any, runner: asyncio.Runner) -> None:
        self._inner = inner
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        return (lambda *args, **named: self._outcome(value(*args, **named))) if callable(value) else value

    def __enter__(self) -> "Driven":
        return Driven(self._run(self._inner.__aenter__()), self._runner)

    def __exit__(self, *raised: Any) -> Any:
        return self._run(self._inner.__aexit__(*raised))

    def _outcome(self, value: Any) -> Any:
        if hasattr(value, "__aenter__"):
            return Driven(value, self._runner)
        if hasattr(value, "__anext__"):
            return self._items(value)
        outcome = self._run(value) if inspect.isawaitable(value) else value
        return Driven(outcome, self._runner) if type(outcome).__name__ == "AsyncSession" else outcome

    def _items(self, iterator: AsyncIterator[Any]) -> Iterator[Any]:
        with contextlib.suppress(StopAsyncIteration):
            while True:
                yield self._run(iterator.__anext__())

    def _run(self, awaitable: Any) -> Any:
        async def wait() -> Any:
            return await awaitable

        return self._runner.run(wait())


Connect = Callable[..., Any]


@pytest.fixture(params=["blocking", "asynchronous"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes clients of either kind, and closes them."""
    with contextlib.ExitStack() as stack:
        if request.param == "blocking":
            yield lambda *args, **named: stack.enter_context(Client(*args, **named))
        else:
            # With a factory the runner leaves the loop alone that other tests run on.
            runner = stack.enter_context(asyncio.Runner(loop_factory=asyncio.new_event_loop))
            yield lambda *args, **named: stack.enter_context(Driven(AsyncClient(*args, **named), runner))


# What a client asks, and how it reads.


def test_events_are_the_same_wherever_the_bytes_are_cut() -> None:
    text = b"retry: 1\n\n:\r\nid: 1.0\nevent: stdout\r\ndata: {\rdata:  1}\r\n\r\n"
    text += b": beat\n\ndata:x\n\nevent: none\n\nid:2\ndata\n\n"
    whole = [Message("stdout", "{\n 1}", "1.0"), Message("message", "x", "1.0"), Message("message", "", "2")]
    for cut in range(len(text)):
        for second in (cut, (cut + len(text)) // 2):
            decoder = Decoder()
            pieces = (text[:cut], text[cut:second], text[second:])
            assert [message for piece in pieces for message in decoder.feed(piece)] == whole


def kinds(kind: type[SandboxError] = SandboxError) -> list[type[SandboxError]]:
    return [kind, *(deeper for child in kind.__subclasses__() for deeper in kinds(child))]


@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind.__module__ == errors.__name__])
def test_every_error_of_the_server_is_the_same_error_at_the_client(kind: type[SandboxError]) -> None:
    limited: dict[str, Any] = {"name": "running", "limit": 3, "remaining": 0, "reset": 2.5}
    error = kind("so it is", 1.5, **limited) if kind is RateLimited else kind("so it is")
    response = served.of_error("req_1", error)
    back = refusal("http://x", response.status_code, response.headers, bytes(response.body))
    if isinstance(back, Again):
        assert back.after == getattr(error, "retry_after", None)
        back = back.error
    assert (type(back), str(back), back.__notes__) == (kind, "so it is", ["request req_1"])
    assert vars(error).items() <= vars(back).items()


@pytest.mark.parametrize(
    ("status", "kind"), [(400, InvalidRequest), (404, errors.NotFound), (418, InvalidRequest), (500, SandboxFailed)]
)
def test_an_error_of_a_newer_server_is_known_by_its_status(status: int, kind: type[SandboxError]) -> None:
    body = json.dumps({"code": "not_yet_invented", "detail": "so it is"}).encode()
    found = refusal("http://x", status, {"content-type": "application/problem+json"}, body)
    assert (type(found), str(found)) == (kind, "so it is")


def test_pauses_grow_and_tries_end() -> None:
    tries = Tries(6)
    again = Again(Unreachable("gone"))
    pauses = [tries.pause(again) for _ in range(6)]
    assert all(low <= pause <= 2 * low for pause, low in zip(pauses, (0.125, 0.25, 0.5, 1, 2, 2), strict=True))
    with pytest.raises(Unreachable):
        tries.pause(again)


def test_a_server_that_wants_a_long_pause_is_not_asked_again() -> None:
    with pytest.raises(Draining):
        Tries(3).pause(Again(Draining("later", 600), 600))


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://", "http://x:99999", "http://x?y", "http://[x"])
def test_what_is_no_url_of_a_server_is_refused(url: str, connect: Connect) -> None:
    with pytest.raises(InvalidRequest, match="is not the URL of a server"):
        connect(url)


@pytest.mark.parametrize("key", ["two words", "line\n", "ключ"])
def test_what_can_be_no_key_is_refused(key: str, connect: Connect) -> None:
    with pytest.raises(InvalidRequest, match="API key"):
        connect("http://x", key)


def test_arguments_of_another_type_are_refused_with_words_for_it() -> None:
    with pytest.raises(InvalidCode, match="the code is of type bytes; give a str"):
        requests.execute("ses_1", b"1", None)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="files is of type list; give a dict"):
        requests.run("1", None, None, None, ["a.csv"])  # type: ignore[arg-type]
    text: Any = "text"
    with pytest.raises(InvalidRequest, match=r"'a' is of type str; give bytes or a pathlib\.Path"):
        requests.run("1", None, None, None, {"a": text})
    with pytest.raises(InvalidLimits, match="timeout is of type str"):
        requests.run("1", text, None, None, None)


@pytest.mark.parametrize("path", ["../x", "a/../../b", "", ".", "a//b", "/etc/passwd"])
def test_a_path_that_would_become_another_request_is_refused(path: str) -> None:
    with pytest.raises(InvalidPath):
        requests.download("ses_1", path)
    with pytest.raises(InvalidRequest):
        requests.session("..")


def test_odd_names_are_quoted() -> None:
    assert (
        requests.download("ses_1", "/mnt/data/a b/é%2F?#.txt").path
        == "/v1/sessions/ses_1/files/a%20b/%C3%A9%252F%3F%23.txt"
    )
    assert requests.session("a/b").path == "/v1/sessions/a%2Fb"


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_that_cannot_be_is_not_even_sent(timeout: float) -> None:
    with pytest.raises(InvalidLimits, match="choose one above 0"):
        requests.execute("ses_1", "1", timeout)


def test_where_the_server_is_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with Client() as client:
        assert client.url == "http://127.0.0.1:8000"
    monkeypatch.setenv("SANDBOX_SERVER", "https://example.com/sandbox/")
    with Client() as client:
        assert client.url == "https://example.com/sandbox"


# A server that misbehaves.


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it arrived."""

    line: str
    headers: Mapping[str, str]
    body: bytes


@contextlib.contextmanager
def scripted(*replies: bytes) -> Iterator[tuple[str, list[Asked]]]:
    """A server that answers each connection with the next of these bytes; its URL, and what it was asked."""
    asked: list[Asked] = []

    def serve() -> None:
        for reply in replies:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                asked.append(_request(stream))
                connection.sendall(reply)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes it, if it still waits
            thread.join(WAIT_SECONDS)
    assert len(asked) == len(replies)


def _request(stream: Any) -> Asked:
    line, *fields = iter(lambda: stream.readline().decode().strip(), "")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    return Asked(line, headers, stream.read(int(headers.get("content-length", 0))))


def reply(status: str, body: Any = b"", **headers: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"content_type": "application/json", "content_length": str(len(content)), "connection": "close"} | headers
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + content


def problem(status: str, code: str, **more: Any) -> bytes:
    headers = {"retry_after": str(more["retry_after"])} if "retry_after" in more else {}
    document = {"code": code, "detail": "so it is", **more}
    return reply(status, document, content_type="application/problem+json", **headers)


def events(*items: tuple[str, str, Any]) -> bytes:
    text = "".join(f"id: {number}\nevent: {name}\ndata: {json.dumps(data)}\n\n" for number, name, data in items)
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + text.encode()


TIME = "2026-11-21T15:42:00.125Z"
INFO = {"id": "ses_1", "status": "active", "image": "python", "memory_mb": 512, "idle_timeout_s": 60, "metadata": {}}
INFO |= {"disk_mb": 256, "timeout_s": 30}
INFO |= {"created_at": TIME, "last_used_at": TIME, "expires_at": TIME, "ended_at": None}
SESSION = reply("200 OK", INFO)
FILE = {"id": "fil_1", "path": "a b.txt", "size": 4, "mime": "text/plain", "digest": "00", "modified_at": TIME}
DONE = {"id": "exe_1", "session_id": "ses_1", "status": "ok", "stdout": "42\n", "color": "of a newer server"}
EXECUTION = Execution("exe_1", "ses_1", Status.OK, stdout="42\n")
STARTED = ("0", "started", {"id": "exe_1", "session_id": "ses_1"})


def test_a_call_is_repeated_with_its_key_until_the_server_can(connect: Connect) -> None:
    busy = problem("503 Service Unavailable", "queue_full", retry_after=0)
    with scripted(busy, b"", busy, reply("200 OK", DONE)) as (url, asked):
        assert connect(url, "sbx_1").run("print(6 * 7)") == EXECUTION
    assert {request.line for request in asked} == {"POST /v1/run HTTP/1.1"}
    assert {request.headers["authorization"] for request in asked} == {"Bearer sbx_1"}
    assert len({request.headers["idempotency-key"] for request in asked}) == 1
    assert len({request.body for request in asked}) == 1


def test_two_calls_have_two_keys(connect: Connect) -> None:
    with scripted(reply("200 OK", DONE), reply("200 OK", DONE)) as (url, asked):
        client = connect(url)
        assert client.run("1") == client.run("1")
    assert len({request.headers["idempotency-key"] for request in asked}) == 2


def test_a_limit_that_stays_reached_is_raised(connect: Connect) -> None:
    told = {"name": "per_minute", "limit": 60, "remaining": 0, "reset": 59.5, "retry_after": 0}
    with (
        scripted(*[problem("429 Too Many Requests", "rate_limited", **told)] * 2) as (url, _),
        pytest.raises(RateLimited, match="so it is") as raised,
    ):
        connect(url, retries=1).run("1")
    found = raised.value
    assert (found.name, found.limit, found.remaining, found.reset) == ("per_minute", 60, 0, 59.5)


def test_the_pause_that_the_server_asks_for_is_kept(connect: Connect) -> None:
    busy = problem("503 Service Unavailable", "draining", retry_after=1)
    loop = asyncio.new_event_loop()
    with scripted(busy, reply("200 OK", DONE)) as (url, _):
        began = loop.time()
        connect(url).run("1")
        assert loop.time() - began >= 1
    loop.close()


def test_a_failure_of_the_program_is_not_repeated(connect: Connect) -> None:
    error: dict[str, Any] = {"name": "ValueError", "value": "x", "traceback": "ValueError: x"}
    with scripted(reply("200 OK", {**DONE, "status": "error", "error": error})) as (url, _):
        assert connect(url).run("raise ValueError('x')").error == Error(**error)


def test_what_a_name_was_looked_up_in_comes_with_the_error(connect: Connect) -> None:
    error = {"name": "KeyError", "value": "x", "traceback": "", "looked_in": "keys of d: dict", "available": ["'a'"]}
    with scripted(reply("200 OK", {**DONE, "status": "error", "error": error})) as (url, _):
        assert connect(url).run("d['x']").error == Error("KeyError", "x", "", "keys of d: dict", ("'a'",))


def test_a_refusal_is_not_repeated(connect: Connect) -> None:
    with scripted(problem("404 Not Found", "session_missing")) as (url, _), pytest.raises(SessionMissing):
        connect(url).attach("ses_1")


def test_what_is_no_server_of_ours_is_said_to_be_none(connect: Connect) -> None:
    with (
        scripted(reply("404 Not Found", b"<html>", content_type="text/html")) as (url, _),
        pytest.raises(Unreachable, match="not as a sandbox server does"),
    ):
        connect(url).run("1")
    with (
        scripted(reply("200 OK", b"<html>", content_type="text/html")) as (url, _),
        pytest.raises(Unreachable, match="does not understand"),
    ):
        connect(url).run("1")


def test_a_gateway_before_a_server_that_starts_is_asked_again(connect: Connect) -> None:
    with scripted(reply("502 Bad Gateway", b"<html>"), reply("200 OK", DONE)) as (url, _):
        assert connect(url).run("1") == EXECUTION


def test_where_nobody_listens_that_is_said(connect: Connect) -> None:
    with scripted() as (url, _):
        pass
    with pytest.raises(Unreachable, match="start one with sandbox serve"):
        connect(url, retries=1).run("1")


def test_a_connection_that_uvloop_loses_as_it_is_made_is_a_failure_like_another() -> None:
    async def lost(address: Address) -> None:
        with scripted() as (url, _), failures(address):
            stream = await anyio.connect_tcp("127.0.0.1", int(url.rpartition(":")[2]))
            stream._transport.abort()  # type: ignore[attr-defined]
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()
            stream.extra(TLSAttribute.ssl_object, None)  # what httpcore asks first

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, pytest.raises(Again) as again:
        runner.run(lost(Address("http://127.0.0.1", "")))
    assert isinstance(again.value.error, Unreachable)


def test_a_stream_that_is_cut_goes_on_where_it_was(connect: Connect) -> None:
    first = events(STARTED, ("3", "stdout", {"text": "42\n"}), ("9", "stdout", {"text": "lost"}))[:-10]
    rest = events(("5", "result", {"data": {"text/plain": "1"}, "execution_count": 1}), ("6", "done", DONE))
    with scripted(SESSION, b"", first, b"", rest) as (url, asked):
        found = list(connect(url).attach("ses_1").stream("print(6 * 7)\n1"))
    assert found == [Started("exe_1", "ses_1"), Stream("stdout", "42\n"), Result({"text/plain": "1"}, 1), EXECUTION]
    _, *asked = asked
    assert [request.line.split()[:2] for request in asked] == [
        ["POST", "/v1/sessions/ses_1/executions"],
        ["POST", "/v1/sessions/ses_1/executions"],
        ["GET", "/v1/sessions/ses_1/executions/exe_1/events"],
        ["GET", "/v1/sessions/ses_1/executions/exe_1/events"],
    ]
    assert asked[0].headers["idempotency-key"] == asked[1].headers["idempotency-key"]
    assert [request.headers.get("last-event-id") for request in asked] == [None, None, "3", "3"]


def test_a_stream_that_has_not_begun_is_asked_for_as_often_as_any_call(connect: Connect) -> None:
    told = {"name": "running", "limit": 1, "remaining": 0, "reset": 0, "retry_after": 0}
    refused = problem("429 Too Many Requests", "rate_limited", **told)
    with scripted(SESSION, refused, refused) as (url, asked), pytest.raises(RateLimited):
        next(connect(url, retries=1).attach("ses_1").stream("1"))
    assert len(asked) == 3


def test_a_server_that_is_unready_is_asked_again_and_one_that_cannot_be_is_not(connect: Connect) -> None:
    unready = problem("503 Service Unavailable", "unready", retry_after=0)
    with scripted(unready, reply("200 OK", DONE)) as (url, _):
        assert connect(url).run("1") == EXECUTION
    unfit = problem("503 Service Unavailable", "image_not_built", retry_after=60)
    with scripted(unfit) as (url, _), pytest.raises(ImageNotBuilt):
        connect(url).run("1")


def test_a_file_that_is_gone_when_its_deletion_is_repeated_was_deleted(connect: Connect) -> None:
    missing = problem("404 Not Found", "file_missing")
    with scripted(SESSION, b"", missing) as (url, asked):
        connect(url).attach("ses_1").remove("x")
    assert [request.line.split()[0] for request in asked[1:]] == ["DELETE", "DELETE"]
    with scripted(SESSION, missing) as (url, _), pytest.raises(FileMissing):
        connect(url).attach("ses_1").remove("x")


def test_without_retries_a_cut_stream_is_an_error(connect: Connect) -> None:
    with scripted(SESSION, events(STARTED)) as (url, _):
        stream = connect(url, retries=0).attach("ses_1").stream("1")
        assert next(stream) == Started("exe_1", "ses_1")
        with pytest.raises(Unreachable, match="ended the stream before"):
            next(stream)


def test_a_failure_of_the_server_within_a_stream_is_raised(connect: Connect) -> None:
    failed = events(STARTED, ("1", "problem", {"code": "sandbox_failed", "detail": "it broke"}))
    with scripted(SESSION, failed) as (url, _):
        stream = connect(url).attach("ses_1").stream("1")
        assert next(stream) == Started("exe_1", "ses_1")
        with pytest.raises(SandboxFailed, match="it broke"):
            next(stream)


def test_an_upload_is_repeated_from_where_the_file_stood(connect: Connect) -> None:
    file = io.BytesIO(b"headbody")
    file.seek(4)
    with scripted(SESSION, b"", reply("201 Created", FILE)) as (url, asked):
        assert connect(url).attach("ses_1").upload("a b.txt", file).path == "a b.txt"
    assert [request.body for request in asked] == [b"", b"body", b"body"]
    assert asked[2].line == "PUT /v1/sessions/ses_1/files/a%20b.txt HTTP/1.1"


def test_an_upload_from_a_pipe_is_not_repeated(connect: Connect) -> None:
    reading, writing = os.pipe()
    os.close(writing)
    with scripted(SESSION, b"") as (url, _), open(reading, "rb") as pipe:
        session = connect(url).attach("ses_1")
        with pytest.raises(Unreachable):
            session.upload("x", pipe)


def test_text_is_no_upload_and_a_download_may_be_told_its_path_as_text(connect: Connect, tmp_path: Path) -> None:
    whole = reply("200 OK", b"x", content_type="application/octet-stream")
    with scripted(SESSION, whole) as (url, _), (tmp_path / "y").open("w") as text:
        session = connect(f"{url}/v1/").attach("ses_1")
        for content in ("y", text):
            with pytest.raises(InvalidRequest, match=r"give bytes, a pathlib\.Path or a file opened in binary mode"):
                session.upload("y", content)
        session.download_to("x", str(tmp_path / "y"))
    assert (tmp_path / "y").read_bytes() == b"x"
    with pytest.raises(FileNotFoundError, match="nowhere/y"), replacing(tmp_path / "nowhere" / "y"):
        pass


def test_a_download_that_is_cut_begins_anew_and_leaves_no_half_file(connect: Connect, tmp_path: Path) -> None:
    whole = reply("200 OK", b"x" * 1000, content_type="application/octet-stream")
    with scripted(SESSION, whole[:-10], whole) as (url, _):
        connect(url).attach("ses_1").download_to("x", tmp_path / "y")
    assert (tmp_path / "y").read_bytes() == b"x" * 1000
    with scripted(SESSION, whole[:-10]) as (url, _):
        session = connect(url, retries=0).attach("ses_1")
        with pytest.raises(Unreachable):
            session.download_to("x", tmp_path / "z")
    assert list(tmp_path.iterdir()) == [tmp_path / "y"]


def test_a_list_is_read_to_its_end(connect: Connect) -> None:
    first = reply("200 OK", {"data": [INFO], "has_more": True, "next": "ses_1"})
    last = reply("200 OK", {"data": [{**INFO, "id": "ses_2"}], "has_more": False, "next": None})
    with scripted(first, last) as (url, asked):
        assert [info.id for info in connect(url).sessions()] == ["ses_1", "ses_2"]
    assert asked[1].line == "GET /v1/sessions?limit=100&after=ses_1 HTTP/1.1"


# A real one.


@pytest.fixture(scope="module")
def server(root: None, python_image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("data"), env={"SANDBOX_MAX_UPLOAD_MB": "4"}) as server:
        yield server


@pytest.fixture
def client(server: Server, connect: Connect) -> Any:
    return connect(server.url)


def test_a_program_runs_on_its_own(client: Any, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"2")
    code = "print(open('a').read() + open('d/b').read())\nopen('c', 'w').write('3')\n6 * 7"
    execution = client.run(code, timeout=20, memory_mb=256, files={"a": b"1", "d/b": tmp_path / "b"})
    assert (execution.status, execution.stdout, execution.truncated) == (Status.OK, "12\n", Truncated())
    assert execution.results[-1]["text/plain"] == "42"
    assert execution.artifacts == (Artifact("c", 1, "application/octet-stream", "created"),)
    assert client.attach(execution.session_id).download("c") == b"3"


def test_a_session_keeps_its_variables_and_is_closed_at_the_end(client: Any) -> None:
    with client.session(memory_mb=256, metadata={"user": "ann"}) as session:
        assert session.execute("x = 6").status is Status.OK
        assert session.execute("print(x * 7)").stdout == "42\n"
        info = session.info()
        assert (info.id, info.status, info.memory_mb, info.metadata) == (session.id, "active", 256, {"user": "ann"})
        assert info.created_at.tzinfo is not None
        assert session.id in {info.id for info in client.sessions()}
        assert client.attach(session.id).execute("x").results[-1]["text/plain"] == "6"
    assert session.info().status == "closed"
    with pytest.raises(SessionClosed):
        session.execute("1")
    assert [record.execution.stdout for record in session.executions()] == ["", "42\n", ""]
    with pytest.raises(SessionMissing):
        client.attach("ses_unheard_of")


def test_what_goes_wrong_in_the_block_is_what_is_raised(client: Any) -> None:
    with pytest.raises(ZeroDivisionError), client.session() as session:
        _ = 1 / 0
    assert session.info().status == "closed"


def test_outputs_stream_as_they_come(client: Any) -> None:
    code = """
import sys
from IPython.display import display
print("out", flush=True)
print("err", file=sys.stderr, flush=True)
display({"text/plain": "shown"}, raw=True)
open("made.txt", "w").write("x")
1 / 0
"""
    with client.session() as session:
        started, *middle, artifact, execution = session.stream(code, timeout=30)
        assert started == Started(execution.id, session.id)
        assert (text_of(middle, "stdout"), text_of(middle, "stderr")) == ("out\n", "err\n")
        assert Result({"text/plain": "shown"}) in middle
        assert middle[-1] == execution.error
        assert execution.error.name == "ZeroDivisionError"
        assert execution.artifacts == (artifact,)
        assert session.execution(execution.id).execution == execution
        assert list(session.follow(execution.id))[-1] == execution


def text_of(events: list[Any], name: str) -> str:
    return "".join(event.text for event in events if isinstance(event, Stream) and event.name == name)


def test_a_running_program_can_be_interrupted_and_its_kernel_replaced(client: Any) -> None:
    with client.session() as session:
        stream = session.stream("x = 1\nprint('ready', flush=True)\nwhile True: pass")
        started = next(stream)
        assert next(stream) == Stream("stdout", "ready\n")
        assert session.execution(started.id).execution is None
        session.interrupt()
        *_, execution = stream
        assert execution.status is Status.INTERRUPTED
        session.restart()
        assert session.execute("x").error.name == "NameError"


def test_files_go_in_and_out(client: Any, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(b"from a path")
    with client.session() as session:
        stored = session.upload("a b/é%2F?#.txt", b"bytes")
        assert (stored.path, stored.size, len(stored.digest)) == ("a b/é%2F?#.txt", 5, 64)
        session.upload("path", tmp_path / "local")
        with (tmp_path / "local").open("rb") as file:
            session.upload("/mnt/data/file", file)
            assert not file.closed
        session.upload("large", b"0123456789abcdef" * (3 << 16))
        assert [(file.path, file.size) for file in session.files()] == [
            ("a b/é%2F?#.txt", 5),
            ("file", 11),
            ("large", 3 << 20),
            ("path", 11),
        ]
        assert session.download("a b/é%2F?#.txt") == b"bytes"
        session.upload("empty", b"")
        pieces = ((1, 3), (3, None), (3, 100), (2, 2), (0, 0), (4, 2), (5, None), (9, 12))
        told = [session.download("a b/é%2F?#.txt", *piece) for piece in pieces]
        assert told == [b"yt", b"es", b"es", b"", b"", b"", b"", b""]
        assert session.download("empty", 0, 10) == b""
        session.remove("empty")
        session.download_to("large", tmp_path / "large")
        assert (tmp_path / "large").read_bytes() == b"0123456789abcdef" * (3 << 16)
        session.remove("path")
        with pytest.raises(FileMissing):
            session.download("path")
        with pytest.raises(InvalidRequest, match="cannot be read"):
            session.upload("x", tmp_path / "missing")


def test_what_the_server_refuses_is_raised_as_it_is_there(client: Any) -> None:
    with pytest.raises(InvalidLimits, match="memory_mb is 1; choose a value from 192"):
        client.run("1", memory_mb=1)
    with pytest.raises(errors.UnknownImage):
        client.run("1", image="fortran")
    with pytest.raises(errors.InvalidCode):
        client.run("a\0b")
    with client.session() as session, pytest.raises(TooLarge):
        session.upload("x", bytes(5 << 20))


@contextlib.contextmanager
def cutting(url: str, *lengths: int) -> Iterator[str]:
    """Stands before a server and cuts one connection after the other after so many bytes of answers; its URL.

    Connections beyond those are left alone. All have to have been cut when the block ends.
    """
    left = list(lengths)
    target = urlsplit(url)
    ports: list[int] = []
    ready = threading.Event()
    stop = asyncio.Event()
    relays: set[asyncio.Task[Any]] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection(target.hostname, target.port)
        relays.add(cast(asyncio.Task[Any], asyncio.current_task()))
        asking = asyncio.create_task(_pump(reader, outer, None))
        try:
            await _pump(inner, writer, left.pop(0) if left else None)
        finally:
            asking.cancel()
            for side in (writer, outer):
                side.transport.abort()

    async def serve() -> None:
        async with await asyncio.start_server(relay, "127.0.0.1", 0) as listener:
            ports.append(listener.sockets[0].getsockname()[1])
            ready.set()
            await stop.wait()
        for task in relays:
            task.cancel()
        await asyncio.gather(*relays, return_exceptions=True)

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        thread = threading.Thread(target=runner.run, args=(serve(),))
        thread.start()
        assert ready.wait(WAIT_SECONDS)
        try:
            yield f"http://127.0.0.1:{ports[0]}"
        finally:
            runner.get_loop().call_soon_threadsafe(stop.set)
            thread.join()
    assert not left


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int | None) -> None:
    """Copy to the end, or so many bytes."""
    with contextlib.suppress(ConnectionError):
        while (length is None or length > 0) and (piece := await reader.read(min(length or 1 << 16, 1 << 16))):
            writer.write(piece)
            await writer.drain()
            length = None if length is None else length - len(piece)


def test_a_stream_over_a_line_that_breaks_all_the_time_misses_nothing(server: Server, connect: Connect) -> None:
    code = "for n in range(100):\n    print(n, flush=True)\n    display(n)"
    with cutting(server.url, 1500, *[900] * 6) as url:
        *found, execution = connect(url).open_session().stream(code)
    assert execution.status is Status.OK
    assert execution.stdout == "".join(f"{number}\n" for number in range(100))
    assert text_of(found, "stdout") == execution.stdout
    shown = [event.data["text/plain"] for event in found if isinstance(event, Result)]
    assert shown == [str(number) for number in range(100)]
    connect(server.url).attach(execution.session_id).close()


def test_a_stream_outlives_the_server_and_says_what_became_of_its_program(
    root: None, python_image: Image, tmp_path: Path, connect: Connect
) -> None:
    with serving(tmp_path) as first:
        session = connect(first.url).open_session(files={"kept": b"1"})
        stream = session.stream("x = 1\nprint('ready', flush=True)\nwhile True: pass")
        assert [next(stream), next(stream)][1] == Stream("stdout", "ready\n")
        first.kill()
        with serving(tmp_path, "--port", str(urlsplit(first.url).port)):
            *_, execution = stream
            assert (execution.status, execution.state_lost) == (Status.KILLED, True)
            again = session.execute("print(open('kept').read())\nx")
            assert (again.stdout, again.error.name) == ("1\n", "NameError")
            session.close()


def test_keys_open_a_server_and_limits_are_told(
    root: None, python_image: Image, tmp_path: Path, connect: Connect
) -> None:
    key = made_key(tmp_path, "ann", "--per-minute", "1")
    with serving(tmp_path) as server:
        with pytest.raises(Unauthorized):
            connect(server.url, "").run("1")
        with pytest.raises(Unauthorized):
            connect(server.url, "sbx_00000000_wrong").run("1")
        client = connect(server.url, key, retries=0)
        assert client.run("print(1)").stdout == "1\n"
        with pytest.raises(RateLimited) as raised:
            client.run("1")
        assert (raised.value.name, raised.value.limit, raised.value.remaining) == ("per_minute", 1, 0)
        assert raised.value.retry_after > 0


def made_key(data_dir: Path, *arguments: str) -> str:
    command = [*COMMAND, "key", "create", *arguments]
    return (
        subprocess.run(command, env=environment(data_dir), stdout=subprocess.PIPE, check=True).stdout.decode().strip()
    )


async def test_many_programs_run_at_once(server: Server) -> None:
    async with AsyncClient(server.url) as client:
        executions = await asyncio.gather(*(client.run(f"print({number})") for number in range(12)))
    assert [execution.stdout for execution in executions] == [f"{number}\n" for number in range(12)]


def test_the_example_of_the_documentation_does_what_it_says(server: Server) -> None:
    page = Path(__file__).parents[1] / "docs" / "client.md"
    example, _for_a_model = re.findall(
        r"```python\n(.*?)```", page.read_text(), re.DOTALL
    )  # the other has its own test
    env = {**os.environ, "SANDBOX_SERVER": server.url}
    done = subprocess.run([sys.executable, "-c", example], env=env, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("42\n7\nok\n", "")
