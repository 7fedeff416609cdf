"""How fast and how small sandboxes are, without a server: each measure on an engine of its own.

Times are wall clock as a caller in this process sees them.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from sandbox.bench.figure import Figure, quantiles, runs
from sandbox.config import Settings
from sandbox.engine import Engine
from sandbox.errors import SandboxFailed
from sandbox.execution import Result, Status, Stream
from sandbox.session import Session

PLOT = """
import pandas, matplotlib.pyplot as plt
frame = pandas.DataFrame({"x": range(50)})
frame["y"] = frame.x ** 2
frame.plot(x="x", y="y")
plt.show()
"""
_REST_S = 1.0


async def warm(settings: Settings, scale: float) -> list[Figure]:
    """A fresh sandbox from the warm pool until the caller sees `1`."""
    times = []
    async with opened(settings, pool_size=4) as engine:
        for _ in range(runs(200, scale)):
            await engine.pool.settle()
            times.append(await fresh(engine))
    p50, p99 = quantiles(times)
    return [
        Figure("fresh warm sandbox to print(1) seen, p50", p50, "ms", 15, 8, len(times)),
        Figure("fresh warm sandbox to print(1) seen, p99", p99, "ms", 60, 60, len(times)),
    ]


async def cold(settings: Settings, scale: float) -> list[Figure]:
    """The same with the pool empty: one after the other, and, what takes longer, on a machine that had nothing to do;
    there without and with one that has all but its kernel.
    """
    async with opened(settings, pool_size=0) as engine:
        times = [await fresh(engine) for _ in range(runs(60, scale))]
    alone, helped = [await _after_rest(settings, runs(30, scale), standby_size=size) for size in (0, 1)]
    return [
        Figure("the same with the pool empty, p50", quantiles(times)[0], "ms", 120, 40, len(times)),
        Figure("and after a rest, p50", quantiles(alone)[0], "ms", 120, 40, len(alone)),
        Figure("and after a rest, one standing by, p50", quantiles(helped)[0], "ms", 120, 40, len(helped)),
    ]


async def _after_rest(settings: Settings, count: int, *, standby_size: int) -> list[float]:
    times = []
    async with opened(settings, pool_size=0, standby_size=standby_size) as engine:
        for _ in range(count):
            await engine.pool.rest()
            await asyncio.sleep(_REST_S)
            times.append(await fresh(engine))
    return times


async def plot(settings: Settings, scale: float) -> list[Figure]:
    """A fresh sandbox, pandas and matplotlib, until the caller has the PNG."""
    times = []
    async with opened(settings, pool_size=4) as engine:
        for _ in range(runs(60, scale)):
            await engine.pool.settle()
            times.append(await fresh(engine, PLOT, _is_png))
    return [Figure("fresh warm sandbox, plot, PNG received, p50", quantiles(times)[0], "ms", 200, 100, len(times))]


async def second_call(settings: Settings, scale: float) -> list[Figure]:
    """`print(1)` in a session that has run before."""
    async with opened(settings, pool_size=1) as engine, engine.session() as session:
        await session.execute("print(1)")
        times = [await print_one(session) for _ in range(runs(500, scale))]
    p50, p99 = quantiles(times)
    return [
        Figure("second call in a session, p50", p50, "ms", 8, 4, len(times)),
        Figure("second call in a session, p99", p99, "ms", 25, 25, len(times)),
    ]


async def sustained(settings: Settings, scale: float) -> list[Figure]:
    """Claim, print, destroy, replenish, again and again by two callers."""
    count = 0
    async with opened(settings, pool_size=8) as engine:
        await engine.pool.settle()
        start = time.perf_counter()
        end = start + max(2.0, 12.0 * scale)

        async def caller() -> None:
            nonlocal count
            while time.perf_counter() < end:
                await fresh(engine)
                count += 1

        await asyncio.gather(caller(), caller())
        rate = count / (time.perf_counter() - start)
    return [Figure("fresh runs sustained", rate, "per s", 20, 50, count)]


async def memory(settings: Settings, scale: float) -> list[Figure]:
    """PSS of all processes of idle warm sandboxes, and of those that stand by, over 100 of each."""
    size = runs(100, scale)
    async with opened(settings, pool_size=size, standby_size=0) as engine:
        await engine.pool.settle()
        warm = sum(_pss(pid) for pid in _processes())
    async with opened(settings, pool_size=0, standby_size=size) as engine:
        await engine.pool.rest()
        standing_by = sum(_pss(pid) for pid in _processes())
    return [
        Figure("memory of an idle warm sandbox (PSS)", warm / size / (1 << 20), "MB", 35, 15, size),
        Figure("memory of one that stands by (PSS)", standing_by / size / (1 << 20), "MB", 5, 3, size),
    ]


async def stop(settings: Settings, scale: float) -> list[Figure]:
    """From asking a used sandbox to stop until no process, mount, cgroup or directory of it is left."""
    times = await stopped(settings, runs(150, scale))
    return [Figure("sandbox stop to nothing left, p99", quantiles(times)[1], "ms", 100, 40, len(times))]


async def crowd(settings: Settings, scale: float) -> list[Figure]:
    """How many warm sandboxes with every library stand at once; 500 are tried."""
    target = runs(500, scale)
    async with opened(settings, pool_size=target, standby_size=0) as engine:
        with suppress(TimeoutError, SandboxFailed):
            await asyncio.wait_for(engine.pool.settle(), 180)
        standing = engine.pool.warm
    return [Figure("warm sandboxes at once", standing, "sandboxes", 200, 500, 1)]


Measure = Callable[[Settings, float], Awaitable[list[Figure]]]
MEASURES: dict[str, Measure] = {
    "warm": warm,
    "cold": cold,
    "plot": plot,
    "second": second_call,
    "sustained": sustained,
    "memory": memory,
    "stop": stop,
    "crowd": crowd,
}


@asynccontextmanager
async def opened(settings: Settings, **sizes: int) -> AsyncIterator[Engine]:
    """An engine of these settings with that pool, once the image is prepared: that is nobody's first sandbox."""
    async with Engine.open(settings.model_copy(update=sizes)) as engine:
        await engine.runtime.prepare(settings.image)
        yield engine


