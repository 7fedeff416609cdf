"""Starting, and stopping when told to."""

import asyncio
import contextlib
import json
import os
import signal
import socket

import httpx
import pytest

from tests.api.conftest import NewDataDir, add_key
from tests.api.served import WAIT_SECONDS, Served, problem, serving, started, warming
from tests.host import alive, groups

WAITING = """
import time
try:
    while True:
        time.sleep(60)
except KeyboardInterrupt:
    pass
"""


@pytest.mark.attack("H04")
async def test_a_public_address_without_a_key_is_refused(new_data_dir: NewDataDir) -> None:
    data_dir = new_data_dir()
    process = await started(data_dir, host="0.0.0.0")
    assert await process.wait() != 0
    log = (data_dir / "log").read_text()
    assert "sandbox key create" in log.splitlines()[-1]
    await add_key(data_dir)
    async with serving(data_dir, host="0.0.0.0") as served, served.client() as client:
        assert problem(await client.get("/v1/sessions", headers={"host": "any.example"})) == (401, "unauthorized")


async def test_a_port_that_is_taken_is_said_so(new_data_dir: NewDataDir) -> None:
    data_dir = new_data_dir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = await started(data_dir, port=taken.getsockname()[1])
        assert await process.wait() != 0
    assert "choose another port" in (data_dir / "log").read_text().splitlines()[-1]


async def test_a_server_does_not_take_itself_for_a_models_server(new_data_dir: NewDataDir) -> None:
    data_dir = new_data_dir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    upstreams = {"itself": {"url": f"http://localhost:{port}/v1"}}
    process = await started(data_dir, port=port, pool_size=0, upstreams=json.dumps(upstreams))
    assert await asyncio.wait_for(process.wait(), WAIT_SECONDS) != 0
    assert process.stdout is not None
    assert await process.stdout.read() == b"", "an address that answers"
    assert "the upstream itself is this server itself" in (data_dir / "log").read_text().splitlines()[-1]


async def test_a_name_that_was_allowed_reaches_the_server(new_data_dir: NewDataDir) -> None:
    async with serving(new_data_dir(), allowed_hosts="box.example") as served, served.client() as client:
        page = {"host": "box.example:443", "origin": "https://box.example", "sec-fetch-site": "same-origin"}
        assert (await client.get("/v1/sessions", headers=page)).status_code == 200
        assert problem(await client.get("/v1/sessions", headers={"host": "other.example"})) == (403, "forbidden")


async def test_a_server_answers_while_it_warms_up_and_says_so_and_what_comes_then_waits(
    new_data_dir: NewDataDir,
) -> None:
    async with warming(new_data_dir()) as (served, _, zygote), served.client() as client:
        health = await client.get("/health")
        assert (health.status_code, health.json()["status"], health.json()["ready"]) == (503, "unready", False)
        assert health.json()["reasons"] == ["it warms up: no sandbox has started yet"]
        run = asyncio.create_task(client.post("/v1/run", json={"code": "print(1)"}))
        assert (await client.get("/health/live")).status_code == 204
        os.kill(zygote, signal.SIGCONT)
        assert (await run).json()["stdout"] == "1\n"
        async with asyncio.timeout(WAIT_SECONDS):
            while (health := await client.get("/health")).status_code == 503:
                pass
        assert health.json()["status"] == "ready"


async def test_a_server_told_to_stop_while_it_warms_up_does_so_and_leaves_nothing(new_data_dir: NewDataDir) -> None:
    async with warming(new_data_dir()) as (served, host, zygote):
        instance, stage = host.instance, host.stage
        served.signal(signal.SIGTERM)
        assert await served.ended() == 0
    assert not any(alive(pid) for pid in (host.launcher, zygote))
    assert groups(instance) == []
    assert not stage.exists()


