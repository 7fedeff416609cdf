"""Files that a program leaves for the server to trip over, on every runtime."""

import ast
import contextlib
import io
import zipfile
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import pytest
from docker import APIClient

from sandbox.engine import Engine
from sandbox.errors import FileMissing, InvalidPath
from sandbox.execution import Status
from sandbox.session import Session
from tests.runtime.escape.probes import inside, outside_once

SOURCES = Path(__file__).parents[3] / "sandbox"
SERVER = [path for path in SOURCES.rglob("*.py") if not {"guest", "runtime"} & set(path.relative_to(SOURCES).parts)]
"""What may be given a program's files."""


@pytest.fixture
async def empty(onlooker: Session) -> AsyncIterator[Session]:
    """The onlookers' session with an empty workspace, before and after."""
    clear = "for name in os.listdir('/mnt/data'): subprocess.run(['rm', '-rf', f'/mnt/data/{name}'])"
    await inside(onlooker, clear)
    yield onlooker
    await inside(onlooker, clear)


async def is_refused(session: Session, path: str) -> bool:
    """Whether nobody can download it."""
    with pytest.raises((InvalidPath, FileMissing)):
        await session.download(path)
    return True


@pytest.mark.attack("B01", "B02")
@pytest.mark.parametrize(
    "target", ["/etc/passwd", "/proc/self/environ", "/proc/self/root/etc/passwd", "/proc/1/root/etc/passwd", "kept"]
)
async def test_a_link_is_neither_listed_nor_followed(empty: Session, target: str) -> None:
    await empty.upload("kept", b"kept")
    await inside(empty, f"os.symlink({target!r}, '/mnt/data/link')")
    assert [file.path for file in await empty.list()] == ["kept"]
    assert await is_refused(empty, "link")


@pytest.mark.attack("B03")
async def test_a_directory_that_is_a_link_leads_nowhere(empty: Session) -> None:
    await inside(empty, "os.symlink('/etc', '/mnt/data/d'); os.symlink('/tmp', '/mnt/data/t')")
    assert await is_refused(empty, "d/passwd")
    with pytest.raises((InvalidPath, FileMissing)):
        await empty.upload("t/canary", b"x")
    assert await inside(empty, "return str(os.path.exists('/tmp/canary'))") == "False"


@pytest.mark.attack("B06")
@pytest.mark.parametrize("target", ["/usr/bin/env", "/etc/passwd", "/tmp/mine"])
async def test_no_file_of_another_mount_gets_a_name_here(empty: Session, tmp_path: Path, target: str) -> None:
    (tmp_path / "mine").touch()
    assert outside_once(f"os.link({str(tmp_path / 'mine')!r}, {str(tmp_path / 'link')!r})") == "done"
    probe = f"open('/tmp/mine', 'w').close(); os.link({target!r}, '/mnt/data/link')"
    assert await inside(empty, probe) in ("EXDEV", "EPERM", "EACCES", "EROFS")
    assert await empty.list() == []


@pytest.mark.attack("B08")
async def test_a_socket_is_no_file(empty: Session) -> None:
    await inside(empty, "with socket.socket(socket.AF_UNIX) as sock: sock.bind('/mnt/data/out.csv')")
    assert await empty.list() == []
    assert await is_refused(empty, "out.csv")


@pytest.mark.attack("B14")
async def test_an_upload_onto_a_link_replaces_the_link(empty: Session) -> None:
    await inside(empty, "open('/tmp/target', 'w').write('safe'); os.symlink('/tmp/target', '/mnt/data/link')")
    await empty.upload("link", b"new")
    assert await inside(empty, 'return f\'{os.path.islink("/mnt/data/link")} {open("/tmp/target").read()}\'') == (
        "False safe"
    )
    assert await empty.download("link") == b"new"


@pytest.mark.attack("B11")
async def test_a_deep_tree_ends_the_walk_and_nothing_else(empty: Session) -> None:
    probe = "for _ in range(1000): os.mkdir('d'); os.chdir('d')\nopen('deep', 'w').close(); os.chdir('/mnt/data')"
    assert await inside(empty, f"os.chdir('/mnt/data')\n{probe}") == "done"
    await empty.upload("x", b"x")
    assert [file.path for file in await empty.list()] == ["x"]


INTERFERE = """
path, = glob.glob("/mnt/data/.*.upload")
with contextlib.suppress(BlockingIOError):
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    os.pwrite(fd, b"evil", 0)
"""


