"""The pool while what all its sandboxes share is on its way."""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from sandbox.cold_starts import _PER_CORE
from sandbox.config import Settings
from sandbox.engine import Engine
from sandbox.errors import ImageNotBuilt, SandboxError, SandboxFailed, UnknownImage
from sandbox.execution import Spec, Status
from sandbox.health import Checkup, Memory, Reason
from sandbox.image import Image
from sandbox.kernel import Kernel
from sandbox.runtime.embedded.runtime import EmbeddedRuntime
from sandbox.runtime.embedded.sandbox import EmbeddedSandbox
from sandbox.store import Store
from tests.host import WAIT_SECONDS, Embedded, alive, children, ended, groups, stopped_zygote

_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
HUGE_PAGES = _ENABLED.read_text() if _ENABLED.exists() else "[never]"
LINUX = tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])
WARMS_UP = Reason("it warms up: no sandbox has started yet")


@contextlib.asynccontextmanager
async def opened(size: int) -> AsyncIterator[tuple[Engine, Embedded, int]]:
    """An engine with a pool of this size, the host's view of it, and its zygote, which goes on when it is told to."""
    settings = Settings(pool_size=size)
    async with (
        EmbeddedRuntime.open(settings.images_dir, shared=False) as runtime,
        Engine.open(settings, runtime=runtime) as engine,
    ):
        host, zygote = await stopped_zygote(os.getpid())
        yield engine, host, zygote


@pytest.mark.parametrize("size", [0, 1])
async def test_who_comes_before_the_zygote_is_ready_waits_and_is_served(
    root: None, python_image: Image, size: int
) -> None:
    async with opened(size) as (engine, _, zygote):
        runs = [asyncio.create_task(engine.run("print(1)")) for _ in range(3)]
        full = asyncio.create_task(engine.pool.fill())
        done, _ = await asyncio.wait([*runs, full], timeout=0)
        assert not done
        assert engine.pool.warming
        os.kill(zygote, signal.SIGCONT)
        assert [(await each).stdout for each in runs] == ["1\n"] * 3
        await full
        assert not engine.pool.warming


async def test_nothing_else_is_started_before_the_first_start_has_succeeded(root: None, python_image: Image) -> None:
    warming = []

    class Watched(EmbeddedRuntime):
        async def start(self, spec: Spec, *, awaited: bool = False, defers: bool = False) -> EmbeddedSandbox:
            warming.append(engine.pool.warming)
            return await super().start(spec, awaited=awaited)

    async with (
        Watched.open(Settings().images_dir, shared=False) as runtime,
        Engine.open(Settings(pool_size=3), runtime=runtime) as engine,
    ):
        await engine.pool.fill()
        assert warming[:3] == [True, False, False]


async def test_when_a_start_for_a_claim_succeeds_before_the_pools_own_it_no_longer_warms_up(
    root: None, python_image: Image
) -> None:
    claimed = asyncio.Event()

    class Unhurried(EmbeddedRuntime):
        async def start(self, spec: Spec, *, awaited: bool = False, defers: bool = False) -> EmbeddedSandbox:
            if not awaited:
                await claimed.wait()
            return await super().start(spec, awaited=awaited)

    async with (
        Unhurried.open(Settings().images_dir, shared=False) as runtime,
        Engine.open(Settings(pool_size=1), runtime=runtime) as engine,
    ):
        assert (await engine.run("print(1)")).stdout == "1\n"
        assert not engine.pool.warming
        claimed.set()
        await engine.pool.fill()


async def test_a_failure_that_nobody_foresaw_is_told_and_the_pool_goes_on(root: None, python_image: Image) -> None:
    left = [OSError(11, "no more processes")] * 3

    class Failing(EmbeddedRuntime):
        async def start(self, spec: Spec, *, awaited: bool = False, defers: bool = False) -> EmbeddedSandbox:
            if left:
                raise left.pop()
            return await super().start(spec, awaited=awaited)

    async with (
        Failing.open(Settings().images_dir, shared=False) as runtime,
        Engine.open(Settings(pool_size=1), runtime=runtime) as engine,
    ):
        with pytest.raises(SandboxFailed, match="no more processes"):
            await engine.pool.fill()
        await _recovered(engine)
        await engine.pool.fill()


