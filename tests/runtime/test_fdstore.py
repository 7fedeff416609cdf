"""Descriptors that outlive an engine: who gets them, and that nobody else has them for long."""

import asyncio
import contextlib
import os
import re
import select
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sandbox.config import Settings
from sandbox.engine import Engine
from sandbox.image import Image
from sandbox.runtime.docker.fdstore import FdStore
from sandbox.runtime.docker.systemd import Systemd
from tests import systemd
from tests.docker import ROOT
from tests.host import WAIT_SECONDS, until

ENGINE = """
import asyncio, os, signal, sys
from pathlib import Path
from sandbox.runtime.docker import fdstore

async def main():
    fdstore.HOLD_S = float(sys.argv[2])
    async with fdstore.FdStore.open(Path(sys.argv[1])) as store:
        for name, fd in (each.split("=") for each in sys.argv[3:]):
            store.keep(name, int(fd))
        await store._starting
        {then}
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


class Pipe:
    """What is kept of it is the end that is written to."""

    def __init__(self) -> None:
        self.end, self.kept = os.pipe()

    def is_where(self, fd: int) -> bool:
        """Whether what is written to `fd` comes out of it."""
        os.write(fd, b".")
        readable, _, _ = select.select([self.end], [], [], 0)
        return readable == [self.end] and os.read(self.end, 1) == b"."

    async def closed(self) -> None:
        """Until nobody can write any more; we can no longer from now on."""
        os.close(self.kept)
        self.kept = -1
        readable, _, _ = await asyncio.to_thread(select.select, [self.end], [], [], WAIT_SECONDS)
        assert readable
        assert os.read(self.end, 1) == b""

    def close(self) -> None:
        os.close(self.end)
        if self.kept >= 0:
            os.close(self.kept)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    with contextlib.closing(Pipe()) as pipe:
        yield pipe


@pytest.fixture
def other() -> Iterator[Pipe]:
    with contextlib.closing(Pipe()) as pipe:
        yield pipe


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """With a name that no address of a socket has room for."""
    directory = tmp_path / ("long" * 50)
    directory.mkdir()
    return directory / "fdstore"


async def died(place: Path, *kept: str, hold: float = 60.0, then: str = "") -> None:
    """An engine has kept these, then did as told, and was killed."""
    fds = [int(each.partition("=")[2]) for each in kept]
    engine = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ENGINE.format(then=then), str(place), str(hold), *kept), pass_fds=fds
    )
    assert await engine.wait() == -signal.SIGKILL


@contextlib.asynccontextmanager
async def inherited(place: Path) -> AsyncIterator[dict[str, int]]:
    """What the next engine is left."""
    async with FdStore.open(place) as store:
        yield store.inherited


async def test_what_a_killed_engine_kept_is_the_next_ones(place: Path, pipe: Pipe, other: Pipe) -> None:
    await died(place, f"pipe={pipe.kept}", f"other={other.kept}")
    async with inherited(place) as left:
        assert sorted(left) == ["other", "pipe"]
        assert pipe.is_where(left["pipe"])
        assert other.is_where(left["other"])
        assert not any(os.get_inheritable(fd) for fd in left.values())
        async with inherited(place) as nothing:
            assert nothing == {}, "it is one engine's"
    await pipe.closed()
    await other.closed()


async def test_what_was_dropped_at_the_last_moment_is_nobodys(place: Path, pipe: Pipe, other: Pipe) -> None:
    await died(place, f"pipe={pipe.kept}", f"other={other.kept}", then="store.drop('pipe')")
    await pipe.closed()
    async with inherited(place) as left:
        assert [*left] == ["other"]


async def test_what_nobody_comes_for_is_closed(place: Path, pipe: Pipe) -> None:
    await died(place, f"pipe={pipe.kept}", hold=0.1)
    await pipe.closed()
    async with inherited(place) as left:
        assert left == {}


async def test_an_engine_that_ends_leaves_nothing(place: Path, pipe: Pipe) -> None:
    async with FdStore.open(place) as store:
        store.keep("pipe", pipe.kept)
    async with inherited(place) as left:
        assert left == {}
    await pipe.closed()
    assert [*place.parent.iterdir()] == []


async def test_where_nothing_is_kept_there_is_no_process(place: Path) -> None:
    async with FdStore.open(place) as store:
        store.drop("nothing")
        assert store._starting is None


async def test_a_process_that_hears_nothing_any_more_is_ended(place: Path, pipe: Pipe, other: Pipe) -> None:
    async with FdStore.open(place) as store:
        store.keep("pipe", pipe.kept)
        assert store._starting is not None
        process = await store._starting
        process.send_signal(signal.SIGSTOP)
        for _ in range(2_000):  # more than its socket has room for
            store.keep("other", other.kept)
            store.drop("other")
        await pipe.closed()
        assert await process.wait() == -signal.SIGKILL
        store.keep("other", other.kept)
        store.drop("other")
        await other.closed()


async def test_the_death_of_its_process_is_nobodys_trouble(place: Path, pipe: Pipe, other: Pipe) -> None:
    async with FdStore.open(place) as store:
        store.keep("pipe", pipe.kept)
        assert store._starting is not None
        process = await store._starting
        process.kill()
        await process.wait()
        await pipe.closed()
        store.keep("other", other.kept)
        store.drop("pipe")
        await other.closed()


async def test_a_process_that_cannot_be_started_keeps_nothing(
    place: Path, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(place / "none"))
    async with FdStore.open(place) as store:
        store.keep("pipe", pipe.kept)
        await pipe.closed()
        store.drop("pipe")


async def test_where_there_can_be_no_socket_nothing_is_kept(place: Path, pipe: Pipe) -> None:
    async with FdStore.open(place.with_name("x" * 250)) as store:  # a name that a file may have, and a socket may not
        store.keep("pipe", pipe.kept)
        await pipe.closed()


async def test_systemd_is_told_again_what_it_had_no_room_for(tmp_path: Path, pipe: Pipe) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "notify"))
        deaf.setblocking(False)
        said = Systemd(str(tmp_path / "notify"))
        said.keep("kept", pipe.kept)
        for number in range(1_000):  # more than there is room for
            said.drop(str(number))
        said.keep("too late", pipe.kept)
        heard = list[str]()

        def hear() -> bool:
            with contextlib.suppress(BlockingIOError):
                while True:
                    words, fds, _, _ = socket.recv_fds(deaf, 4096, 1)
                    heard.append(words.decode())
                    for fd in fds:
                        os.close(fd)
            return len(heard) == 1_001

        await until(hear)
        assert [heard[0], heard[-1]] == [
            "FDSTORE=1\nFDNAME=sandbox-kept\nFDPOLL=0",
            "FDSTOREREMOVE=1\nFDNAME=sandbox-999",
        ]


async def test_what_systemd_keeps_of_others_is_left_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    first = max(map(int, os.listdir("/proc/self/fd"))) + 1  # one after the other, as systemd passes them
    fds = [os.dup2(null, fd) for fd in range(first, first + 3)]
    monkeypatch.setattr("sandbox.runtime.docker.systemd._FIRST", first)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDNAMES", "theirs:sandbox-ours:http")
    assert Systemd(None).inherit() == {"ours": fds[1]}
    assert os.environ["LISTEN_FDNAMES"] == "theirs::http"
    assert Systemd(None).inherit() == {}
    for fd in (null, *fds):
        os.close(fd)


async def test_an_engine_that_makes_no_containers_closes_what_systemd_kept_of_them(
    root: None, python_image: Image, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.runtime.docker.systemd._FIRST", os.dup(pipe.kept))
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDNAMES", "sandbox-container")
    async with Engine.open(Settings.load().model_copy(update={"runtime": "embedded"}), warm=False):
        await pipe.closed()


ONE_OF_THREE = """
import asyncio, os, signal
from pathlib import Path
from sandbox.config import Settings
from sandbox.engine import Engine
from sandbox.image import Image
from sandbox.runtime.docker.fdstore import FdStore

