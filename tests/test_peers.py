"""The page that compares us with others is what the script makes of what it measured, and leaves nothing out."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.image import Image
from tests.peers import drivers
from tests.peers.figure import MEASURES, Figure
from tests.peers.page import NAME, page, table
from tests.peers.peer import PEERS
from tests.peers.plot import PANELS, drawing
from tests.peers.run import Measured, Run

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
AGAIN = "run scripts/bench-peers --out docs"


@pytest.fixture(scope="module")
def committed() -> Run:
    return Run.from_json((DOCS / f"{NAME}.json").read_text())


def test_the_page_and_the_picture_are_what_the_script_makes_of_its_figures(committed: Run) -> None:
    assert page(committed) == (DOCS / f"{NAME}.md").read_text(), AGAIN
    assert drawing(committed) == (DOCS / f"{NAME}.svg").read_text(), AGAIN


def test_the_page_has_a_row_for_every_peer_and_a_column_for_every_measure(committed: Run) -> None:
    assert [*committed.peers] == [peer.name for peer in PEERS], AGAIN
    lines = [line for line in (DOCS / f"{NAME}.md").read_text().splitlines() if line.startswith("| ")]
    head, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [title.partition(",")[0] for title in head[1:]] == [
        each.title.partition(",")[0] for each in MEASURES.values()
    ]
    for peer, row in zip(PEERS, rows, strict=True):
        assert row[0].startswith(peer.title)
        assert len(row) == len(head)
        assert all(re.search(r"\d|cannot", cell) for cell in row[1:]), row


def test_every_figure_is_a_number_with_its_count_or_says_why_there_is_none(committed: Run) -> None:
    for name, peer in committed.peers.items():
        assert not peer.absent, name
        assert peer.figures.keys() == MEASURES.keys(), name
        for measure, figure in peer.figures.items():
            assert figure.cannot or (figure.value is not None and figure.runs >= 2), (name, measure)
            assert figure.value is None or len(figure.values) in (0, 1, figure.runs)
    ours = committed.peers[PEERS[0].name].figures
    assert all(figure.value is not None and not figure.cannot for figure in ours.values())


def test_every_driver_is_a_peers() -> None:
    there = {file.stem for file in Path(drivers.__file__).parent.glob("with_*.py")}
    assert there == {peer.driver for peer in PEERS}


def test_what_is_known_of_a_peer_is_about_a_measure_that_there_is() -> None:
    assert all(peer.cannot.keys() <= MEASURES.keys() for peer in PEERS)
    assert all(measure in MEASURES for row in PANELS for measure in row)


def test_the_readme_leads_to_the_page() -> None:
    assert f"(docs/{NAME}.md)" in (ROOT / "README.md").read_text()


RUN = Run("2026-01-02", "scripts/bench-peers --scale 1", "Linux", 2, 8.0, {"Docker": "20"}, 61, {})
SECOND = PEERS[3]


def told(**figures: Figure) -> Run:
    """Of ours and one other."""
    ours = {name: Figure(2.0, 4, load=0.5) for name in MEASURES}
    return dataclasses.replace(
        RUN, peers={PEERS[0].name: Measured(figures=ours), SECOND.name: Measured(figures=figures)}
    )


def row_of(run: Run) -> dict[str, str]:
    """The cells of the other, by measure."""
    *_, last = table(run).splitlines()
    return dict(zip(MEASURES, [cell.strip() for cell in last.strip("|").split("|")][1:], strict=True))


def test_a_cell_has_a_median_its_ratio_to_ours_and_its_count() -> None:
    row = row_of(told(fresh=Figure(1300.0, 7), rate_8=Figure(0.5, 9)))
    assert row["fresh"] == "1,300 · ×650 · n 7"
    assert row["rate_8"] == "0.5 · ×0.25 · n 9"
    assert row["second"] == "–"


def test_what_a_peer_cannot_is_in_its_cell_and_explained_below() -> None:
    run = told(
        fresh=Figure(cannot="it hung"),
        second=Figure(4.0, 50, cannot="it forgets"),
        chart=Figure(cannot="it drops pictures", note="900 ms without"),
        crash=Figure(3.0, 3, note="3 stopped containers; after the next start none"),
    )
    row = row_of(run)
    assert row["fresh"] == "cannot †"
    assert row["second"] == "4.0 † · ×2.0 · n 50"
    assert row["chart"] == "cannot †"
    assert row["crash"] == "3 stopped containers"
    text = page(run)
    for words in (
        "it hung",
        "it forgets",
        "it drops pictures (900 ms without)",
        "3 stopped containers; after the next start none",
    ):
        assert f": {words}." in text
    assert drawing(run).count(">cannot<") == 2


def test_a_peer_that_could_not_be_installed_is_said_to_be_absent() -> None:
    run = dataclasses.replace(told(), peers={SECOND.name: Measured(absent="there is no docker command")})
    assert f"{SECOND.title} was not measured: there is no docker command." in page(run)
    assert set(row_of(run).values()) == {"–"}
    assert SECOND.title.strip("`") not in drawing(run)


def test_a_run_is_the_same_when_it_has_been_json() -> None:
    run = told(fresh=Figure(1.5, 2, 0.3, "why", "what", (1.0, 2.0)))
    assert Run.from_json(run.to_json()) == run


@pytest.mark.nightly
def test_a_run_measures_our_server_and_writes_what_it_found(root: None, python_image: Image, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.peers", "--peer", "sandbox", "--scale", "0.1", "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300, capture_output=True)
    run = Run.from_json((tmp_path / f"{NAME}.json").read_text())
    figures = run.peers["sandbox"].figures
    assert figures.keys() == MEASURES.keys()
    assert not any(figure.cannot for figure in figures.values())
    assert figures["crash"].value == 0
    assert page(run) == (tmp_path / f"{NAME}.md").read_text()
