"""What a client without manners sends, and one without a key: no door but the one with the lock, no answer of 500."""

import contextlib
import gzip
import itertools
import json
import os
import socket
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.api.guests import MOST
from sandbox.keys import digest
from tests.api.conftest import NewDataDir, add_key
from tests.api.served import Served, enough, lines_about, logged, problem, serving
from tests.fuzzing import bounded

RUN = b'{"code": "print(1)"}'
CANARY = "canary-" + os.urandom(12).hex()


@pytest.fixture(scope="module")
async def locked(new_data_dir: NewDataDir, nothing_left: None) -> AsyncIterator[Served]:
    """A server with a key, whose environment has a secret in it."""
    directory = new_data_dir()
    os.environ["THE_SERVERS_SECRET"] = CANARY
    try:
        key = await add_key(directory)
        async with serving(directory, body_timeout_s=20) as served, served.client(key) as client:
            (await client.post("/v1/run", json={"code": "1"})).raise_for_status()
            yield served
    finally:
        del os.environ["THE_SERVERS_SECRET"]


@pytest.fixture(scope="module")
async def key(locked: Served) -> str:
    return await add_key(locked.data_dir, "tenant")


async def answered(served: Served, request: bytes) -> tuple[int, bytes]:
    """The status of the first answer to these bytes, and all that came."""
    answer = await served.raw(request)
    return int(answer.split(b" ", 2)[1]) if answer else 0, answer


def post(target: str, body: bytes = RUN, *fields: str) -> bytes:
    head = [f"POST {target} HTTP/1.1", "Host: localhost", "Content-Type: application/json", "Connection: close"]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", *fields, "", ""]).encode("latin-1") + body


class TestWithoutAKey:
    @pytest.mark.attack("H04")
    async def test_no_way_of_saying_one_wrongly_is_as_good_as_saying_it(self, locked: Served, key: str) -> None:
        ways: list[tuple[str, list[str]]] = [
            ("/v1/run", ["Authorization:"]),
            ("/v1/run", ["Authorization: Bearer"]),
            ("/v1/run", ["Authorization: Bearer "]),
            ("/v1/run", [f"Authorization: Basic {key}"]),
            ("/v1/run", [f"Authorization: {key}"]),
            ("/v1/run", [f"Authorization: Bearer{key}"]),
            ("/v1/run", [f"Authorization: Bearer {key[:-1]}"]),
            ("/v1/run", [f"Authorization: Bearer {key}x"]),
            ("/v1/run", [f"Authorization: Bearer {key.upper()}"]),
            ("/v1/run", [f"Authorization: Bearer {key} {key}"]),
            ("/v1/run", [f"Authorization: Bearer wrong, Bearer {key}"]),
            ("/v1/run", ["X-Api-Key:"]),
            ("/v1/run", [f"X-Api-Key: {key}\\x00"]),
            ("/v1/run", [f"Cookie: authorization=Bearer {key}; api_key={key}"]),
            (f"/v1/run?api_key={key}&key={key}&access_token={key}&authorization=Bearer%20{key}", []),
            ("/v1/run", ["X-Forwarded-For: 127.0.0.1", "X-Forwarded-User: admin", "Forwarded: for=127.0.0.1"]),
        ]
        told = set()
        for target, fields in ways:
            status, answer = await answered(locked, post(target, RUN, *fields))
            assert status == 401, (target, fields, answer)
            body = json.loads(answer.partition(b"\r\n\r\n")[2])
            told.add((body["code"], body["title"], "known" in body["detail"]))
        assert len(told) <= 2, "no key, and a wrong one; what is wrong with it nobody is told"
        assert (await answered(locked, post("/v1/run", RUN, f"Authorization: bearer  {key}")))[0] == 200

    @pytest.mark.attack("H06")
    async def test_no_stream_begins(self, locked: Served) -> None:
        async with locked.client() as client:
            for method, path in (
                ("POST", "/v1/sessions/ses_x/executions"),
                ("GET", "/v1/sessions/ses_x/executions/exe_x/events"),
                ("POST", "/v1/chat/completions"),
                ("POST", "/v1/responses"),
                ("POST", "/v1/messages"),
                ("GET", "/mcp"),
                ("POST", "/mcp"),
            ):
                body = {"code": "1", "stream": True, "model": "x", "messages": [], "input": "x", "max_tokens": 1}
                headers = {"accept": "text/event-stream, application/json"}
                response = await client.request(method, path, json=body, headers=headers)
                assert response.status_code in (401, 404), (method, path, response.text)
                assert "text/event-stream" not in response.headers.get("content-type", "")

    @pytest.mark.attack("H07")
    @pytest.mark.parametrize(
        "target",
        [
            "//v1/run", "/v1//run", "/./v1/run", "/v1/./run", "/health/../v1/run", "/health/live/../../v1/run",
            "/v1/run/", "/v1/run/.", "/v1/run;x=1", "/v1/run%2f", "/v1%2frun", "/%76%31/%72%75%6e", "/v1/run%00",
            "/V1/RUN", "/health%2f..%2fv1%2frun", "/health/..;/v1/run", "/\\v1\\run", "/v1/run#/health",
            "/v1/run?/health", "*", "@/v1/run",
            "http://localhost/v1/run", "http://evil.example/v1/run", "http://localhost@evil.example/v1/run",
        ],
    )  # fmt: skip
    async def test_no_spelling_of_a_path_leads_past_the_lock(self, locked: Served, key: str, target: str) -> None:
        status, answer = await answered(locked, post(target))
        assert status in (400, 401, 403, 404, 405), answer
        status, answer = await answered(locked, post(target, RUN, f"Authorization: Bearer {key}"))
        assert status < 500, answer
        assert b"evil.example" not in answer.partition(b"\r\n\r\n")[0], "a link to where the client said that we are"

    @pytest.mark.attack("H21")
    async def test_a_tenant_has_no_way_to_keys_or_to_a_stop(self, locked: Served, key: str) -> None:
        async with locked.client(key) as client:
            paths = (await client.get("/openapi.json")).json()["paths"]
            assert not [path for path in paths if any(word in path for word in ("key", "admin", "drain", "shutdown"))]
            for path in ("/v1/keys", "/v1/admin", "/admin", "/drain", "/shutdown", "/debug", "/v1/settings", "/env"):
                for method in ("GET", "POST", "DELETE"):
                    assert (await client.request(method, path)).status_code == 404


