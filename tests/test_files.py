import asyncio
import contextlib
import hashlib
import os
import random
import shutil
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator
from pathlib import Path

import pytest

from sandbox.errors import FileMissing, Overloaded, TooLarge, Unready
from sandbox.files import Files
from sandbox.files.disk import MANY
from sandbox.files.reading import PIECE


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "files"


@pytest.fixture
def files(directory: Path) -> Iterator[Files]:
    with Files.open(directory) as files:
        yield files
    assert not [name for name in open_files() if name.startswith(str(directory))]


def open_files() -> Iterator[str]:
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            yield os.readlink(f"/proc/self/fd/{fd}")


def blobs(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("??/*"))


def incoming(directory: Path) -> list[str]:
    return os.listdir(directory / "incoming")


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def kept(files: Files, data: bytes | AsyncIterable[bytes]) -> str:
    async with files.put(data) as stored:
        return stored.digest


async def content(files: Files, digest: str, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([piece async for piece in files.pieces(digest, start, end)])


async def everything(digests: tuple[str, ...]) -> set[str]:
    return set(digests)


async def endless(piece: bytes) -> AsyncGenerator[bytes, None]:
    while True:
        yield piece


async def cut(data: bytes, length: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), length):
        yield data[start : start + length]


@pytest.mark.parametrize("length", [1, 65_536, PIECE, 3 * PIECE])
async def test_what_is_put_in_any_cutting_comes_back(files: Files, length: int) -> None:
    data = random.randbytes(5 * PIECE + 7 if length > 1 else 3000)
    async with files.put(cut(data, length)) as stored:
        assert (stored.digest, stored.size) == (digest_of(data), len(data))
    assert await content(files, stored.digest) == data


async def test_no_bytes_are_bytes_too(files: Files) -> None:
    assert await content(files, await kept(files, b"")) == b""


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 0), (0, 1), (5, None), (PIECE - 1, PIECE + 1), (7, 2 * PIECE), (2 * PIECE, None), (9, 5), (0, 99 * PIECE)],
)
async def test_a_range_is_what_a_slice_is(files: Files, start: int, end: int | None) -> None:
    data = random.randbytes(2 * PIECE + 11)
    assert await content(files, await kept(files, data), start, end) == data[start:end]


async def test_the_same_bytes_are_stored_once(files: Files, directory: Path) -> None:
    data = random.randbytes(2 * PIECE)
    digests = await asyncio.gather(*(kept(files, cut(data, 1 + number * 100_000)) for number in range(1, 9)))
    assert set(digests) == {digest_of(data)}
    assert (blobs(directory), incoming(directory)) == ([digest_of(data)], [])


async def test_several_are_put_at_once_and_each_is_stored_once(files: Files, directory: Path) -> None:
    there = await kept(files, b"there")
    contents = [b"a", b"", b"there", b"a", random.randbytes(1000)]
    async with files.put_all(contents) as stored:
        assert [(each.digest, each.size) for each in stored] == [(digest_of(each), len(each)) for each in contents]
        assert await files.collect(everything) == 0, "they are held"
    assert blobs(directory) == sorted({there, *(each.digest for each in stored)})
    assert [await content(files, each.digest) for each in stored] == contents
    assert incoming(directory) == []


async def test_none_put_at_once_is_nothing(files: Files, directory: Path) -> None:
    async with files.put_all([]) as stored:
        assert stored == []
    assert blobs(directory) == []


async def test_threads_that_store_have_no_precedence_over_sandboxes(root: None, directory: Path) -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, -5)
    try:
        with Files.open(directory) as files:
            await kept(files, b"x")
            names = {thread.native_id for thread in threading.enumerate() if thread.name.startswith("files")}
            assert {os.getpriority(os.PRIO_PROCESS, name or 0) for name in names} == {0}
            assert os.getpriority(os.PRIO_PROCESS, 0) == -5
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)


@pytest.mark.attack("B20")
async def test_nobody_else_on_the_host_can_read_them(files: Files, directory: Path) -> None:
    digest = await kept(files, b"secret")
    async with files.hold(digest) as path:
        modes = [oct(entry.stat().st_mode & 0o777) for entry in (path, path.parent, directory, directory / "incoming")]
    assert modes == ["0o600", "0o700", "0o700", "0o700"]


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n", "incoming", "0" * 64])
@pytest.mark.attack("B13")
async def test_a_name_that_is_no_digest_of_ours_is_missing(files: Files, name: str) -> None:
    with pytest.raises(FileMissing):
        await content(files, name)
    with pytest.raises(FileMissing):
        async with files.hold(name):
            pass
    assert await files.collect(everything, [name]) == 0


