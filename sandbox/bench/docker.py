"""How fast and how small sandboxes are that are containers; what is measured as in `engine`, bounds of their own."""

import re
import time

from sandbox.bench.engine import Measure, fresh, opened, print_one, stopped
from sandbox.bench.figure import Figure, quantiles, runs
from sandbox.config import Settings
from sandbox.errors import SandboxFailed
from sandbox.execution import MIB, Status

_FILL = """
blocks = []
while True:
    blocks.append(bytearray(b"x") * (4 << 20))
    print(4 * len(blocks), flush=True)
"""


async def warm(settings: Settings, scale: float) -> list[Figure]:
    """A container from the warm pool until the caller sees `1`."""
    times = []
    async with opened(settings, pool_size=2) as engine:
        for _ in range(runs(40, scale)):
            await engine.pool.fill()
            times.append(await fresh(engine))
    return [Figure("container from the warm pool to print(1) seen, p50", quantiles(times)[0], "ms", 20, 10, len(times))]


async def second_call(settings: Settings, scale: float) -> list[Figure]:
    """`print(1)` in a session that has run before."""
    async with opened(settings, pool_size=0) as engine, engine.session() as session:
        await session.execute("print(1)")
        times = [await print_one(session) for _ in range(runs(500, scale))]
    return [Figure("second call in a container, p50", quantiles(times)[0], "ms", 10, 5, len(times))]


async def restart(settings: Settings, scale: float) -> list[Figure]:
    """A new kernel in a container, which its own zygote forks."""
    times = []
    async with opened(settings, pool_size=0) as engine, engine.session() as session:
        for _ in range(runs(50, scale)):
            start = time.perf_counter()
            await session.restart()
            times.append((time.perf_counter() - start) * 1000)
    return [Figure("kernel restart in a container, p50", quantiles(times)[0], "ms", 150, 60, len(times))]


async def refill(settings: Settings, scale: float) -> list[Figure]:
    """Containers made ready from nothing, libraries imported."""
    count = runs(16, scale)
    start = time.perf_counter()
    async with opened(settings, pool_size=count) as engine:
        start = time.perf_counter()
        await engine.pool.fill()
        seconds = time.perf_counter() - start
    return [Figure("containers with libraries preloaded", count / seconds, "per s", 1.0, 2.0, count)]


async def stop(settings: Settings, scale: float) -> list[Figure]:
    """From asking a used container to stop until the daemon has removed it."""
    times = await stopped(settings, runs(40, scale))
    return [Figure("container stop to removed, p99", quantiles(times)[1], "ms", 500, 200, len(times))]


async def memory(settings: Settings, scale: float) -> list[Figure]:
    """What the control groups of idle warm containers hold, page cache included."""
    size = runs(8, scale)
    async with opened(settings, pool_size=size) as engine:
        await engine.pool.fill()
        held = engine.runtime.used_bytes()
    return [Figure("memory of an idle warm container", held / size / MIB, "MB", 160, 110, size)]


async def usable(settings: Settings, scale: float) -> list[Figure]:
    """What a program can allocate and write under a cap of 512 MB before it is killed for it."""
    async with opened(settings, pool_size=0) as engine, engine.session(memory_mb=512) as session:
        # The processor's share is not what is measured; the kernel reclaims for long before it kills.
        execution = await session.execute(_FILL, 60)
    counted = re.findall(r"\d+", execution.stdout)
    if execution.status is not Status.OOM or not counted:
        raise SandboxFailed(f"the benchmark's program did not end as oom: {execution}")
    return [Figure("usable under the cap of 512 MB before oom", float(counted[-1]), "MB usable", 300, 380, 1)]


DOCKER_MEASURES: dict[str, Measure] = {
    "docker-warm": warm,
    "docker-second": second_call,
    "docker-restart": restart,
    "docker-refill": refill,
    "docker-stop": stop,
    "docker-memory": memory,
    "docker-usable": usable,
}
