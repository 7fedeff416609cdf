"""Upstreams through the vendors' own SDKs, on servers that do whatever servers do."""

import asyncio
import base64
import contextlib
import json
import logging
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import pytest

from sandbox.errors import UpstreamBusy, UpstreamError, UpstreamFailed, UpstreamRefused
from sandbox.loop.messages import Delta, Dialect, Function, Message, Reply, Request, Text, Usage
from sandbox.loop.upstream.anthropic import AnthropicUpstream
from sandbox.loop.upstream.failures import retry_after
from sandbox.loop.upstream.openai import OpenAIUpstream
from tests.upstreams import (
    PAGE,
    Asked,
    Breaks,
    Call,
    Fails,
    Raw,
    Says,
    Scene,
    Script,
    Scripted,
    Silent,
    Unspoken,
    anthropic,
    busy,
    openai,
    runs,
)

KEY = "sk-0123456789abcdef"
FUNCTION = Function("run_python", "Runs.", {"type": "object", "properties": {"code": {"type": "string"}}})
REQUEST = Request("m", (Message("user", (Text("Hello"),)),), (FUNCTION,))
SHORT_S = 0.2
"""For what never comes."""
DIALECTS: Sequence[Dialect] = ("openai", "anthropic")

both = pytest.mark.parametrize("dialect", DIALECTS)


@contextlib.asynccontextmanager
async def upstream(
    dialect: Dialect, url: str, *, key: str = KEY, silence_s: float = 60.0
) -> AsyncIterator[OpenAIUpstream | AnthropicUpstream]:
    opened = (OpenAIUpstream if dialect == "openai" else AnthropicUpstream)(
        "up", base_url=url, key=key, key_name="UP_API_KEY", silence_s=silence_s
    )
    try:
        yield opened
    finally:
        await opened.aclose()
        await opened.aclose()


@contextlib.asynccontextmanager
async def scripted(
    dialect: Dialect, *scenes: Scene | Script, silence_s: float = 60.0
) -> AsyncIterator[tuple[Scripted, OpenAIUpstream | AnthropicUpstream]]:
    async with Scripted(dialect, *scenes) as server, upstream(dialect, server.url, silence_s=silence_s) as opened:
        yield server, opened


async def turn(asked: OpenAIUpstream | AnthropicUpstream, request: Request = REQUEST) -> Reply:
    said = [piece async for piece in asked.stream(request)]
    *deltas, reply = said
    assert isinstance(reply, Reply)
    assert "".join(each.text for each in deltas if isinstance(each, Delta)) == reply.message.text
    return reply


async def listen(asked: OpenAIUpstream | AnthropicUpstream, said: list[Delta | Reply]) -> None:
    async for piece in asked.stream(REQUEST):
        said.append(piece)


async def failure(dialect: Dialect, scene: Scene, silence_s: float = 60.0) -> UpstreamError:
    async with scripted(dialect, scene, silence_s=silence_s) as (_, opened):
        with pytest.raises(UpstreamError) as told:
            await turn(opened)
    assert told.value.upstream == "up"
    assert KEY not in f"{told.value!r} {told.value}"
    return told.value


@both
async def test_a_turn_is_told_in_pieces_and_then_whole(dialect: Dialect) -> None:
    said = Says("I run it.", (Call("run_python", {"code": "1"}, "a"), Call("run_python", {"code": "2"}, "b")))
    async with scripted(dialect, said) as (server, opened):
        reply = await turn(opened)
    assert reply.message.text == "I run it."
    assert [(call.id, call.arguments) for call in reply.message.calls] == [
        ("a", '{"code": "1"}'),
        ("b", '{"code": "2"}'),
    ]
    assert (reply.finish, reply.usage, reply.model, reply.upstream) == ("tool_calls", Usage(10, 5), "m", "up")
    assert server.asked[0].body["stream"] is True


@both
async def test_turns_share_one_connection(dialect: Dialect) -> None:
    async with scripted(dialect, *[runs("print(1)")] * 4) as (server, opened):
        for _ in range(4):
            await turn(opened)
        assert server.connections == 1
        assert await opened.models() == ["scripted"]
        assert server.connections == 1


@both
@pytest.mark.parametrize("scene", [Breaks("stall", Says("word " * 99), after=6), Says("word " * 9999)])
async def test_leaving_in_the_middle_closes_the_connection(dialect: Dialect, scene: Scene) -> None:
    async with scripted(dialect, scene) as (server, opened):
        stream: AsyncGenerator[Delta | Reply, None] = opened.stream(REQUEST)
        async with contextlib.aclosing(stream):
            async for _ in stream:
                break
        async with asyncio.timeout(30):
            await server.left()