@pytest.mark.attack("B23")
async def test_a_body_that_never_ends_is_refused_at_the_limit(files: Files, directory: Path) -> None:
    body = endless(bytes(100_000))
    with pytest.raises(TooLarge):
        async with files.put(body, limit=5 * PIECE):
            pass
    assert (blobs(directory), incoming(directory)) == ([], [])
    with pytest.raises(StopAsyncIteration):  # it was closed, with whatever it held
        await anext(body)


async def test_the_caller_says_what_too_large_means(files: Files) -> None:
    with pytest.raises(BlockingIOError, match="mine"):
        async with files.put(b"1234", limit=3, too_large=lambda: BlockingIOError("mine")):
            pass
    async with files.put(b"123", limit=3) as stored:
        assert stored.size == 3


@pytest.mark.attack("B23")
async def test_an_upload_that_fails_leaves_nothing(files: Files, directory: Path) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield bytes(3 * PIECE)
        raise ConnectionResetError("the client went away")

    with pytest.raises(ConnectionResetError):
        await kept(files, failing())
    assert (blobs(directory), incoming(directory)) == ([], [])


async def test_an_upload_that_is_cancelled_anywhere_leaves_nothing_and_no_descriptor(
    files: Files, directory: Path
) -> None:
    for turns in range(40):
        task = asyncio.create_task(kept(files, endless(random.randbytes(300_000))))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (blobs(directory), incoming(directory)) == ([], [])


async def test_memory_does_not_grow_with_the_file(files: Files) -> None:
    async def long() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield bytes(65_536)

    tracemalloc.start()
    try:
        digest = await kept(files, long())
        assert sum([len(piece) async for piece in files.pieces(digest)]) == 65_536_000
        # Some are on their way, and there twice while they grow.
        assert tracemalloc.get_traced_memory()[1] < 10 * PIECE
    finally:
        tracemalloc.stop()


async def test_the_collector_takes_what_no_row_names(files: Files, directory: Path) -> None:
    named, garbage = await kept(files, b"named"), await kept(files, b"garbage")

    async def unreferenced(digests: tuple[str, ...]) -> set[str]:
        return set(digests) - {named}

    assert await files.collect(unreferenced, [named]) == 0
    assert await files.collect(unreferenced) == 1
    assert blobs(directory) == [named]
    with pytest.raises(FileMissing):
        await content(files, garbage)


async def test_what_is_held_is_not_collected(files: Files) -> None:
    async with files.put(b"mine") as stored:
        assert await files.collect(everything) == 0
    async with files.hold(stored.digest), files.hold(stored.digest):
        assert await files.collect(everything) == 0
    assert await files.collect(everything) == 1


async def test_bytes_that_come_again_while_the_store_is_asked_about_them_stay(files: Files) -> None:
    digest = await kept(files, b"again")

    async def too_late(digests: tuple[str, ...]) -> set[str]:
        assert digests == (digest,)
        await kept(files, b"again")  # whose row is written after the answer was found
        return set(digests)

    assert await files.collect(too_late) == 0
    assert await content(files, digest) == b"again"


async def test_bytes_that_get_another_name_while_the_store_is_asked_about_them_stay(files: Files) -> None:
    digest = await kept(files, b"copied")

    async def too_late(digests: tuple[str, ...]) -> set[str]:
        async with files.hold(digest):
            return set(digests)

    assert await files.collect(too_late) == 0
    assert await content(files, digest) == b"copied"


async def test_bytes_that_come_again_while_they_are_removed_stay(files: Files, directory: Path) -> None:
    contents = [b"%d" % number for number in range(500)]
    digests = await asyncio.gather(*(kept(files, data) for data in contents))
    asked = asyncio.Event()

    async def unreferenced(digests: tuple[str, ...]) -> set[str]:
        asked.set()
        return set(digests)

    collecting = asyncio.create_task(files.collect(unreferenced, digests))
    await asked.wait()
    await asyncio.gather(*(kept(files, data) for data in contents))
    assert await collecting == 500
    assert blobs(directory) == sorted(digests)


async def test_a_download_goes_on_while_its_bytes_are_collected(files: Files) -> None:
    data = random.randbytes(3 * PIECE)
    async with contextlib.aclosing(files.pieces(await kept(files, data))) as pieces:
        parts = [await anext(pieces)]
        assert await files.collect(everything) == 1
        parts += [piece async for piece in pieces]
    assert b"".join(parts) == data