async def test_a_launcher_that_cannot_be_replaced_at_once_is_replaced_later(root: None, python_image: Image) -> None:
    settings = Settings(pool_size=0)
    async with (
        EmbeddedRuntime.open(settings.images_dir, shared=False) as runtime,
        Engine.open(settings, runtime=runtime, warm=False) as engine,
    ):
        launcher = Embedded.below(os.getpid()).launcher
        os.kill(launcher, signal.SIGKILL)
        await ended(launcher)
        through, runtime._through = runtime._through, ["/nowhere/at/all"]
        for _ in range(2):
            with pytest.raises(SandboxError):
                await engine.run("print(1)")
        runtime._through = through
        assert (await engine.run("print(1)")).stdout == "1\n"


async def test_when_the_first_start_fails_another_is_tried_at_once(
    root: None, python_image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.pool._BACKOFF_FIRST_S", 3600.0)  # whoever has failed is not the one to try again
    failures = [SandboxFailed("the first one fails")]

    class Failing(EmbeddedRuntime):
        async def start(self, spec: Spec, *, awaited: bool = False, defers: bool = False) -> EmbeddedSandbox:
            sandbox = await super().start(spec, awaited=awaited)
            if failures:
                await sandbox.stop()
                raise failures.pop()
            return sandbox

    async with (
        Failing.open(Settings().images_dir, shared=False) as runtime,
        Engine.open(Settings(pool_size=2), runtime=runtime) as engine,
    ):
        await _recovered(engine)
        assert engine.pool.warm == 1


async def test_claims_that_are_cancelled_in_line_leave_their_turns_to_the_next(root: None, python_image: Image) -> None:
    turns = _PER_CORE * (os.cpu_count() or 1)
    many = 3 * turns
    async with opened(1) as (engine, _, zygote):
        claims = [asyncio.create_task(engine.run("print(1)")) for _ in range(many)]
        await asyncio.wait(claims, timeout=0)
        for claim in claims[::2]:
            claim.cancel()
        os.kill(zygote, signal.SIGCONT)
        assert [(await claim).stdout for claim in claims[1::2]] == ["1\n"] * (many // 2)
        await asyncio.wait(claims)
        again = await asyncio.gather(*(engine.run("print(1)") for _ in range(many)))
        assert [each.stdout for each in again] == ["1\n"] * many
        await engine.pool.fill()
        assert engine.pool._cold._turns == turns
        assert engine.pool.warm == 1


async def test_an_engine_that_is_closed_before_its_zygote_is_ready_leaves_nothing_and_nobody_waiting(
    root: None, python_image: Image
) -> None:
    async with opened(2) as (engine, host, zygote):
        instance, stage = host.instance, host.stage
        claim = asyncio.create_task(engine.open_session())
        full = asyncio.create_task(engine.pool.fill())
        await asyncio.sleep(0)  # lets them ask
    assert not any(alive(pid) for pid in (host.launcher, zygote))
    assert groups(instance) == []
    assert not stage.exists()
    with pytest.raises(SandboxFailed, match="closed"):
        await asyncio.wait_for(claim, WAIT_SECONDS)
    full.cancel()


@pytest.mark.parametrize("size", [0, 1])
async def test_a_zygote_that_cannot_be_had_is_told_to_who_claims_and_to_who_looks_and_is_tried_again(
    root: None, python_image: Image, tmp_path: Path, size: int
) -> None:
    settings = Settings(data_dir=tmp_path)
    async with opened(size) as (engine, _, zygote), Store.open(settings.database) as store:

        async def health() -> tuple[bool, tuple[Reason, ...]]:
            found = await Checkup(settings, store, engine.pool, Memory(), dict).health()
            return found.ready, found.reasons

        assert await health() == (False, (WARMS_UP,))
        claim = asyncio.create_task(engine.open_session())
        full = asyncio.create_task(engine.pool.fill())
        await asyncio.sleep(0)  # lets them ask
        os.kill(zygote, signal.SIGKILL)
        for waiting in (claim, full):
            with pytest.raises(SandboxFailed, match="image python cannot be used: the zygote died"):
                await waiting
        ready, reasons = await health()
        assert not ready
        assert Reason("the last start of a sandbox failed", str(engine.pool.failure)) in reasons
        assert WARMS_UP in reasons
        _, another = await stopped_zygote(os.getpid())
        os.kill(another, signal.SIGCONT)
        assert (await engine.run("1")).status is Status.OK
        await _recovered(engine)
        assert await health() == (True, ())


async def test_who_finds_nothing_warm_gets_what_stood_by_as_far_as_it_lives(root: None, python_image: Image) -> None:
    async with (
        EmbeddedRuntime.open(Settings().images_dir, shared=False) as runtime,
        Engine.open(Settings(pool_size=1), runtime=runtime) as engine,
    ):
        await _stood_by(engine, runtime)
        standing = [sandbox for _, sandbox in runtime._vacant._sandboxes]
        await standing[0].stop()
        kernels = [await engine.pool.claim(engine.spec()), *await asyncio.gather(*_claims(engine, 2))]
        assert {standing[1].id, standing[2].id} & {kernel.sandbox.id for kernel in kernels}
        assert standing[0].id not in {kernel.sandbox.id for kernel in kernels}
        assert (await engine.run("print(1)")).stdout == "1\n"
        await asyncio.gather(*(kernel.stop() for kernel in kernels))


async def test_as_many_are_warm_as_are_expected_and_what_nobody_claims_is_stopped_after_a_while(
    root: None, python_image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.pool._SPARE_S", 0.1)
    async with (
        EmbeddedRuntime.open(Settings().images_dir, shared=False) as runtime,
        Engine.open(Settings(pool_size=1, standby_size=2), runtime=runtime) as engine,
        asyncio.timeout(WAIT_SECONDS),
    ):
        await engine.pool.rest()
        with contextlib.ExitStack() as expectations:
            for _ in range(5):
                expectations.enter_context(engine.expecting())
            expectations.enter_context(engine.pool.expecting(engine.spec(memory_mb=1024)))
            assert engine.pool.expected == 5
            await engine.pool.fill(3)
            await engine.pool.rest()  # which ends when nothing is being started any more
            assert engine.pool.warm == 3
            assert await runtime._vacant.count(engine.spec()) == 2
            async with engine.session() as session:
                assert (session.warm, (await session.execute("print(1)")).stdout) == (True, "1\n")
                await engine.pool.fill(3)
                await engine.pool.rest()
                assert engine.pool.warm == 3, "the size and what stands by is the most there may be"
        while engine.pool.warm > 1:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await engine.pool.settle()
        assert engine.pool.warm == 1


async def test_beside_what_was_handed_out_two_are_started_at_once_only_for_those_who_are_expected(
    root: None, python_image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.pool._UNASKED_AT_ONCE", 1)  # as on two processors
    at_once: list[int] = []

    class Counting(EmbeddedRuntime):
        starting = 0

        async def start(self, spec: Spec, *, awaited: bool = False, defers: bool = False) -> EmbeddedSandbox:
            self.starting += 1
            at_once.append(self.starting)
            try:
                return await super().start(spec, awaited=awaited, defers=defers)
            finally:
                self.starting -= 1

    async with (
        Counting.open(Settings().images_dir, shared=False) as runtime,
        Engine.open(Settings(pool_size=4), runtime=runtime) as engine,
    ):
        await engine.pool.fill()
        assert max(at_once) == 2, "nobody has any"
        async with engine.session(), engine.session(), engine.session():
            at_once.clear()
            await engine.pool.fill()
            assert at_once == [1] * 3
            with contextlib.ExitStack() as expectations:
                for _ in range(7):
                    expectations.enter_context(engine.expecting())
                await engine.pool.fill(7)
            assert max(at_once) == 2


async def test_what_is_expected_before_anything_is_warm_is_started_when_it_can_be(
    root: None, python_image: Image
) -> None:
    async with opened(1) as (engine, _, zygote), asyncio.timeout(WAIT_SECONDS):
        with engine.expecting(), engine.expecting(), engine.expecting():
            os.kill(zygote, signal.SIGCONT)
            await engine.pool.fill(3)


async def test_what_cannot_be_started_ahead_is_told_and_the_pool_goes_on(root: None, python_image: Image) -> None:
    refused = asyncio.Event()

    class Failing(EmbeddedRuntime):
        async def start(self, spec: Spec, *, awaited: bool = False, defers: bool = False) -> EmbeddedSandbox:
            if awaited:
                refused.set()
                raise SandboxFailed("no more of them")
            return await super().start(spec, awaited=awaited)

    async with (
        Failing.open(Settings().images_dir, shared=False) as runtime,
        Engine.open(Settings(pool_size=1), runtime=runtime) as engine,
        asyncio.timeout(WAIT_SECONDS),
    ):
        await engine.pool.fill()
        with engine.expecting(), engine.expecting():
            await refused.wait()
            async with engine.session() as session:
                assert (await session.execute("print(1)")).stdout == "1\n"
        await _recovered(engine)


async def test_nothing_of_what_stands_by_is_left(root: None, python_image: Image) -> None:
    async with opened(1) as (engine, host, zygote):
        os.kill(zygote, signal.SIGCONT)
        runtime = engine.runtime
        assert isinstance(runtime, EmbeddedRuntime)
        await _stood_by(engine, runtime)
        instance, inits = host.instance, set(children(host.launcher))
    assert not any(alive(pid) for pid in inits)
    assert groups(instance) == []


async def test_a_launcher_that_dies_with_its_zygote_on_the_way_is_replaced(root: None, python_image: Image) -> None:
    async with opened(1) as (engine, host, zygote):
        claim = asyncio.create_task(engine.open_session())
        await asyncio.sleep(0)  # lets it ask
        os.kill(host.launcher, signal.SIGKILL)
        with pytest.raises(SandboxFailed, match="the launcher ended"):
            await claim
        os.kill(zygote, signal.SIGCONT)
        await ended(zygote)
        assert (await engine.run("1")).status is Status.OK


async def test_an_image_that_cannot_be_used_is_said_by_who_opens(root: None, tmp_path: Path) -> None:
    for settings, error in (
        (Settings(images_dir=tmp_path), ImageNotBuilt),
        (Settings(image="none"), UnknownImage),
    ):
        with pytest.raises(error):
            async with Engine.open(settings):
                pass


def _claims(engine: Engine, count: int) -> list[Coroutine[Any, Any, Kernel]]:
    return [engine.pool.claim(engine.spec()) for _ in range(count)]


async def _stood_by(engine: Engine, runtime: EmbeddedRuntime) -> None:
    """Until all stand by that will."""
    async with asyncio.timeout(WAIT_SECONDS):
        await engine.pool.rest()
    assert await runtime._vacant.count(engine.spec()) == engine.settings.standing_by


async def _recovered(engine: Engine) -> None:
    """Until the pool has started what it keeps, whatever failed before."""
    async with asyncio.timeout(WAIT_SECONDS):
        while engine.pool.warming or engine.pool.failure is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_sandboxes_that_began_before_the_zygote_had_every_library_are_replaced(
    root: None, python_image: Image
) -> None:
    loaded = "import sys; print('sklearn' in sys.modules, 'pandas' in sys.modules)"
    async with Engine.open(Settings(pool_size=2)) as engine:
        await engine.pool.fill()
        assert not engine.pool.settled
        assert (await engine.run(loaded)).stdout == "False False\n", "nobody waited for what few programs want"
        await asyncio.wait_for(engine.pool.settle(), WAIT_SECONDS)
        assert engine.pool.warm == 2
        assert [(await engine.run(loaded)).stdout for _ in range(2)] == ["True True\n"] * 2


@pytest.mark.skipif("[never]" in HUGE_PAGES or LINUX < (6, 1), reason="needs huge pages, and Linux 6.1 to ask for them")
async def test_what_all_sandboxes_are_forked_from_lies_in_huge_pages(root: None, python_image: Image) -> None:
    async with Engine.open(Settings(pool_size=1)) as engine:
        await engine.pool.settle()
        *_, zygote = Embedded.below(os.getpid()).zygotes()
        async with asyncio.timeout(WAIT_SECONDS):
            while in_huge_pages(zygote) < 32 << 20:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_what_all_sandboxes_are_forked_from_has_few_mappings(root: None, python_image: Image) -> None:
    async with Engine.open(Settings(pool_size=1)) as engine:
        await engine.pool.settle()
        *_, zygote = Embedded.below(os.getpid()).zygotes()
        mapped = libraries(zygote)
        assert len(set(mapped)) > 100
        assert len(mapped) <= 2.5 * len(set(mapped))


def libraries(pid: int) -> list[str]:
    """Their paths, as often as something of them is mapped."""
    return [line.split()[5] for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if ".so" in line]


def in_huge_pages(pid: int) -> int:
    """Bytes of its own."""
    found = re.search(r"AnonHugePages: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text())
    return int(found[1]) << 10 if found else 0


async def test_a_zygote_that_dies_before_it_has_every_library_is_missed_by_nobody(
    root: None, python_image: Image
) -> None:
    async with Engine.open(Settings(pool_size=1)) as engine:
        await engine.pool.fill()
        first, *heirs = Embedded.below(os.getpid()).zygotes()
        assert len(heirs) == 1
        settling = asyncio.create_task(engine.pool.settle())
        await asyncio.wait((settling,), timeout=0)
        os.kill(heirs[0], signal.SIGKILL)
        await ended(heirs[0])
        await asyncio.wait_for(settling, WAIT_SECONDS)
        assert (await engine.run("print(1)")).stdout == "1\n"
        assert Embedded.below(os.getpid()).zygotes() == [first]


async def test_zygotes_end_with_their_launcher_also_before_they_could_hear_of_it(
    root: None, python_image: Image
) -> None:
    async with Engine.open(Settings(pool_size=1)) as engine:
        await engine.pool.fill()
        host = Embedded.below(os.getpid())
        zygotes = host.zygotes()
        assert len(zygotes) == 2
        for zygote in zygotes:
            os.kill(zygote, signal.SIGSTOP)
        os.kill(host.launcher, signal.SIGKILL)
        for zygote in zygotes:
            await ended(zygote)
        assert (await engine.run("print(1)")).stdout == "1\n"


async def test_pictures_are_drawn_whether_or_not_a_library_came_before_the_fork(
    root: None, python_image: Image
) -> None:
    code = """
import matplotlib.pyplot as plt, pandas as pd
pd.DataFrame({"漢字": [1, 2]}).plot(title="漢字")
"""
    async with Engine.open(Settings(pool_size=1)) as engine:
        early = await engine.run(code)
        await asyncio.wait_for(engine.pool.settle(), WAIT_SECONDS)
        late = await engine.run(code)
    for execution in (early, late):
        assert (execution.status, execution.stderr) == (Status.OK, "")
        assert "image/png" in execution.results[-1]
