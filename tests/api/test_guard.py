"""Who may ask from where, and what every answer has."""

from collections.abc import AsyncIterator

import httpx
import pytest

from sandbox.keys import KeyLimits
from tests.api.conftest import NewDataDir, add_key
from tests.api.served import Served, lines_about, logged, problem, serving

RUN = {"code": "print('it ran')"}


@pytest.mark.attack("H01")
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.nip.io", ""]
)
async def test_a_name_that_was_rebound_to_loopback_is_refused(client: httpx.AsyncClient, host: str) -> None:
    response = await client.post("/v1/run", json=RUN, headers={"host": host})
    assert problem(response) == (403, "forbidden")


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "LOCALHOST.", "127.0.0.1:8000", "[::1]:8000"])
async def test_every_way_to_say_loopback_is_taken(client: httpx.AsyncClient, host: str) -> None:
    assert (await client.get("/v1/sessions", headers={"host": host})).status_code == 200


@pytest.mark.attack("H01")
async def test_a_request_without_a_host_is_refused(served: Served) -> None:
    assert (await served.raw(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n")).startswith(b"HTTP/1.1 400")
    two = b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    assert (await served.raw(two)).startswith(b"HTTP/1.1 400")


@pytest.mark.attack("H02")
@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:3000", "file://", "https://127.0.0.1"]
)
async def test_a_page_of_another_origin_cannot_run_code(client: httpx.AsyncClient, origin: str) -> None:
    response = await client.post("/v1/run", json=RUN, headers={"origin": origin})
    assert problem(response) == (403, "forbidden")
    assert "access-control-allow-origin" not in response.headers


async def test_the_servers_own_page_may_ask(served: Served, client: httpx.AsyncClient) -> None:
    own = {"origin": served.url, "sec-fetch-site": "same-origin"}
    assert (await client.get("/v1/sessions", headers=own)).status_code == 200


@pytest.mark.attack("H02")
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_what_a_page_of_another_site_fetches_without_saying_its_origin_is_refused(
    client: httpx.AsyncClient, site: str
) -> None:
    assert problem(await client.get("/v1/sessions", headers={"sec-fetch-site": site})) == (403, "forbidden")


@pytest.mark.attack("H02")
async def test_a_form_cannot_run_code(client: httpx.AsyncClient) -> None:
    body = b'{"code": "print(1)", "x": "="}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        response = await client.post("/v1/run", content=body, headers={"content-type": kind})
        assert problem(response) == (415, "unsupported_media_type")


@pytest.mark.attack("H03")
async def test_a_preflight_is_not_answered_with_leave(client: httpx.AsyncClient) -> None:
    headers = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    response = await client.options("/v1/run", headers=headers)
    assert response.status_code == 403
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.attack("E13", "H20")
async def test_a_request_id_comes_back_and_a_strange_one_does_not(served: Served, client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/sessions", headers={"x-request-id": "my-id.1"})
    assert response.headers["x-request-id"] == "my-id.1"
    assert [line["status"] for line in await lines_about(served, client, request_id="my-id.1")] == [200]
    strange = await client.get("/v1/sessions", headers={"x-request-id": "a b"})
    assert strange.headers["x-request-id"].startswith("req_")


@pytest.mark.attack("I01", "I02", "I06")
async def test_every_answer_is_no_page(client: httpx.AsyncClient) -> None:
    for path in ("/health", "/nowhere", "/v1/sessions", "/openapi.json"):
        headers = (await client.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


@pytest.fixture(scope="module")
async def locked(new_data_dir: NewDataDir, nothing_left: None) -> AsyncIterator[Served]:
    """A server that is told of its first key while it runs."""
    async with serving(new_data_dir(), log_level="debug") as served, served.client() as nobody:
        assert (await nobody.get("/v1/sessions")).status_code == 200, "loopback without a key is open"
        await served.warmed()
        await add_key(served.data_dir)
        while (await nobody.get("/v1/sessions")).status_code == 200:
            pass  # that there is a key now is noticed within a second
        yield served


@pytest.mark.attack("H04", "H21")
@pytest.mark.parametrize("key", [None, "sbx_00000000_wrong", "ü"])
async def test_everything_but_health_needs_a_key(locked: Served, key: str | None) -> None:
    headers = [] if key is None else [(b"authorization", b"Bearer " + key.encode())]
    async with httpx.AsyncClient(base_url=locked.url, headers=headers) as client:
        for asked in ("GET /v1/images", "POST /v1/run", "GET /metrics", "PUT /v1/sessions/x/files/a"):
            response = await client.request(*asked.split())
            assert problem(response) == (401, "unauthorized")
            assert response.headers["www-authenticate"].startswith("Bearer")
        assert (await client.get("/health")).status_code == 200
        head = await client.head("/health")
        assert (head.status_code, head.content) == (200, b"")


async def test_what_one_key_makes_does_not_exist_for_another(locked: Served) -> None:
    ann, bob = await add_key(locked.data_dir, "ann"), await add_key(locked.data_dir, "bob")
    async with locked.client(ann) as hers, locked.client(**{"x-api-key": bob}) as his:
        session = (await hers.post("/v1/sessions", json={})).headers["location"]
        assert (await hers.get(session)).status_code == 200
        assert (await his.get("/v1/sessions")).json()["data"] == []
        for asked in (
            "GET ",
            "DELETE ",
            "POST /interrupt",
            "POST /restart",
            "GET /executions",
            "GET /files",
            "GET /files/a.txt",
            "PUT /files/a.txt",
            "DELETE /files/a.txt",
        ):
            method, _, path = asked.partition(" ")
            assert problem(await his.request(method, session + path, content=b"x")) == (404, "session_missing")
        assert problem(await his.post(f"{session}/executions", json=RUN)) == (404, "session_missing")


@pytest.mark.attack("H04", "H08")
async def test_a_body_is_not_taken_from_whoever_has_no_key(locked: Served) -> None:
    async with locked.connection() as (reader, writer):
        # No byte of the body is sent, so an answer shows that none was waited for.
        writer.write(
            b"POST /v1/run HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n"
        )
        assert (await reader.readline()).startswith(b"HTTP/1.1 401")


@pytest.mark.attack("H15")
async def test_a_limit_per_minute_is_told_in_headers_and_kept(locked: Served) -> None:
    key = await add_key(locked.data_dir, "limited", limits=KeyLimits(per_minute=2))
    async with locked.client(key) as client:
        headers = (await client.post("/v1/run", json=RUN)).headers
        assert (headers["ratelimit-limit"], headers["ratelimit-remaining"]) == ("2", "1")
        answers = [await client.post("/v1/run", json=RUN) for _ in range(9)]
        refused = next(answer for answer in answers if answer.status_code != 200)
        assert problem(refused) == (429, "rate_limited")
        assert refused.json()["name"] == "per_minute"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert (refused.headers["ratelimit-limit"], refused.headers["ratelimit-remaining"]) == ("2", "0")
        assert int(refused.headers["ratelimit-reset"]) >= 1
        metrics = (await client.get("/metrics")).text
        assert 'sandbox_rejections_total{reason="rate_limited"}' in metrics
        assert 'sandbox_requests_total{method="POST",route="/v1/run",status="429"}' in metrics


async def test_a_limit_of_another_kind_is_told_in_the_headers_of_its_refusal(locked: Served) -> None:
    key = await add_key(locked.data_dir, "one session", limits=KeyLimits(sessions=0, per_minute=50))
    async with locked.client(key) as client:
        refused = await client.post("/v1/sessions", json={})
        assert problem(refused) == (429, "rate_limited")
        told = [refused.headers[f"ratelimit-{name}"] for name in ("limit", "remaining", "reset")]
        assert told == ["0", "0", "2"]
        assert (await client.get("/v1/sessions")).headers["ratelimit-limit"] == "50"


async def test_a_line_of_the_log_says_which_request_session_and_execution_it_is_about(
    served: Served, client: httpx.AsyncClient, session: str
) -> None:
    run = (await client.post("/v1/run", json=RUN, headers={"x-request-id": "ids-run"})).json()
    opened = (await client.post("/v1/sessions", json={}, headers={"x-request-id": "ids-open"})).json()
    told = (await client.post(f"{session}/executions", json=RUN, headers={"x-request-id": "ids-execute"})).json()
    await client.get(f"{session}/executions/{told['id']}", headers={"x-request-id": "ids-get"})
    await client.delete(f"/v1/sessions/{opened['id']}", headers={"x-request-id": "ids-close"})
    await lines_about(served, client, request_id="ids-close")

    def about(request_id: str, event: str) -> list[tuple[str | None, str | None]]:
        lines = [line for line in logged(served) if line.get("request_id") == request_id and line["event"] == event]
        return [(line.get("session_id"), line.get("execution_id")) for line in lines]

    assert about("ids-run", "request") == about("ids-run", "execution ended") == [(run["session_id"], run["id"])]
    assert about("ids-open", "request") == [(opened["id"], None)]
    assert about("ids-execute", "request") == [(told["session_id"], told["id"])]
    assert about("ids-get", "request") == [(told["session_id"], told["id"])]
    assert "it ran" not in (served.data_dir / "log").read_text()


async def test_code_is_logged_where_that_was_asked_for_and_keys_are_not(new_data_dir: NewDataDir) -> None:
    async with serving(new_data_dir(), pool_size=0, log_code="true") as served, served.client("sbx_secret") as client:
        told = (await client.post("/v1/run", json=RUN)).json()
        [line] = [line for line in logged(served) if line["event"] == "execution accepted"]
        assert (line["code"], line["execution_id"]) == (RUN["code"], told["id"])
        assert "sbx_secret" not in (served.data_dir / "log").read_text()


@pytest.mark.attack("H18")
async def test_neither_code_nor_keys_are_logged(locked: Served) -> None:
    key = await add_key(locked.data_dir, "quiet")
    async with locked.client(key) as client:
        await client.post("/v1/run", json={"code": "print('se' 'cret-word')"})
        await client.post("/v1/run", json={"code": 1, "secret-word": "se' 'cret-word"})
        assert (await client.get("/v1/sessions", headers={"x-request-id": "last"})).status_code == 200
        await lines_about(locked, client, request_id="last")
    log = (locked.data_dir / "log").read_text()
    assert key not in log
    assert "cret-word" not in log
