"""The score of the attack corpus is what a run says; what a runtime lacks is what the documentation says."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.config import Settings
from sandbox.image import Image
from tests.runtime.escape.lacks import LACKS
from tests.score.leaks import leaks
from tests.score.losses import WRITERS, Writer, difference, losses
from tests.score.page import page
from tests.score.parts import scores
from tests.score.record import Entry, load, machine, save
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
    [(runtime, entry)] = scores(written, ["docker/runc"]).items()
    assert (runtime, entry.result["failures"], entry.machine) == ("docker/runc", ["X01", "X02"], machine())
    assert "- docker/runc: 4 tests (1 skipped) of 3 rows, 0 passed." in page({"corpus": {runtime: entry}})


def test_what_a_runtime_cannot_hold_is_documented_as_it_is_tested() -> None:
    page = (DOCS / "runtimes.md").read_text()
    for lack in LACKS.values():
        held = " | ".join("no" if runtime in lack.runtimes else "yes" for runtime in (*RUNTIMES, SINGLE))
        assert f"| {lack.wall} | {held} | {lack.why} |" in page


@pytest.fixture
def settings(root: None, python_image: Image, tmp_path: Path) -> Settings:
    return Settings(runtime="embedded", data_dir=tmp_path, images_dir=Settings().images_dir)


def test_the_page_says_what_was_measured() -> None:
    assert (DOCS / "scoreboard.md").read_text() == page(load(DOCS / "scoreboard.json")), "run scripts/scoreboard"


def _entry(result: object) -> Entry:
    return Entry(result, 1.0, "2026-01-01 00:00", "a machine", (0.1, 0.2), 3)


KEPT = {"lost": {"a program": 0}, "written": 3_000_000, "shown": 2_000_000, "marked": 1_000_000}
CHURN = {"sessions": 10, "kills": {"init": 2}, "told": {"ok": 30}, "lies": [], "orphans": ["process 7"]}
RATIOS = [
    {"name": f"beside who takes memory, {quantile}", "value": value, "unit": "×", "must": 2, "aim": 1.2, "runs": 9}
    for quantile, value in (("p50", 1.1), ("p99", 2.5))
]


def test_what_does_not_keep_its_promise_stands_out() -> None:
    told = page({"churn": {"embedded": _entry(CHURN)}, "losses": {"embedded": _entry(KEPT)}})
    assert "| bytes lost without a mark | 0 | 0 of 3 MB |" in told
    left = "processes, containers, groups, directories, mounts left after churn"
    assert f"| {left} | 0 | **1 after 10 sessions, 2 kills** |" in told
    assert "- embedded: 2 × init. Told: 30 × ok." in told
    told = page({"victim": {"embedded": _entry(RATIOS), "docker/runc": _entry([RATIOS[0], RATIOS[1] | {"value": 1}])}})
    assert "| ≤ 2 | **2.5 at worst, 1 of 1 above** | 1.0 at worst |" in told
    assert "| beside who takes memory, p50 / p99 | 1.10 / **2.50** | 1.10 / 1.00 |" in told


def test_who_is_killed_on_one_runtime_and_cannot_be_on_another_is_said_with_the_reason() -> None:
    told = page({"churn": {"docker/runsc": _entry(CHURN | {"spared": {"zygote": "nobody sees it"}})}})
    assert "- docker/runsc: 2 × init. Told: 30 × ok.\n  Never the zygote: nobody sees it.\n" in told


def test_what_was_measured_on_a_busy_machine_or_with_few_runs_is_named() -> None:
    quiet = _entry(CHURN)
    told = page({"churn": {"embedded": quiet}})
    assert "busy" not in told
    assert "fewer" not in told
    told = page({"churn": {"embedded": dataclasses.replace(quiet, load=(5.0, 1.0), scale=0.1)}})
    assert "**Measured on a machine busy with other things: churn (embedded).**" in told
    assert "Measured with fewer runs than usual: churn (embedded)." in told


def test_a_part_that_is_measured_again_replaces_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    save(path, {"churn": {"embedded": _entry(CHURN)}, "losses": {"embedded": _entry(KEPT)}})
    told = load(path)
    told["losses"]["embedded"] = _entry(KEPT | {"written": 7})
    save(path, told)
    assert load(path)["losses"]["embedded"].result["written"] == 7
    assert load(path)["churn"]["embedded"] == _entry(CHURN)


WRITER = Writer("", b"".join(b"%03d\n" % number for number in range(100)))


@pytest.mark.parametrize(
    ("shown", "marked", "lost"),
    [
        (WRITER.text.decode(), 0, 0),
        (WRITER.text[:-7].decode(), 0, 7),
        (f"{WRITER.text[:40].decode()}\n[… 320 bytes dropped here …]\n{WRITER.text[-40:].decode()}", 320, 0),
        (f"{WRITER.text[:40].decode()}\n[… 300 bytes dropped here …]\n{WRITER.text[-40:].decode()}", 300, 20),
        (f"{WRITER.text[:40].decode()}\n[… 320 bytes dropped here …]\n{WRITER.text[-40:].decode()}", 0, 320),
        (WRITER.text.decode().replace("050", "055"), 0, 1),
    ],
)
def test_a_byte_that_is_neither_shown_nor_counted_is_lost(shown: str, marked: int, lost: int) -> None:
    assert difference(WRITER, shown, marked) == lost


async def test_what_programs_write_is_compared_with_what_is_told_and_kept(settings: Settings) -> None:
    names = ("prints 200,000 lines", "prints, flushes and is killed")
    tally = await losses(settings, 1, {name: WRITERS[name] for name in names})
    assert tally.lost.keys() == {f"a program that {name}" for name in names} | {
        "a server that was killed: outputs",
        "a server that was killed: a file",
    }
    assert sum(tally.lost.values()) == 0
    assert tally.marked == 4_000_000 - (1 << 20)


async def test_sessions_look_for_what_others_have_left(settings: Settings) -> None:
    tally = await leaks(settings, 3)
    assert (tally.sessions, tally.leaks) == (3, [])
    assert {"environment", "module", "abstract socket", "port", "file name", "file in"} <= tally.places.keys()