async def main():
    directory = Path({directory!r})
    (directory / "fdstore").unlink(missing_ok=True)  # nobody comes to the process any more, should it live
    async with FdStore.open(directory / "fdstore") as store:
        with (directory / "lives").open("a") as lives:
            print(*store.inherited, file=lives)
        for fd in store.inherited.values():
            os.write(fd, b"inherited")
        if len((directory / "lives").read_text().splitlines()) == 3:
            return
        if not store.inherited:
            for name in ("kept", "dropped"):
                store.keep(name, os.open(directory / name, os.O_WRONLY | os.O_CREAT))
            await store._starting
            store.drop("dropped")
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_systemd_keeps_them_where_all_of_a_dead_servers_processes_are_killed(root: None, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(ONE_OF_THREE.format(directory=str(tmp_path)))
    unit = (ROOT / "deploy" / "sandbox.service").read_text()
    as_deployed = [line for line in unit.splitlines() if re.match("(FileDescriptorStoreMax|KillMode|Restart)=", line)]
    assert len(as_deployed) == 3
    service = ["Type=exec", f"ExecStart={sys.executable} {program}", f"Environment=PYTHONPATH={ROOT}", "RestartSec=0"]
    lives = tmp_path / "lives"
    with systemd.booted(tmp_path, [*service, *as_deployed]):
        await until(lambda: lives.exists() and len(lives.read_text().splitlines()) == 3)
    assert lives.read_text().splitlines() == ["", "kept", ""], "nothing, then what was kept; it is inherited once"
    assert [(tmp_path / name).read_text() for name in ("kept", "dropped")] == ["inherited", ""]
