"""Responses with a thumb up or down, as TRL's unpaired rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from rlaif.errors import DataError
from rlaif.formats.format import Format
from rlaif.formats.messages import Unusable
from rlaif.formats.ratings import Rating, pair_rated
from rlaif.formats.rows import SourceRow
from rlaif.formats.sheet import Sheet, response_text, said_by


class Thumbs(Format):
    """`prompt`, a response and whether it is liked (TRL's unpaired rows): up beats down on the same prompt."""

    kind: Literal["thumbs"] = "thumbs"
    KEYS = ({"prompt", "completion", "label"}, {"prompt", "response", "label"})
    response: str = "completion"
    """The column of the response."""
    label: str = "label"
    """The column of the thumb: true or 1 is up."""

    def read(self, rows: Iterable[SourceRow], sheet: Sheet) -> None:
        """Every response that is liked over every one that is not."""
        rated = []
        for row in rows:
            self.require(row, "prompt", self.response, self.label)
            with sheet.attempt(row.place):
                label = row.value[self.label]
                if label is None:
                    raise Unusable(f"{self.label} is missing")
                if label not in (True, False):  # 1 and 0 are
                    raise DataError(f"{row.place}: {self.label}: must be true or false (got {label!r})")
                rated.append(
                    Rating(sheet.prompt(row, "prompt"), response_text(row, self.response), label, said_by(row))
                )
        pair_rated(rated, None, sheet)
