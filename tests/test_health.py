"""How a node says that it is, to people it knows and to strangers."""

import asyncio
import sqlite3
from pathlib import Path

import httpx
import pytest

from sandbox.config import Settings
from sandbox.engine import Engine
from sandbox.health import Checkup, Memory, Reason
from sandbox.pool import Pool
from sandbox.runtime.embedded import linux
from sandbox.store import Store
from tests.api.conftest import NewDataDir, add_key, new_data_dir
from tests.api.served import serving
from tests.test_admission import Machine

__all__ = ["new_data_dir"]


@pytest.fixture
async def pool(engine: Engine) -> Pool:
    """One that no longer warms up."""
    await engine.pool.fill()
    return engine.pool


async def test_an_upstream_that_fails_is_told_but_takes_nobodys_work_away(pool: Pool, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    async with Store.open(settings.database) as store:
        states = {"good": "closed", "bad": "open"}
        found = await Checkup(settings, store, pool, Memory(), lambda: states).health()
        assert found.ready
        assert [reason.detail for reason in found.reasons] == ["bad"]


async def test_a_machine_without_memory_takes_no_work(pool: Pool, tmp_path: Path) -> None:
    machine, settings = Machine(tmp_path / "machine"), Settings(data_dir=tmp_path)
    async with Store.open(settings.database) as store:
        plenty = Checkup(settings, store, pool, Memory(machine.root), dict)
        assert (await plenty.health()).ready
        machine.write("proc/meminfo", "MemTotal: 16777216 kB\nMemFree: 1 kB\nMemAvailable: 100000 kB\n")
        found = await Checkup(settings, store, pool, Memory(machine.root), dict).health()
        assert not found.ready
        assert Reason("less than 256 MiB of memory are left") in found.reasons


async def test_however_many_ask_the_database_is_asked_once(pool: Pool, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    async with Store.open(settings.database) as store:
        checkup = Checkup(settings, store, pool, Memory(), dict)
        first, *others = await asyncio.gather(*(checkup.health() for _ in range(100)))
        assert all(other is first for other in others)
        assert (await checkup.health()).stopping().draining


async def test_a_database_that_does_not_answer_takes_no_work(pool: Pool, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    async with Store.open(settings.database) as store:
        with sqlite3.connect(tmp_path / "sandbox.db", isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            found = await Checkup(settings, store, pool, Memory(), dict).health()
            other.execute("COMMIT")
        other.close()
        assert not found.ready
        assert "the database does not answer" in [reason.words for reason in found.reasons]


async def test_degraded_is_told_to_all_and_the_details_to_whom_the_server_knows(new_data_dir: NewDataDir) -> None:
    data_dir = new_data_dir()
    linux.mount("tmpfs", str(data_dir), "tmpfs", 0, "size=100m")
    try:
        key = await add_key(data_dir)
        async with serving(data_dir, pool_size=0) as served, served.client(key) as known, served.client() as stranger:
            assert (await known.post("/v1/run", json={"code": "1"})).is_success  # it no longer warms up
            assert _told(await known.get("/health")) == [f"less than 256 MiB of disk are left: for {data_dir}"]
            assert _told(await stranger.get("/health")) == ["less than 256 MiB of disk are left"]
    finally:
        linux.umount(str(data_dir))


def _told(response: httpx.Response) -> list[str]:
    told = response.json()
    assert (response.status_code, told["status"], told["ready"]) == (200, "degraded", True)
    reasons: list[str] = told["reasons"]
    return reasons
