"""Rows with two responses and a verdict between them: SHP, Likert scales, our CSV. Not `chosen` and `rejected`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from rlaif.config.human import Csv, Likert, Shp
from rlaif.errors import DataError
from rlaif.feedback.human.scale import NumberScale, Scale
from rlaif.feedback.human.sheet import Said, Sheet, number, require, response_text, said_by, strength_of
from rlaif.feedback.human.signals import sides, signals, verdicts
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
            _label(row, columns, _sure(row, label), said_by(row), sheet)
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
            p_a = 0.5 + (middle - point) / (form.points - 1)
            _label(row, columns, p_a, said_by(row), sheet, form.rating)
    scale.check(_other_scale(scale, form))


def _other_scale(scale: NumberScale, form: Likert) -> str:
    """What to declare, where the answers look like those of a scale that is not declared."""
    span = f"; they are from {scale.least:g} to {scale.most:g}"
    if scale.least < 0 and scale.least >= -3 and scale.most <= 3:
        points = 5 if max(-scale.least, scale.most) <= 2 and form.points == 5 else 7
        if (form.points, form.scale) != (points, "signed"):
            return f"{span}: if 0 is a tie, declare form: {{kind: likert, points: {points}, scale: signed}}"
    if scale.least >= 1 and scale.most <= 7:
        points = 5 if scale.most <= 5 else 7
        if (form.points, form.scale) != (points, "counted"):
            return f"{span}: declare form: {{kind: likert, points: {points}}}"
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
            _label(row, columns, _sure(row, CHOICES[choice]), said_by(row), sheet, "choice")
    scale.check()
    _check_code(first)


def _check_code(first: dict[str, str]) -> None:
    """DataError unless the choices, each with the place of its first row, are surely of one code."""
    if "0" in first and "1" in first and "2" not in first:
        raise DataError(
            f"{first['0']}: choice: the file has 0 (a tie) and 1 (response_a) and never 2: if 0 and 1 are its two "
            "responses, write a and b; if it has ties, write a and tie"
        )
    number = next((choice for choice in first if choice.isdigit()), None)
    word = next((choice for choice in first if not choice.isdigit()), None)
    if number is not None and word is not None:
        raise DataError(
            f"{first[number]}: choice: the file has numbers ({number}) and words ({word!r}, {first[word]}): write a, b "
            "and tie, or 1, 2 and 0"
        )


def _sure(row: SourceRow, p_a: float) -> float:
    """P(a is better) of a verdict, with the row's `p_chosen` if it has one. Unusable where that belies a tie."""
    p = strength_of(row)
    if p is None:
        return p_a
    if p_a == 0.5 != p:
        raise Unusable("p_chosen says that a tie is none", f"p_chosen = {p:g}")
    return p if p_a > 0.5 else 1 - p


def _label(row: SourceRow, columns: Opposed, p_a: float, said: Said, sheet: Sheet, verdict: str = "") -> None:
    """The judgment, held against the row's figures but that in its column `verdict`: equal ones make a tie."""
    a, b = response_text(row, columns.a), response_text(row, columns.b)
    names, apart = sides(columns.a, columns.b), {*columns, verdict}
    found = [*signals(row, *names, apart), *verdicts(row, *names, apart)]
    for signal in found:
        if (p_a - 0.5) * signal.lead < 0:
            raise Unusable("the row's own figures say that the other is better", signal.said)
    if found and not any(signal.lead for signal in found) and row.value.get("p_chosen") is None:
        p_a = 0.5
    sheet.label(sheet.prompt(row, columns.prompt), a, b, p_a, said)