@both
async def test_who_is_cancelled_while_nothing_comes_leaves_no_connection(dialect: Dialect) -> None:
    begun = asyncio.Event()

    def take(asked: Asked) -> Scene:
        begun.set()
        return Silent()

    async with scripted(dialect, take) as (server, opened):
        waiting = asyncio.create_task(turn(opened))
        await begun.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with asyncio.timeout(30):
            await server.left()


@both
@pytest.mark.parametrize(
    ("scene", "status"), [(Fails(status), status) for status in (400, 402, 404, 413, 422)] + [(Fails(403), 403)]
)
async def test_what_is_about_the_request_is_refused(dialect: Dialect, scene: Scene, status: int) -> None:
    told = await failure(dialect, scene)
    assert isinstance(told, UpstreamRefused)
    assert told.status == status
    assert "The server had an error." in str(told)


@both
async def test_a_wrong_key_is_named_by_where_it_comes_from(dialect: Dialect) -> None:
    told = await failure(dialect, Fails(401, f"Incorrect API key provided: {KEY}."))
    assert isinstance(told, UpstreamRefused)
    assert "UP_API_KEY" in str(told)
    assert "Incorrect API key provided: …" in str(told)


@both
async def test_what_headers_say_and_where_a_server_is_nobody_is_told(
    dialect: Dialect, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"x-gateway": "Bearer gw-0123456789"}
    kind = OpenAIUpstream if dialect == "openai" else AnthropicUpstream
    refusal = Fails(400, "Bearer gw-0123456789, gw-0123456789 or pass-word-1?", "gw-0123456789")
    caplog.set_level(logging.INFO, "sandbox")
    async with Scripted(dialect, refusal) as server:
        opened = kind("up", base_url=server.url.replace("//", "//user:pass-word-1@"), headers=headers)
        with pytest.raises(UpstreamRefused, match="…, … or …") as refused:
            await turn(opened)
    with pytest.raises(UpstreamFailed, match="The upstream 'up' does not answer: ") as failed:
        await turn(opened)
    await opened.aclose()
    told = f"{refused.value} {refused.value.code} {failed.value}"
    assert not [secret for secret in ("0123456789", "pass-word-1", "user", "127.0.0.1") if secret in told]
    assert "127.0.0.1" in caplog.text
    assert not [secret for secret in ("0123456789", "pass-word-1") if secret in caplog.text]


@both
async def test_a_missing_key_is_asked_for_by_name(dialect: Dialect) -> None:
    async with Scripted(dialect, key=KEY) as server, upstream(dialect, server.url, key="") as opened:
        with pytest.raises(UpstreamRefused, match="set UP_API_KEY"):
            await turn(opened)


@both
@pytest.mark.parametrize(
    ("scene", "after"),
    [(busy(2), 2.0), (busy("0.5"), 0.5), (busy(), None), (busy(status=503), None), (busy(status=529), None)],
)
async def test_too_much_to_do_is_busy_with_the_time_it_asks_for(
    dialect: Dialect, scene: Scene, after: float | None
) -> None:
    told = await failure(dialect, scene)
    assert isinstance(told, UpstreamBusy)
    assert told.retry_after == after


@both
@pytest.mark.parametrize(
    "scene",
    [
        Fails(500),
        Fails(408),
        PAGE,
        Raw(b"<html><title>Log in</title></html>"),
        Raw(b"{}", "application/json"),
        Raw(b"[", "application/json"),
        Raw(b"", "text/event-stream"),
        Raw(b"hello", "text/plain"),
        Breaks("cut"),
        Breaks("garbage"),
        Silent(closes=True),
    ],
)
async def test_whatever_else_goes_wrong_has_failed(dialect: Dialect, scene: Scene) -> None:
    assert isinstance(await failure(dialect, scene), UpstreamFailed)


_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
_PIECES = _HEAD + b"transfer-encoding: chunked\r\n\r\n10\r\ndata: not yet a \r\n"


