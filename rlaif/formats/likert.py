"""A rating on a scale between two responses: Likert scales, and the signed ones of HelpSteer 2 and 3."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from rlaif.formats.format import Format
from rlaif.formats.rows import SourceRow
from rlaif.formats.sheet import NumberScale, Sheet, said_by
from rlaif.formats.signals import Columns, label_columns


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
