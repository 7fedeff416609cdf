"""The template that all kernels of an embedded runtime are forked from: alone, unchanged, out of everybody's way."""

import asyncio
from pathlib import Path

import pytest

from sandbox.engine import Engine
from sandbox.session import Session
from tests.host import command, status
from tests.runtime.escape.probes import inside, pid_of, told


@pytest.fixture
def engine(embedded_engine: Engine) -> Engine:
    return embedded_engine


@pytest.fixture
async def zygote(session: Session) -> int:
    """As the host numbers it."""
    parent = int(status(await pid_of(session))["PPid"][0])
    assert "sandbox.runtime.embedded.zygote" in command(parent)
    return parent


def anonymous_kib(pid: int) -> int:
    """What it holds, whether or not children still share it: a page they let go of becomes private, not new."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous"))


def maps(pid: int) -> list[str]:
    """Its memory as the host sees it."""
    return Path(f"/proc/{pid}/maps").read_text().splitlines()


@pytest.mark.attack("K01")
async def test_it_has_one_thread_whatever_its_children_do(session: Session, zygote: int) -> None:
    await inside(session, "import numpy; numpy.linalg.svd(numpy.ones((200, 200)))")
    assert status(zygote)["Threads"] == ["1"]


@pytest.mark.attack("K06", "F16")
async def test_a_child_that_writes_every_page_it_shares_pays_for_all_of_them(session: Session, zygote: int) -> None:
    before = anonymous_kib(zygote)
    write = """
        import gc
        gc.unfreeze()
        for thing in gc.get_objects():
            sys.getrefcount(thing)
        gc.collect()
        return "written"
    """
    assert await inside(session, write) == "written"
    assert anonymous_kib(zygote) <= before + 1024
    execution = await session.execute("x = 1")
    assert execution.peak_memory_bytes <= 512 << 20


@pytest.mark.attack("F16")
async def test_no_memory_is_shared_in_which_a_child_could_write(session: Session) -> None:
    lines = maps(await pid_of(session))
    assert len(lines) > 100
    # But for what it shares with its own init: text that waits to be sent.
    shared = [line for line in lines if line.split()[1] == "rw-s" and not line.endswith("/memfd:pending (deleted)")]
    assert shared == []


@pytest.mark.attack("F10")
async def test_all_its_children_have_its_address_layout_as_is_said(session: Session, other: Session) -> None:
    # A non-promise: should this ever fail, SECURITY.md promises too little.
    where = "return str([line.split('-')[0] for line in open('/proc/self/maps') if 'libc' in line][:1])"
    ours, theirs = await inside(session, where), await inside(other, where)
    if ours in ("EACCES", "ENOENT", "[]"):
        pytest.skip("a kernel cannot read its own map")
    assert ours == theirs


@pytest.mark.attack("K03")
@pytest.mark.parametrize("forks", [pytest.param(3, id="3"), pytest.param(1000, id="1000", marks=pytest.mark.nightly)])
async def test_children_compute_with_threads_of_their_own(engine: Engine, forks: int) -> None:
    probe = """
        import numpy
        from joblib import Parallel, delayed
        from scipy import linalg
        from threadpoolctl import threadpool_limits
        matrix = numpy.random.default_rng(1).random((120, 120))
        with threadpool_limits(4):
            ranks = [numpy.linalg.inv(matrix).shape[0], numpy.linalg.svd(matrix)[1].size, linalg.lu(matrix)[0].shape[0]]
        ranks += Parallel(2, prefer="threads")(delayed(numpy.linalg.matrix_rank)(matrix) for _ in range(2))
        return json.dumps([int(rank) for rank in ranks])
    """
    for _ in range(forks):
        async with engine.session() as session:
            assert await told(session, probe) == [120] * 5


@pytest.mark.attack("K09")
async def test_what_one_changes_in_a_module_the_next_does_not_see(session: Session, engine: Engine) -> None:
    await inside(session, "import numpy, builtins; numpy.canary = builtins.canary = 1")
    async with engine.session() as later:
        assert await inside(later, "import numpy; return str(hasattr(numpy, 'canary'))") == "False"


@pytest.mark.attack("F09", "K09")
async def test_children_of_the_same_moment_draw_different_numbers(engine: Engine) -> None:
    draw = (
        "import numpy, random, tempfile; return json.dumps([numpy.random.rand(), random.random(), tempfile.mktemp()])"
    )

    async def drawn() -> list[str]:
        async with engine.session() as session:
            return [str(item) for item in await told(session, draw)]

    draws = await asyncio.gather(*(drawn() for _ in range(4)))
    assert all(len(set(column)) == 4 for column in zip(*draws, strict=True))