@both
@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 No\xebl\r\ncontent-length: 3\r\n\r\nabc",
        b"HTTP/1.1 302 X\r\nlocation: ftp://elsewhere.invalid/v1\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 302 X\r\nlocation: http://127.0.0.1..invalid/v1\r\ncontent-length: 0\r\n\r\n",
        b"\0garbage\r\n\r\n",
        b'data: {"version": 0.9}\n\n',
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"HTTP/1.1 0 X\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 101 X\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 204 X\r\n\r\n",
        b"HTTP/1.1 302 X\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 302 X\r\nlocation: http://[::x/\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 500 X\r\ncontent-length: 100\r\n\r\nto be continued",
        b"HTTP/1.1 500 X\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc",
        _HEAD[:30],
        _HEAD + b"no header\r\n\r\n",
        _HEAD + b"x: " + b"x" * 100_000 + b"\r\n\r\n",
        _HEAD + b"content-length: many\r\n\r\n",
        _HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\n",
        _HEAD + b"content-length: 100\r\n\r\ndata: not yet",
        _HEAD + b"content-encoding: gzip\r\n\r\nabc",
        _HEAD + b"content-encoding: unheard-of\r\n\r\nabc",
        _PIECES,
        _PIECES + b"ff\r\nless",
        _PIECES + b"zz\r\nabc\r\n",
        _PIECES + b"1\r\nmore\r\n",
        _PIECES + b"0\r\nx: " + b"x" * 100_000 + b"\r\n\r\n",
    ],
)
async def test_what_is_no_http_has_failed_and_tells_no_address(dialect: Dialect, said: bytes) -> None:
    for resets in (False, True):
        told = await failure(dialect, Unspoken(said, resets=resets))
        assert isinstance(told, UpstreamFailed)
        assert "127.0.0.1" not in str(told)
        assert "/v1" not in str(told)


@both
@pytest.mark.parametrize("levels", [500, 940, 960, 980, 100_000])
async def test_json_that_is_nested_beyond_reading_has_failed(dialect: Dialect, levels: int) -> None:
    deep = b'{"error": ' * levels + b"1" + b"}" * levels
    for scene in (Raw(deep, "application/json"), Raw(b"data: " + deep + b"\n\n", "text/event-stream")):
        assert isinstance(await failure(dialect, scene), UpstreamFailed)
    assert isinstance(await failure(dialect, Raw(deep, "application/json", 400)), UpstreamError)


@both
async def test_half_a_character_neither_reaches_a_server_nor_comes_from_one(dialect: Dialect) -> None:
    wire = openai if dialect == "openai" else anthropic
    cut = b"".join(wire.events(Says("a\ud83db"), Asked("POST", "/", {}, {}), 1))
    async with scripted(dialect, Raw(cut, "text/event-stream"), Fails(400, "no \ud83d")) as (server, opened):
        request = Request("m", (Message.of("user", "\ud83d"),))
        assert (await turn(opened, request)).message.text == "a\ufffdb"
        assert "\ufffd" in str(server.asked[0].body["messages"])
        with pytest.raises(UpstreamRefused, match="no \ufffd"):
            await turn(opened)


@both
@pytest.mark.parametrize("scene", [Silent(), Breaks("stall"), Breaks("stall", after=0)])
async def test_silence_has_failed_in_the_end(dialect: Dialect, scene: Scene) -> None:
    told = await failure(dialect, scene, SHORT_S)
    assert isinstance(told, UpstreamFailed)
    assert "said nothing for 0.2 seconds" in str(told)


async def test_errors_in_the_middle_of_a_stream_have_the_class_that_their_name_has() -> None:
    assert isinstance(await failure("openai", Breaks("error")), UpstreamFailed)
    assert isinstance(await failure("anthropic", Breaks("error")), UpstreamBusy)
    for code, kind in ((429, UpstreamBusy), (502, UpstreamFailed), (400, UpstreamRefused)):
        said = f'data: {{"error": {{"code": {code}, "message": "x"}}}}\n\n'
        assert isinstance(await failure("openai", Raw(said.encode(), "text/event-stream")), kind)


@both
async def test_an_error_whose_words_are_lost_is_told_by_its_status(dialect: Dialect) -> None:
    head = "HTTP/1.1 %d No\xebl\r\nretry-after: 3\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc"
    busy, refused = [await failure(dialect, Unspoken((head % status).encode("latin-1"))) for status in (429, 401)]
    assert isinstance(busy, UpstreamBusy)
    assert busy.retry_after == 3
    assert isinstance(refused, UpstreamRefused)
    assert "UP_API_KEY" in str(refused)


