"""The table of docs/scale.md is what benchmarks/scale.py computes."""

from pathlib import Path

from pytest import approx

from benchmarks.scale import hours, rows

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"


def test_the_page_has_the_computed_table() -> None:
    assert "\n".join(rows(10_000_000, 4, 600, 20_000)) in PAGE.read_text()


def test_the_time_is_that_of_its_formula() -> None:
    assert hours(3600, 1, 100, 50, 2, 10) == approx((2.0, 0.1))
    assert hours(3600, 2, 100, 50, 4, 20) == approx((2.0, 0.05))
    assert hours(0, 5, 1, 1, 1, 1) == (0, 0)
