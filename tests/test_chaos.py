"""`scripts/chaos` in its short form: whatever is killed, nobody is lied to and nothing is left."""

import random
from pathlib import Path

import pytest

from sandbox.config import Settings
from tests.chaos.churn import Household, churn
from tests.docker import Docker

DEATHS = ("kernel", "zygote", "init", "server", "kernel", "launcher")
"""One after the other, so that each run kills everybody; when and in which session is chance's choice."""


@pytest.mark.attack("D09", "K07")
async def test_whoever_is_killed_nobody_is_lied_to_and_nothing_is_left(
    root: None, python_image: object, tmp_path: Path
) -> None:
    household, seed = Household(tmp_path, pool=2), random.randrange(1 << 30)
    print(f"seed {seed}")  # for when it fails
    try:
        tally = await churn(household, sessions=14, clients=3, share=0.7, chance=random.Random(seed), victims=DEATHS)
    finally:
        await household.stop()
    assert tally.lies == []
    assert await household.orphans() == []
    assert tally.sessions == 14
    assert set(DEATHS) == set(household.victims)
    assert tally.kills.total() > len(DEATHS) // 2, "who is on its way cannot be killed"
    assert tally.told["ok"] > 14


@pytest.mark.attack("D09", "K07")
@pytest.mark.parametrize("kind", ["docker/runc"])
async def test_it_is_the_same_with_containers(kind: str, docker: Docker, docker_image: object, tmp_path: Path) -> None:
    settings, seed = Settings(runtime="docker", docker_host=docker.address), random.randrange(1 << 30)
    print(f"seed {seed}")
    deaths = [victim for victim in DEATHS if victim != "launcher"]
    with Household.of(tmp_path, settings, pool=1) as household:
        try:
            tally = await churn(household, sessions=8, clients=2, share=0.7, chance=random.Random(seed), victims=deaths)
        finally:
            await household.stop()
        assert tally.lies == []
        assert await household.orphans() == []
        assert set(deaths) == set(household.victims)
        assert tally.kills.total() > len(deaths) // 2
