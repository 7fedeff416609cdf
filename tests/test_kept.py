"""Files that a key keeps outside any session: whose they are, how long they stay, what they count."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandbox.errors import FileMissing, InvalidRequest, RateLimited, TooLarge
from sandbox.execution import MIB
from sandbox.files import Files
from sandbox.kept import KeptFiles
from sandbox.keys import KeyLimits, Owner
from sandbox.quota import Quota
from sandbox.store import Store
from sandbox.store.rows import FileRow, KeptFileRow, SessionRow

ANN = Owner("key_ann", KeyLimits())
BOB = Owner("key_bob", KeyLimits())
POOR = Owner("key_poor", KeyLimits(stored_bytes=10))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store.open(f"sqlite:///{tmp_path}/sandbox.db") as store:
        yield store


@pytest.fixture
async def files(tmp_path: Path, store: Store) -> AsyncIterator[Files]:
    with Files.open(tmp_path / "files") as files:
        yield files


@pytest.fixture
def kept(store: Store, files: Files) -> KeptFiles:
    return KeptFiles(store, files, Quota(), max_mb=1)


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


async def read(kept: KeptFiles, row: KeptFileRow) -> bytes:
    return b"".join([piece async for piece in kept.pieces(row)])


async def test_bytes_come_back_under_an_id_of_their_family(kept: KeptFiles) -> None:
    theirs = await kept.put(ANN, "openai", "sales.csv", pieces(b"a,", b"b\n"), purpose="assistants")
    others = await kept.put(ANN, "anthropic", "sales.csv", pieces(b"a,b\n"))
    assert (theirs.id[:5], others.id[:5]) == ("file-", "file_")
    assert (theirs.size, theirs.mime, theirs.purpose) == (4, "text/csv", "assistants")
    assert await read(kept, await kept.row(ANN, "openai", theirs.id)) == b"a,b\n"


async def test_what_is_anothers_or_of_another_family_does_not_exist(kept: KeptFiles) -> None:
    row = await kept.put(ANN, "openai", "a.txt", pieces(b"1"))
    with pytest.raises(FileMissing):
        await kept.row(BOB, "openai", row.id)
    with pytest.raises(FileMissing):
        await kept.row(ANN, "anthropic", row.id)
    with pytest.raises(FileMissing):
        await kept.remove(BOB, "openai", row.id)
    assert (await kept.page(BOB, "openai", limit=10)).items == ()


async def test_what_has_expired_does_not_exist(kept: KeptFiles) -> None:
    row = await kept.put(ANN, "openai", "a.txt", pieces(b"1"), lifetime_s=-1)
    with pytest.raises(FileMissing):
        await kept.row(ANN, "openai", row.id)
    assert (await kept.page(ANN, "openai", limit=10)).items == ()


async def test_pages_are_in_the_order_of_keeping_and_of_one_purpose(kept: KeptFiles) -> None:
    rows = [await kept.put(ANN, "openai", name, pieces(b"1"), purpose=name[0]) for name in ("a1", "b1", "a2", "a3")]
    page = await kept.page(ANN, "openai", limit=2, purpose="a")
    assert [row.name for row in page.items] == ["a3", "a2"]
    rest = await kept.page(ANN, "openai", limit=2, after=page.next, purpose="a")
    assert ([row.name for row in rest.items], rest.next) == (["a1"], None)
    assert (await kept.page(ANN, "openai", limit=9, newest_first=False)).items == tuple(rows)
    with pytest.raises(InvalidRequest):
        await kept.page(BOB, "openai", limit=2, after=rows[0].id)


async def test_a_file_that_is_too_long_leaves_nothing(kept: KeptFiles) -> None:
    with pytest.raises(TooLarge):
        await kept.put(ANN, "openai", "big", pieces(bytes(MIB), b"1"))
    assert (await kept.page(ANN, "openai", limit=10)).items == ()


async def test_kept_bytes_count_among_those_of_their_key(kept: KeptFiles, store: Store) -> None:
    await kept.put(POOR, "openai", "a", pieces(b"12345678"))
    assert await store.stored_bytes(POOR.id) == 8
    with pytest.raises(RateLimited):
        await kept.put(POOR, "openai", "b", pieces(b"123"))


async def test_a_sessions_file_that_is_kept_outlives_the_session(kept: KeptFiles, store: Store, files: Files) -> None:
    session = SessionRow("ses_1", ANN.id, "n", 1, "active", "python", 512, 60.0, {}, 1.0, 1.0)
    await store.add_session(session)
    async with files.put(b"chart") as stored:
        row = FileRow("file_1", session.id, ANN.id, "out/chart.png", stored.digest, stored.size, "image/png", 1.0)
        await store.put_files([row])
    mine = await kept.keep(ANN, "openai", row, purpose="assistants_output")
    await store.drop_files(session.id)
    assert await store.unreferenced([mine.digest]) == set()
    assert (mine.name, mine.mime) == ("chart.png", "image/png")
    assert await read(kept, mine) == b"chart"
    await kept.remove(ANN, "openai", mine.id)
    assert await store.unreferenced([mine.digest]) == {mine.digest}
