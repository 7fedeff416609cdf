"""What tests of the wire formats share: what providers really answered, downloaded and unpacked once."""

import subprocess

import pytest

from tests.loop import recordings
from tests.needs import missing


@pytest.fixture(scope="session")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Every recorded answer's body, with the name of what it comes from."""
    directory = tmp_path_factory.mktemp("recordings")
    try:
        recordings.fetch(directory)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        missing("needs source distributions with recordings, which the package index does not give")
    return list(recordings.bodies(directory))