@pytest.mark.attack("H10")
async def test_who_leaves_streams_open_keeps_nobody_else_out(locked: Served, key: str) -> None:
    async with locked.client(key) as client, contextlib.AsyncExitStack() as stack:
        session = f"/v1/sessions/{(await client.post('/v1/sessions')).json()['id']}"
        body = {"code": "import time\nprint('on', flush=True)\nwhile True: time.sleep(1)", "stream": True}
        streamed = await stack.enter_async_context(client.stream("POST", f"{session}/executions", json=body))
        await anext(streamed.aiter_lines())
        [running] = (await client.get(f"{session}/executions")).json()["data"]
        stream = (
            f"GET {session}/executions/{running['id']}/events HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {key}\r\nConnection: close\r\n\r\n"
        )
        enough(MOST + 1000, stack)
        for _ in range(MOST):
            stack.enter_context(socket.create_connection(locked.address)).sendall(stream.encode())
        assert (await locked.raw(stream.encode())).startswith(b"HTTP/1.1 503")
        async with locked.client(await add_key(locked.data_dir, "other")) as other:
            assert (await other.get("/v1/sessions")).status_code == 200
            assert (await other.get("/health/live")).status_code == 204
    async with locked.client(key) as client:
        assert (await client.delete(session)).is_success


