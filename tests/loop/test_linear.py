"""What reads text of models and programs takes time in proportion to its length: one event loop serves everybody."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.loop.hostile import READERS

_ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("reader", READERS)
def test_no_text_is_slow_to_read(reader: str) -> None:
    """In a process of its own, which the kernel kills at a limit of processor time that only other growth reaches."""
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "tests.loop.hostile", reader],
        env=os.environ | {"PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
    )
    last = ended.stdout.splitlines()[-1:]
    assert ended.returncode == 0, f"{reader} did not come to the end of {last}: {ended.stderr[-2000:]}"
