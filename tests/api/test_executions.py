"""Running code over HTTP: outcomes, streams, clients that leave, requests that come twice."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from sandbox.api.executions import MOST_BYTES
from sandbox.api.schemas import ExecutionOut, ExecutionsOut, SessionOut, SessionsOut
from tests.api.served import Served, problem

SOME = """
import sys, time
print("one"); sys.stdout.flush()
print("two", file=sys.stderr); sys.stderr.flush()
display({"text/plain": "three"}, raw=True)
open("four.txt", "w").write("4")
print("é" * 5); sys.stdout.flush()
1 / 0
"""
WAITING = "import time\nprint('begun', flush=True)\ntime.sleep(600)"


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event."""

    id: str
    name: str
    data: dict[str, Any]


async def events(response: httpx.Response) -> AsyncIterator[Event]:
    """The events of a stream as a browser would see them."""
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "event" in fields:
            yield Event(fields["id"], fields["event"], json.loads(fields["data"]))
            fields = {}


async def test_an_execution_is_what_the_document_says(client: httpx.AsyncClient, session: str) -> None:
    response = await client.post(f"{session}/executions", json={"code": SOME})
    told = response.json()
    ExecutionOut.model_validate_json(response.content, strict=True, extra="forbid")
    assert told["status"] == "error"
    assert told["stdout"] == "one\nééééé\n"
    assert told["error"]["name"] == "ZeroDivisionError"
    assert [artifact["path"] for artifact in told["artifacts"]] == ["four.txt"]
    assert (await client.get(f"{session}/executions/{told['id']}")).json() == told
    listed = await client.get(f"{session}/executions")
    assert ExecutionsOut.model_validate_json(listed.content, strict=True, extra="forbid").data[0].id == told["id"]


async def test_a_run_leaves_an_ended_session_with_its_files(client: httpx.AsyncClient) -> None:
    files = [{"path": "in/a.txt", "content_base64": "aGk="}]
    run = {"code": "open('b.txt', 'w').write(open('in/a.txt').read() * 2)", "files": files}
    told = (await client.post("/v1/run", json=run)).json()
    assert told["status"] == "ok", told
    assert (await client.get(f"/v1/sessions/{told['session_id']}/files/b.txt")).text == "hihi"


async def test_a_session_opens_pages_interrupts_restarts_and_closes(client: httpx.AsyncClient) -> None:
    opened = [await client.post("/v1/sessions", json={"metadata": {"n": str(number)}}) for number in range(3)]
    ids = [SessionOut.model_validate_json(each.content, strict=True, extra="forbid").id for each in opened]
    assert opened[0].headers["location"] == f"/v1/sessions/{ids[0]}"
    first = await client.get("/v1/sessions", params={"limit": 2})
    SessionsOut.model_validate_json(first.content, strict=True, extra="forbid")
    assert [each["id"] for each in first.json()["data"]] == ids[:0:-1]
    then = (await client.get("/v1/sessions", params={"limit": 1, "after": first.json()["next"]})).json()
    assert [each["id"] for each in then["data"]] == ids[:1]
    path = f"/v1/sessions/{ids[0]}"
    await client.post(f"{path}/executions", json={"code": "x = 1"})
    assert (await client.post(f"{path}/interrupt")).status_code == 204
    assert (await client.post(f"{path}/restart")).status_code == 204
    assert (await client.post(f"{path}/executions", json={"code": "x"})).json()["error"]["name"] == "NameError"
    for each in ids:
        assert (await client.delete(f"/v1/sessions/{each}")).json()["status"] == "closed"
    refused = await client.post(f"{path}/executions", json={"code": "1"})
    assert problem(refused) == (409, "session_closed")
    assert (await client.get(f"{path}/executions")).json()["data"] != []


