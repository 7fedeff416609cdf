"""Write the table of settings into docs/settings.md. Run it after a change to sandbox/config.py."""

from pathlib import Path

from sandbox.config import table

MARK = "<!-- Written by scripts/document_settings.py from sandbox/config.py -->\n"
PAGE = Path(__file__).parents[1] / "docs" / "settings.md"

if __name__ == "__main__":
    text, mark, _ = PAGE.read_text().partition(MARK)
    PAGE.write_text(f"{text}{mark}\n{table()}")
