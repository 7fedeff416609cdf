"""Files over HTTP: both ways, in ranges, under names that are data."""

import hashlib
import secrets

import httpx
import pytest

from sandbox.api.schemas import FileOut, FilesOut
from tests.api.served import Served, problem

TEXT = b"0123456789" * 10


@pytest.fixture
async def url(client: httpx.AsyncClient, session: str) -> str:
    """Of a file that holds `TEXT`."""
    assert (await client.put(f"{session}/files/a.txt", content=TEXT)).status_code == 201
    return f"{session}/files/a.txt"


async def test_a_file_goes_up_and_comes_down_and_away(client: httpx.AsyncClient, session: str) -> None:
    data = secrets.token_bytes(5_000_000)
    url = f"{session}/files/in/data.bin"
    put = await client.put(url, content=data)
    assert put.status_code == 201
    file = FileOut.model_validate_json(put.content, strict=True, extra="forbid")
    assert (file.path, file.size, file.digest) == ("in/data.bin", len(data), hashlib.sha256(data).hexdigest())
    assert (await client.put(url, content=data)).status_code == 200
    got = await client.get(url)
    assert got.content == data
    assert got.headers["etag"] == f'"{file.digest}"'
    head = await client.head(url)
    assert (head.content, head.headers["content-length"]) == (b"", str(len(data)))
    seen = await client.post(f"{session}/executions", json={"code": "import os; os.path.getsize('in/data.bin')"})
    assert seen.json()["results"] == [{"text/plain": str(len(data))}]
    assert (await client.delete(url)).status_code == 204
    assert problem(await client.get(url)) == (404, "file_missing")
    assert problem(await client.delete(url)) == (404, "file_missing")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_output_that_was_too_long_can_be_had_whole_after_a_run(client: httpx.AsyncClient, stream: str) -> None:
    code = f"import sys; sys.{stream}.write('x' * 3_000_000)"
    told = (await client.post("/v1/run", json={"code": code})).json()
    assert told["truncated"][stream] > 0
    path = f".outputs/{told['id']}.{stream}.txt"
    assert f"all of it is in /mnt/data/{path}" in told[stream]
    assert (await client.get(f"/v1/sessions/{told['session_id']}/files/{path}")).content == b"x" * 3_000_000


@pytest.mark.attack("B12")
async def test_names_that_no_url_can_say_end_no_execution_and_stop_no_other_file(
    client: httpx.AsyncClient, session: str
) -> None:
    names = ["a\\b", "line\nfeed", "esc\x1b[2J", "turned\u202e", "line\u2028"]
    code = f"for name in {names!r}: open(name, 'w').close()\nopen(b'\\xff', 'w').close()\nopen('z', 'w').write('kept')"
    told = (await client.post(f"{session}/executions", json={"code": code})).json()
    assert (told["status"], told["state_lost"]) == ("ok", False)
    assert f"{len(names) + 1} files could not be stored" in told["reason"]
    assert {artifact["path"] for artifact in told["artifacts"]} == {*names, "z"}
    assert (await client.get(f"{session}/files/z")).text == "kept"
    again = (await client.post(f"{session}/executions", json={"code": "x = 1"})).json()
    assert (again["status"], again["reason"]) == ("ok", "")


async def test_a_file_whose_time_is_in_no_calendar_is_listed_and_read(client: httpx.AsyncClient, session: str) -> None:
    code = "import os; open('far', 'w').write('x'); os.utime('far', (1e17, 1e17))"
    assert (await client.post(f"{session}/executions", json={"code": code})).json()["status"] == "ok"
    files = (await client.get(f"{session}/files")).json()["data"]
    assert [(file["path"], file["modified_at"][:4]) for file in files] == [("far", "9999")]
    assert (await client.get(f"{session}/files/far")).text == "x"


async def test_an_upload_replaces_a_file_that_nobody_may_read(client: httpx.AsyncClient, session: str) -> None:
    url = f"{session}/files/shut"
    assert (await client.put(url, content=b"old")).status_code == 201
    await client.post(f"{session}/executions", json={"code": "import os; os.chmod('/mnt/data/shut', 0)"})
    assert problem(await client.get(url)) == (404, "file_forbidden")
    assert (await client.put(url, content=b"new")).status_code == 200
    assert (await client.get(url)).content == b"new"


async def test_names_as_people_have_them_go_in_and_out(client: httpx.AsyncClient, session: str) -> None:
    names = ["non\u00a0breaking", "Screenshot 9.41\u202fPM.png", "\N{WOMAN}\u200d\N{ROCKET}", "日本 語.csv"]
    for name in names:
        assert (await client.put(f"{session}/files/{name}", content=name.encode())).is_success
    code = f"for name in {names!r}: open(name, 'a').write('!')"
    told = (await client.post(f"{session}/executions", json={"code": code})).json()
    assert (told["status"], told["reason"]) == ("ok", "")
    for name in names:
        assert (await client.get(f"{session}/files/{name}")).text == f"{name}!"