@pytest.mark.parametrize("interferes", [True, False])
async def test_what_a_program_does_to_an_upload_on_its_way_is_a_change(empty: Session, interferes: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"good" * 100_000  # more than is sent with the first call
        await inside(empty, INTERFERE if interferes else "pass")
        yield b" end"

    file = await empty.upload("x", pieces())
    (seen,) = await empty.list()
    assert (file.version != seen.version) == interferes


@pytest.mark.parametrize("lease", ["fcntl.F_RDLCK", "fcntl.F_WRLCK"])
async def test_a_lease_keeps_nobody_from_a_file(empty: Session, lease: str) -> None:
    await inside(
        empty,
        f"""
signal.signal(signal.SIGIO, signal.SIG_IGN)
open("/mnt/data/x", "w").write("kept")
with contextlib.suppress(OSError):
    globals()["leased"] = os.open("/mnt/data/x", os.O_RDWR if {lease} == fcntl.F_WRLCK else os.O_RDONLY)
    fcntl.fcntl(leased, fcntl.F_SETLEASE, {lease})
""",
    )
    assert await empty.download("x") == b"kept"


@pytest.mark.attack("B16")
async def test_an_archive_that_would_be_large_is_stored_as_it_is(empty: Session) -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(64 << 20))
        archive.writestr("../../etc/cron.d/x", b"x")
    data = bomb.getvalue()
    assert len(data) < 1 << 20
    await empty.upload("bomb.zip", data)
    assert [(file.path, file.size) for file in await empty.list()] == [("bomb.zip", len(data))]
    assert await empty.download("bomb.zip") == data


RACE = """
import os
os.chdir("/mnt/data")
open("/tmp/secret", "w").write("secret")
open("good", "w").write("good")
os.makedirs("d", exist_ok=True)
os.makedirs("/tmp/e", exist_ok=True)
open("d/x", "w").write("good")
open("/tmp/e/x", "w").write("secret")
print("on", flush=True)
while True:
    os.link("good", "new"); os.rename("new", "x")
    os.symlink("/tmp/secret", "new"); os.rename("new", "x")
    os.rename("d", "away"); os.symlink("/tmp/e", "d"); os.unlink("d"); os.rename("away", "d")
"""


@pytest.mark.attack("B04", "B05")
@pytest.mark.parametrize(
    "tries", [pytest.param(150, id="150"), pytest.param(50_000, id="50000", marks=pytest.mark.nightly)]
)
async def test_a_race_of_links_with_files_and_directories_leaks_nothing(session: Session, tries: int) -> None:
    seen = set()
    async with contextlib.aclosing(session.stream(RACE, 600)) as outputs:
        await anext(outputs)
        for _ in range(tries):
            for path in ("x", "d/x"):
                with contextlib.suppress(FileMissing, InvalidPath):
                    seen.add(await session.download(path))
    assert seen == {b"good"}


def called(path: Path) -> set[str]:
    """The names of what a module calls, and of what it imports."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {node.func.attr for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}
    return names | {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}


@pytest.mark.attack("B15", "B16", "B19")
def test_the_server_maps_unpacks_and_gives_away_no_file() -> None:
    assert len(SERVER) > 100
    dangerous = {"chown", "lchown", "fchown", "mmap", "zipfile", "tarfile", "unpack_archive", "extractall"}
    assert {path.name: called(path) & dangerous for path in SERVER if called(path) & dangerous} == {}


@pytest.mark.attack("B25")
async def test_no_container_is_entered_and_no_file_copied_by_the_daemon(
    runc_engine: Engine, docker_client: APIClient
) -> None:
    begun = docker_client.info()["SystemTime"]
    async with runc_engine.session() as session:
        await session.upload("x", b"x")
        assert (await session.execute("open('y', 'w').write('y')")).status is Status.OK
        assert await session.download("y") == b"y"
        await session.restart()
    ended = docker_client.info()["SystemTime"]
    told = docker_client.events(since=seconds(begun), until=seconds(ended) + 1, decode=True)
    actions = {event["Action"].partition(":")[0] for event in told if event["Type"] == "container"}
    assert {"create", "start", "destroy"} <= actions
    assert not {action for action in actions if action.startswith(("exec", "archive", "extract", "copy", "attach"))}


def seconds(time: str) -> int:
    """Of the epoch, of a time as the daemon tells it."""
    return int(datetime.fromisoformat(time[:19] + "+00:00").timestamp())
