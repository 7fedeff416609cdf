"""Who guesses, who is told a link, and who would have the server ask around for him."""

import asyncio
import contextlib
import json
import re
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox.keys import KeyLimits
from tests.api.conftest import NewDataDir, add_key
from tests.api.served import Served, logged, problem, serving
from tests.host import WAIT_SECONDS

PACKAGE = Path(__file__).parents[2] / "sandbox"


@pytest.fixture(scope="module")
async def locked(new_data_dir: NewDataDir, nothing_left: None) -> AsyncIterator[Served]:
    """A server with a key."""
    directory = new_data_dir()
    await add_key(directory, "first")
    async with serving(directory, pool_size=2) as served:
        yield served


@pytest.fixture(scope="module")
async def ann(locked: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with locked.client(await add_key(locked.data_dir, "ann")) as client:
        yield client


@pytest.fixture(scope="module")
async def bob(locked: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with locked.client(await add_key(locked.data_dir, "bob")) as client:
        yield client


@pytest.fixture(scope="module")
async def made(ann: httpx.AsyncClient) -> dict[str, str]:
    """Ids of Ann's: a session, an execution, and the path of a file."""
    session = (await ann.post("/v1/sessions", json={})).json()["id"]
    code = "open('secret.txt', 'w').write('hers')"
    execution = (await ann.post(f"/v1/sessions/{session}/executions", json={"code": code})).json()["id"]
    return {"session": session, "execution": execution}


def shape(response: httpx.Response, *ids: str) -> tuple[int, dict[str, str], str]:
    """An answer without what differs from one request to the next."""
    text = response.text.replace(response.headers["x-request-id"], "REQUEST")
    for each in ids:
        text = text.replace(each, "ID")
    headers = {name: value for name, value in response.headers.items() if name not in ("date", "x-request-id")}
    headers["content-length"] = str(len(text))
    return response.status_code, headers, text


class TestIds:
    @pytest.mark.attack("F11")
    async def test_somebody_elses_is_answered_as_one_that_never_was(
        self, ann: httpx.AsyncClient, bob: httpx.AsyncClient, made: dict[str, str]
    ) -> None:
        never = {"session": f"ses_{uuid.uuid4().hex}", "execution": f"exe_{uuid.uuid4().hex}"}
        for method, path in (
            ("GET", "/v1/sessions/{session}"),
            ("DELETE", "/v1/sessions/{session}"),
            ("GET", "/v1/sessions/{session}/files"),
            ("GET", "/v1/sessions/{session}/files/secret.txt"),
            ("GET", "/v1/sessions/{session}/executions/{execution}"),
            ("GET", "/v1/sessions/{session}/executions/{execution}/events"),
            ("POST", "/v1/sessions/{session}/interrupt"),
        ):
            theirs = await bob.request(method, path.format(**made))
            nobodys = await bob.request(method, path.format(**never))
            assert theirs.status_code == 404
            assert shape(theirs, *made.values()) == shape(nobodys, *never.values()), (method, path)
        # The control: they are there for whom they belong to.
        assert (await ann.get("/v1/sessions/{session}/files/secret.txt".format(**made))).text == "hers"
        assert (await ann.get("/v1/sessions/{session}/executions/{execution}".format(**made))).status_code == 200

    @pytest.mark.attack("F11")
    async def test_one_says_nothing_of_the_next(self, ann: httpx.AsyncClient) -> None:
        ids = []
        for _ in range(4):
            told = (await ann.post("/v1/run", json={"code": "1"})).json()
            ids += [told["id"], told["session_id"]]
        bits = [int(each.partition("_")[2], 16) for each in ids]
        assert len({each.partition("_")[2] for each in ids}) == len(ids)
        assert all(each.bit_length() > 96 for each in bits)
        # Of numbers that count up, or are times, the upper half would be the same.
        assert len({each >> 64 for each in bits}) == len(bits)

    @pytest.mark.attack("F12")
    async def test_no_link_opens_anything_without_the_key(
        self, locked: Served, ann: httpx.AsyncClient, bob: httpx.AsyncClient, made: dict[str, str]
    ) -> None:
        answers = [
            await ann.post(
                "/v1/sessions/{session}/executions".format(**made), json={"code": "open('b', 'w').write('b')"}
            ),
            await ann.get("/v1/sessions/{session}".format(**made)),
            await ann.get("/v1/sessions/{session}/files".format(**made)),
            await ann.post("/v1/sessions", json={}),
        ]
        links = {link for answer in answers for link in _links(answer)}
        links |= {"/v1/sessions/{session}/files/secret.txt".format(**made)}
        async with locked.client() as nobody:
            for link in links:
                path = httpx.URL(link).raw_path.decode()
                assert (await ann.get(path)).status_code == 200, link
                assert (await nobody.get(path)).status_code == 401
                assert (await bob.get(path)).status_code == 404
        parameters = _parameters((await ann.get("/openapi.json")).json())
        assert parameters
        assert not {name for name in parameters if any(word in name for word in ("sig", "token", "expires", "secret"))}


def _links(response: httpx.Response) -> list[str]:
    """Whatever an answer has that looks like the way to something of ours."""
    found = [response.headers["location"]] if "location" in response.headers else []
    waiting: list[Any] = [response.json()]
    for each in waiting:
        if isinstance(each, dict):
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
        elif isinstance(each, str) and (each.startswith("/v1/") or "://" in each):
            found.append(each)
    return found


def _parameters(document: dict[str, Any]) -> set[str]:
    operations = [each for path in document["paths"].values() for each in path.values() if isinstance(each, dict)]
    return {
        given["name"].lower() for each in operations for given in each.get("parameters", ()) if given["in"] == "query"
    }


class Sink:
    """An address that counts who comes."""

    def __init__(self) -> None:
        self.visits = 0
        self.url = ""

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls) -> AsyncIterator["Sink"]:
        sink = cls()
        server = await asyncio.start_server(sink._visit, "127.0.0.1", 0)
        sink.url = "http://{}:{}".format(*server.sockets[0].getsockname())
        async with server:
            yield sink

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits += 1
        writer.close()


class TestErrands:
    @pytest.mark.attack("G08")
    async def test_no_address_in_a_request_is_called(self, client: httpx.AsyncClient) -> None:
        async with Sink.open() as sink:
            url = f"{sink.url}/x.csv"
            image = {"type": "input_image", "image_url": url}
            file = {"type": "input_file", "file_url": url}
            tool = {"type": "mcp", "server_label": "x", "server_url": url, "require_approval": "never"}
            source = {"type": "url", "url": url}
            said = {"type": "image_url", "image_url": {"url": url}}
            for path, body in (
                ("/v1/run", {"code": "1", "files": [{"path": "x.csv", "url": url}]}),
                ("/v1/run", {"code": "1", "files": [{"path": "x.csv", "file_id": url}]}),
                ("/v1/run", {"code": "1", "webhook": url, "callback_url": url, "proxy": url}),
                ("/v1/sessions", {"image": url, "metadata": {"webhook": url}}),
                ("/v1/containers", {"name": "x", "file_ids": [url]}),
                ("/v1/responses", {"model": "x", "input": [{"role": "user", "content": [image, file]}]}),
                ("/v1/responses", {"model": "x", "input": "x", "tools": [tool]}),
                ("/v1/messages", {"model": "x", "max_tokens": 9, "messages": [
                    {"role": "user", "content": [{"type": "image", "source": source}]}]}),
                ("/v1/messages", {"model": "x", "max_tokens": 9, "messages": [
                    {"role": "user", "content": [{"type": "document", "source": source}]}]}),
                ("/v1/chat/completions", {"model": "x", "messages": [{"role": "user", "content": [said]}]}),
            ):  # fmt: skip
                response = await client.post(path, json=body)
                assert response.status_code < 500 or response.status_code == 503, (path, response.text)
                if path == "/v1/sessions" and response.status_code == 201:
                    await client.delete(response.headers["location"])
            form = {"purpose": (None, "user_data"), "url": (None, url), "file_url": (None, url)}
            assert (await client.post("/v1/files", files=form)).status_code < 500
            assert sink.visits == 0
            async with httpx.AsyncClient() as control:
                with contextlib.suppress(httpx.HTTPError):
                    await control.get(url)
            assert sink.visits == 1

    @pytest.mark.attack("G08")
    def test_what_serves_has_nothing_to_call_others_with(self) -> None:
        # The vendors of models that the operator names, the daemon, and our own client and benchmarks.
        may = ("client", "bench", "cli", "loop/upstream", "runtime/docker")
        callers = {}
        for path in PACKAGE.rglob("*.py"):
            name = str(path.relative_to(PACKAGE))
            if not name.startswith(may) and (found := CLIENTS.findall(path.read_text())):
                callers[name] = found
        assert callers == {}
        assert CLIENTS.findall((PACKAGE / "client" / "wire.py").read_text()) == ["httpx"], "the control"


CLIENTS = re.compile(
    r"^ *(?:import|from) +(aiohttp|ftplib|http\.client|httpx2?|requests|smtplib|urllib\.request|urllib3)\b",
    re.MULTILINE,
)


class TestFloods:
    @pytest.mark.attack("C21")
    async def test_sessions_that_come_and_go_use_up_a_keys_minute(self, locked: Served) -> None:
        limits = KeyLimits(per_minute=6)
        async with (
            locked.client(await add_key(locked.data_dir, "restless", limits)) as restless,
            locked.client(await add_key(locked.data_dir, "patient")) as patient,
        ):
            sessions = _gauge((await patient.get("/metrics")).text, "sandbox_sessions")
            opened, refused = 0, 0
            for _ in range(20):
                answer = await restless.post("/v1/sessions", json={})
                if answer.status_code == 201:
                    opened += 1
                    await restless.delete(answer.headers["location"])
                else:
                    refused += 1
                    assert problem(answer) == (429, "rate_limited")
                    assert answer.json()["name"] == "per_minute"
                    assert 1 <= int(answer.headers["retry-after"]) <= 60
            # The minute goes on while this does, on a busy machine for longer.
            assert 6 <= opened < 20
            assert refused == 20 - opened
            assert (await patient.post("/v1/run", json={"code": "1"})).status_code == 200
            async with asyncio.timeout(WAIT_SECONDS):  # the pool fills again, and no session stays
                while True:
                    text = (await patient.get("/metrics")).text
                    if _gauge(text, "sandbox_pool_warm") >= 2 and _gauge(text, "sandbox_sessions") == sessions:
                        break

    @pytest.mark.attack("C20")
    async def test_whoever_is_refused_without_end_does_not_fill_the_disk(self, locked: Served) -> None:
        key, many, path = await add_key(locked.data_dir, "reader"), 1500, "/v1/" + "x" * 1000
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: flood\r\n"
        began = time.monotonic()
        last = f"{request}Connection: close\r\n\r\n"
        ahead = f"{request}\r\n".encode() * 99 + last.encode()
        answers = b"".join([await locked.raw(ahead) for _ in range(many // 100)])
        assert answers.count(b"HTTP/1.1 404") == many
        async with locked.client(key, **{"x-request-id": "flood"}) as client:
            while _told(lines := _flooded(locked)) < many:  # what was left out since, the next line says
                many += 1
                assert (await client.get(path)).status_code == 404
            text = (await client.get("/metrics")).text
        seconds = time.monotonic() - began
        assert _told(lines) == many
        assert len(lines) <= 1000 + 10 * (seconds + 1)
        assert len(lines) < many
        assert max(len(line["path"]) for line in lines) <= 256
        counted = [line for line in text.splitlines() if line.startswith("sandbox_requests_total") and '"404"' in line]
        assert sum(float(line.rpartition(" ")[2]) for line in counted) >= many


def _gauge(text: str, name: str) -> float:
    return float(next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()[1])


def _told(lines: list[dict[str, Any]]) -> int:
    """Of how many requests these lines are, those that were left out included."""
    return sum(1 + int(line.get("lines_left_out", 0)) for line in lines)


def _flooded(served: Served) -> list[dict[str, Any]]:
    return [line for line in logged(served) if line.get("request_id") == "flood"]


def test_a_link_is_found_wherever_it_is_in_an_answer() -> None:
    body = json.dumps({"a": [{"b": "/v1/x"}], "c": "no"})
    assert _links(httpx.Response(201, text=body, headers={"location": "/v1/y"})) == ["/v1/y", "/v1/x"]
