"""OpenAI's Containers: the unmodified SDK, the bytes on the wire, and what programs do to files in them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from sandbox.image import Image
from sandbox.keys import LOCAL, KeyLimits
from sandbox.node import Node
from tests.api.conftest import NewDataDir, add_key
from tests.api.served import Served, serving
from tests.compat.asking import execute, local, of, refused
from tests.test_node import opened

SALES = ("sales.csv", b"city,amount\nParis,3\n")
UNKNOWN = f"cntr_{'0' * 32}"


@pytest.fixture
async def sdk(hosted: Served) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{hosted.url}/v1", api_key="any", max_retries=0) as sdk:
        yield sdk


@pytest.fixture
async def wire(hosted: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with hosted.client() as wire:
        yield wire


@pytest.fixture
async def container(sdk: openai.AsyncOpenAI) -> AsyncIterator[str]:
    """The id of a fresh one."""
    made = await sdk.containers.create(name="fresh")
    yield made.id
    with contextlib.suppress(openai.NotFoundError):
        await sdk.containers.delete(made.id)


# Containers.


async def test_the_json_of_a_container_is_exactly_this(wire: httpx.AsyncClient) -> None:
    asked = {"name": "n", "expires_after": {"anchor": "last_active_at", "minutes": 10}, "memory_limit": "1g"}
    response = await wire.post("/v1/containers", json=asked)
    made = response.json()
    assert response.status_code == 200
    assert made == {
        "id": made["id"],
        "object": "container",
        "created_at": made["created_at"],
        "status": "running",
        "expires_after": {"anchor": "last_active_at", "minutes": 10},
        "last_active_at": made["created_at"],
        "memory_limit": "1g",
        "network_policy": {"type": "disabled"},
        "name": "n",
    }
    assert made["id"].startswith("cntr_")
    assert len(made["id"]) <= 64
    session = (await wire.get(f"/v1/sessions/{made['id'].replace('cntr_', 'ses_')}")).json()
    assert (session["memory_mb"], session["idle_timeout_s"], session["metadata"]) == (1024, 600, {"name": "n"})
    deleted = await wire.delete(f"/v1/containers/{made['id']}")
    assert deleted.json() == {"id": made["id"], "object": "container.deleted", "deleted": True}


async def test_a_container_that_says_nothing_lasts_twenty_idle_minutes(sdk: openai.AsyncOpenAI, container: str) -> None:
    made = await sdk.containers.retrieve(container)
    assert made.expires_after is not None
    assert (made.expires_after.anchor, made.expires_after.minutes) == ("last_active_at", 20)
    assert (made.memory_limit, made.name, made.status) == ("1g", "fresh", "running")


async def test_memory_is_had_in_tiers_as_far_as_the_host_has_it(
    root: None, python_image: Image, nothing_left: None, tmp_path: Path
) -> None:
    large = opened(tmp_path / "large", pool_size=0, max_memory_mb=4096, memory_budget_mb=5000)
    async with large as node, local(node) as sdk:
        made = await sdk.containers.create(name="n", memory_limit="4g")
        assert made.memory_limit == "4g"
        assert (await node.sessions(LOCAL, limit=1)).items[0].memory_mb == 4096
        with pytest.raises(openai.BadRequestError, match="choose from 1g, 4g"):
            await sdk.containers.create(name="n", memory_limit="16g")
    async with opened(tmp_path / "small", pool_size=0, max_memory_mb=600) as node, local(node) as sdk:
        with pytest.raises(openai.BadRequestError, match="leave it out") as caught:
            await sdk.containers.create(name="n", memory_limit="1g")
        assert caught.value.param == "memory_limit"
        assert (await sdk.containers.create(name="n")).status == "running"


@pytest.mark.parametrize("name", ["", "twice", "née 東京 \N{SNAKE}\0", "n" * 4096])
async def test_a_name_is_free_text(wire: httpx.AsyncClient, name: str) -> None:
    first, second = [(await wire.post("/v1/containers", json={"name": name})).json() for _ in range(2)]
    assert first["name"] == second["name"] == name
    listed = (await wire.get("/v1/containers", params={"name": name})).json()["data"]
    assert {each["id"] for each in listed} == {first["id"], second["id"]}
    for each in listed:
        await wire.delete(f"/v1/containers/{each['id']}")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"name": None}, "name"),
        ({"name": "n" * 4097}, "name"),
        ({"file_ids": ["file-1"] * 51}, "file_ids"),
        ({"memory_limit": "64g"}, "memory_limit"),
        ({"memory_limit": "2g"}, "memory_limit"),
        ({"expires_after": {"anchor": "last_active_at", "minutes": 0}}, "expires_after.minutes"),
        ({"expires_after": {"anchor": "created_at", "minutes": 5}}, "expires_after.anchor"),
        ({"network_policy": {"type": "allowlist", "allowed_domains": ["a.com"]}}, "network_policy"),
        ({"skills": [{"type": "skill_reference", "skill_id": "s"}]}, "skills"),
    ],
)
async def test_a_container_that_cannot_be_is_refused(wire: httpx.AsyncClient, more: Any, param: str) -> None:
    error = refused(await wire.post("/v1/containers", json={"name": "n"} | more), 400)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


async def test_no_network_and_no_skills_can_be_asked_for(sdk: openai.AsyncOpenAI) -> None:
    made = await sdk.containers.create(name="n", network_policy={"type": "disabled"}, skills=[])
    assert made.network_policy is not None
    assert made.network_policy.type == "disabled"
    await sdk.containers.delete(made.id)


async def test_what_does_not_exist_is_not_found_in_the_vendors_words(
    sdk: openai.AsyncOpenAI, wire: httpx.AsyncClient, container: str
) -> None:
    await sdk.containers.delete(container)
    for gone in (container, UNKNOWN, "cntr_0", "something"):
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/files"), ("GET", "/files/cfile_0/content")):
            error = refused(await wire.request(method, f"/v1/containers/{gone}{path}"), 404)
            assert error["message"] == f"Container with id '{gone}' not found."
            assert error["type"] == "invalid_request_error"


async def test_a_session_of_another_api_is_no_container(wire: httpx.AsyncClient) -> None:
    session = (await wire.post("/v1/sessions", json={})).json()["id"]
    refused(await wire.get(f"/v1/containers/{session.replace('ses_', 'cntr_')}"), 404)
    await wire.delete(f"/v1/sessions/{session}")


async def test_containers_are_listed_page_by_page_without_the_deleted(sdk: openai.AsyncOpenAI) -> None:
    made = [(await sdk.containers.create(name=f"page {number % 2}")).id for number in range(5)]
    await sdk.containers.delete(made[2])
    left = [made[4], made[3], made[1], made[0]]
    assert [each.id async for each in sdk.containers.list(limit=2)][:4] == left
    assert [each.id async for each in sdk.containers.list(limit=2, order="asc")][-4:] == left[::-1]
    assert [each.id async for each in sdk.containers.list(limit=1, name="page 0")] == [made[4], made[0]]
    page = await sdk.containers.list(limit=2, after=made[4])
    assert ([each.id for each in page.data], page.has_more) == (left[1:3], True)
    page = await sdk.containers.list(limit=1, after=made[2], name="page 0")  # a deleted one is still a place in a list
    assert ([each.id for each in page.data], page.has_more) == ([made[0]], False)
    with pytest.raises(openai.BadRequestError):
        await sdk.containers.list(after=UNKNOWN)
    for each in left:
        await sdk.containers.delete(each)


async def test_the_json_of_a_list_is_exactly_this(wire: httpx.AsyncClient, container: str) -> None:
    listed = (await wire.get("/v1/containers", params={"name": "fresh", "limit": 1})).json()
    assert listed.keys() == {"object", "data", "first_id", "last_id", "has_more"}
    assert (listed["object"], listed["first_id"], listed["last_id"]) == ("list", container, container)
    for params in ({"limit": 0}, {"limit": 101}, {"order": "up"}, {"after": "nonsense"}):
        refused(await wire.get("/v1/containers", params=params), 400)


async def test_whatever_is_done_to_a_container_keeps_it(node: Node) -> None:
    async with local(node) as sdk:
        made = await sdk.containers.create(name="busy")
        session_id = made.id.replace("cntr_", "ses_")
        file = await sdk.containers.files.create(made.id, file=SALES)
        doings: list[Callable[[], Awaitable[object]]] = [
            lambda: sdk.containers.retrieve(made.id),
            lambda: sdk.containers.files.create(made.id, file=SALES),
            lambda: sdk.containers.files.retrieve(file.id, container_id=made.id),
            lambda: sdk.containers.files.content.retrieve(file.id, container_id=made.id),
            lambda: sdk.containers.files.delete(file.id, container_id=made.id),
        ]
        for doing in doings:
            row = await node.store.session("local", session_id)
            assert row is not None
            await doing()
            after = await node.store.session("local", session_id)
            assert after is not None
            assert after.last_used_at > row.last_used_at
        await sdk.containers.delete(made.id)


# Their files.


async def test_the_json_of_a_container_file_is_exactly_this(wire: httpx.AsyncClient, container: str) -> None:
    response = await wire.post(f"/v1/containers/{container}/files", files={"file": SALES})
    file = response.json()
    assert response.status_code == 200
    assert file == {
        "id": file["id"],
        "object": "container.file",
        "created_at": file["created_at"],
        "bytes": len(SALES[1]),
        "container_id": container,
        "path": "/mnt/data/sales.csv",
        "source": "user",
    }
    assert file["id"].startswith("cfile_")
    path = f"/v1/containers/{container}/files/{file['id']}"
    assert (await wire.get(path)).json() == file
    content = await wire.get(f"{path}/content", headers={"accept": "application/binary"})
    assert content.content == SALES[1]
    assert content.headers["content-disposition"] == 'attachment; filename="sales.csv"'
    assert (await wire.get(f"{path}/content", headers={"range": "bytes=0-3"})).content == b"city"
    deleted = await wire.delete(path)
    assert deleted.json() == {"id": file["id"], "object": "container.file.deleted", "deleted": True}
    for method, end in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        error = refused(await wire.request(method, f"{path}{end}"), 404)
        assert error["message"] == f"Container file with id '{file['id']}' not found."


async def test_a_program_finds_the_files_and_its_own_can_be_fetched(
    sdk: openai.AsyncOpenAI, wire: httpx.AsyncClient
) -> None:
    kept = await sdk.files.create(file=SALES, purpose="user_data")
    made = await sdk.containers.create(name="n", file_ids=[kept.id])
    await sdk.containers.files.create(made.id, file=("more.csv", b"Rome,4\n"))
    await execute(wire, made.id, "open('all.csv', 'w').write(open('sales.csv').read() + open('more.csv').read())")
    files = {each.path: each async for each in sdk.containers.files.list(made.id, limit=1)}
    assert {path: each.source for path, each in files.items()} == {
        "/mnt/data/all.csv": "assistant",
        "/mnt/data/more.csv": "user",
        "/mnt/data/sales.csv": "user",
    }
    content = await sdk.containers.files.content.retrieve(files["/mnt/data/all.csv"].id, container_id=made.id)
    assert content.read() == b"city,amount\nParis,3\nRome,4\n"
    await sdk.files.delete(kept.id)
    again = await sdk.containers.files.content.retrieve(files["/mnt/data/sales.csv"].id, container_id=made.id)
    assert again.read() == SALES[1]
    await sdk.containers.delete(made.id)


async def test_a_kept_file_can_be_copied_into_a_container_later(
    sdk: openai.AsyncOpenAI, wire: httpx.AsyncClient, container: str
) -> None:
    kept = await sdk.files.create(file=SALES, purpose="user_data")
    file = await sdk.containers.files.create(container, file_id=kept.id)
    assert (file.path, file.bytes, file.source) == ("/mnt/data/sales.csv", len(SALES[1]), "user")
    await sdk.containers.files.delete(file.id, container_id=container)
    form: Any = {"file_id": (None, kept.id)}
    again = await wire.post(f"/v1/containers/{container}/files", files=form)
    assert again.json()["path"] == file.path
    assert (await sdk.files.content(kept.id)).read() == SALES[1]
    with pytest.raises(openai.NotFoundError):
        await sdk.containers.files.create(container, file_id="file-unknown")
    with pytest.raises(openai.NotFoundError):
        await sdk.containers.create(name="n", file_ids=["file-unknown"])


async def test_files_of_one_name_are_different_files(sdk: openai.AsyncOpenAI) -> None:
    kept = [await sdk.files.create(file=("a.txt", content), purpose="user_data") for content in (b"1", b"2")]
    made = await sdk.containers.create(name="n", file_ids=[each.id for each in kept])
    await asyncio.gather(*(sdk.containers.files.create(made.id, file=("x/a.txt", b"3")) for _ in range(3)))
    paths = [each.path async for each in sdk.containers.files.list(made.id, order="asc")]
    assert paths == ["/mnt/data/a.txt", *(f"/mnt/data/a-{number}.txt" for number in range(2, 6))]
    await sdk.containers.delete(made.id)


async def test_files_that_cannot_be_stored_end_no_list(
    sdk: openai.AsyncOpenAI, wire: httpx.AsyncClient, container: str
) -> None:
    await sdk.containers.files.create(container, file=SALES)
    code = "import os\nfor name in 'abc': open(name, 'w').close(); os.chmod(name, 0)"
    await execute(wire, container, code)
    listed = [file.path async for file in sdk.containers.files.list(container, limit=1)]
    assert listed == ["/mnt/data/sales.csv"]
    with pytest.raises(openai.BadRequestError):
        await sdk.containers.files.list(container, after=container)


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_files_that_are_deleted_while_they_are_listed_end_no_list(
    sdk: openai.AsyncOpenAI, container: str, order: Any
) -> None:
    for number in range(5):
        await sdk.containers.files.create(container, file=(f"{number}.csv", b"1"))
    deleted = []
    async for file in sdk.containers.files.list(container, limit=2, order=order):
        await sdk.containers.files.delete(file.id, container_id=container)
        deleted.append(file.path)
    assert sorted(deleted) == [f"/mnt/data/{number}.csv" for number in range(5)]
    with pytest.raises(openai.BadRequestError):
        await sdk.containers.files.list(container, after="cfile_" + "0" * 32)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\data\\a.csv", "a.csv"),
        ("..", "file"),
        ("née 東京.csv", "née 東京.csv"),
        ("a\u202eb.csv", "a_b.csv"),
        ("n" * 300 + ".csv", "n" * 236 + ".csv"),
    ],
)
async def test_a_name_is_never_a_path(sdk: openai.AsyncOpenAI, container: str, name: str, path: str) -> None:
    kept = await sdk.files.create(file=(name, b"x"), purpose="user_data")
    for given in ({"file": (name, b"x")}, {"file_id": kept.id}):
        more: Any = given
        file = await sdk.containers.files.create(container, **more)
        assert file.path == f"/mnt/data/{path}"
        await sdk.containers.files.delete(file.id, container_id=container)


async def test_a_file_of_another_container_is_not_found(sdk: openai.AsyncOpenAI, container: str) -> None:
    other = await sdk.containers.create(name="other")
    file = await sdk.containers.files.create(other.id, file=SALES)
    with pytest.raises(openai.NotFoundError):
        await sdk.containers.files.retrieve(file.id, container_id=container)
    with pytest.raises(openai.NotFoundError):
        await sdk.containers.files.delete(file.id, container_id=container)
    await sdk.containers.delete(other.id)


async def test_a_request_without_a_file_is_refused(wire: httpx.AsyncClient, container: str) -> None:
    path = f"/v1/containers/{container}/files"
    assert refused(await wire.post(path, json={}), 400)["param"] == "file_id"
    assert refused(await wire.post(path, content=b"not JSON"), 400)["type"] == "invalid_request_error"
    nothing: Any = {"other": (None, "text")}
    assert refused(await wire.post(path, files=nothing), 400)["param"] == "file"
    refused(await wire.get(path, params={"after": "cfile_unknown"}), 400)


async def test_a_file_that_has_no_room_is_refused(wire: httpx.AsyncClient, container: str) -> None:
    long: Any = {"file": ("long.bin", bytes(600 << 20))}
    refused(await wire.post(f"/v1/containers/{container}/files", files=long), 413)


# Two who do not know each other.


async def test_nobody_sees_the_containers_of_another_key(new_data_dir: NewDataDir, nothing_left: None) -> None:
    data_dir = new_data_dir()
    async with serving(data_dir) as served:
        ann = await add_key(data_dir, "ann")
        bob = await add_key(data_dir, "bob", KeyLimits(sessions=1, stored_bytes=10))
        async with of(served, ann) as hers, of(served, bob) as his:
            made = await hers.containers.create(name="hers")
            file = await hers.containers.files.create(made.id, file=SALES)
            kept = await hers.files.create(file=SALES, purpose="user_data")
            assert [each.id async for each in his.containers.list()] == []
            own = await his.containers.create(name="his")
            for asking in (
                his.containers.retrieve(made.id),
                his.containers.delete(made.id),
                his.containers.files.create(made.id, file=SALES),
                his.containers.files.retrieve(file.id, container_id=made.id),
                his.containers.files.retrieve(file.id, container_id=own.id),
                his.containers.files.content.retrieve(file.id, container_id=own.id),
                his.containers.files.delete(file.id, container_id=own.id),
                his.containers.files.create(own.id, file_id=kept.id),
            ):
                with pytest.raises(openai.NotFoundError):
                    await asking
            with pytest.raises(openai.BadRequestError):
                await his.containers.list(after=made.id)
            with pytest.raises(openai.RateLimitError):
                await his.containers.create(name="one too many")
            with pytest.raises(openai.RateLimitError):
                await his.containers.files.create(own.id, file=SALES)
            assert (await hers.containers.files.retrieve(file.id, container_id=made.id)).bytes == len(SALES[1])


# Their end.


@pytest.fixture
async def node(root: None, python_image: Image, nothing_left: None, tmp_path: Path) -> AsyncIterator[Node]:
    async with opened(tmp_path, pool_size=0) as node:
        yield node


async def test_an_expired_container_can_be_looked_at_and_has_no_files(
    root: None, python_image: Image, nothing_left: None, tmp_path: Path
) -> None:
    async with opened(tmp_path, pool_size=0) as node, local(node) as sdk:
        short = await sdk.containers.create(name="short")
        file = await sdk.containers.files.create(short.id, file=SALES)
        long = await sdk.containers.create(name="long", expires_after={"anchor": "last_active_at", "minutes": 60})
    async with opened(tmp_path, pool_size=0) as node, local(node) as sdk:  # where they sleep
        await node.sweep(time.time() + 20 * 60 + 1)
        seen = await sdk.containers.retrieve(short.id)
        assert (seen.status, seen.name, seen.created_at) == ("expired", "short", short.created_at)
        listed = {each.id: each.status async for each in sdk.containers.list()}
        assert listed == {short.id: "expired", long.id: "running"}
        for asking in (
            sdk.containers.files.list(short.id),
            sdk.containers.files.create(short.id, file=SALES),
            sdk.containers.files.retrieve(file.id, container_id=short.id),
            sdk.containers.files.content.retrieve(file.id, container_id=short.id),
            sdk.containers.files.delete(file.id, container_id=short.id),
        ):
            with pytest.raises(openai.BadRequestError) as caught:
                await asking
            assert caught.value.code == "container_expired"
            assert caught.value.message.endswith(" Container is expired.")
        await sdk.containers.delete(short.id)
        with pytest.raises(openai.NotFoundError):
            await sdk.containers.retrieve(short.id)
        assert [each.id async for each in sdk.containers.list()] == [long.id]


async def test_what_a_deleted_container_held_counts_no_longer(node: Node) -> None:
    async with local(node) as sdk:
        made = await sdk.containers.create(name="n")
        await sdk.containers.files.create(made.id, file=SALES)
        assert await node.store.stored_bytes("local") == len(SALES[1])
        await sdk.containers.delete(made.id)
        assert await node.store.stored_bytes("local") == 0
        assert node.open_sessions == 0
