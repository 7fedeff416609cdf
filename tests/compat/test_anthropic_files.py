"""Anthropic's Files: the unmodified SDK, and the queries of older ones."""

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import pytest

from sandbox.keys import KeyLimits
from tests.api.conftest import NewDataDir, add_key
from tests.api.served import Served, serving
from tests.upstreams import Call, Says, Scripted

VERSION = {"anthropic-version": "2023-06-01"}


@pytest.fixture
async def sdk(hosted: Served) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=hosted.url, api_key="any", max_retries=0) as sdk:
        async for file in sdk.files.list(limit=1000):  # of tests before
            await sdk.files.delete(file.id)
        yield sdk


@pytest.fixture
async def client(hosted: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with hosted.client(**VERSION) as client:
        yield client


def error(response: httpx.Response) -> tuple[int, str]:
    """Status and type of an error, whose envelope must be the vendor's in every respect."""
    body = response.json()
    assert body.keys() == {"type", "error", "request_id"}
    assert body["type"] == "error"
    assert body["request_id"] == response.headers["request-id"]
    assert body["error"]["message"]
    return response.status_code, body["error"]["type"]


async def five(sdk: anthropic.AsyncAnthropic) -> list[str]:
    """The ids of five files, the newest first."""
    ids = []
    for number in range(5):
        ids.append((await sdk.files.upload(file=(f"{number}.txt", b"x" * number))).id)
    return ids[::-1]


async def test_a_file_is_kept_described_and_deleted(sdk: anthropic.AsyncAnthropic) -> None:
    kept = await sdk.files.upload(file=("sales é.csv", b"a,b\n1,2\n", "text/csv"))
    assert kept.id.startswith("file_")
    assert (kept.type, kept.filename, kept.mime_type, kept.size_bytes) == ("file", "sales é.csv", "text/csv", 8)
    assert (kept.downloadable, kept.expires_at) == (False, None)
    assert await sdk.files.retrieve_metadata(kept.id) == kept
    assert kept._request_id
    gone = await sdk.files.delete(kept.id)
    assert (gone.id, gone.type) == (kept.id, "file_deleted")
    for missing in (sdk.files.retrieve_metadata(kept.id), sdk.files.download(kept.id), sdk.files.delete(kept.id)):
        with pytest.raises(anthropic.NotFoundError, match=f"File `{kept.id}` not found"):
            await missing


async def test_the_type_is_what_the_name_says_when_nobody_says_more(client: httpx.AsyncClient) -> None:
    form = {"file": ("a.png", b"x", "application/octet-stream")}
    assert (await client.post("/v1/files", files=form)).json()["mime_type"] == "image/png"


async def test_only_what_code_has_made_can_be_downloaded(
    sdk: anthropic.AsyncAnthropic, client: httpx.AsyncClient, upstream: Scripted
) -> None:
    sent = await sdk.files.upload(file=("a.txt", b"x"))
    response = await client.get(f"/v1/files/{sent.id}/content")
    assert error(response) == (400, "invalid_request_error")
    assert response.json()["error"]["details"] == {"error_code": "file_not_downloadable"}
    upstream.then(Says("", (Call("code_execution", {"code": "open('b.txt', 'w').write('made')"}),)), Says("done"))
    answer: Any = await sdk.messages.create(
        model="scripted",
        max_tokens=100,
        messages=[{"role": "user", "content": "Go."}],
        tools=[{"type": "code_execution_20260120", "name": "code_execution"}],
    )
    made = answer.content[1].content.content[0].file_id
    response = await client.get(f"/v1/files/{made}/content", headers={"accept": "application/binary"})
    assert (response.content, response.headers["content-type"]) == (b"made", "text/plain")
    assert response.headers["content-disposition"] == 'attachment; filename="b.txt"'


async def test_a_file_that_is_to_expire_says_when(client: httpx.AsyncClient) -> None:
    form = {"file": ("a.txt", b"x")}
    kept = (await client.post("/v1/files", data={"expires_in_seconds": "3600"}, files=form)).json()
    assert kept["expires_at"] > kept["created_at"]
    for wrong in ("3599", "7776001", "soon"):
        assert error(await client.post("/v1/files", data={"expires_in_seconds": wrong}, files=form))[0] == 400


@pytest.mark.parametrize("name", ["a/b.txt", "a\\b.txt", "a:b", "what?", "a*b", "a<b", "a>b", "a|b", "x" * 256])
async def test_names_that_the_vendor_forbids_are_refused(client: httpx.AsyncClient, name: str) -> None:
    assert error(await client.post("/v1/files", files={"file": (name, b"x")})) == (400, "invalid_request_error")


async def test_a_form_without_a_file_and_what_is_no_form_are_refused(client: httpx.AsyncClient) -> None:
    assert error(await client.post("/v1/files", files={"other": ("a.txt", b"x")}))[0] == 400
    assert error(await client.post("/v1/files", data={"file": "text"}))[0] == 400
    assert error(await client.post("/v1/files", json={}))[0] == 400


async def test_of_a_form_that_is_refused_nothing_is_kept(new_data_dir: NewDataDir) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    file = part % (b"file", b'; filename="a.txt"', b"x")
    ends = [part % (b"expires_in_seconds", b"", each) + b"--b--\r\n" for each in (b"3600", b"soon", b"9" * 9999)]
    form = {"content-type": "multipart/form-data; boundary=b"}
    async with serving(new_data_dir()) as served, served.client(**VERSION) as client:
        for end in (*ends, b"--b"):
            response = await client.post("/v1/files", content=file + end, headers=form)
            assert error(response) == (400, "invalid_request_error")
        assert (await client.get("/v1/files")).json()["data"] == []


async def test_a_list_pages_as_new_sdks_want_it(sdk: anthropic.AsyncAnthropic) -> None:
    ids = await five(sdk)
    page = await sdk.files.list(limit=2)
    assert [file.id for file in page.data] == ids[:2]
    assert page.next_page is not None
    assert page.next_page.startswith("page_")
    assert [file.id async for file in sdk.files.list(limit=2)] == ids
    assert [file.id async for file in sdk.files.list(ids=[ids[3], ids[1]])] == [ids[3], ids[1]]


async def test_a_list_pages_as_old_sdks_want_it(sdk: anthropic.AsyncAnthropic, client: httpx.AsyncClient) -> None:
    ids = await five(sdk)

    async def page(**query: Any) -> dict[str, Any]:
        found: dict[str, Any] = (await client.get("/v1/files?beta=true", params=query)).json()
        return found | {"ids": [file["id"] for file in found["data"]]}

    first = await page(limit=2)
    assert (first["ids"], first["has_more"], first["first_id"], first["last_id"]) == (ids[:2], True, ids[0], ids[1])
    second = await page(limit=2, after_id=ids[1])
    assert (second["ids"], second["has_more"]) == (ids[2:4], True)
    last = await page(limit=2, after_id=ids[3])
    assert (last["ids"], last["has_more"], last["next_page"]) == (ids[4:], False, None)
    back = await page(limit=2, before_id=ids[3])
    assert (back["ids"], back["has_more"]) == (ids[1:3], True)
    start = await page(limit=3, before_id=ids[2])
    assert (start["ids"], start["has_more"]) == (ids[:2], False)


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=x", "page=page_none", "after_id=file_1", "before_id=file_1", "page=a&after_id=b"],
)
async def test_a_list_that_cannot_be_is_refused(client: httpx.AsyncClient, query: str) -> None:
    assert error(await client.get(f"/v1/files?{query}")) == (400, "invalid_request_error")


