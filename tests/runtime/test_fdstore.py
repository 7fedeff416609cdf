"""Descriptors that outlive an engine: who gets them, and that nobody else has them for long."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.runtime.docker.fdstore import FdStore, inherit
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
        return os.read(self.end, 1) == b"."

    async def closed(self) -> None:
        """Until nobody can write any more; we can no longer from now on."""
        os.close(self.kept)
        self.kept = -1
        async with asyncio.timeout(WAIT_SECONDS):
            assert await asyncio.to_thread(os.read, self.end, 1) == b""

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


async def died(directory: Path, *kept: str, hold: float = 60.0, then: str = "await store._starting") -> None:
    """An engine has kept these, then did as told, and was killed."""
    fds = [int(each.partition("=")[2]) for each in kept]
    engine = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ENGINE.format(then=then), str(directory), str(hold), *kept), pass_fds=fds
    )
    assert await engine.wait() == -signal.SIGKILL


async def test_what_a_killed_engine_kept_is_the_next_ones(tmp_path: Path, pipe: Pipe, other: Pipe) -> None:
    await died(tmp_path, f"pipe={pipe.kept}", f"other={other.kept}")
    inherited = inherit(tmp_path)
    assert sorted(inherited) == ["other", "pipe"]
    assert pipe.is_where(inherited["pipe"])
    assert other.is_where(inherited["other"])
    assert not any(os.get_inheritable(fd) for fd in inherited.values())
    assert inherit(tmp_path) == {}, "it is one engine's"
    for fd in inherited.values():
        os.close(fd)
    await pipe.closed()
    await other.closed()


async def test_what_was_dropped_at_the_last_moment_is_nobodys(tmp_path: Path, pipe: Pipe, other: Pipe) -> None:
    await died(tmp_path, f"pipe={pipe.kept}", f"other={other.kept}", then="store.drop('pipe'); await store._starting")
    await pipe.closed()
    inherited = inherit(tmp_path)
    assert [*inherited] == ["other"]
    os.close(inherited["other"])


async def test_what_nobody_comes_for_is_closed(tmp_path: Path, pipe: Pipe) -> None:
    await died(tmp_path, f"pipe={pipe.kept}", hold=0.1)
    await pipe.closed()
    assert inherit(tmp_path) == {}


async def test_an_engine_that_ends_leaves_nothing(tmp_path: Path, pipe: Pipe) -> None:
    async with FdStore.open(tmp_path) as store:
        store.keep("pipe", pipe.kept)
        assert pipe.kept >= 0
    assert inherit(tmp_path) == {}
    await pipe.closed()


async def test_where_nothing_is_kept_there_is_no_process(tmp_path: Path) -> None:
    async with FdStore.open(tmp_path) as store:
        store.drop("nothing")
        assert store._starting is None


async def test_a_store_that_hears_nothing_any_more_is_ended(tmp_path: Path, pipe: Pipe, other: Pipe) -> None:
    async with FdStore.open(tmp_path) as store:
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


async def test_its_death_is_nobodys_trouble(tmp_path: Path, pipe: Pipe, other: Pipe) -> None:
    async with FdStore.open(tmp_path) as store:
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
    tmp_path: Path, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    async with FdStore.open(tmp_path) as store:
        store.keep("pipe", pipe.kept)
        await pipe.closed()
        store.drop("pipe")


ONE_OF_THREE = """
import asyncio, os, signal
from pathlib import Path
from sandbox.runtime.docker.fdstore import FdStore, inherit

async def main():
    directory = Path({directory!r})
    inherited = inherit(directory)
    with (directory / "lives").open("a") as lives:
        print(*inherited, file=lives)
    for fd in inherited.values():
        os.write(fd, b"inherited")
    if len((directory / "lives").read_text().splitlines()) == 3:
        return
    (directory / "fdstore").unlink(missing_ok=True)
    async with FdStore.open(directory) as store:
        if not inherited:
            for name in ("kept", "dropped"):
                store.keep(name, os.open(directory / name, os.O_WRONLY | os.O_CREAT))
            store.drop("dropped")
            await store._starting
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
