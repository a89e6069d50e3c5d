"""Rows with two responses and a verdict between them: SHP, Likert scales, our CSV. Not `chosen` and `rejected`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from rlaif.config.sections import Csv, Likert, Shp
from rlaif.errors import DataError
from rlaif.feedback.human.scale import NumberScale, Scale
from rlaif.feedback.human.sheet import Said, Sheet, number, require, response_text, said_by
from rlaif.feedback.human.signals import signals
from rlaif.feedback.messages import Unusable
from rlaif.feedback.sources import SourceRow

CHOICES = {"a": 1.0, "1": 1.0, "b": 0.0, "2": 0.0, "tie": 0.5, "0": 0.5}
"""P(response_a is better) by what a CSV file may say in `choice`."""


class Opposed(NamedTuple):
    """The columns of the prompt and of both responses."""

    prompt: str
    a: str
    b: str


def read_shp(rows: Iterable[SourceRow], form: Shp, sheet: Sheet) -> None:
    """`labels` is 1 where A got more votes though it had less time (SHP, arXiv 2110.08420), and 0 for B."""
    columns, scale = Opposed("history", "human_ref_A", "human_ref_B"), NumberScale(0, 1, whole=True)
    for row in rows:
        require(row, form.kind, *columns, "labels", *(["score_ratio"] if form.min_ratio > 1 else []))
        with sheet.attempt(row.place):
            label = scale.read(row.value["labels"], row.place, "labels")
            if form.min_ratio > 1 and number(row, "score_ratio") < form.min_ratio:
                sheet.tally("below_min_ratio")
                continue
            _label(row, columns, label, said_by(row), sheet)
    scale.check()


def read_likert(rows: Iterable[SourceRow], form: Likert, sheet: Sheet) -> None:
    """P(a is better) is 1 at the lowest point, 0 at the highest, and linear between."""
    columns, half = Opposed("prompt", form.response_a, form.response_b), (form.points - 1) // 2
    middle = 0 if form.scale == "signed" else half + 1
    scale = NumberScale(middle - half, middle + half, whole=True)
    for row in rows:
        require(row, form.kind, *columns, form.rating)
        with sheet.attempt(row.place):
            point = scale.read(row.value[form.rating], row.place, form.rating)
            _label(row, columns, 0.5 + (middle - point) / (form.points - 1), said_by(row), sheet)
    scale.check(_other_scale(scale, form))


def _other_scale(scale: NumberScale, form: Likert) -> str:
    """What to declare, where the answers look like those of another scale."""
    span = f"; they are from {scale.least:g} to {scale.most:g}"
    if scale.least < 0 and scale.least >= -3 and scale.most <= 3:
        points = 5 if max(-scale.least, scale.most) <= 2 and form.points == 5 else 7
        return f"{span}: if 0 is a tie, declare form: {{kind: likert, points: {points}, scale: signed}}"
    if scale.least >= 1 and scale.most <= 7:
        return f"{span}: declare form: {{kind: likert, points: {5 if scale.most <= 5 else 7}}}"
    return span


def read_csv(rows: Iterable[SourceRow], form: Csv, sheet: Sheet) -> None:
    """Rows of the documented columns, from a CSV file or any other."""
    columns, scale = Opposed("prompt", "response_a", "response_b"), Scale(f"one of {', '.join(CHOICES)}")
    first: dict[str, str] = {}
    for row in rows:
        require(row, form.kind, *columns, "choice")
        with sheet.attempt(row.place):
            value = row.value["choice"]
            choice = "" if value is None else str(value).strip().lower()
            if not choice:
                raise Unusable("choice is missing")
            scale.holds(choice in CHOICES, value, row.place, "choice")
            first.setdefault(choice, row.place)
            _label(row, columns, CHOICES[choice], said_by(row), sheet)
    scale.check()
    if first.keys() == {"0", "1"}:
        raise DataError(
            f"{first['0']}: choice: the file has 0 (a tie) and 1 (response_a) and never 2: if 0 and 1 are its two "
            "responses, write a and b; if it has ties, write a and tie"
        )


def _label(row: SourceRow, columns: Opposed, p_a: float, said: Said, sheet: Sheet) -> None:
    a, b = response_text(row, columns.a), response_text(row, columns.b)
    for signal in signals(row, "a", "b"):
        if (p_a - 0.5) * signal.lead < 0:
            raise Unusable("the row's own figures say that the other is better", signal.said)
    sheet.label(sheet.prompt(row, columns.prompt), a, b, p_a, said)
