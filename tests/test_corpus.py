"""No row of the attack corpus is without a test by oversight."""

from pathlib import Path

from tests.corpus import NIGHTLY, ROWS, UNTESTED, bearers

TESTS = bearers()


def test_every_row_has_a_test_or_a_reason_why_not() -> None:
    tested = {row for test in TESTS for row in test.rows}
    without = {each.row for each in UNTESTED}
    assert set(ROWS) - tested - without == set(), "rows without a test"
    assert without & tested == set(), "rows that have a test now"
    assert without <= set(ROWS)


def test_no_test_bears_a_row_that_there_is_not() -> None:
    strange = [(test.place, row) for test in TESTS for row in test.rows if row not in ROWS]
    assert strange == []


def test_what_finishes_in_seconds_is_not_left_to_the_nights() -> None:
    by_day = {row for test in TESTS if not test.nightly for row in test.rows}
    assert set(ROWS) - by_day - NIGHTLY - {each.row for each in UNTESTED} == set()


def test_what_is_not_tested_is_documented() -> None:
    page = (Path(__file__).parents[1] / "SECURITY.md").read_text()
    for each in UNTESTED:
        assert f"| {each.row} | {each.attack} | {each.why} |" in page
    assert sum(f"\n| {row} |" in page for row in ROWS) == len(UNTESTED)