async def test_a_long_list_of_files_pages_and_says_whether_it_is_all(client: httpx.AsyncClient, session: str) -> None:
    code = "import os; os.mkdir('ä')\nfor n in range(6000): open(f'ä/{n}', 'w').close()"
    assert (await client.post(f"{session}/executions", json={"code": code})).json()["reason"] == ""
    seen: list[str] = []
    asked: dict[str, str | int] = {"limit": 1000}
    while True:
        listed = await client.get(f"{session}/files", params=asked)
        page = FilesOut.model_validate_json(listed.content, strict=True, extra="forbid")
        seen += [file.path for file in page.data]
        assert page.complete
        assert all(file.id for file in page.data), "all are stored"
        if page.next is None:
            break
        asked["after"] = page.next
    assert seen == sorted(f"ä/{n}" for n in range(6000))
    await client.post(f"{session}/executions", json={"code": "open(b'\\xff', 'w').close()"})
    assert (await client.get(f"{session}/files", params={"limit": 1})).json()["complete"] is False


async def test_several_files_go_up_in_one_form(client: httpx.AsyncClient, session: str) -> None:
    large = secrets.token_bytes(2_000_000)
    parts = [("file", ("b/ü.bin", large)), ("file", ("a.txt", b"\r\n--x\r\n")), ("other", ("empty", b""))]
    response = await client.post(f"{session}/files", files=parts)
    assert response.status_code == 200, response.text
    rows = FilesOut.model_validate_json(response.content, strict=True, extra="forbid").data
    assert [(row.path, row.size) for row in rows] == [("a.txt", 7), ("b/ü.bin", len(large)), ("empty", 0)]
    assert (await client.get(f"{session}/files/b/ü.bin")).content == large
    listed = await client.get(f"{session}/files")
    assert [row.path for row in FilesOut.model_validate_json(listed.content).data] == ["a.txt", "b/ü.bin", "empty"]


@pytest.mark.attack("H09")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--x",
        b"--x\r\n\r\nno name\r\n--x--\r\n",
        b'--x\r\nContent-Disposition: form-data; filename="a"\r\n\r\nnoend',
    ],
)
async def test_a_broken_form_is_refused(client: httpx.AsyncClient, session: str, body: bytes) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert problem(await client.post(f"{session}/files", content=body, headers=headers))[0] == 400
    assert (await client.get(f"{session}/files")).json()["data"] == []


@pytest.mark.parametrize(("count", "status"), [(1000, 200), (1001, 400)])
async def test_a_form_may_have_a_thousand_files(
    client: httpx.AsyncClient, session: str, count: int, status: int
) -> None:
    form = [("file", (f"{number}", b"x")) for number in range(count)]
    response = await client.post(f"{session}/files", files=form)
    assert response.status_code == status
    assert ("more than 1000 files" in response.text) == (status == 400)


async def test_a_form_needs_a_boundary_and_its_content_type(client: httpx.AsyncClient, session: str) -> None:
    for kind, status in (
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=" + "x" * 999, 400),
        ("a/b", 415),
    ):
        response = await client.post(f"{session}/files", content=b"x", headers={"content-type": kind})
        assert response.status_code == status


@pytest.mark.parametrize(
    "path",
    [
        b"../a", b"%2e%2e/a", b"a/../../b", b"a%2fb", b"a%2Fb", b"/etc/passwd", b"a//b", b"a/", b"%00", b"a%1bb",
        b"a%5cb", b"%ff", b"x" * 300, b"/".join([b"a"] * 40), b"%ed%a0%80",
    ],
)  # fmt: skip
@pytest.mark.attack("H07")
@pytest.mark.parametrize("method", [b"GET", b"PUT", b"DELETE"])
@pytest.mark.attack("B13")
async def test_a_path_that_leads_elsewhere_is_refused(served: Served, session: str, method: bytes, path: bytes) -> None:
    url = session.encode() + b"/files/" + path
    head = method + b" " + url + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    answer = await served.raw(head)
    assert answer.startswith(b"HTTP/1.1 400"), answer
    assert b'"code": "invalid_path"' in answer