async def test_a_file_that_is_too_large_and_one_for_which_there_is_no_room_are_refused(
    new_data_dir: NewDataDir,
) -> None:
    directory = new_data_dir()
    key = await add_key(directory, "small", KeyLimits(stored_bytes=10))
    other = await add_key(directory, "other")
    async with serving(directory, max_upload_mb=1) as served, served.client(**VERSION) as client:
        large = {"file": ("a.bin", b"x" * (1 << 20) + b"y")}
        response = await client.post("/v1/files", files=large, headers={"x-api-key": other})
        assert error(response) == (413, "request_too_large")
        response = await client.post("/v1/files", files={"file": ("a.txt", b"x" * 11)}, headers={"x-api-key": key})
        assert error(response) == (400, "invalid_request_error")
        assert response.json()["error"]["details"] == {"error_code": "storage_quota_exceeded"}


async def test_one_origin_has_both_vendors_files(hosted: Served, client: httpx.AsyncClient) -> None:
    """The header decides, and an id of one family is none of the other's."""
    kept = (await client.post("/v1/files", files={"file": ("a.txt", b"x")})).json()
    async with hosted.client() as plain:
        response = await plain.get(f"/v1/files/{kept['id']}")
    assert response.status_code == 404
    assert response.json().keys() == {"error"} or "detail" in response.json()


async def test_keys_see_their_own_files_only_and_both_headers_bear_them(new_data_dir: NewDataDir) -> None:
    directory = new_data_dir()
    one, other = await add_key(directory, "one"), await add_key(directory, "other")
    async with serving(directory) as served, served.client(**VERSION) as client:
        form = {"file": ("a.txt", b"x")}
        kept = (await client.post("/v1/files", files=form, headers={"x-api-key": one})).json()
        path = f"/v1/files/{kept['id']}"
        assert (await client.get(path, headers={"authorization": f"Bearer {one}"})).status_code == 200
        for method, where in (("GET", path), ("GET", f"{path}/content"), ("DELETE", path)):
            response = await client.request(method, where, headers={"x-api-key": other})
            assert error(response) == (404, "not_found_error")
        assert (await client.get("/v1/files", headers={"x-api-key": other})).json()["data"] == []
        assert error(await client.get("/v1/files")) == (401, "authentication_error")
        assert error(await client.get(path, headers={"x-api-key": "wrong"})) == (401, "authentication_error")
