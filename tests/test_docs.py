"""What is written about the program is what the program does."""

from pathlib import Path

from sandbox.config import table

DOCS = Path(__file__).parents[1] / "docs"


def test_every_setting_is_documented_as_it_is() -> None:
    page = (DOCS / "settings.md").read_text()
    assert page.endswith(table()), "run python scripts/document_settings.py"