class TestSecrets:
    @pytest.mark.attack("H18")
    async def test_none_is_in_anything_that_is_told(self, locked: Served, key: str) -> None:
        own = key.rpartition("_")[2]
        async with locked.client(key) as client:
            code = "import os; print(dict(os.environ)); raise ValueError(open('/proc/self/environ').read())"
            answers = [
                await client.post("/v1/run", json={"code": code}),
                await client.post("/v1/run", content=b"\xff{", headers={"content-type": "application/json"}),
                await client.post("/v1/sessions/%ff/executions", json={"code": "1"}),
                *[
                    await client.get(path)
                    for path in ("/health", "/metrics", "/openapi.json", "/v1/images", "/v1/nowhere", "/v1/sessions/x")
                ],
            ]
        for answer in answers:
            told = str(answer.headers) + answer.text
            assert CANARY not in told
            assert own not in told
            assert "Traceback" not in answer.text or answer.status_code == 200, "a traceback of ours"
            assert str(Path(__file__).parents[2]) not in answer.text, "a path of the server's"
        log = (locked.data_dir / "log").read_text()
        assert CANARY not in log
        assert own not in log

    @pytest.mark.attack("H05")
    async def test_keys_that_nearly_fit_are_looked_up_as_those_that_do_not_at_all(self, key: str) -> None:
        """By digest: how much of a key is right does not show in what is compared, nor in how long that takes."""
        one_off = {digest(key[:place] + "~" + key[place + 1 :]) for place in range(len(key))}
        common = [
            list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(digest(key), each, strict=True)))
            for each in one_off
        ]
        assert len(one_off) == len(key)
        assert max(map(len, common)) < 8