@both
async def test_who_does_not_read_what_is_sent_has_failed(dialect: Dialect) -> None:
    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await left.wait()
        writer.transport.abort()

    left = asyncio.Event()
    server = await asyncio.start_server(ignore, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        async with upstream(dialect, f"http://{host}:{port}", silence_s=SHORT_S) as opened:
            with pytest.raises(UpstreamFailed, match="said nothing for 0"):
                await turn(opened, Request("m", (Message.of("user", "x" * (32 << 20)),)))
    finally:
        left.set()
        server.close()
        await server.wait_closed()


@both
async def test_megabytes_are_sent_as_they_are(dialect: Dialect) -> None:
    async with scripted(dialect, Says("Read.")) as (server, opened):
        assert (await turn(opened, Request("m", (Message.of("user", "x" * (3 << 20)),)))).message.text == "Read."
        assert "x" * (3 << 20) in json.dumps(server.asked[0].body["messages"])


@both
async def test_a_connection_that_was_closed_while_nobody_looked_is_not_used_again(dialect: Dialect) -> None:
    async with scripted(dialect, Says("One."), Says("Two.")) as (server, opened):
        await turn(opened)
        server.hang_up()
        assert (await turn(opened)).message.text == "Two."


@both
async def test_name_and_password_of_an_address_are_sent(dialect: Dialect) -> None:
    async with Scripted(dialect, Says("Hello.")) as server:
        async with upstream(dialect, server.url.replace("//", "//us%40er:pa%2Fss@")) as opened:
            await turn(opened)
        assert server.asked[0].headers["authorization"] == f"Basic {base64.b64encode(b'us@er:pa/ss').decode()}"


@both
async def test_headers_of_a_gateway_may_be_long_and_many(dialect: Dialect) -> None:
    wire = openai if dialect == "openai" else anthropic
    events = b"".join(wire.events(Says("Hello."), Asked("POST", "/", {}, {}), 1))
    headers = {"content-security-policy": "x" * 30_000} | {f"x-ratelimit-{number}": "1" for number in range(150)}
    async with scripted(dialect, Raw(events, "text/event-stream", headers=headers)) as (_, opened):
        assert (await turn(opened)).message.text == "Hello."


@both
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_nobody_is_followed_elsewhere(dialect: Dialect, status: int) -> None:
    async with Scripted(dialect, Says("I listen.")) as elsewhere:
        told = await failure(dialect, Raw(b"", "text/plain", status, {"location": f"{elsewhere.url}/messages"}))
        assert (elsewhere.asked, elsewhere.connections) == ([], 0)
    assert isinstance(told, UpstreamFailed)
    assert f"elsewhere (HTTP {status}). Set its url" in str(told)


@both
@pytest.mark.parametrize("status", [200, 400])
async def test_an_answer_without_end_is_not_read_to_it(dialect: Dialect, status: int) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n\r\n".encode() + b'{"x": "')
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"A" * (1 << 20))
                await writer.drain()
        writer.transport.abort()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        async with upstream(dialect, f"http://{host}:{port}") as opened:
            with pytest.raises(UpstreamRefused if status == 400 else UpstreamFailed):
                await turn(opened)
            with pytest.raises(UpstreamError):
                await opened.models()
    finally:
        server.close()
        await server.wait_closed()


@both
async def test_what_no_model_writes_is_refused(dialect: Dialect) -> None:
    told = await failure(dialect, Says("", (Call("run_python", {"code": "#" * (1 << 20)}, "a"),), piece=1 << 20))
    assert "1,048,576 characters of arguments" in str(told)


@both
async def test_more_tokens_than_there_are_numbers_for_were_none(dialect: Dialect) -> None:
    async with scripted(dialect, Says("Hello.", usage=(10**30, 5))) as (_, opened):
        assert (await turn(opened)).usage == Usage(0, 5)


@both
async def test_pieces_come_before_the_failure(dialect: Dialect) -> None:
    async with scripted(dialect, Breaks("cut", Says("word " * 20), after=8)) as (_, opened):
        said: list[Delta | Reply] = []
        with pytest.raises(UpstreamFailed, match="broke off"):
            await listen(opened, said)
    assert any(isinstance(piece, Delta) and piece.text for piece in said)
    assert not any(isinstance(piece, Reply) for piece in said)


@both
async def test_nobody_there_has_failed(dialect: Dialect) -> None:
    async with Scripted(dialect) as server:
        url = server.url
    async with upstream(dialect, url) as opened:
        with pytest.raises(UpstreamFailed, match="does not answer: Connection refused"):
            await turn(opened)
        with pytest.raises(UpstreamFailed, match="does not answer: Connection refused"):
            await opened.models()


