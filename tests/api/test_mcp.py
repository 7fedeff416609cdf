"""`/mcp`: the SDK's client in both eras of the protocol, and the wire itself, against a real server."""

import asyncio
import base64
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import MCPError
from mcp.types import BlobResourceContents, EmbeddedResource, TextResourceContents

from sandbox.keys import KeyLimits
from tests.api.conftest import NewDataDir, add_key
from tests.api.served import WAIT_SECONDS, Served, problem, serving
from tests.mcp import NEW, OLD, WAITS, connected, images, links, out, run, text  # first: a skip without the SDK

PLOT = "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.savefig('line.png'); plt.show()"
ACCEPT = {"accept": "application/json, text/event-stream"}
META = {
    "io.modelcontextprotocol/protocolVersion": NEW,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
}


@pytest.fixture(params=[OLD, NEW])
def era(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


async def status_of(served: Served, session_id: str) -> str:
    async with served.client() as http:
        found: str = (await http.get(f"/v1/sessions/{session_id}")).json()["status"]
        return found


async def statuses(served: Served, session_id: str) -> list[str]:
    """Of the session's executions, the newest first."""
    async with served.client() as http:
        return [each["status"] for each in (await http.get(f"/v1/sessions/{session_id}/executions")).json()["data"]]


class TestTools:
    async def test_are_described_as_they_are(self, served: Served, era: str) -> None:
        async with connected(served.url, era) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert list(tools) == ["run_python", "upload_file", "list_files", "read_file", "close_session"]
        assert "pandas" in (tools["run_python"].description or "")
        assert "512 MB of memory" in (tools["run_python"].description or "")
        for name, tool in tools.items():
            assert tool.annotations is not None
            assert tool.output_schema is not None
            assert tool.annotations.open_world_hint is False
            assert bool(tool.annotations.read_only_hint) == (name in ("list_files", "read_file"))
            assert "session_id" in tool.input_schema["properties"]

    async def test_a_program_is_told_of_in_words_in_structure_and_in_pictures(self, served: Served, era: str) -> None:
        async with connected(served.url, era) as client:
            await client.list_tools()  # so that the client holds results against the schema
            result = await run(client, f"print('here')\n{PLOT}\n6 * 7")
        assert not result.is_error
        assert text(result).startswith("ok\nstdout:\nhere\n")
        assert "42" in text(result)
        told = out(result)
        assert (told["status"], told["stdout"], told["error"]) == ("ok", "here\n", None)
        assert told["results"][-1] == "42"
        [image] = images(result)
        assert image.mime_type == "image/png"
        assert base64.b64decode(image.data).startswith(b"\x89PNG")
        [artifact] = told["artifacts"]
        assert (artifact["path"], artifact["change"], artifact["mime"]) == ("line.png", "created", "image/png")

    async def test_a_program_that_fails_is_an_error_with_its_own_frames(self, served: Served, era: str) -> None:
        async with connected(served.url, era) as client:
            result = await run(client, "def half(n):\n    return n / 0\nhalf(2)")
        assert result.is_error
        assert "ZeroDivisionError" in text(result)
        assert "return n / 0" in text(result)
        assert out(result)["error"]["name"] == "ZeroDivisionError"

    async def test_a_timeout_is_in_seconds_and_said_as_it_was(self, served: Served, era: str) -> None:
        async with connected(served.url, era) as client:
            result = await run(client, "while True: pass", timeout_s=0.5)
        assert result.is_error
        assert out(result)["status"] == "timeout"
        assert "0.5 s" in text(result)

    async def test_long_output_is_cut_and_says_so(self, served: Served, era: str) -> None:
        async with connected(served.url, era) as client:
            result = await run(client, "print('x' * 100_000)")
        assert len(text(result)) < 20_000
        assert len(out(result)["stdout"]) < 20_000
        assert out(result)["truncated"]["stdout"] > 80_000

    async def test_files_go_in_and_come_out(self, served: Served, era: str) -> None:
        async with connected(served.url, era) as client:
            stored = await client.call_tool("upload_file", {"path": "data/a.csv", "text": "a,b\n1,2\n"})
            session = {"session_id": out(stored)["session_id"]}
            binary = base64.b64encode(bytes(range(256))).decode()
            await client.call_tool("upload_file", {"path": "b.bin", "content_base64": binary, **session})
            result = await run(client, "import pandas as pd; pd.read_csv('data/a.csv').b.sum()", **session)
            assert out(result)["results"] == ["np.int64(2)"]
            listed = await client.call_tool("list_files", session)
            assert [(file["path"], file["size"]) for file in out(listed)["files"]] == [
                ("b.bin", 256),
                ("data/a.csv", 8),
            ]
            read = await client.call_tool("read_file", {"path": "data/a.csv", **session})
            assert (text(read), out(read)["next_offset"]) == ("a,b\n1,2\n", None)
            whole = await client.call_tool("read_file", {"path": "b.bin", **session})
            [block] = [block for block in whole.content if isinstance(block, EmbeddedResource)]
            assert isinstance(block.resource, BlobResourceContents)
            assert base64.b64decode(block.resource.blob) == bytes(range(256))

    async def test_a_long_text_is_read_in_parts_that_cut_no_character(self, served: Served) -> None:
        words = "äöü€" * 10
        async with connected(served.url, OLD) as client:
            await client.call_tool("upload_file", {"path": "w.txt", "text": words})
            parts, offset = [], 0
            while offset is not None:
                read = out(await client.call_tool("read_file", {"path": "w.txt", "offset": offset, "length": 7}))
                parts.append(read["text"])
                offset = read["next_offset"]
        assert "".join(parts) == words
        assert len(parts) > 10

    async def test_a_picture_in_a_file_is_read_as_one(self, served: Served, era: str) -> None:
        async with connected(served.url, era) as client:
            session = out(await run(client, PLOT))["session_id"]
            read = await client.call_tool("read_file", {"path": "line.png", "length": 10, "session_id": session})
        [image] = images(read)
        assert base64.b64decode(image.data).startswith(b"\x89PNG")

    @pytest.mark.parametrize(
        ("name", "arguments", "words"),
        [
            ("run_python", {}, "code: Field required"),
            ("run_python", {"code": "1", "timeout_s": -1}, "timeout_s: Input should be greater than 0"),
            (
                "run_python",
                {"code": "1", "timeout_s": 86_000},
                "a timeout of 86000 s is not offered; choose one above 0, 3600 s",
            ),
            ("run_python", {"code": "1", "timeout": 3}, "timeout: there is no such field; did you mean timeout_s?"),
            (
                "upload_file",
                {"path": "a", "data": "hi"},
                "data: there is no such field; there are: session_id, path, text, content_",
            ),
            ("run_python", {"code": "\0"}, "NUL"),
            ("run_python", {"code": " "}, "no code came"),
            ("upload_file", {"path": "a"}, "give either text or content_base64"),
            ("upload_file", {"path": "a", "content_base64": "%"}, "is not base64"),
            ("upload_file", {"path": "../a", "text": ""}, "leaves /mnt/data"),
            ("read_file", {"path": "none.txt"}, "no file none.txt"),
        ],
    )
    async def test_what_cannot_be_done_is_answered_in_words(
        self, served: Served, name: str, arguments: dict[str, Any], words: str
    ) -> None:
        async with connected(served.url, OLD) as client:
            result = await client.call_tool(name, arguments)
        assert result.is_error
        assert words in text(result)
        assert "Traceback" not in text(result)

    async def test_a_slash_behind_the_address_does_no_harm(self, served: Served) -> None:
        async with connected(served.url, OLD, path="/mcp/") as client:
            assert (await client.list_tools()).tools

    async def test_an_unknown_tool_is_an_error_of_the_protocol(self, served: Served, era: str) -> None:
        async with connected(served.url, era) as client:
            with pytest.raises(MCPError, match="there is no tool 'run_ruby'"):
                await client.call_tool("run_ruby", {"code": "1"})


class TestResources:
    async def test_the_links_of_a_result_can_be_read(self, served: Served, era: str) -> None:
        async with connected(served.url, era) as client:
            code = "import os; os.mkdir('d'); open('d/ä b.txt', 'w').write('wörds'); open('z.bin', 'wb').write(b'\\0')"
            result = await run(client, code)
            found = {link.name: (await client.read_resource(link.uri)).contents[0] for link in links(result)}
            assert (found["d/ä b.txt"].mime_type, found["z.bin"].mime_type) == (
                "text/plain",
                "application/octet-stream",
            )
            assert isinstance(found["d/ä b.txt"], TextResourceContents)
            assert found["d/ä b.txt"].text == "wörds"
            assert isinstance(found["z.bin"], BlobResourceContents)
            assert base64.b64decode(found["z.bin"].blob) == b"\0"
            assert [artifact["uri"] for artifact in out(result)["artifacts"]] == [link.uri for link in links(result)]

    async def test_a_connection_lists_the_files_of_its_session(self, served: Served) -> None:
        async with connected(served.url, OLD) as client:
            assert (await client.list_resources()).resources == []
            await client.call_tool("upload_file", {"path": "a.txt", "text": "1"})
            assert [each.name for each in (await client.list_resources()).resources] == ["a.txt"]
            [template] = (await client.list_resource_templates()).resource_templates
            assert template.uri_template == "sandbox://session/{session_id}/{+path}"

    @pytest.mark.parametrize("uri", ["sandbox://session/ses_none/a.txt", "file:///etc/passwd", "sandbox://session/x"])
    async def test_what_is_no_file_of_a_session_is_refused(self, served: Served, era: str, uri: str) -> None:
        async with connected(served.url, era) as client:
            with pytest.raises(MCPError, match=r"there is no session|is not the address of a file"):
                await client.read_resource(uri)


class TestWhileItRuns:
    async def test_output_comes_before_the_end_and_cancelling_interrupts(self, served: Served, era: str) -> None:
        told: list[tuple[float, str]] = []
        on = asyncio.Event()

        async def progress(progress: float, total: float | None, message: str | None) -> None:
            told.append((progress, message or ""))
            if "on" in (message or ""):
                on.set()

        async with connected(served.url, era) as client:
            session = out(await client.call_tool("upload_file", {"path": "a", "text": ""}))["session_id"]
            code = f"{WAITS}print('off')"
            arguments = {"code": code, "session_id": session}
            running = asyncio.create_task(client.call_tool("run_python", arguments, progress_callback=progress))
            await asyncio.wait_for(on.wait(), WAIT_SECONDS)
            assert not running.done()
            await client.call_tool("upload_file", {"path": "go", "text": "", "session_id": session})
            assert out(await running)["stdout"] == "on\noff\n"
            assert [at for at, _ in told] == sorted({at for at, _ in told})

            on.clear()
            arguments = {"code": "print('on', flush=True)\nwhile True: pass", "session_id": session, "timeout_s": 600}
            running = asyncio.create_task(client.call_tool("run_python", arguments, progress_callback=progress))
            await asyncio.wait_for(on.wait(), WAIT_SECONDS)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            async with asyncio.timeout(WAIT_SECONDS):
                assert out(await run(client, "6 * 7", session_id=session))["results"] == ["42"]
        assert await statuses(served, session) == ["ok", "interrupted", "ok"]

    async def test_who_asks_for_no_progress_gets_one_answer(self, served: Served) -> None:
        params = {"name": "run_python", "arguments": {"code": "print(1)"}, "_meta": META}
        async with served.client() as http:
            answer = await http.post("/mcp", json=request("tools/call", params), headers=headers("tools/call"))
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["result"]["structuredContent"]["stdout"] == "1\n"


class TestSessions:
    async def test_a_connection_keeps_its_own_and_ends_it(self, served: Served) -> None:
        async with connected(served.url, OLD) as client, connected(served.url, OLD) as other:
            first = out(await run(client, "x = 41"))["session_id"]
            assert out(await run(client, "x + 1", session_id=""))["results"] == ["42"]
            stranger = await run(other, "x")
            assert out(stranger)["error"]["name"] == "NameError"
            assert out(stranger)["session_id"] != first
            assert await status_of(served, first) == "active"
            assert await statuses(served, first) == ["ok", "ok"]
        assert await status_of(served, first) == "closed"
        assert await status_of(served, out(stranger)["session_id"]) == "closed"

    async def test_calls_that_come_together_share_one(self, served: Served) -> None:
        async with connected(served.url, OLD) as client:
            results = await asyncio.gather(*(run(client, str(number)) for number in range(3)))
        assert len({out(result)["session_id"] for result in results}) == 1

    async def test_without_connections_a_call_opens_one_and_names_it(self, served: Served) -> None:
        async with connected(served.url, NEW) as client:
            first = await run(client, "x = 41")
            session = out(first)["session_id"]
            assert session in text(first)
            assert out(await run(client, "x + 1", session_id=session))["results"] == ["42"]
            assert out(await run(client, "1"))["session_id"] != session
            lost = await client.call_tool("list_files", {})
            assert lost.is_error
            assert "session_id is missing" in text(lost)

    async def test_an_unknown_handle_is_explained(self, served: Served, era: str) -> None:
        async with connected(served.url, era) as client:
            result = await run(client, "1", session_id="ses_none")
        assert result.is_error
        assert text(result).startswith("there is no session ses_none.")
        assert "Call without session_id" in text(result)

    async def test_a_closed_one_is_explained_where_it_was_named_and_replaced_where_not(self, served: Served) -> None:
        async with connected(served.url, OLD) as client, served.client() as http:
            session = out(await run(client, "x = 1"))["session_id"]
            await http.delete(f"/v1/sessions/{session}")
            named = await run(client, "x", session_id=session)
            assert named.is_error
            assert f"session {session} is closed. Variables and files of it are gone." in text(named)
            replaced = await run(client, "2")
            assert (replaced.is_error, out(replaced)["results"]) == (False, ["2"])
            assert "This is a new session" in text(replaced)
            assert out(replaced)["session_id"] != session

    async def test_can_be_closed_by_a_call(self, served: Served, era: str) -> None:
        async with connected(served.url, era) as client:
            session = out(await run(client, "1"))["session_id"]
            closed = await client.call_tool("close_session", {"session_id": session})
            assert out(closed) == {"session_id": session}
            for name, more in (("list_files", {}), ("read_file", {"path": "a.txt"}), ("run_python", {"code": "1"})):
                refused = await client.call_tool(name, {"session_id": session, **more})
                assert refused.is_error
                assert "Variables and files of it are gone" in text(refused)
        assert await status_of(served, session) == "closed"

    async def test_a_client_that_vanishes_leaves_none(self, new_data_dir: NewDataDir) -> None:
        async with serving(new_data_dir(), idle_timeout_s=0.5) as served, served.client() as http:
            connection = await initialized(http)
            code = {"name": "run_python", "arguments": {"code": "1"}}
            told = event(await http.post("/mcp", json=request("tools/call", code), headers=ACCEPT | connection))
            session = told["result"]["structuredContent"]["session_id"]
            async with asyncio.timeout(WAIT_SECONDS):
                while await status_of(served, session) == "active":
                    pass
                while (await http.post("/mcp", json=request("ping"), headers=ACCEPT | connection)).status_code != 404:  # noqa: ASYNC110
                    await asyncio.sleep(1)  # who asks keeps it: it takes half a second in which nobody does
                assert (await http.get("/health")).json()["ready"]


def request(method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}}