class TestBodies:
    @pytest.mark.attack("H08", "H16")
    @pytest.mark.parametrize(
        "body",
        [
            b'{"code": "1", ' + b", ".join(b'"k%d": 1' % n for n in range(40_000)) + b"}",
            b'{"code": "1", "metadata": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}",
            b'{"code": "1", "timeout_s": ' + b"9" * 100_000 + b"}",
            b'{"code": "1", "timeout_s": 1e' + b"9" * 1000 + b"}",
            b'{"code": "1", "code": "2", "code": null}',
            b'{"code": "\\ud800"}',
            b'\xef\xbb\xbf{"code": "1", "timeout_s": -0.0}',
            b'\xff\xfe{\x00"\x00',
            b"null",
            b"true",
            b'"x"',
            b"1",
            b"NaN",
            b'{"code": "1", "timeout_s": true}',
            b'{"code": "1", "memory_mb": [512]}',
            b'{"code": "1", "memory_mb": "512"}',
            '{"code": "1", "memory_mb": "٥١٢"}'.encode(),
            b'{"code": "1", "timeout_s": "' + b"1" * 100_000 + b'"}',
        ],
        ids=range(18),
    )
    async def test_json_that_nobody_means_is_refused_in_few_words(self, client: httpx.AsyncClient, body: bytes) -> None:
        response = await client.post("/v1/run", content=body, headers={"content-type": "application/json"})
        assert problem(response)[0] == 400
        assert len(response.content) < 64 << 10, "an answer that is as long as the question"

    @pytest.mark.attack("H08")
    async def test_what_is_packed_is_not_unpacked(self, client: httpx.AsyncClient) -> None:
        bomb = gzip.compress(b'{"code": "' + b" " * (64 << 20) + b'"}')
        for encoding in ("gzip", "deflate", "br", "zstd", "gzip, gzip"):
            headers = {"content-type": "application/json", "content-encoding": encoding}
            assert problem(await client.post("/v1/run", content=bomb, headers=headers))[0] in (400, 415)

    @pytest.mark.attack("H17")
    @pytest.mark.parametrize(
        "more",
        [
            {"privileged": True}, {"runtime": "host"}, {"volumes": ["/:/host"]}, {"env": {"A": "b"}},
            {"network": "host"},
            {"user": "root"}, {"cap_add": ["ALL"]}, {"devices": ["/dev/kvm"]}, {"mounts": []}, {"image": "../../etc"},
            {"image": "python@sha256:0"}, {"memory_mb": 1 << 40}, {"memory_mb": -1}, {"timeout_s": 1e9}, {"cpus": 64},
            {"processes": 1 << 20}, {"disk_mb": 1 << 20}, {"output_bytes": 1 << 40}, {"preload": "import os"},
        ],
        ids=str,
    )  # fmt: skip
    async def test_more_than_is_granted_cannot_even_be_asked_for(
        self, client: httpx.AsyncClient, more: dict[str, Any]
    ) -> None:
        for path in ("/v1/run", "/v1/sessions"):
            body = more | ({"code": "1"} if path == "/v1/run" else {})
            assert (await client.post(path, json=body)).status_code in (400, 404)

    @pytest.mark.attack("H09")
    @pytest.mark.parametrize(
        "flood",
        [
            lambda: b"".join(b'--x\r\nContent-Disposition: form-data; name="a%d"\r\n\r\n\r\n' % n for n in range(5000)),
            pytest.param(
                lambda: b"".join(
                    b'--x\r\nContent-Disposition: form-data; name="f"; filename="%d"\r\n\r\n\r\n' % n
                    for n in range(5000)
                ),
                marks=pytest.mark.nightly,
            ),
            lambda: b"--x\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(200_000)),
            lambda: b"--x\r\nContent-Disposition: " + b"y" * (20 << 20),
            lambda: b"--x\r\n" + b"y" * (20 << 20),
            lambda: b"--x\r\n\r\n" * 100_000,
            lambda: b"y" * (20 << 20),
            lambda: (
                b'--x\r\nContent-Disposition: form-data; name="f"; filename="' + b"../" * 5000 + b'"\r\n\r\nz\r\n--x--'
            ),
        ],
        ids=["fields", "files", "headers", "a header", "a header's name", "parts", "no boundary", "a name"],
    )
    async def test_a_form_without_end_is_refused(
        self, served: Served, client: httpx.AsyncClient, session: str, flood: Any
    ) -> None:
        headers = {"content-type": "multipart/form-data; boundary=x"}
        before = _resident(served.process.pid)
        body = flood()
        response = await client.post(f"{session}/files", content=body, headers=headers)
        assert problem(response)[0] in (400, 413)
        assert _resident(served.process.pid) - before < 64 << 20
        kept = (await client.get(f"{session}/files", params={"limit": 1000})).json()["data"]
        assert len(kept) == (1000 if b'filename="1"' in body else 0), "what came before the bound is kept"

    @pytest.mark.attack("H12")
    @pytest.mark.parametrize(
        "head",
        [
            b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
            b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
            b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
            b"Content-Length: +4\r\n\r\nabcd",
            b"Content-Length: 0x4\r\n\r\nabcd",
            b"Content-Length: 4, 4\r\n\r\nabcd",
            b"Content-Length: 99999999999999999999999\r\n\r\n",
            b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabcd\r\n0\r\n\r\n",
            b"Transfer-Encoding: chunked\r\n\r\n-4\r\nabcd\r\n0\r\n\r\n",
            b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nabcd\r\n0\r\n\r\n",
            b"X-A: b\x00c\r\n\r\n",
        ],
    )
    async def test_nothing_is_smuggled_behind_a_head_that_two_would_read_differently(
        self, served: Served, client: httpx.AsyncClient, head: bytes
    ) -> None:
        marker = f"smuggled-{os.urandom(6).hex()}"
        second = f"GET /v1/nowhere HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {marker}\r\nConnection: close\r\n\r\n"
        first = b"POST /v1/run HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        status, answer = await answered(served, first + head + second.encode())
        assert status in (400, 413, 415), answer
        last = f"last-{os.urandom(6).hex()}"
        await client.get("/v1/sessions", headers={"x-request-id": last})
        await lines_about(served, client, request_id=last)
        assert marker not in [line.get("request_id") for line in logged(served)], "the second request was heard"


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class TestNames:
    @pytest.mark.attack("E13", "H20")
    async def test_lines_in_names_make_no_lines_of_a_log_or_a_head(
        self, served: Served, client: httpx.AsyncClient, session: str
    ) -> None:
        evil = 'x\r\nSet-Cookie: evil=1\r\n\r\n{"event": "forged", "level": "info"}'
        response = await client.get(f"{session}/files/{httpx.QueryParams({'a': evil})!s}", headers={"user-agent": "x"})
        assert response.status_code in (400, 404)
        assert "set-cookie" not in response.headers
        form = {"file": (evil, b"x")}
        response = await client.post(f"{session}/files", files=form)
        assert "set-cookie" not in response.headers
        await client.post("/v1/run", json={"code": f"# {evil}", "image": evil})
        await client.get("/v1/sessions", params={"after": evil}, headers={"x-request-id": evil.replace("\r\n", "\\n")})
        assert not [line for line in logged(served) if line["event"] == "forged"]

    @pytest.mark.attack("I07", "I01", "B21")
    @pytest.mark.parametrize("name", ["x.html", "x.svg", "x.desktop", "x.csv", "x.pdf", "x.js", "x.png"])
    async def test_what_a_program_has_written_is_never_a_page(
        self, client: httpx.AsyncClient, session: str, name: str
    ) -> None:
        await client.put(f"{session}/files/{name}", content=b"<script>alert(1)</script>=cmd|' /C calc'!A0")
        response = await client.get(f"{session}/files/{name}", headers={"accept": "text/html"})
        assert response.headers["content-disposition"].startswith("attachment")
        assert response.headers["x-content-type-options"] == "nosniff"
        policy = response.headers["content-security-policy"]
        assert "sandbox" in policy
        assert "default-src 'none'" in policy


