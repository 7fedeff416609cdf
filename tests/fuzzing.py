"""How many examples a property is tried on: few for every change, more by `FUZZ=20`, which multiplies them."""

import os

from hypothesis import HealthCheck, settings

FUZZ = int(os.environ.get("FUZZ", "1"))


def bounded(examples: int) -> settings:
    """So many examples, times `FUZZ`. Fixtures are shared by all of them, and machines by all tests."""
    return settings(
        max_examples=examples * FUZZ,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )
