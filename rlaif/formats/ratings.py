"""One rated or thumbed response a row; pairs are made of what one annotator said of one prompt's responses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, Self

from pydantic import model_validator

from rlaif.config.base import Positive
from rlaif.errors import DataError, did_you_mean
from rlaif.formats.format import Format
from rlaif.formats.rows import SourceRow
from rlaif.formats.sheet import Attribution, NumberScale, Sheet, response_text, said_by, some_pairs
from rlaif.records import Prompt

ROUNDING = 1e-9
"""How much nearer than the gap two ratings may be: sums of weighted attributes and z-scores are rounded."""


class Ratings(Format):
    """One rated response a row. Two responses to a prompt, rated by one annotator, are a pair past the gap."""

    kind: Literal["ratings"] = "ratings"
    KEYS = ({"prompt", "response", "rating"}, {"prompt", "response", "helpfulness"})
    prompt: str = "prompt"
    """The column of the prompt."""
    response: str = "response"
    """The column of the response."""
    rating: str | dict[str, float] = "rating"
    """The column of the rating; or several with their weights, and the rating is their weighted sum (HelpSteer)."""
    annotator: str = "annotator"
    """The column that says who rated, if there is one."""
    scale: tuple[float, float] = (1.0, 5.0)
    """The lowest and the highest rating; any other stops the run. A Likert scale of 7 points is [1, 7]."""
    standardise: bool = False
    """Divide by each annotator's own spread first: z-scores over all that the annotator rated in this source. One who
    rated everything alike has no spread, and gives no pair."""
    gap: Positive = 1.0
    """Ratings at least this far apart are a preference; on standardised ratings, in standard deviations."""

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        low, high = self.scale
        if low >= high:
            raise ValueError(f"scale: the lowest rating must be below the highest (got {low:g} and {high:g})")
        weights = self.rating.values() if isinstance(self.rating, dict) else (1.0,)
        if not any(weights):
            raise ValueError("rating: name at least one column with a weight other than 0")
        widest = sum(abs(weight) for weight in weights) * (high - low)
        if not self.standardise and self.gap > widest:
            raise ValueError(f"gap: no two ratings on this scale are {self.gap:g} apart; the most is {widest:g}")
        return self

    def read(self, rows: Iterable[SourceRow], sheet: Sheet) -> None:
        """Pairs past the gap."""
        weights = self.rating if isinstance(self.rating, dict) else {self.rating: 1.0}
        scale, rated = NumberScale(*self.scale), []
        nobody: SourceRow | None = None
        named = self.annotator == Ratings().annotator
        for row in rows:
            self.require(row, self.prompt, self.response, *weights)
            named, nobody = named or self.annotator in row.value, nobody or row
            with sheet.attempt(row.place):
                values = {column: scale.read(row.value[column], row.place, column) for column in weights}
                rating = math.fsum(weight * values[column] for column, weight in weights.items())
                said = said_by(row, self.annotator)
                rated.append(Rating(sheet.prompt(row, self.prompt), response_text(row, self.response), rating, said))
        scale.check(other_range(scale))
        if nobody is not None and not named:
            near = did_you_mean(self.annotator, nobody.value)
            raise DataError(f"{nobody.place}: no row has the annotator's column {self.annotator!r}{near}")
        pair_rated(standardised(rated) if self.standardise else rated, self.gap, sheet)


class Rating(NamedTuple):
    """What one annotator thinks of one response."""

    prompt: Prompt
    text: str
    rating: float
    said: Attribution


def other_range(scale: NumberScale) -> str:
    """What to declare, where the ratings are from another range."""
    return f"; they are from {scale.least:g} to {scale.most:g}: declare the form's scale, [lowest, highest]"


def standardised(rated: Sequence[Rating]) -> list[Rating]:
    """Ratings as z-scores over their annotator's; 0 where an annotator rated everything alike."""
    by_annotator: dict[str, list[float]] = {}
    for item in rated:
        by_annotator.setdefault(item.said.annotator, []).append(item.rating)
    mean, spread = {}, {}
    for annotator, ratings in by_annotator.items():
        # fsum: the same for every order of the rows
        mean[annotator] = math.fsum(ratings) / len(ratings)
        spread[annotator] = math.sqrt(math.fsum((r - mean[annotator]) ** 2 for r in ratings) / len(ratings))
    return [
        item._replace(rating=(item.rating - mean[who]) / spread[who] if spread[who] > ROUNDING else 0.0)
        for item in rated
        for who in [item.said.annotator]
    ]


def pair_rated(rated: Sequence[Rating], gap: float | None, sheet: Sheet) -> None:
    """Judgments of all pairs that one annotator rated this far apart (None: at all apart), in an order that does not
    depend on the rows'. What is in no pair is counted, and pairs beyond the most of one group."""
    groups: dict[tuple[str, str], list[Rating]] = {}
    for item in rated:
        groups.setdefault((item.prompt.id, item.said.annotator), []).append(item)
    for of_whom, group in groups.items():
        paired = set()
        ordered = sorted(group, key=lambda item: (item.text, item.rating, item.prompt.tags, item.said.seconds or 0.0))
        for (i, one), (j, other) in some_pairs(list(enumerate(ordered)), "\n".join(of_whom), sheet):
            if one.text == other.text:
                sheet.tally("same_text")
            elif gap is not None and abs(one.rating - other.rating) < gap - ROUNDING:
                sheet.tally("closer_than_gap")
            elif one.rating != other.rating:
                _label(one, other, sheet)
                paired |= {i, j}
        sheet.tally("unpaired", len(group) - len(paired))


def _label(one: Rating, other: Rating, sheet: Sheet) -> None:
    """The label took the time of both ratings, and its pair has the tags of both rows."""
    seconds = [item.said.seconds for item in (one, other) if item.said.seconds is not None]
    reason = "; ".join(item.said.reason for item in (one, other) if item.said.reason)
    said = Attribution(one.said.annotator, math.fsum(seconds) if len(seconds) == 2 else None, reason)
    tags = tuple(dict.fromkeys([*one.prompt.tags, *other.prompt.tags]))
    prompt = one.prompt.model_copy(update={"tags": tags})
    sheet.label(prompt, one.text, other.text, float(one.rating > other.rating), said)
