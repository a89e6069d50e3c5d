"""Every page says what it said: its text, tables, tones and the names of its pictures, held against kept copies.

A wanted change of a page is seen in the difference of its copy in golden/pages (`python -m tests.test_pages` writes
them anew). The figures are fixed, so a figure that moves is a change of the statistics, not of the page.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.made_pages import PAGES, text_of

GOLDEN = Path(__file__).parent / "golden" / "pages"


@pytest.mark.usefixtures("blank_plots")
@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_its_copy_says(name: str, tmp_path: Path) -> None:
    assert text_of(PAGES[name](tmp_path / name)) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def write_copies() -> None:
    """All of golden/pages, from the code as it is."""
    for name, make in PAGES.items():
        with TemporaryDirectory() as folder:
            (GOLDEN / f"{name}.txt").write_text(text_of(make(Path(folder) / name)), encoding="utf-8")


if __name__ == "__main__":
    write_copies()
