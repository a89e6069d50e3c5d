"""Every page says what it said: its text, tables, tones and the names of its pictures, held against kept copies.

A wanted change of a page is seen in the difference of its copy in golden/pages (`python -m tests.test_pages` writes
them anew). The figures are fixed, so a figure that moves is a change of the statistics, not of the page.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from rlaif.pages import kit
from rlaif.stats import Estimate, at, estimate_at
from rlaif.words import NONE
from tests.made_pages import PAGES, text_of

GOLDEN = Path(__file__).parent / "golden" / "pages"


@pytest.mark.usefixtures("blank_plots")
@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_its_copy_says(name: str, tmp_path: Path) -> None:
    assert text_of(PAGES[name](tmp_path / name)) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def test_parts_are_escaped_and_words_between_backticks_are_code() -> None:
    assert kit.note("a < b in `rlaif run <x>`") == '<p class="note">a &lt; b in <code>rlaif run &lt;x&gt;</code></p>'
    shown = kit.table(("<h>", "n"), [("<i>", kit.Cell("<b>", "<s>", "up")), ("all", "1")], totals=1)
    assert shown is not None and "&lt;i&gt;" in shown and "&lt;b&gt;" in shown and "<i>" not in shown
    assert '<span class="up">' in shown and shown.count('class="total"') == 1


def test_what_has_nothing_to_show_is_left_out() -> None:
    nothing = kit.table(("a",), []), kit.grid(), kit.details("more"), kit.paragraph(""), kit.grid(None)
    assert nothing == (None, None, None, None, None)
    assert kit.section("Title", "How to read it", *nothing) == [] == kit.tiles([], "How to read them")
    assert kit.tile("x", None, "share") == [] and kit.cell(None).text == NONE


def test_an_estimate_is_read_from_where_it_was_written() -> None:
    tree = {"a": {"b": {"value": 0.7, "low": 0.6, "high": 0.9, "n": 8, "more": 1}, "c": {"value": None}, "d": 3}}
    found = estimate_at(tree, "a.b")
    assert found == Estimate(value=0.7, low=0.6, high=0.9, n=8) == estimate_at(at(tree, "a.b"))
    assert [estimate_at(tree, place) for place in ("a.c", "a.d", "a.d.e", "x.y", "a")] == [None] * 5
    assert found is not None and kit.tile("x", found, "points", 0.0) == [kit.Tile("x", "+70", "60 to 90", "up")]


def test_the_other_side_of_an_estimate_has_the_ends_exchanged() -> None:
    found = Estimate(value=0.75, low=0.5, high=0.875, n=8)
    assert found.opposite(1.0) == Estimate(value=0.25, low=0.125, high=0.5, n=8)
    assert (
        found.opposite() == Estimate(value=-0.75, low=-0.875, high=-0.5, n=8) and found.opposite().opposite() == found
    )
    without = Estimate(value=0.75, low=None, high=None, n=1)
    assert without.opposite(1.0) == Estimate(value=0.25, low=None, high=None, n=1)


def write_copies() -> None:
    """All of golden/pages, from the code as it is."""
    for name, make in PAGES.items():
        with TemporaryDirectory() as folder:
            (GOLDEN / f"{name}.txt").write_text(text_of(make(Path(folder) / name)), encoding="utf-8")


if __name__ == "__main__":
    write_copies()