def headers(method: str, name: str = "run_python") -> dict[str, str]:
    """Of a request in the new era."""
    named = {"mcp-name": name} if method == "tools/call" else {}
    return {**ACCEPT, "mcp-protocol-version": NEW, "mcp-method": method, **named}


def event(response: httpx.Response) -> dict[str, Any]:
    """The last message of an answer in server-sent events."""
    assert response.headers["content-type"].startswith("text/event-stream"), response.text
    data = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: {")]
    found: dict[str, Any] = json.loads(data[-1])
    return found


async def initialized(http: httpx.AsyncClient) -> dict[str, str]:
    """The old era's handshake; the header of the connection."""
    params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    response = await http.post("/mcp", json=request("initialize", params), headers=ACCEPT)
    assert event(response)["result"]["protocolVersion"] == "2025-06-18"
    connection = {"mcp-session-id": response.headers["mcp-session-id"], "mcp-protocol-version": "2025-06-18"}
    told = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert (await http.post("/mcp", json=told, headers=ACCEPT | connection)).status_code == 202
    return connection


class TestWire:
    async def test_the_old_era_has_a_handshake_and_an_end(self, client: httpx.AsyncClient) -> None:
        connection = await initialized(client)
        tools = event(await client.post("/mcp", json=request("tools/list"), headers=ACCEPT | connection))
        assert "resultType" not in tools["result"]
        assert (await client.delete("/mcp", headers=connection)).status_code == 200
        assert (await client.delete("/mcp", headers=connection)).status_code == 404
        gone = await client.post("/mcp", json=request("tools/list"), headers=ACCEPT | connection)
        assert gone.status_code == 404

    async def test_the_new_era_has_neither(self, client: httpx.AsyncClient) -> None:
        found = await client.post(
            "/mcp", json=request("server/discover", {"_meta": META}), headers=headers("server/discover")
        )
        told = found.json()["result"]
        assert (found.status_code, told["resultType"]) == (200, "complete")
        assert NEW in told["supportedVersions"]
        assert {"tools", "resources"} <= told["capabilities"].keys()
        assert "mcp-session-id" not in found.headers
        assert (await client.get("/mcp", headers=headers("x"))).status_code == 405
        bare = await client.post("/mcp", json=request("tools/list"), headers=headers("tools/list"))
        assert (bare.status_code, bare.json()["error"]["code"]) == (400, -32602)

    @pytest.mark.attack("H02")
    async def test_a_page_of_another_origin_is_refused(self, client: httpx.AsyncClient) -> None:
        asked = request("tools/list", {"_meta": META})
        answer = await client.post(
            "/mcp", json=asked, headers={**headers("tools/list"), "origin": "http://evil.example"}
        )
        assert problem(answer) == (403, "forbidden")
        own = str(client.base_url).rstrip("/")
        answer = await client.post("/mcp", json=asked, headers={**headers("tools/list"), "origin": own})
        assert answer.status_code == 200

    async def test_the_log_says_whose_request_it_was_and_which_session(self, served: Served) -> None:
        async with connected(served.url, NEW) as client:
            session = out(await run(client, "1"))["session_id"]
        lines = [json.loads(line) for line in (served.data_dir / "log").read_text().splitlines()]
        [line] = [line for line in lines if line["event"] == "request" and line.get("session_id") == session]
        assert (line["path"], line["status"], line["key"]) == ("/mcp", 200, "local")


@pytest.fixture(scope="module")
async def keyed(new_data_dir: NewDataDir, nothing_left: None) -> AsyncIterator[tuple[Served, str, str]]:
    """A server with two keys; the second may have one session."""
    async with serving(new_data_dir()) as served:
        ann = await add_key(served.data_dir, "ann")
        yield served, ann, await add_key(served.data_dir, "bob", KeyLimits(sessions=1))


class TestKeys:
    @pytest.mark.attack("H06")
    async def test_a_request_without_one_is_refused(self, keyed: tuple[Served, str, str]) -> None:
        async with keyed[0].client() as http:
            answer = await http.post("/mcp", json=request("tools/list"), headers=ACCEPT)
        assert problem(answer) == (401, "unauthorized")
        assert answer.headers["www-authenticate"].startswith("Bearer")

    async def test_what_one_key_makes_does_not_exist_for_another(
        self, keyed: tuple[Served, str, str], era: str
    ) -> None:
        served, ann, bob = keyed
        async with connected(served.url, era, ann) as hers, connected(served.url, era, bob) as his:
            result = await run(hers, "open('a.txt', 'w').write('mine')")
            session = out(result)["session_id"]
            for name, more in (("run_python", {"code": "1"}), ("list_files", {}), ("close_session", {})):
                refused = await his.call_tool(name, {"session_id": session, **more})
                assert refused.is_error
                assert text(refused).startswith(f"there is no session {session}.")
            with pytest.raises(MCPError, match="there is no session"):
                await his.read_resource(links(result)[0].uri)
            assert (await hers.read_resource(links(result)[0].uri)).contents
            await hers.call_tool("close_session", {"session_id": session})

    async def test_a_connection_belongs_to_its_key(self, keyed: tuple[Served, str, str]) -> None:
        served, ann, bob = keyed
        async with served.client(ann) as hers, served.client(bob) as his:
            connection = await initialized(hers)
            assert (await his.post("/mcp", json=request("ping"), headers=ACCEPT | connection)).status_code == 404
            assert (await his.delete("/mcp", headers=connection)).status_code == 404
            assert (await hers.post("/mcp", json=request("ping"), headers=ACCEPT | connection)).status_code == 200
            assert (await hers.delete("/mcp", headers=connection)).status_code == 200

    async def test_limits_of_a_key_are_explained(self, keyed: tuple[Served, str, str]) -> None:
        served, _, bob = keyed
        async with connected(served.url, NEW, bob) as client:
            session = out(await run(client, "1"))["session_id"]
            refused = await run(client, "1")
            assert refused.is_error
            assert "sessions" in text(refused)
            assert "try again in" in text(refused)
            await client.call_tool("close_session", {"session_id": session})


async def test_a_stop_waits_for_answers_and_not_for_idle_streams(new_data_dir: NewDataDir) -> None:
    async with serving(new_data_dir(), pool_size=1) as served:
        on = asyncio.Event()

        async def progress(progress: float, total: float | None, message: str | None) -> None:
            on.set()

        with contextlib.suppress(httpx.HTTPError, MCPError, ExceptionGroup):  # the client's farewell finds nobody
            async with connected(served.url, OLD) as client:
                arguments = {"code": "import time; print('on', flush=True); time.sleep(1); 42"}
                running = asyncio.create_task(client.call_tool("run_python", arguments, progress_callback=progress))
                await asyncio.wait_for(on.wait(), WAIT_SECONDS)
                served.signal(signal.SIGTERM)
                assert out(await running)["results"] == ["42"]
                assert await served.ended() == 0


async def test_a_server_without_the_sdk_says_what_to_install(new_data_dir: NewDataDir, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['mcp'] = None")
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", paths)
        async with serving(new_data_dir(), pool_size=0) as served, served.client() as http:
            answer = await http.post("/mcp", json=request("tools/list"), headers=ACCEPT)
            assert problem(answer) == (404, "not_found")
            assert "pip install '.[mcp]' in the checkout" in answer.json()["detail"]
            assert (await http.get("/health/live")).status_code == 204