async def test_a_server_told_to_stop_finishes_what_runs_and_takes_nothing_new(new_data_dir: NewDataDir) -> None:
    async with serving(new_data_dir()) as served, served.client() as client:
        session, running = await _begin(client)
        served.signal(signal.SIGTERM)
        while (health := await client.get("/health")).status_code == 200:
            pass
        assert health.json()["status"] == "draining"
        for path in ("/v1/run", f"{session}/executions"):
            refused = await client.post(path, json={"code": "1"})
            assert problem(refused) == (503, "draining")
            assert int(refused.headers["retry-after"]) >= 1
        assert problem(await client.post("/v1/sessions", json={})) == (503, "draining")
        assert (await client.get(session)).json()["status"] == "active"
        assert (await client.get("/health/live")).status_code == 204
        assert problem(await client.put(f"{session}/files/late", content=b"x")) == (503, "draining")
        assert (await client.post(f"{session}/interrupt")).is_success
        assert (await running).json()["status"] == "ok"
        assert await served.ended() == 0


async def test_a_drain_has_an_end(new_data_dir: NewDataDir) -> None:
    data_dir = new_data_dir()
    async with serving(data_dir, drain_timeout_s=0.2) as served, served.client() as client:
        session, running = await _begin(client)
        served.signal(signal.SIGTERM)
        assert await served.ended() == 0
        await asyncio.gather(running, return_exceptions=True)
    async with serving(data_dir) as served, served.client() as client:
        (execution,) = (await client.get(f"{session}/executions")).json()["data"]
        assert execution["status"] == "killed"
        assert "stopped" in execution["reason"]


async def test_a_stream_that_outlasts_the_drain_is_cut_and_that_is_no_fault(new_data_dir: NewDataDir) -> None:
    data_dir = new_data_dir()
    body = {"code": WAITING, "stream": True}
    async with serving(data_dir, drain_timeout_s=0.2) as served, served.client() as client:
        async with client.stream("POST", "/v1/run", json=body) as response:
            pieces = response.aiter_bytes()
            assert await anext(pieces)
            served.signal(signal.SIGTERM)
            with contextlib.suppress(httpx.RemoteProtocolError):
                assert [piece async for piece in pieces]
        assert await served.ended() == 0
    log = (data_dir / "log").read_text()
    assert "Traceback" not in log
    assert "Exception in ASGI" not in log


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_stops_at_once(new_data_dir: NewDataDir, second: signal.Signals) -> None:
    async with serving(new_data_dir(), drain_timeout_s=3600) as served, served.client() as client:
        _, running = await _begin(client)
        served.signal(signal.SIGTERM)
        while (await client.get("/health")).status_code == 200:
            pass
        served.signal(second)
        assert await served.ended() == 0
        await asyncio.gather(running, return_exceptions=True)


async def test_events_can_be_followed_further_on_the_next_server(new_data_dir: NewDataDir) -> None:
    data_dir = new_data_dir()
    async with serving(data_dir) as served, served.client() as client:
        told = (await client.post("/v1/run", json={"code": "print('one')\n1/0"})).json()
    async with serving(data_dir) as served, served.client() as client:
        path = f"/v1/sessions/{told['session_id']}/executions/{told['id']}/events"
        rest = (await client.get(path, headers={"last-event-id": "2.0.0.0.0.0"})).text
        texts = [json.loads(line[6:]) for line in rest.splitlines() if line.startswith("data: ")]
        assert texts[0] == {"text": "e\n"}
        assert texts[-1] == told


async def _begin(client: httpx.AsyncClient) -> tuple[str, "asyncio.Task[httpx.Response]"]:
    """A session, and an execution in it that ends well when it is interrupted."""
    session = f"/v1/sessions/{(await client.post('/v1/sessions', json={})).json()['id']}"
    running = asyncio.create_task(client.post(f"{session}/executions", json={"code": WAITING}))
    while not (await client.get(f"{session}/executions")).json()["data"]:
        pass
    return session, running


async def test_metrics_are_scraped_as_text(served: Served, client: httpx.AsyncClient) -> None:
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert "sandbox_memory_budget_bytes" in response.text