async def test_a_download_that_is_given_up_leaves_no_descriptor(files: Files) -> None:
    digest = await kept(files, bytes(3 * PIECE))
    async with contextlib.aclosing(files.pieces(digest)) as pieces:
        await anext(pieces)
    for turns in range(6):
        task = asyncio.create_task(content(files, digest))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_no_named_bytes_are_lost_among_many_who_put_drop_and_collect(files: Files, directory: Path) -> None:
    chance = random.Random(1)
    rows: list[str] = []

    async def unreferenced(digests: tuple[str, ...]) -> set[str]:
        found = set(digests) - set(rows)
        await asyncio.sleep(0)
        return found

    async def user() -> None:
        for _ in range(60):
            async with files.put(b"%d" % chance.randrange(4)) as stored:
                await asyncio.sleep(0)
                rows.append(stored.digest)
            assert await content(files, stored.digest)
            await asyncio.sleep(0)
            rows.remove(stored.digest)
            await files.collect(unreferenced, [stored.digest])

    async def sweeper() -> None:
        while True:
            collecting = asyncio.create_task(files.collect(unreferenced))
            for _ in range(chance.randrange(50)):
                await asyncio.sleep(0)
            collecting.cancel()
            await asyncio.wait([collecting])

    sweeping = asyncio.create_task(sweeper())
    await asyncio.gather(*(user() for _ in range(8)))
    sweeping.cancel()
    await asyncio.wait([sweeping])
    await files.collect(unreferenced)
    assert (rows, blobs(directory), incoming(directory)) == ([], [], [])


_SERVER = """
import asyncio, os, random, sys
from pathlib import Path
from sandbox.files import Files

async def client(files, number):
    async def body(length):
        while length > 0:
            yield random.randbytes(100_000)
            length -= 100_000
            await asyncio.sleep(0)
    while True:
        async with files.put(body(random.randrange(3_000_000))) as stored:
            os.write(1, f"{stored.digest} {stored.size}\\n".encode())
        async with files.put_all([random.randbytes(random.randrange(5000)) for _ in range(20)]) as all_stored:
            for stored in all_stored:
                os.write(1, f"{stored.digest} {stored.size}\\n".encode())

async def main():
    with Files.open(Path(sys.argv[1])) as files:
        await asyncio.gather(*(client(files, number) for number in range(4)))

asyncio.run(main())
"""


def test_a_server_killed_at_any_point_loses_nothing_and_leaves_nothing(directory: Path) -> None:
    for promised in (1, 2, 5, 9, 14):
        with subprocess.Popen([sys.executable, "-c", _SERVER, directory], stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            lines = [server.stdout.readline() for _ in range(promised)]
            server.kill()
            lines += server.stdout.readlines()
        sizes = {path.name: path.stat().st_size for path in directory.glob("??/*")}
        for digest, size in (line.split() for line in lines if line.endswith("\n")):
            assert sizes[digest] == int(size)
        for path in directory.glob("??/*"):
            assert digest_of(path.read_bytes()) == path.name
        with Files.open(directory):
            assert incoming(directory) == []


@pytest.fixture
def small_disk(root: None, tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


@contextlib.contextmanager
def mounted(image: Path, where: Path) -> Iterator[Path]:
    where.mkdir()
    subprocess.run(["mount", "-o", "loop", image, where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)


@pytest.fixture
def disk(root: None, tmp_path: Path) -> Path:
    """The image of a disk with an empty ext4."""
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    return image


@pytest.mark.parametrize("count", [1, MANY - 1, MANY, 100])
async def test_what_was_put_at_once_is_there_after_a_power_cut(disk: Path, tmp_path: Path, count: int) -> None:
    later = tmp_path / "later"
    contents = [random.randbytes(1000) for _ in range(count)]
    with mounted(disk, tmp_path / "now") as now, Files.open(now / "files") as files:
        async with files.put_all(contents) as stored:
            shutil.copyfile(disk, later)  # what is on the disk at this moment, and nothing of the kernel's memory
    with mounted(later, tmp_path / "then") as then, Files.open(then / "files") as files:
        assert [await content(files, each.digest) for each in stored] == contents


async def test_a_full_disk_is_said_so_and_does_not_stay_full(small_disk: Path) -> None:
    with Files.open(small_disk / "files") as files:
        first = await kept(files, random.randbytes(2 * PIECE))
        with pytest.raises(Overloaded, match="full"):
            await kept(files, endless(random.randbytes(50_000)))
        assert await content(files, await kept(files, b"small"))
        assert await files.collect(everything, [first]) == 1
        await kept(files, random.randbytes(3 * PIECE))


async def test_several_that_find_no_room_leave_nothing(small_disk: Path) -> None:
    directory = small_disk / "files"
    with Files.open(directory) as files:
        with pytest.raises(Overloaded, match="full"):
            async with files.put_all([random.randbytes(200_000) for _ in range(40)]):
                pass
        assert incoming(directory) == []
        assert list(directory.glob("??/*")) == []
        assert await content(files, await kept(files, b"small")) == b"small"


async def test_a_disk_that_cannot_be_used_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unready), Files.open(tmp_path / "file" / "files"):
        pass
    with Files.open(tmp_path / "files") as files:
        (tmp_path / "files" / "incoming").rmdir()
        with pytest.raises(Unready):
            await kept(files, b"data")
