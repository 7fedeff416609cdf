"""The suite in two processes: nothing is run twice or not at all, and what one of them says counts."""

import subprocess
import sys

import pytest

from tests.docker import ROOT
from tests.halves import HALVES, closing_line, verdict


def test_each_half_runs_its_own_tests_and_says_which_it_is() -> None:
    command = [sys.executable, "-m", "tests.halves", "--collect-only", "-q", "-p", "no:cacheprovider"]
    said = subprocess.check_output([*command, "tests/test_doctor.py"], cwd=ROOT, text=True).splitlines()
    lines = [line.split(" | tests/test_doctor.py::") for line in said if "::" in line]
    first, second = ({test for name, test in lines if name.strip() == half} for half in HALVES)
    assert "test_a_daemon_is_graded_with_its_image_and_what_runs_containers" in first
    assert "test_without_a_daemon_the_docker_runtime_fails_with_the_way_to_one" in second
    assert not first & second
    assert len(first) + len(second) == len(lines)


@pytest.mark.parametrize(
    ("codes", "both"), [((0, 0), 0), ((0, 1), 1), ((2, 1), 2), ((5, 0), 0), ((1, 5), 1), ((5, 5), 5), ((0, -9), 137)]
)
def test_both_halves_have_to_pass_and_one_may_be_empty(codes: tuple[int, int], both: int) -> None:
    assert verdict(codes) == both


def test_the_last_line_counts_both() -> None:
    said = ["3 passed in a row\n", "== 1 failed, 30 passed, 2 skipped in 9.87s (0:00:09) ==\n", "12 passed in 0.50s\n"]
    assert closing_line(said, 10).strip("= ") == "1 failed, 42 passed, 2 skipped in 10.00s"
    assert closing_line([], 1).strip("= ") == "no tests ran in 1.00s"