@both
@pytest.mark.parametrize(
    "said",
    [
        Raw(b"<html><title>Log in</title></html>"),
        Raw(b"[", "application/json"),
        Raw(b"[" * 100_000, "application/json"),
        Raw(b'"models"', "application/json"),
        Raw(b'{"data": 5}', "application/json"),
    ],
)
async def test_what_is_no_list_of_models_has_failed(dialect: Dialect, said: Raw) -> None:
    async with Scripted(dialect, models=said) as server, upstream(dialect, server.url) as opened:
        with pytest.raises(UpstreamFailed, match="what should list its models does not"):
            await opened.models()


@both
async def test_of_a_list_of_models_the_names_are_taken(dialect: Dialect) -> None:
    said = Raw(b'{"data": [{"id": 5}, {}, {"id": null}, {"id": ""}, {"id": "m"}]}', "application/json")
    async with Scripted(dialect, models=said) as server, upstream(dialect, server.url) as opened:
        assert await opened.models() == ["m"]


@both
async def test_no_key_is_sent_where_none_is_set(dialect: Dialect) -> None:
    async with Scripted(dialect, Says("hi")) as server, upstream(dialect, server.url, key="") as opened:
        assert (await turn(opened)).message.text == "hi"
    assert not {"authorization", "x-api-key"} & server.asked[0].headers.keys()


@both
async def test_the_key_is_in_no_log_and_no_repr(dialect: Dialect, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with scripted(dialect, Says("hi"), Fails(401, KEY)) as (_, opened):
            await turn(opened)
            with pytest.raises(UpstreamRefused):
                await turn(opened)
            assert KEY not in repr(opened) + repr(vars(opened))
    assert KEY not in caplog.text


@both
async def test_a_server_that_answers_in_one_piece_is_understood(dialect: Dialect) -> None:
    wire = openai if dialect == "openai" else anthropic

    def whole(asked: Asked) -> Scene:
        return Raw(wire.whole(Says("hi"), asked, 1), "application/json")

    async with scripted(dialect, whole) as (_, opened):
        assert (await turn(opened)).message.text == "hi"


@both
async def test_an_empty_answer_is_a_reply_without_words(dialect: Dialect) -> None:
    async with scripted(dialect, Says()) as (_, opened):
        assert (await turn(opened)).message.parts == ()


async def test_the_account_that_the_environment_names_is_told_to_openai_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-ours")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-ours")
    async with scripted("openai", Says("hi")) as (server, opened):
        await turn(opened)
    assert not [value for value in server.asked[0].headers.values() if "ours" in value]


async def test_a_server_that_cannot_count_is_asked_again_without_and_not_any_more() -> None:
    def strict(asked: Asked) -> Scene:
        return Fails(400, "Unknown field: stream_options") if "stream_options" in asked.body else Says("hi", usage=None)

    async with scripted("openai", strict) as (server, opened):
        for _ in range(2):
            assert (await turn(opened)).usage == Usage()
    assert ["stream_options" in asked.body for asked in server.asked] == [True, False, False]


async def test_those_who_ask_at_once_a_server_that_cannot_count_are_all_answered() -> None:
    def strict(asked: Asked) -> Scene:
        return Fails(400, "Unknown field: stream_options") if "stream_options" in asked.body else Says("hi", usage=None)

    async with scripted("openai", strict) as (_, opened):
        replies = await asyncio.gather(*(turn(opened) for _ in range(4)))
    assert [reply.usage for reply in replies] == [Usage()] * 4


async def test_a_model_that_wants_the_new_name_of_the_limit_gets_it() -> None:
    def strict(asked: Asked) -> Scene:
        words = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
        return Fails(400, words) if "max_tokens" in asked.body else Says("hi")

    async with scripted("openai", strict) as (server, opened):
        await turn(opened, Request("m", REQUEST.messages, max_tokens=7))
    assert server.asked[-1].body["max_completion_tokens"] == 7


async def test_a_temperature_goes_with_the_version_of_anthropics_api_that_takes_it() -> None:
    async with scripted("anthropic", Says("a"), Says("b")) as (server, opened):
        await turn(opened)
        await turn(opened, Request("m", REQUEST.messages, temperature=0.2))
    assert server.asked[0].headers["anthropic-version"] != "2023-06-01"
    assert server.asked[1].headers["anthropic-version"] == "2023-06-01"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_how_long_to_wait_is_read_from_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_how_long_to_wait_may_be_a_date() -> None:
    after = retry_after({"retry-after": "Fri, 31 Dec 2100 23:59:59 GMT"})
    assert after is not None
    assert after > 86400


def test_sandbox_run_does_not_load_the_sdks() -> None:
    program = "import sandbox.cli.run, sys; print({'openai', 'anthropic', 'httpx2'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
