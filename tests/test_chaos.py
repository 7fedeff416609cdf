"""`scripts/chaos` in its short form: whatever is killed, nobody is lied to and nothing is left."""

import random
from pathlib import Path

import pytest

from tests.chaos.churn import VICTIMS, Household, churn


@pytest.mark.nightly
@pytest.mark.attack("D09", "K07")
async def test_whoever_is_killed_nobody_is_lied_to_and_nothing_is_left(
    root: None, python_image: object, tmp_path: Path
) -> None:
    household = Household(tmp_path, pool=2)
    try:
        tally = await churn(household, sessions=24, clients=4, share=0.5, chance=random.Random(7))
    finally:
        await household.stop()
    assert tally.lies == []
    assert await household.orphans() == []
    assert tally.sessions == 24
    assert set(tally.kills) <= set(VICTIMS)
    assert tally.kills.total() > 3
    assert tally.told["ok"] > 24