async def fresh(engine: Engine, code: str = "print(1)", seen: "Callable[[object], bool] | None" = None) -> float:
    """Milliseconds from wanting a session to seeing the output; then the session is closed, off the clock."""
    start = time.perf_counter()
    session = await engine.open_session()
    try:
        at = await _until(session, code, seen or _is_one)
    finally:
        await engine.close_session(session)
    return (at - start) * 1000


async def stopped(settings: Settings, count: int) -> list[float]:
    """Milliseconds that each of `count` used sandboxes takes from being told to stop to being gone."""
    times = []
    async with opened(settings, pool_size=2) as engine:
        for _ in range(count):
            session = await engine.open_session()
            await session.execute("print(1)")
            await engine.pool.settle()  # or we would measure the start of the next one
            start = time.perf_counter()
            await engine.close_session(session)
            times.append((time.perf_counter() - start) * 1000)
    return times


async def print_one(session: Session) -> float:
    """Milliseconds of one more call until its output is seen and it has ended."""
    start = time.perf_counter()
    await _until(session, "print(1)", _is_one)
    return (time.perf_counter() - start) * 1000


async def _until(session: Session, code: str, seen: Callable[[object], bool]) -> float:
    at = 0.0
    async for item in session.stream(code):
        if not at and seen(item):
            at = time.perf_counter()
    if not at or item.status is not Status.OK:  # type: ignore[union-attr]  # the last item is the Execution
        raise SandboxFailed(f"the benchmark's program did not do what it must: {item}")
    return at


def _is_one(item: object) -> bool:
    return isinstance(item, Stream) and item.text == "1\n"


def _is_png(item: object) -> bool:
    return isinstance(item, Result) and "image/png" in item.data


def _processes() -> list[int]:
    """Every process in a sandbox of an engine of ours, by the cgroup it is in."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "cgroup").read_text()
            except OSError:
                continue
            if re.search(r"/sandbox/\d+/\d+$", text, re.MULTILINE):
                found.append(int(entry.name))
    return found


def _pss(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    match = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0
