"""Rows with two responses and a verdict between them: SHP, Likert scales, our CSV. Not `chosen` and `rejected`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from rlaif.config.sections import Csv, Likert, Shp
from rlaif.feedback.human.sheet import Said, Sheet, number, require, response_text, said_by
from rlaif.feedback.sources import SourceRow, Unusable

CHOICES = {"a": 1.0, "1": 1.0, "b": 0.0, "2": 0.0, "tie": 0.5, "0": 0.5}
"""P(response_a is better) by what a CSV file may say in `choice`."""


class Opposed(NamedTuple):
    """The columns of the prompt and of both responses."""

    prompt: str
    a: str
    b: str


def read_shp(rows: Iterable[SourceRow], form: Shp, sheet: Sheet) -> None:
    """`labels` is 1 where A got more votes though it had less time (SHP, arXiv 2110.08420), and 0 for B."""
    columns = Opposed("history", "human_ref_A", "human_ref_B")
    for row in rows:
        require(row, form.kind, *columns, "labels", *(["score_ratio"] if form.min_ratio > 1 else []))
        with sheet.attempt(row.place):
            label = number(row, "labels")
            if label not in (0, 1):
                raise Unusable("labels is neither 1 nor 0", f"labels = {label:g}")
            if form.min_ratio > 1 and number(row, "score_ratio") < form.min_ratio:
                sheet.tally("below_min_ratio")
                continue
            _label(row, columns, label, said_by(row), sheet)


def read_likert(rows: Iterable[SourceRow], form: Likert, sheet: Sheet) -> None:
    """P(a is better) is 1 at 1, 0 at `points`, and linear between."""
    columns = Opposed("prompt", form.response_a, form.response_b)
    for row in rows:
        require(row, form.kind, *columns, form.rating)
        with sheet.attempt(row.place):
            point = number(row, form.rating, 1, form.points)
            if not point.is_integer():
                raise Unusable(f"{form.rating} is no point of the scale", f"{form.rating} = {point:g}")
            p_a = 0.5 + ((form.points + 1) / 2 - point) / (form.points - 1)
            _label(row, columns, p_a, said_by(row), sheet)


def read_csv(rows: Iterable[SourceRow], form: Csv, sheet: Sheet) -> None:
    """Rows of the documented columns, from a CSV file or any other."""
    columns = Opposed("prompt", "response_a", "response_b")
    for row in rows:
        require(row, form.kind, *columns, "choice")
        with sheet.attempt(row.place):
            choice = str(row.value["choice"]).strip().lower()
            if choice not in CHOICES:
                raise Unusable("choice is none of a, b, tie, 1, 2, 0", f"choice = {row.value['choice']!r}")
            _label(row, columns, CHOICES[choice], said_by(row), sheet)


def _label(row: SourceRow, columns: Opposed, p_a: float, said: Said, sheet: Sheet) -> None:
    a, b = response_text(row, columns.a), response_text(row, columns.b)
    sheet.label(sheet.prompt(row, columns.prompt), a, b, p_a, said)