async def test_a_reader_cut_off_after_any_event_misses_nothing_and_gets_nothing_twice(
    client: httpx.AsyncClient, session: str
) -> None:
    async with client.stream("POST", f"{session}/executions", json={"code": SOME, "stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        whole = [event async for event in events(response)]
    assert [event.name for event in whole[:1]] == ["started"]
    assert {event.name for event in whole} == {"started", "stdout", "stderr", "result", "error", "artifact", "done"}
    ExecutionOut.model_validate_json(json.dumps(whole[-1].data), strict=True, extra="forbid")
    path = f"{session}/executions/{whole[-1].data['id']}/events"
    for number, event in enumerate(whole, 1):
        async with client.stream("GET", path, headers={"last-event-id": event.id}) as response:
            rest = [each async for each in events(response)]
        assert _gathered(whole[:number] + rest) == _gathered(whole), f"after {event}"


def _gathered(seen: list[Event]) -> dict[str, list[Any]]:
    """All that a reader has of each kind. Text may come in other pieces the second time."""
    gathered: dict[str, list[Any]] = {}
    for event in seen:
        gathered.setdefault(event.name, []).append(event.data)
    for name in ("stdout", "stderr"):
        gathered[name] = ["".join(data["text"] for data in gathered.get(name, ()))]
    return gathered


async def test_a_stream_that_is_cut_at_every_event_while_the_code_runs_is_whole(
    client: httpx.AsyncClient, session: str
) -> None:
    code = "import time\nfor n in range(8):\n    print(n, end=' ', flush=True); time.sleep(0.02)"
    async with client.stream("POST", f"{session}/executions", json={"code": code, "stream": True}) as response:
        last = await anext(events(response))
    path, text, ended = f"{session}/executions/{last.data['id']}/events", "", False
    while not ended:
        async with client.stream("GET", path, headers={"last-event-id": last.id}) as response:
            last = await anext(events(response))
        text += last.data["text"] if last.name == "stdout" else ""
        ended = last.name == "done"
    assert text == "0 1 2 3 4 5 6 7 "
    assert last.data["stdout"] == text


async def test_a_strange_last_event_id_is_refused_before_anything_runs(client: httpx.AsyncClient, session: str) -> None:
    for strange in ("1", "a.b.c.d.e.f", "9" * 100):
        headers = {"last-event-id": strange}
        response = await client.post(f"{session}/executions", json={"code": "1", "stream": True}, headers=headers)
        assert problem(response) == (400, "invalid_request")
    assert (await client.get(f"{session}/executions")).json()["data"] == []


@pytest.mark.attack("H13")
@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_does_not_end_its_execution(
    served: Served, client: httpx.AsyncClient, session: str, stream: bool
) -> None:
    code = "import time\nprint('begun', flush=True)\nwhile not __import__('os').path.exists('go'): time.sleep(0.01)"
    execution = await _leave(served, client, session, {"code": code, "stream": stream})
    await client.put(f"{session}/files/go", content=b"")
    assert (await _outcome(client, session, execution))["status"] == "ok"


@pytest.mark.attack("H13")
@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_ends_its_execution_if_it_asked_for_that(
    served: Served, client: httpx.AsyncClient, session: str, stream: bool
) -> None:
    body = {"code": WAITING, "stream": stream, "on_disconnect": "interrupt", "timeout_s": 600}
    execution = await _leave(served, client, session, body)
    assert (await _outcome(client, session, execution))["status"] == "interrupted"


async def _leave(served: Served, client: httpx.AsyncClient, session: str, body: dict[str, Any]) -> str:
    """Ask for an execution, and close the connection once it has begun; its id."""
    data = json.dumps(body).encode()
    head = f"POST {session}/executions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    async with served.connection() as (_, writer):
        writer.write(head.encode() + f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
        found: list[dict[str, Any]] = []
        while not found:
            found = (await client.get(f"{session}/executions")).json()["data"]
        execution: str = found[0]["id"]
        assert found[0]["status"] == "running"
        async with client.stream("GET", f"{session}/executions/{execution}/events") as response:
            async for event in events(response):
                if event.name == "stdout":
                    return execution
    raise AssertionError("it said nothing")


async def _outcome(client: httpx.AsyncClient, session: str, execution: str) -> dict[str, Any]:
    async with client.stream("GET", f"{session}/executions/{execution}/events") as response:
        return [event.data async for event in events(response)][-1]


@pytest.mark.attack("H14")
async def test_the_same_idempotency_key_runs_once(client: httpx.AsyncClient, session: str) -> None:
    body = {"code": "n = globals().get('n', 0) + 1; n"}
    headers = {"idempotency-key": "once"}
    together = [client.post(f"{session}/executions", json=body, headers=headers) for _ in range(5)]
    answers = [response.json() for response in await asyncio.gather(*together)]
    assert answers == answers[:1] * 5
    assert answers[0]["results"] == [{"text/plain": "1"}]
    other = await client.post(f"{session}/executions", json={"code": "2"}, headers=headers)
    assert problem(other) == (409, "idempotency_conflict")
    another = await client.post("/v1/run", json=body, headers=headers)
    assert problem(another) == (409, "idempotency_conflict")


@pytest.mark.attack("H14")
async def test_a_session_is_opened_once_for_one_idempotency_key(client: httpx.AsyncClient) -> None:
    headers = {"idempotency-key": "open once"}
    first, second = [await client.post("/v1/sessions", json={}, headers=headers) for _ in range(2)]
    assert first.json() == second.json()
    await client.delete(first.headers["location"])


@pytest.mark.attack("E05")
async def test_half_a_surrogate_and_numbers_that_json_lacks_still_make_an_answer(
    client: httpx.AsyncClient, session: str
) -> None:
    code = "display({'application/json': {'x': float('nan'), 'y': [float('inf')]}}, raw=True); print('\\ud800')"
    response = await client.post(f"{session}/executions", json={"code": code})
    assert response.status_code == 200
    json.loads(response.content.decode(), parse_constant=pytest.fail)


@pytest.mark.attack("H16")
async def test_a_page_of_large_executions_ends_early_and_the_next_one_goes_on(
    client: httpx.AsyncClient, session: str
) -> None:
    code = "for _ in range(4): display({'text/plain': 'x' * 5_000_000}, raw=True)"
    made = [(await client.post(f"{session}/executions", json={"code": code})).json()["id"] for _ in range(4)]
    told, sizes = list[str](), list[int]()
    following: str | None = ""
    while following is not None:
        params: dict[str, str] = {"order": "asc", "limit": "50"} | ({"after": following} if following else {})
        response = await client.get(f"{session}/executions", params=params)
        page = response.json()
        assert page["has_more"] is (page["next"] is not None)
        told += [each["id"] for each in page["data"]]
        sizes.append(len(response.content))
        following = page["next"]
    assert told == made
    assert len(sizes) > 1
    assert max(sizes) < 2 * MOST_BYTES


async def test_a_session_needs_no_body(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/sessions")
    assert response.status_code == 201
    assert (await client.delete(response.headers["location"])).is_success


async def test_what_is_no_json_is_told_with_the_place_and_the_reason(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/run", content=b'{"code": "1",}', headers={"content-type": "application/json"})
    assert problem(response) == (400, "invalid_request")
    (error,) = response.json()["errors"]
    assert error["where"] == "body"
    assert re.fullmatch("this is no JSON: .*property name.* at character [0-9]+", error["what"])


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b'{"code": "1", "cod": 2}', "body.cod"),
        (b'{"code": 1}', "body.code"),
        (b'{"code": "1", "timeout_s": NaN}', "body.timeout_s"),
        (b'{"code": "1", "timeout_s": Infinity}', "body.timeout_s"),
        (b'{"code": "1", "timeout_s": "5"}', "body.timeout_s"),
        (b'{"code": "1", "memory_mb": 1e400}', "body.memory_mb"),
        (b'{"code": "1", "files": [{"path": "a", "x": 1}]}', "body.files.0.x"),
        (b"[]", "body"),
        (b"{", "body"),
        (b"", "body"),
    ],
)
async def test_a_body_that_is_not_as_documented_is_refused_with_the_place(
    client: httpx.AsyncClient, body: bytes, where: str
) -> None:
    response = await client.post("/v1/run", content=body, headers={"content-type": "application/json"})
    assert problem(response) == (400, "invalid_request")
    assert where in [error["where"] for error in response.json()["errors"]]


@pytest.mark.attack("H08", "H16")
@pytest.mark.parametrize("body", [b"[" * 40_000, b'{"code": ' + b"1" * 5000 + b"}", b'{"code": "\xff"}'])
async def test_json_that_python_chokes_on_is_the_clients_fault(client: httpx.AsyncClient, body: bytes) -> None:
    response = await client.post("/v1/run", content=body, headers={"content-type": "application/json"})
    assert problem(response)[0] == 400


@pytest.mark.attack("H16", "H17")
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"code": "1", "timeout_s": 0}, (400, "invalid_request")),
        ({"code": "1", "timeout_s": 1e6}, (400, "invalid_limits")),
        ({"code": "1", "memory_mb": 1}, (400, "invalid_limits")),
        ({"code": "\0"}, (400, "invalid_code")),
        ({"code": "#" * (1 << 21)}, (400, "invalid_code")),
        ({"code": "1", "image": "nosuch"}, (404, "unknown_image")),
        ({"code": "1", "files": [{"path": "../a", "content_base64": ""}]}, (400, "invalid_path")),
        ({"code": "1", "files": [{"path": "a", "content_base64": "?"}]}, (400, "invalid_request")),
        ({"code": "1", "files": [{"path": "a"}]}, (400, "invalid_request")),
        ({"code": "1", "files": [{"path": "a", "file_id": "file_none"}]}, (404, "file_missing")),
    ],
)
async def test_what_cannot_be_asked_for_has_its_own_code(
    client: httpx.AsyncClient, body: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert problem(await client.post("/v1/run", json=body)) == expected


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"code": "1", "timeout": 5}, "body.timeout: there is no such field; did you mean timeout_s?"),
        ({"cod": "1"}, "body.cod: there is no such field; did you mean code?"),
        (
            {"code": "1", "files": [{"path": "a", "content": "x"}]},
            "body.files.0.content: there is no such field; did you mean content_base64?",
        ),
        ({"code": "1", "zzz": 1}, "body.zzz: there is no such field; there are: code, timeout_s, stream"),
    ],
)
async def test_a_field_that_there_is_not_is_told_with_those_that_there_are(
    client: httpx.AsyncClient, body: dict[str, Any], words: str
) -> None:
    response = await client.post("/v1/run", json=body)
    assert response.status_code == 400
    assert words in response.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/run", "POST"),
        ("PUT", "/v1/sessions", "GET, POST"),
        ("PATCH", "/v1/sessions/ses_none", "DELETE, GET"),
        ("POST", "/v1/sessions/ses_none/files/a.csv", "DELETE, GET, HEAD, PUT"),
        ("PUT", "/v1/sessions/ses_none/files", "GET, POST"),
    ],
)
async def test_another_method_is_told_with_those_that_a_path_takes(
    client: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    response = await client.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    detail = response.json()["detail"]
    assert detail.startswith(f"{method} is not offered at {path!r}, which takes {allowed}")
    assert ("PUT one file at its path" in detail) == ("/files" in path)


async def test_what_does_not_exist_is_a_problem_too(client: httpx.AsyncClient) -> None:
    assert problem(await client.get("/v1/nowhere")) == (404, "not_found")
    assert problem(await client.get("/v1/run")) == (405, "method_not_allowed")
    assert problem(await client.get("/v1/sessions/ses_none")) == (404, "session_missing")
    assert problem(await client.get("/v1/images/nosuch")) == (404, "unknown_image")
    assert "numpy" in (await client.get("/v1/images/python")).json()["libraries"]
