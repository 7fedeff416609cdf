"""What a test needs of the machine and does not find there."""

import os
from typing import NoReturn

import pytest


def missing(words: str) -> NoReturn:
    """A visible skip, except in CI, which installs what is missing: there it is a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"CI {words}")
    pytest.skip(words)
