"""OpenAI's Files and Uploads: the unmodified SDK, and the bytes on the wire where the SDK hides them."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from sandbox.image import Image
from sandbox.keys import LOCAL, KeyLimits
from tests.api.conftest import NewDataDir, add_key
from tests.api.served import Served, serving
from tests.compat.asking import local, of, refused
from tests.compat.environments import Environments
from tests.test_node import opened

SALES = ("sales.csv", b"city,amount\nParis,3\n")
MIB = 1 << 20


@pytest.fixture
async def sdk(hosted: Served) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{hosted.url}/v1", api_key="any", max_retries=0) as sdk:
        yield sdk


@pytest.fixture
async def wire(hosted: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with hosted.client() as wire:
        yield wire


# Files.


async def test_a_file_comes_back_as_it_was_sent(sdk: openai.AsyncOpenAI) -> None:
    file = await sdk.files.create(file=SALES, purpose="assistants")
    assert file.id.startswith("file-")
    assert (file.object, file.filename, file.bytes) == ("file", "sales.csv", len(SALES[1]))
    assert (file.purpose, file.status, file.expires_at) == ("assistants", "processed", None)
    assert await sdk.files.retrieve(file.id) == file
    assert await sdk.files.wait_for_processing(file.id) == file
    content = await sdk.files.content(file.id)
    assert content.read() == SALES[1]
    assert content.response.headers["content-disposition"] == 'attachment; filename="sales.csv"'
    assert content.response.headers["content-type"].startswith("text/csv")
    assert content.response.headers["x-content-type-options"] == "nosniff"


async def test_a_deleted_file_does_not_exist(sdk: openai.AsyncOpenAI) -> None:
    file = await sdk.files.create(file=SALES, purpose="user_data")
    deleted = await sdk.files.delete(file.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (file.id, "file", True)
    for asking in (sdk.files.retrieve, sdk.files.delete, sdk.files.content):
        with pytest.raises(openai.NotFoundError) as caught:
            await asking(file.id)
        assert (caught.value.type, caught.value.code) == ("invalid_request_error", "file_missing")


@pytest.mark.parametrize("purpose", ["assistants", "batch", "fine-tune", "vision", "user_data", "evals"])
async def test_every_purpose_can_be_kept_listed_and_read(sdk: openai.AsyncOpenAI, purpose: Any) -> None:
    file = await sdk.files.create(file=("a.jsonl", b"{}"), purpose=purpose)
    assert [each.id async for each in sdk.files.list(purpose=purpose, limit=1)][:1] == [file.id]
    assert (await sdk.files.content(file.id)).read() == b"{}"


async def test_files_that_were_made_here_are_listed_and_read_like_others(
    root: None, python_image: Image, nothing_left: None, tmp_path: Path
) -> None:
    async def drawn() -> AsyncIterator[bytes]:
        yield b"a picture"

    async with opened(tmp_path, pool_size=0) as node, local(node) as sdk:
        made = await node.kept.put(LOCAL, "openai", "chart.png", drawn(), purpose="assistants_output")
        listed = [each async for each in sdk.files.list(purpose="assistants_output")]
        assert [(each.id, each.purpose) for each in listed] == [(made.id, "assistants_output")]
        assert (await sdk.files.content(made.id)).read() == b"a picture"


async def test_a_file_can_have_an_end(sdk: openai.AsyncOpenAI) -> None:
    file = await sdk.files.create(
        file=SALES, purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert file.expires_at == file.created_at + 3600


async def test_files_are_listed_page_by_page_in_both_orders(wire: httpx.AsyncClient) -> None:
    made = []
    for number in range(5):
        form: dict[str, Any] = {"files": {"file": (f"{number}.txt", b"x")}, "data": {"purpose": "vision"}}
        made.append((await wire.post("/v1/files", **form)).json()["id"])
    first = (await wire.get("/v1/files", params={"purpose": "vision", "limit": 3})).json()
    assert first.keys() == {"object", "data", "first_id", "last_id", "has_more"}
    assert [each["id"] for each in first["data"]] == made[:1:-1]
    assert (first["object"], first["first_id"], first["last_id"], first["has_more"]) == ("list", made[4], made[2], True)
    rest = (await wire.get("/v1/files", params={"purpose": "vision", "after": first["last_id"], "limit": 2})).json()
    assert [each["id"] for each in rest["data"]] == made[1::-1]
    oldest = (await wire.get("/v1/files", params={"purpose": "vision", "order": "asc", "limit": 10_000})).json()
    assert [each["id"] for each in oldest["data"]][-5:] == made
    assert oldest["has_more"] is False
    nothing = (await wire.get("/v1/files", params={"purpose": "assistants_output"})).json()
    assert nothing == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


async def test_what_is_deleted_while_it_is_listed_ends_no_list(sdk: openai.AsyncOpenAI) -> None:
    made = [await sdk.files.create(file=(f"{number}.csv", b"1"), purpose="evals") for number in range(5)]
    deleted = []
    async for file in sdk.files.list(purpose="evals", limit=2):
        await sdk.files.delete(file.id)
        deleted.append(file.id)
    assert deleted[:5] == [file.id for file in reversed(made)]  # and what other tests have left
    assert [file async for file in sdk.files.list(purpose="evals")] == []


@pytest.mark.parametrize("params", [{"limit": 10_001}, {"limit": 0}, {"order": "up"}, {"after": "file-unknown"}])
async def test_a_list_that_cannot_be_is_refused(wire: httpx.AsyncClient, params: dict[str, Any]) -> None:
    assert refused(await wire.get("/v1/files", params=params), 400)["type"] == "invalid_request_error"


async def test_fields_may_come_behind_the_file(wire: httpx.AsyncClient) -> None:
    """JavaScript programs send them as they wrote them."""
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\nhello\r\n'
        b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
        b'--x\r\nContent-Disposition: form-data; name="expires_after[anchor]"\r\n\r\ncreated_at\r\n'
        b'--x\r\nContent-Disposition: form-data; name="expires_after[seconds]"\r\n\r\n7200\r\n--x--\r\n'
    )
    kind = {"content-type": "multipart/form-data; boundary=x"}
    file = (await wire.post("/v1/files", content=body, headers=kind)).json()
    assert (file["purpose"], file["bytes"], file["expires_at"] - file["created_at"]) == ("user_data", 5, 7200)
    content = await wire.get(f"/v1/files/{file['id']}/content")
    assert content.content == b"hello"


async def test_the_json_of_a_file_is_exactly_this(wire: httpx.AsyncClient) -> None:
    response = await wire.post("/v1/files", files={"file": SALES}, data={"purpose": "assistants"})
    file = response.json()
    assert response.status_code == 200
    assert file == {
        "id": file["id"],
        "object": "file",
        "bytes": len(SALES[1]),
        "created_at": file["created_at"],
        "expires_at": None,
        "filename": "sales.csv",
        "purpose": "assistants",
        "status": "processed",
        "status_details": None,
    }
    assert isinstance(file["created_at"], int)
    assert (await wire.delete(f"/v1/files/{file['id']}")).json() == {
        "id": file["id"],
        "object": "file",
        "deleted": True,
    }


@pytest.mark.parametrize(
    ("data", "param"),
    [
        ({}, "purpose"),
        ({"purpose": "assistants_output"}, "purpose"),
        ({"purpose": "user_data", "expires_after[seconds]": "3600"}, "expires_after.anchor"),
        ({"purpose": "user_data", "expires_after[anchor]": "created_at"}, "expires_after.seconds"),
        (
            {"purpose": "user_data", "expires_after[anchor]": "created_at", "expires_after[seconds]": "60"},
            "expires_after.seconds",
        ),
        (
            {"purpose": "user_data", "expires_after[anchor]": "created_at", "expires_after[seconds]": "soon"},
            "expires_after.seconds",
        ),
    ],
)
async def test_a_file_that_cannot_be_kept_is_refused(wire: httpx.AsyncClient, data: Any, param: str) -> None:
    error = refused(await wire.post("/v1/files", files={"file": SALES}, data=data), 400)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


async def test_a_request_without_a_file_is_refused(wire: httpx.AsyncClient) -> None:
    nothing: Any = {"purpose": (None, "user_data")}
    assert refused(await wire.post("/v1/files", files=nothing), 400)["param"] == "file"
    assert refused(await wire.post("/v1/files", files={**nothing, "file": (None, "text")}), 400)["param"] == "file"
    two: Any = [("purpose", (None, "user_data")), ("file", SALES), ("file", SALES)]
    assert refused(await wire.post("/v1/files", files=two), 400)["param"] == "file"
    refused(await wire.post("/v1/files", json={"purpose": "user_data"}), 415)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a\\b.csv", "née 東京.csv", 'quo"te\r\n.csv'])
async def test_a_name_is_only_a_name(wire: httpx.AsyncClient, name: str) -> None:
    form: Any = {"files": {"file": (name, b"x")}, "data": {"purpose": "user_data"}}
    file = (await wire.post("/v1/files", **form)).json()
    content = await wire.get(f"/v1/files/{file['id']}/content")
    assert content.content == b"x"
    assert "/" not in content.headers["content-disposition"]


async def test_a_part_of_a_file_can_be_had_and_nothing_of_one_that_is_known(wire: httpx.AsyncClient) -> None:
    file = (await wire.post("/v1/files", files={"file": SALES}, data={"purpose": "user_data"})).json()
    path = f"/v1/files/{file['id']}/content"
    part = await wire.get(path, headers={"range": "bytes=0-3"})
    assert (part.status_code, part.content) == (206, b"city")
    assert (await wire.get(path, headers={"if-none-match": part.headers["etag"]})).status_code == 304


# Uploads.


async def test_a_file_that_comes_in_parts_is_one_file(sdk: openai.AsyncOpenAI) -> None:
    upload = await sdk.uploads.create(bytes=11, filename="a.txt", mime_type="text/plain", purpose="user_data")
    assert (upload.status, upload.bytes, upload.file) == ("pending", 11, None)
    assert upload.expires_at == upload.created_at + 3600
    second = await sdk.uploads.parts.create(upload.id, data=b"world")
    first = await sdk.uploads.parts.create(upload.id, data=b"hello ")
    assert (first.object, first.upload_id) == ("upload.part", upload.id)
    digest = hashlib.md5(b"hello world").hexdigest()
    done = await sdk.uploads.complete(upload.id, part_ids=[first.id, second.id], md5=digest)
    assert done.status == "completed"
    assert done.file is not None
    assert (done.file.filename, done.file.bytes, done.file.purpose) == ("a.txt", 11, "user_data")
    assert (await sdk.files.content(done.file.id)).read() == b"hello world"
    with pytest.raises(openai.BadRequestError, match="completed"):
        await sdk.uploads.complete(upload.id, part_ids=[first.id, second.id])


async def test_the_sdk_cuts_a_long_file_into_parts_itself(sdk: openai.AsyncOpenAI, tmp_path: Path) -> None:
    (tmp_path / "long.csv").write_bytes(b"0123456789" * 100_000)
    done = await sdk.uploads.upload_file_chunked(
        file=tmp_path / "long.csv", mime_type="text/csv", purpose="assistants", part_size=300_000
    )
    assert done.file is not None
    assert (await sdk.files.content(done.file.id)).read() == b"0123456789" * 100_000


async def test_an_upload_is_completed_once_however_many_ask(sdk: openai.AsyncOpenAI) -> None:
    before = [each.id async for each in sdk.files.list()]
    upload = await sdk.uploads.create(bytes=5, filename="a.txt", mime_type="text/plain", purpose="user_data")
    part = await sdk.uploads.parts.create(upload.id, data=b"hello")
    asking = [sdk.uploads.complete(upload.id, part_ids=[part.id]) for _ in range(3)]
    told = await asyncio.gather(*asking, return_exceptions=True)
    assert sorted(type(each).__name__ for each in told) == ["BadRequestError", "BadRequestError", "Upload"]
    assert len([each.id async for each in sdk.files.list()]) == len(before) + 1


async def test_an_upload_that_was_cancelled_takes_nothing_more(sdk: openai.AsyncOpenAI) -> None:
    upload = await sdk.uploads.create(bytes=5, filename="a.txt", mime_type="text/plain", purpose="user_data")
    part = await sdk.uploads.parts.create(upload.id, data=b"hello")
    assert (await sdk.uploads.cancel(upload.id)).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        await sdk.uploads.parts.create(upload.id, data=b"hello")
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        await sdk.uploads.complete(upload.id, part_ids=[part.id])


async def test_parts_that_are_not_the_whole_are_refused(sdk: openai.AsyncOpenAI) -> None:
    about: Any = {"bytes": 5, "filename": "a.txt", "mime_type": "text/plain", "purpose": "user_data"}
    upload, other = await sdk.uploads.create(**about), await sdk.uploads.create(**about)
    part = await sdk.uploads.parts.create(upload.id, data=b"hello")
    foreign = await sdk.uploads.parts.create(other.id, data=b"hello")
    wrong: list[tuple[list[str], str | None]] = [
        ([], None),
        ([part.id, part.id], None),
        ([foreign.id], None),
        (["part_unknown"], None),
        ([part.id], hashlib.md5(b"other").hexdigest()),
    ]
    for part_ids, md5 in wrong:
        with pytest.raises(openai.BadRequestError):
            await sdk.uploads.complete(upload.id, part_ids=part_ids, md5=md5 or openai.omit)
    assert (await sdk.uploads.complete(upload.id, part_ids=[part.id])).status == "completed"  # nothing was lost


async def test_the_json_of_an_upload_is_exactly_this(wire: httpx.AsyncClient) -> None:
    about = {"bytes": 5, "filename": "a.txt", "mime_type": "text/plain", "purpose": "user_data"}
    upload = (await wire.post("/v1/uploads", json=about)).json()
    assert upload == {
        "id": upload["id"],
        "object": "upload",
        "bytes": 5,
        "created_at": upload["created_at"],
        "expires_at": upload["created_at"] + 3600,
        "filename": "a.txt",
        "purpose": "user_data",
        "status": "pending",
        "file": None,
    }
    assert upload["id"].startswith("upload_")
    unknown = await wire.post("/v1/uploads/upload_unknown/cancel")
    assert refused(unknown, 404)["code"] == "object_missing"
    no_part: Any = {"other": (None, "hello")}
    nothing = await wire.post(f"/v1/uploads/{upload['id']}/parts", files=no_part)
    assert refused(nothing, 400)["param"] == "data"


# Limits, and two who do not know each other.


@pytest.fixture(scope="module")
async def tenants(new_data_dir: NewDataDir, nothing_left: None) -> AsyncIterator[tuple[Served, str, str]]:
    """A server that takes files of 1 MiB, and two keys, the second of which may store 1.5 MiB."""
    data_dir = new_data_dir()
    async with serving(data_dir, max_upload_mb=1) as served:
        ann = await add_key(data_dir, "ann")
        bob = await add_key(data_dir, "bob", KeyLimits(stored_bytes=3 * MIB // 2))
        yield served, ann, bob


async def test_who_has_stored_all_it_may_is_refused_and_not_told_to_try_again(
    tenants: tuple[Served, str, str],
) -> None:
    served, _, bob = tenants
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=bob, max_retries=5) as his:
        file = await his.files.create(file=("a", bytes(MIB)), purpose="user_data")
        with pytest.raises(openai.RateLimitError, match="delete files") as refused:
            await his.files.create(file=("b", bytes(MIB)), purpose="user_data")
        assert refused.value.response.request.headers["x-stainless-retry-count"] == "0"
        await his.files.delete(file.id)


async def test_nobody_sees_the_files_of_another_key(tenants: tuple[Served, str, str]) -> None:
    served, ann, bob = tenants
    async with of(served, ann) as hers, of(served, bob) as his:
        file = await hers.files.create(file=SALES, purpose="user_data")
        upload = await hers.uploads.create(bytes=1, filename="a", mime_type="text/plain", purpose="user_data")
        part = await hers.uploads.parts.create(upload.id, data=b"x")
        assert [each.id async for each in his.files.list()] == []
        for asking in (his.files.retrieve, his.files.delete, his.files.content, his.files.retrieve):
            with pytest.raises(openai.NotFoundError):
                await asking(file.id)
        with pytest.raises(openai.NotFoundError):
            await his.uploads.parts.create(upload.id, data=b"x")
        with pytest.raises(openai.NotFoundError):
            await his.uploads.complete(upload.id, part_ids=[part.id])
        with pytest.raises(openai.NotFoundError):
            await his.uploads.cancel(upload.id)
        assert (await hers.files.content(file.id)).read() == SALES[1]


async def test_whoever_has_no_key_is_told_so_in_the_vendors_words(tenants: tuple[Served, str, str]) -> None:
    served, _, _ = tenants
    async with of(served, "sk-unknown") as stranger:
        with pytest.raises(openai.AuthenticationError) as caught:
            await stranger.files.list()
        assert caught.value.code == "invalid_api_key"


async def test_a_file_that_is_too_long_is_refused(tenants: tuple[Served, str, str]) -> None:
    served, ann, _ = tenants
    async with of(served, ann) as hers:
        for content in (bytes(MIB + 1), bytes(3 * MIB)):
            with pytest.raises(openai.APIStatusError) as caught:
                await hers.files.create(file=("long", content), purpose="user_data")
            assert caught.value.status_code == 413
        with pytest.raises(openai.APIStatusError) as caught:
            await hers.uploads.create(bytes=MIB + 1, filename="a", mime_type="text/plain", purpose="user_data")
        assert caught.value.status_code == 413


async def test_a_full_key_gets_429_and_room_by_deleting(tenants: tuple[Served, str, str]) -> None:
    served, _, bob = tenants
    async with of(served, bob) as his:
        file = await his.files.create(file=("a", bytes(MIB)), purpose="user_data")
        with pytest.raises(openai.RateLimitError):
            await his.files.create(file=("b", bytes(MIB)), purpose="user_data")
        await his.files.delete(file.id)
        # As parts and as a whole it would be 2 MiB; it counts once.
        done = await his.uploads.upload_file_chunked(
            file=bytes(MIB), filename="c", bytes=MIB, mime_type="text/plain", purpose="user_data", part_size=MIB // 2
        )
        assert done.file is not None
        await his.files.delete(done.file.id)


async def test_files_and_uploads_end_when_they_said(
    root: None, python_image: Image, nothing_left: None, tmp_path: Path
) -> None:
    async with opened(tmp_path, pool_size=0) as node, local(node) as sdk:
        expiry: Any = {"anchor": "created_at", "seconds": 3600}
        short = await sdk.files.create(file=SALES, purpose="user_data", expires_after=expiry)
        long = await sdk.files.create(file=SALES, purpose="user_data")
        upload = await sdk.uploads.create(bytes=1, filename="a", mime_type="text/plain", purpose="user_data")
        await sdk.uploads.parts.create(upload.id, data=b"x")
        await node.sweep(time.time() + 3601)
        with pytest.raises(openai.NotFoundError):
            await sdk.files.retrieve(short.id)
        with pytest.raises(openai.NotFoundError):
            await sdk.uploads.parts.create(upload.id, data=b"x")
        assert [each.id async for each in sdk.files.list()] == [long.id]
        assert await node.store.stored_bytes("local") == len(SALES[1])


@pytest.mark.parametrize("requirement", ["", "openai==1.109.1", "openai==2.0.0"])
async def test_a_program_runs_with_sdks_of_several_ages(
    hosted: Served, environments: Environments, requirement: str
) -> None:
    env = {"OPENAI_BASE_URL": f"{hosted.url}/v1", "OPENAI_API_KEY": "any"}
    told = await environments.run("openai_files", *filter(None, [requirement]), env=env)
    assert told.startswith("done with")
