"""Randomness of a fork's own: whatever made random numbers in its zygote would make the same ones in every fork."""

import gc
import os
import random
import sys
import tempfile
import uuid
from collections.abc import Iterable
from typing import Any

_SEEDED_BY_THE_SYSTEM = 1 << 64
"""What numpy takes from the system has 128 bits; a number that somebody chose to seed with has seldom that many."""

_TWISTER_WORDS = 624


def generators() -> tuple[Any, ...]:
    """Those that libraries made while they were imported: `random.Random`, and numpy's that the system has seeded.

    One that numpy was given a seed for is to say the same every time. Looks at every object that there is, so it is
    for the zygote, before its objects are frozen.
    """
    numpy = sys.modules.get("numpy.random")
    found: list[Any] = []
    for thing in gc.get_objects():
        # By their own type: to ask an object for its class may run code of a library's.
        kind = type(thing)
        if issubclass(kind, random.Random):
            if not issubclass(kind, random.SystemRandom):
                found.append(thing)
        elif numpy is not None and issubclass(kind, numpy.BitGenerator):
            entropy = getattr(getattr(thing, "seed_seq", None), "entropy", None)
            if isinstance(entropy, int) and entropy >= _SEEDED_BY_THE_SYSTEM:
                found.append(thing)
    return tuple(found)


def reseed(shared: Iterable[Any]) -> None:
    """Give this fork randomness of its own. shared: what `generators` has found in the zygote."""
    numpy = sys.modules.get("numpy.random")
    for generator in shared:
        if isinstance(generator, random.Random):
            generator.seed(os.urandom(32))
        elif numpy is not None and type(generator) is numpy.MT19937:
            generator.state = _twister()
        else:
            generator.state = type(generator)().state
    random.seed(os.urandom(32))
    if numpy is not None:
        numpy.set_state(_twister())
    for module, name in ((uuid, "_last_timestamp"), (uuid, "_node"), (tempfile, "_name_sequence")):
        setattr(module, name, None)


def _twister() -> dict[str, Any]:
    """A state of numpy's MT19937 that is random in all of its bits, without the time that it takes to derive one."""
    key = sys.modules["numpy"].frombuffer(os.urandom(4 * _TWISTER_WORDS), "u4")
    return {"bit_generator": "MT19937", "state": {"key": key, "pos": _TWISTER_WORDS}, "has_gauss": 0, "gauss": 0.0}
