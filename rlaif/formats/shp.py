"""Stanford Human Preferences (SHP, arXiv 2110.08420): two answers of Reddit, and which got more votes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from rlaif.formats.format import Format
from rlaif.formats.rows import SourceRow
from rlaif.formats.sheet import NumberScale, Sheet, as_number, said_by
from rlaif.formats.signals import Columns, label_columns, with_strength


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
