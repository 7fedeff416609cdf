"""The suite in two processes: nothing is run twice or not at all, and what one of them says counts."""

import subprocess
import sys

import pytest

from tests.docker import ROOT
from tests.halves import HALVES, verdict

TESTS = ("tests/test_keys.py", "tests/runtime/test_archive.py", "tests/test_doctor.py")


def collected(*options: str, module: str = "pytest") -> list[str]:
    """The tests that pytest would run."""
    command = [sys.executable, "-m", module, "--collect-only", "-q", "-p", "no:cacheprovider", *options, *TESTS]
    said = subprocess.check_output(command, cwd=ROOT, text=True).splitlines()
    return [line for line in said if "::" in line]


def test_the_halves_have_every_test_once_and_their_own_lines() -> None:
    lines = [line.split(" | ") for line in collected(module="tests.halves")]
    assert sorted(test for _, test in lines) == sorted(collected())
    tests = {half: {test for name, test in lines if name.strip() == half} for half in HALVES}
    assert {test.partition("::")[0] for test in tests["containers"]} == {TESTS[1], TESTS[2]}
    assert {test.partition("::")[0] for test in tests["others"]} == {TESTS[0], TESTS[2]}


@pytest.mark.parametrize(
    ("codes", "both"), [((0, 0), 0), ((0, 1), 1), ((2, 1), 2), ((5, 0), 0), ((1, 5), 1), ((5, 5), 5), ((0, -9), 137)]
)
def test_both_halves_have_to_pass_and_one_may_be_empty(codes: tuple[int, int], both: int) -> None:
    assert verdict(codes) == both
