"""One rated or thumbed response a row; pairs are made of what one annotator said of one prompt's responses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rlaif.config.human import Ratings, Thumbs
from rlaif.errors import DataError, did_you_mean
from rlaif.feedback.human.scale import NumberScale
from rlaif.feedback.human.sheet import Said, Sheet, require, response_text, said_by, some_pairs
from rlaif.feedback.messages import Unusable
from rlaif.feedback.sources import SourceRow
from rlaif.records import Prompt

ROUNDING = 1e-9
"""How much nearer than the gap two ratings may be: sums of weighted attributes and z-scores are rounded."""


class Rated(NamedTuple):
    """What one annotator thinks of one response."""

    prompt: Prompt
    text: str
    rating: float
    said: Said


def read_ratings(rows: Iterable[SourceRow], form: Ratings, sheet: Sheet) -> None:
    """Pairs past the gap."""
    weights = form.rating if isinstance(form.rating, dict) else {form.rating: 1.0}
    scale, rated = NumberScale(*form.scale), []
    nobody: SourceRow | None = None
    named = form.annotator == Ratings().annotator
    for row in rows:
        require(row, form.kind, form.prompt, form.response, *weights)
        named, nobody = named or form.annotator in row.value, nobody or row
        with sheet.attempt(row.place):
            values = {column: scale.read(row.value[column], row.place, column) for column in weights}
            rating = math.fsum(weight * values[column] for column, weight in weights.items())
            said = said_by(row, form.annotator)
            rated.append(Rated(sheet.prompt(row, form.prompt), response_text(row, form.response), rating, said))
    scale.check(other_range(scale))
    if nobody is not None and not named:
        near = did_you_mean(form.annotator, nobody.value)
        raise DataError(f"{nobody.place}: no row has the annotator's column {form.annotator!r}{near}")
    pair_rated(standardised(rated) if form.standardise else rated, form.gap, sheet)


def other_range(scale: NumberScale) -> str:
    """What to declare, where the ratings are from another range."""
    return f"; they are from {scale.least:g} to {scale.most:g}: declare the form's scale, [lowest, highest]"


def read_thumbs(rows: Iterable[SourceRow], form: Thumbs, sheet: Sheet) -> None:
    """Every response that is liked over every one that is not."""
    rated = []
    for row in rows:
        require(row, form.kind, "prompt", form.response, form.label)
        with sheet.attempt(row.place):
            label = row.value[form.label]
            if label is None:
                raise Unusable(f"{form.label} is missing")
            if label not in (True, False):  # 1 and 0 are
                raise DataError(f"{row.place}: {form.label}: must be true or false (got {label!r})")
            rated.append(Rated(sheet.prompt(row, "prompt"), response_text(row, form.response), label, said_by(row)))
    pair_rated(rated, None, sheet)


def standardised(rated: Sequence[Rated]) -> list[Rated]:
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


def pair_rated(rated: Sequence[Rated], gap: float | None, sheet: Sheet) -> None:
    """Judgments of all pairs that one annotator rated this far apart (None: at all apart), in an order that does not
    depend on the rows'. What is in no pair is counted, and pairs beyond the most of one group."""
    groups: dict[tuple[str, str], list[Rated]] = {}
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


def _label(one: Rated, other: Rated, sheet: Sheet) -> None:
    """The label took the time of both ratings, and its pair has the tags of both rows."""
    seconds = [item.said.seconds for item in (one, other) if item.said.seconds is not None]
    reason = "; ".join(item.said.reason for item in (one, other) if item.said.reason)
    said = Said(one.said.annotator, math.fsum(seconds) if len(seconds) == 2 else None, reason)
    tags = tuple(dict.fromkeys([*one.prompt.tags, *other.prompt.tags]))
    prompt = one.prompt.model_copy(update={"tags": tags})
    sheet.label(prompt, one.text, other.text, float(one.rating > other.rating), said)
