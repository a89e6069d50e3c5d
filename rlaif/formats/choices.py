"""One choice between two responses per row: CSV files, ratings on a scale between the two (Likert, HelpSteer 2 and 3),
and Stanford Human Preferences (SHP, arXiv 2110.08420), which of two answers of Reddit got more votes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal

from pydantic import Field

from rlaif.config.sources import DataSource, HubSource
from rlaif.errors import DataError
from rlaif.formats.format import Format
from rlaif.formats.rows import SourceRow, Unusable, path_of, read_rows
from rlaif.formats.sheet import NumberScale, Scale, Sheet, as_number, said_by
from rlaif.formats.signals import Columns, label_columns, with_strength
from rlaif.formats.tables import csv_items

CHOICES = {"a": 1.0, "1": 1.0, "b": 0.0, "2": 0.0, "tie": 0.5, "0": 0.5}
"""P(response_a is better) by what a CSV file may say in `choice`."""


class Csv(Format):
    """A CSV file: `prompt`, `response_a`, `response_b`, `choice` (a, b or tie; 1, 2 or 0), and optional columns."""

    kind: Literal["csv"] = "csv"
    KEYS = ({"response_a", "response_b", "choice"},)
    HAS_STRENGTH = True

    def rows(self, source: DataSource) -> Iterator[SourceRow]:
        """Those of a CSV file; a data set of the hub is read as any other."""
        if isinstance(source, HubSource):
            return read_rows(source)
        items = csv_items(path_of(source), keep={"prompt", "response_a", "response_b", "choice"})
        return islice((SourceRow(place, value) for place, value in items), source.limit)

    def read(self, rows: Iterable[SourceRow], sheet: Sheet) -> None:
        """Rows of the documented columns, from a CSV file or any other."""
        columns, scale = Columns("prompt", "response_a", "response_b"), Scale(f"one of {', '.join(CHOICES)}")
        first: dict[str, str] = {}
        for row in rows:
            self.require(row, *columns, "choice")
            with sheet.attempt(row.place):
                value = row.value["choice"]
                choice = "" if value is None else str(value).strip().lower()
                if not choice:
                    raise Unusable("choice is missing")
                scale.holds(choice in CHOICES, value, row.place, "choice")
                first.setdefault(choice, row.place)
                label_columns(row, columns, with_strength(row, CHOICES[choice]), said_by(row), sheet, "choice")
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


class Likert(Format):
    """One comparison a row: the lowest point = the first response is much better, the highest = the second is, the
    middle is a tie. P(first is better) falls from 1 to 0 in equal steps.

    A rating that is none of the points stops the run: the file has another scale.
    """

    kind: Literal["likert"] = "likert"
    KEYS = ({"response_a", "response_b", "rating"},)
    points: Literal[5, 7] = 5
    """How many points the scale has."""
    scale: Literal["counted", "signed"] = "counted"
    """`counted`: from 1 to `points`. `signed`: around a tie of 0, from -2 to 2 or from -3 to 3 (HelpSteer 2 and 3)."""
    response_a: str = "response_a"
    """The column of the response that the lowest point prefers; exchange both where positive ratings mean the first."""
    response_b: str = "response_b"
    """The column of the response that the highest point prefers."""
    rating: str = "rating"
    """The column of the rating."""

    def read(self, rows: Iterable[SourceRow], sheet: Sheet) -> None:
        """P(a is better) is 1 at the lowest point, 0 at the highest, and linear between."""
        columns, half = Columns("prompt", self.response_a, self.response_b), (self.points - 1) // 2
        middle = 0 if self.scale == "signed" else half + 1
        scale = NumberScale(middle - half, middle + half, whole=True)
        for row in rows:
            self.require(row, *columns, self.rating)
            with sheet.attempt(row.place):
                point = scale.read(row.value[self.rating], row.place, self.rating)
                p_a = 0.5 + (middle - point) / (self.points - 1)
                label_columns(row, columns, p_a, said_by(row), sheet, self.rating)
        scale.check(_other_scale(scale, self))


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


class Shp(Format):
    """Stanford Human Preferences: `history`, `human_ref_A`, `human_ref_B`, `labels` (1 = A), `score_ratio`."""

    kind: Literal["shp"] = "shp"
    KEYS = ({"human_ref_A"}, {"human_ref_B"})
    HAS_STRENGTH = True
    min_ratio: float = Field(default=1.0, ge=1)
    """Pairs whose votes are less far apart are left out and counted; the data set's card advises 2 and more."""

    def read(self, rows: Iterable[SourceRow], sheet: Sheet) -> None:
        """`labels` is 1 where A got more votes though it had less time (SHP, arXiv 2110.08420), and 0 for B."""
        columns, scale = Columns("history", "human_ref_A", "human_ref_B"), NumberScale(0, 1, whole=True)
        for row in rows:
            self.require(row, *columns, "labels", *(["score_ratio"] if self.min_ratio > 1 else []))
            with sheet.attempt(row.place):
                label = scale.read(row.value["labels"], row.place, "labels")
                if (
                    self.min_ratio > 1
                    and as_number(row.value["score_ratio"], row.place, "score_ratio") < self.min_ratio
                ):
                    sheet.tally("below_min_ratio")
                    continue
                label_columns(row, columns, with_strength(row, label), said_by(row), sheet)
        scale.check()
