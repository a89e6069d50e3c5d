"""Rated responses: rated or thumbed ones, a row each, and UltraFeedback's completions. Pairs are made of what one
annotator said of one prompt's responses.

The annotator of the original UltraFeedback (arXiv 2310.01377) was GPT-4, which is what the judgments say. Each
completion is checked before it is compared: the first release turned overall scores of 1 into 10 (OpenBMB/UltraFeedback
issue 8), and its repair trusted a 10 only where the aspects' mean was above 4.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from statistics import fmean
from typing import Any, Literal, NamedTuple, Self

from pydantic import model_validator

from rlaif.config.base import Positive
from rlaif.errors import DataError, did_you_mean
from rlaif.formats.format import Format
from rlaif.formats.rows import SourceRow, Unusable
from rlaif.formats.sheet import (
    Attribution,
    NumberScale,
    Sheet,
    as_number,
    as_response,
    response_text,
    said_by,
    some_pairs,
)
from rlaif.records import Prompt, grouped

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
    mean, spread = {}, {}
    for annotator, items in grouped(rated, lambda item: item.said.annotator).items():
        ratings = [item.rating for item in items]
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
    for of_whom, group in grouped(rated, lambda item: (item.prompt.id, item.said.annotator)).items():
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


ANNOTATOR = "gpt-4"
DOES_NOT_APPLY = "N/A"
"""What stands for an aspect that an instruction does not call for."""


class UltraFeedback(Format):
    """The original UltraFeedback: `instruction` and `completions` with scores of 1 to 10, given by GPT-4."""

    kind: Literal["ultrafeedback"] = "ultrafeedback"
    KEYS = ({"instruction", "completions"},)
    score: Literal["overall", "aspects"] = "overall"
    """`overall`: `overall_score`, where a 10 that the aspects deny is a failure: about 2,600 of them were a 1
    (OpenBMB/UltraFeedback issue 8). `aspects`: the mean of the aspects' ratings, 1 to 5."""
    gap: Positive = 1.0
    """Scores at least this far apart are a preference."""

    def read(self, rows: Iterable[SourceRow], sheet: Sheet) -> None:
        """Pairs of each instruction's completions, past the gap; a completion with a doubtful score is a failure."""
        for row in rows:
            self.require(row, "instruction", "completions")
            with sheet.attempt(row.place):
                prompt = sheet.prompt(row, "instruction")
                rated = []
                for number, completion in enumerate(_completions(row), start=1):
                    place = f"{row.place} completion {number}"
                    with sheet.attempt(place):
                        text = as_response(completion.get("response"), place, "response")
                        rated.append(Rating(prompt, text, _score(completion, place, self), Attribution(ANNOTATOR)))
                pair_rated(rated, self.gap, sheet)


def _completions(row: SourceRow) -> list[Mapping[str, Any]]:
    value = row.value["completions"]
    if isinstance(value, dict) and all(isinstance(column, list) for column in value.values()):
        # How `datasets` gives a Sequence of structs: a column of equal length for each of their fields.
        value = [dict(zip(value, parts, strict=True)) for parts in zip_longest(*value.values())]
    if value == []:
        raise Unusable("there are no completions")
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DataError(f"{row.place}: completions: must be a list of objects (got {str(value)[:80]})")
    return value


def _score(completion: Mapping[str, Any], place: str, form: UltraFeedback) -> float:
    """The completion's score. Unusable when it is missing, out of range, or a 10 that the aspects do not bear out."""
    aspects = _aspects(completion.get("annotations"), place)
    if form.score == "aspects":
        if not aspects:
            raise Unusable("no aspect is rated")
        return fmean(aspects.values())
    score = as_number(_plain(completion.get("overall_score"), place, "overall_score"), place, "overall_score", 1, 10)
    if score == 10 and (not aspects or fmean(aspects.values()) <= 4):
        found = ", ".join(f"{aspect} {rating:g}" for aspect, rating in aspects.items())
        raise Unusable("overall_score 10 is not borne out by the aspects", f"10; {found or 'no aspect is rated'}")
    return score


def _aspects(annotations: Any, place: str) -> dict[str, float]:
    """Ratings from 1 to 5 by aspect, without those that do not apply."""
    if annotations is not None and not isinstance(annotations, dict):
        raise DataError(f"{place}: annotations: must be an object (got {annotations!r})")
    ratings = {}
    for aspect, found in sorted((annotations or {}).items()):
        value = found.get("Rating") if isinstance(found, dict) else None
        if value is not None and value != DOES_NOT_APPLY:
            key = f"annotations.{aspect}.Rating"
            ratings[aspect] = as_number(_plain(value, place, key), place, key, 1, 5)
    return ratings


def _plain(value: Any, place: str, key: str) -> Any:
    """The data set writes ratings as texts. Unusable for a text that is no number."""
    if not isinstance(value, str):
        return value
    with contextlib.suppress(ValueError):
        if math.isfinite(number := float(value)):
            return number
    raise Unusable(f"{key} is no number", f"{key} = {value!r}")
