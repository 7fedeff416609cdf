"""The measures of the server at a tiny scale: what they do, not how fast."""

import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from sandbox import bench
from sandbox.bench import Figure
from sandbox.bench import server as measures
from sandbox.bench.overshoot import OVERTIMES, overshoot
from sandbox.bench.process import Server
from sandbox.bench.recovery import recovery
from sandbox.bench.victim import ATTACKS, Attack, victim
from sandbox.config import Settings
from sandbox.errors import SandboxFailed
from sandbox.image import Image

TINY = 0.002
# A few may run and a few may wait, so that of a hundred at once most are refused and of twenty none is.
ROOM = {"pool": 2, "room": 4, "max_waiting": 20, "max_waiting_per_key": 20}


@pytest.fixture(scope="session")
def settings(root: None, python_image: Image, nothing_left: None, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(data_dir=tmp_path_factory.mktemp("bench"), images_dir=Settings().images_dir)


@pytest.fixture(scope="session")
async def server(settings: Settings) -> AsyncIterator[Server]:
    async with Server.open(settings, **ROOM) as server:
        yield server


@pytest.mark.parametrize(
    ("measure", "units"),
    [
        (measures.run, ["ms", "ms"]),
        (measures.session, ["ms", "ms"]),
        (measures.parallel, ["per s"]),
        (measures.fresh, ["per s"]),
        (measures.reject, ["ms"]),
        (measures.files, ["MB/s", "MB/s"]),
        (measures.churn, ["%"]),
    ],
)
async def test_a_measure_of_the_server_returns_figures(
    server: Server, measure: Callable[[Server, float], Awaitable[list[Figure]]], units: list[str]
) -> None:
    figures = await measure(server, TINY)
    assert [figure.unit for figure in figures] == units
    for figure in figures:
        assert math.isfinite(figure.value)
        assert figure.runs > 0
        assert figure.value > 0 or figure.unit == "%"
        assert figure.reached in ("aim", "must", "no")


async def test_a_victim_is_measured_alone_and_beside_each_attacker(server: Server) -> None:
    attacks = {name: ATTACKS[name] for name in ("cpu", "deaths")}
    figures = await victim(server, TINY, attacks)
    assert [figure.unit for figure in figures] == ["ms", "ms", *4 * ["×"]]
    assert all(figure.value > 0 and figure.runs >= 4 for figure in figures)


async def test_an_attacker_that_attacks_nothing_fails_the_measure(server: Server) -> None:
    with pytest.raises(SandboxFailed, match="who takes nothing ended as ok"):
        await victim(server, TINY, {"none": Attack("nothing", "1")})


async def test_a_killed_server_is_measured_until_the_next_one_is_back(settings: Settings) -> None:
    figures = await recovery(settings, TINY, pool=2)
    answered, ready, slowest, full, _, whole, bare = [figure.value for figure in figures]
    assert 0 < answered <= ready <= slowest
    assert bare > 0
    assert ready <= full <= whole
    assert {figure.runs for figure in figures} == {2}


async def test_timeouts_are_measured_from_what_was_promised(server: Server) -> None:
    figures = await overshoot(server, TINY, {name: OVERTIMES[name] for name in ("loop", "ignores")})
    assert [figure.unit for figure in figures] == 4 * ["ms"]
    # A second earlier or later than this, and it was measured from something else.
    assert all(-100 < figure.value < 10_000 for figure in figures)


async def test_a_measure_has_a_server_of_its_own_which_leaves_nothing(settings: Settings) -> None:
    report = await bench.run(settings, ["session"], TINY)
    assert [figure.name for figure in report.figures] == [
        "execution in a session over HTTP, p50",
        "execution in a session over HTTP, p99",
    ]
    # The shared server's data may lie there, too.
    assert len(os.listdir(settings.data_dir)) <= 1


async def test_an_answer_that_is_not_wanted_fails_the_measure(server: Server) -> None:
    async with server.connect(1) as (connection,):
        with pytest.raises(SandboxFailed, match=r"was answered with 404: .*session_missing"):
            await connection.ask("GET", "/v1/sessions/ses_none")


async def test_a_server_that_does_not_start_says_why_and_leaves_nothing(settings: Settings, tmp_path: Path) -> None:
    unbuilt = settings.model_copy(update={"data_dir": tmp_path, "images_dir": tmp_path / "none"})
    with pytest.raises(SandboxFailed, match=r"(?s)did not start: .*sandbox image build"):
        async with Server.open(unbuilt, pool=1):
            pass
    assert os.listdir(tmp_path) == []


def test_a_rate_reaches_a_floor_and_a_time_a_ceiling() -> None:
    assert Figure("a", 150, "MB/s", 150, 400, 1).reached == "must"
    assert Figure("a", 149, "MB/s", 150, 400, 1).reached == "no"
    assert Figure("a", 11, "ms", 20, 10, 1).reached == "must"
    assert Figure("a", 9, "ms", 20, 10, 1).reached == "aim"