@pytest.mark.attack("H20", "I07")
@pytest.mark.parametrize(
    ("name", "disposition"),
    [
        ("a.html", 'attachment; filename="a.html"'),
        ('q"uo;te.txt', "attachment; filename=\"q_uo;te.txt\"; filename*=UTF-8''q%22uo%3Bte.txt"),
        ("数据 é.csv", "attachment; filename=\"__ _.csv\"; filename*=UTF-8''%E6%95%B0%E6%8D%AE%20%C3%A9.csv"),
        ("100%.txt", "attachment; filename=\"100_.txt\"; filename*=UTF-8''100%25.txt"),
    ],
)
@pytest.mark.attack("B21")
async def test_a_download_is_an_attachment_whatever_its_name(
    client: httpx.AsyncClient, session: str, name: str, disposition: str
) -> None:
    url = httpx.URL(path=f"{session}/files/{name}")
    assert (await client.put(url, content=b"<script>alert(1)</script>")).status_code == 201
    headers = (await client.get(url)).headers
    assert headers["content-disposition"] == disposition
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")


@pytest.mark.parametrize(
    ("wanted", "status", "content", "told"),
    [
        ("bytes=0-9", 206, TEXT[:10], "bytes 0-9/100"),
        ("bytes=95-", 206, TEXT[95:], "bytes 95-99/100"),
        ("bytes=-5", 206, TEXT[95:], "bytes 95-99/100"),
        ("bytes=90-1000", 206, TEXT[90:], "bytes 90-99/100"),
        ("Bytes = 0-0", 206, TEXT[:1], "bytes 0-0/100"),
        ("bytes=-1000", 206, TEXT, "bytes 0-99/100"),
        ("bytes=0-0,200-", 206, TEXT[:1], "bytes 0-0/100"),
        ("bytes=100-", 416, None, "bytes */100"),
        ("bytes=-0", 416, None, "bytes */100"),
        ("bytes=5-2", 200, TEXT, None),
        ("bytes=-", 200, TEXT, None),
        ("bytes=a-b", 200, TEXT, None),
        ("lines=0-9", 200, TEXT, None),
        ("bytes=" + ",".join(["0-99"] * 10), 200, TEXT, None),
        ("bytes=" + ",".join(f"{n}-{n}" for n in range(50)), 200, TEXT, None),
        ("bytes=" + "9" * 5000 + "-", 200, TEXT, None),
    ],
)
@pytest.mark.attack("B22")
async def test_a_range_is_answered_as_rfc_9110_says(
    client: httpx.AsyncClient, url: str, wanted: str, status: int, content: bytes | None, told: str | None
) -> None:
    response = await client.get(url, headers={"range": wanted})
    assert response.status_code == status
    assert response.headers.get("content-range") == told
    if content is None:
        assert problem(response) == (416, "range_not_satisfiable")
    else:
        assert response.content == content


async def test_several_ranges_come_as_multipart(client: httpx.AsyncClient, url: str) -> None:
    response = await client.get(url, headers={"range": "bytes=0-1,50-51,-2"})
    assert response.status_code == 206
    kind, _, boundary = response.headers["content-type"].partition("; boundary=")
    assert kind == "multipart/byteranges"
    first, *parts, last = response.content.split(f"\r\n--{boundary}".encode())
    assert (first, last) == (b"", b"--\r\n")
    assert [part.split(b"\r\n\r\n")[1] for part in parts] == [b"01", b"01", b"89"]
    assert b"Content-Range: bytes 98-99/100" in parts[2]


async def test_a_client_that_has_the_file_gets_no_bytes(client: httpx.AsyncClient, url: str) -> None:
    etag = (await client.get(url)).headers["etag"]
    for known in (etag, f'"x", W/{etag}', "*"):
        response = await client.get(url, headers={"if-none-match": known})
        assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", etag)
    assert (await client.get(url, headers={"if-none-match": '"x"'})).content == TEXT
    ranged = {"range": "bytes=0-0", "if-range": etag}
    assert (await client.get(url, headers=ranged)).status_code == 206
    assert (await client.get(url, headers=ranged | {"if-range": '"x"'})).status_code == 200


async def test_an_empty_file_has_no_range(client: httpx.AsyncClient, session: str) -> None:
    await client.put(f"{session}/files/empty", content=b"")
    assert (await client.get(f"{session}/files/empty")).content == b""
    assert (await client.get(f"{session}/files/empty", headers={"range": "bytes=0-"})).status_code == 416


@pytest.mark.attack("B17")
async def test_a_file_that_a_program_is_still_writing_can_be_had(client: httpx.AsyncClient, session: str) -> None:
    code = "open('half', 'w').write('so far')\nimport os, time\nwhile not os.path.exists('go'): time.sleep(0.01)"
    async with client.stream("POST", f"{session}/executions", json={"code": code, "stream": True}) as response:
        while "half" not in [row["path"] for row in (await client.get(f"{session}/files")).json()["data"]]:
            pass
        while (await client.get(f"{session}/files/half")).text != "so far":
            pass
        await client.put(f"{session}/files/go", content=b"")
        assert '"status":"ok"' in (await response.aread()).decode()
