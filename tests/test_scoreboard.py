"""The score of the attack corpus is what a run says; what a runtime lacks is what the documentation says."""

import json
import subprocess
import sys
from pathlib import Path

from tests.runtime.escape.lacks import LACKS
from tests.scoreboard import RUNTIMES, SINGLE

DOCS = Path(__file__).parents[1] / "docs"
ATTACKS = """
import pytest

@pytest.fixture(params=["embedded", "docker/runc"])
def kind(request): return request.param

@pytest.mark.attack("X01")
def test_that_holds(kind): pass

@pytest.mark.attack("X01", "X02")
def test_that_holds_on_one(kind): assert kind == "embedded"

@pytest.mark.attack("X03")
def test_that_is_left_out(kind): pytest.skip("no such wall")

@pytest.mark.attack("X03")
def test_that_is_about_more_than_the_one_that_is_left_out(): pass

@pytest.fixture
def broken(): raise OSError

@pytest.mark.attack("X04")
def test_that_cannot_begin(broken): pass

def test_of_no_attack(kind): pass
"""


def test_a_row_is_as_bad_as_its_worst_test_on_each_runtime(tmp_path: Path) -> None:
    (tmp_path / "test_attacks.py").write_text(ATTACKS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = attack(*ids)\n")
    directory, written = str(tmp_path), tmp_path / "score.json"
    arguments = ["-p", "tests.scoreboard", "-q", "--rootdir", directory, "--scoreboard", str(written), directory]
    subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=DOCS.parent, capture_output=True)
    score = json.loads(written.read_text())["runtimes"]
    outcomes = {kind: {row: told["outcome"] for row, told in rows["rows"].items()} for kind, rows in score.items()}
    assert outcomes == {
        "embedded": {"X01": "passed", "X02": "passed", "X03": "passed", "X04": "failed"},
        "docker/runc": {"X01": "failed", "X02": "failed", "X03": "skipped"},
    }
    counts = ("total", "passed", "failed", "skipped")
    assert [score["docker/runc"][count] for count in counts] == [3, 0, 2, 1]
    assert score["docker/runc"]["rows"]["X03"]["reasons"] == ["no such wall"]


def test_what_a_runtime_cannot_hold_is_documented_as_it_is_tested() -> None:
    page = (DOCS / "runtimes.md").read_text()
    for lack in LACKS.values():
        held = " | ".join("no" if runtime in lack.runtimes else "yes" for runtime in (*RUNTIMES, SINGLE))
        assert f"| {lack.wall} | {held} | {lack.why} |" in page
