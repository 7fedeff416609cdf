"""Every door of the list is shut inside and open to root outside, one by one."""

from typing import Any

import pytest

from sandbox.session import Session
from tests.runtime.escape.doors import DOORS, Door
from tests.runtime.escape.probes import inside, outside_once


def knock(name: str, door: Door) -> Any:
    """A test's parameter."""
    marks = [pytest.mark.attack(door.row)]
    if door.wall is not None:
        marks.append(pytest.mark.needs_wall(door.wall))
    return pytest.param(door, id=name, marks=marks)


@pytest.mark.parametrize("door", [knock(name, door) for name, door in DOORS.items()])
async def test_it_is_shut(onlooker: Session, door: Door) -> None:
    assert await inside(onlooker, door.probe) in door.shut
    if outside_once(door.probe) in door.shut:
        assert not door.everywhere, "the probe fails on the host, too, so it proves nothing"
        pytest.skip("void: it is shut, but this host has no such door to begin with")