# Whatever comes: an answer of ours, and never 500.

PATHS = ("/v1/run", "/v1/sessions", "{session}/executions", "{session}/files", "/v1/chat/completions", "/v1/responses")
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.just("1") | st.just("x.txt")
    | st.sampled_from(["\x00", "../a", "/etc/passwd", "a" * 300])
)  # fmt: skip
FIELDS = st.sampled_from(
    [
        *(
            "code",
            "timeout_s",
            "memory_mb",
            "image",
            "files",
            "path",
            "content_base64",
            "file_id",
            "metadata",
            "stream",
        ),
        *("model", "messages", "input", "role", "content", "tools", "idle_timeout_s", "zzz"),
    ]
)
ANY_JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=4), max_leaves=10
)
BODIES = st.binary(max_size=200) | ANY_JSON.map(lambda value: json.dumps(value).encode())
TYPES = st.sampled_from(
    ["application/json", "application/json; charset=utf-16", "multipart/form-data; boundary=x", "", "x/y"]
)
NAMES = st.text(st.characters(exclude_characters="/"), min_size=1, max_size=40)


@pytest.mark.attack("H16", "H08")
@bounded(120)
@given(path=st.sampled_from(PATHS), body=BODIES, kind=TYPES)
def test_no_body_makes_the_server_fail(fuzzed: tuple[httpx.Client, str], path: str, body: bytes, kind: str) -> None:
    client, session = fuzzed
    if b'"code"' in body:  # of programs that nobody has read, none runs
        body = body.replace(b'"code"', b'"cod"')
    response = client.post(path.format(session=session), content=body, headers={"content-type": kind} if kind else {})
    assert response.status_code < 500 or response.status_code == 502, response.text


@pytest.mark.attack("B12", "B13", "H07", "H20")
@bounded(60)
@given(name=NAMES)
def test_a_name_is_kept_as_it_is_or_refused(fuzzed: tuple[httpx.Client, str], name: str) -> None:
    client, session = fuzzed
    try:
        quoted = httpx.URL(f"{client.base_url}{session}/files/").copy_with(
            raw_path=f"{session}/files/".encode() + b"".join(b"%%%02x" % byte for byte in name.encode())
        )
    except UnicodeEncodeError:
        return  # half a character, which no URL can have
    response = client.put(quoted, content=b"x")
    assert response.status_code in (201, 400, 404), response.text
    if response.status_code == 201:
        assert [each["path"] for each in client.get(f"{session}/files").json()["data"]] == [name]
        down = client.get(quoted)
        assert (down.content, down.headers["content-disposition"].isascii()) == (b"x", True)
        assert client.delete(quoted).status_code == 204
    else:
        assert response.json()["code"] in ("invalid_path", "invalid_request", "not_found")


@pytest.fixture
def fuzzed(served: Served, session: str) -> Any:
    with httpx.Client(base_url=served.url, timeout=60) as client:
        yield client, session


@pytest.mark.attack("H22")
def test_what_reads_the_network_is_not_older_than_its_last_known_hole() -> None:
    for package, least in {
        "starlette": (1, 3, 1),
        "python-multipart": (0, 0, 27),
        "uvicorn": (0, 54),
        "httptools": (0, 6),
    }.items():
        found = tuple(int(part) for part in version(package).split(".")[: len(least)])
        assert found >= least, f"{package} {version(package)}"
