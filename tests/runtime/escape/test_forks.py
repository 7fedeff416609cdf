"""What a program's own forks share, and what they must not: a library's threads, and numbers that are to be random."""

import pytest

from sandbox.engine import Engine
from sandbox.session import Session
from tests.runtime.escape.probes import inside, told

COMPUTED = """
    import numpy
    # By hand: threadpoolctl reads /proc/self/maps, and finds no library where that is shut.
    [library] = glob.glob("/opt/venv/lib/python3*/site-packages/numpy.libs/libscipy_openblas64_*.so")
    pool = ctypes.CDLL(library)
    matrix = numpy.random.default_rng(1).random((150, 150)) + 150 * numpy.eye(150)

    def computed():
        return [numpy.linalg.inv(matrix).shape[0], numpy.linalg.svd(matrix)[1].size, int((matrix @ matrix).shape[0])]

    def in_fork():
        assert computed() == [150] * 3

    # No more than two, who wait for each other without rest: one processor is all they have.
    pool.scipy_openblas_set_num_threads64_(2)
    try:
        ranks, forks = computed(), []
        for _ in range(3):
            forks.append(in_child(in_fork))
            ranks += computed()
        return json.dumps([pool.scipy_openblas_get_num_threads64_(), ranks, forks])
    finally:
        pool.scipy_openblas_set_num_threads64_(1)
"""


@pytest.mark.attack("K04")
async def test_who_has_computed_with_threads_and_forks_computes_on_and_so_does_its_child(onlooker: Session) -> None:
    # OpenBLAS takes its threads down before a fork and puts them up after it: who does not, hangs here.
    assert await told(onlooker, COMPUTED) == [2, [150] * 12, ["done"] * 3]


GENERATORS = """
    import gc, hashlib, random
    import numpy.random
    gc.unfreeze()
    states = {}
    for thing in gc.get_objects():
        kind = type(thing)
        if issubclass(kind, random.Random) and not issubclass(kind, random.SystemRandom):
            state = thing.getstate()
        elif issubclass(kind, numpy.random.RandomState):
            state = thing.get_state(legacy=False)
        elif issubclass(kind, numpy.random.BitGenerator):
            state = thing.state
        else:
            continue
        states[hashlib.sha256(repr(state).encode()).hexdigest()] = kind.__name__
    return json.dumps(states)
"""


@pytest.mark.attack("F09")
async def test_no_generator_that_there_is_before_a_program_is_in_the_same_state_twice(
    session: Session, neighbour: Session, engine: Engine
) -> None:
    # Whatever a library makes while it is imported is made once, for all.
    states = [await told(one, GENERATORS) for one in (session, neighbour)]
    async with engine.session() as third:
        await inside(third, "global mine; import random; mine = random.Random(1)")
        states.append(await told(third, GENERATORS))
        # The control: one that two would share is found.
        await inside(session, "global mine; import random; mine = random.Random(1)")
        planted = await told(session, GENERATORS)
    assert "RandomState" in states[0].values()
    assert "Random" in states[0].values()
    assert len(planted.keys() & states[2].keys()) == 1
    shared = {kind for one in range(3) for other in range(one) for kind in _shared(states[one], states[other])}
    assert shared == set()


def _shared(one: dict[str, str], other: dict[str, str]) -> list[str]:
    return [one[state] for state in one.keys() & other.keys()]
