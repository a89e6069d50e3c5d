"""The original UltraFeedback (arXiv 2310.01377): completions with an overall score and ratings by aspect.

Its annotator was GPT-4, which is what the judgments say. Each completion is checked before it is compared: the first
release turned overall scores of 1 into 10 (OpenBMB/UltraFeedback issue 8), and its repair trusted a 10 only where the
aspects' mean was above 4.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping
from itertools import zip_longest
from statistics import fmean
from typing import Any, Literal

from rlaif.config.base import Positive
from rlaif.errors import DataError
from rlaif.formats.format import Format
from rlaif.formats.messages import Unusable
from rlaif.formats.ratings import Rating, pair_rated
from rlaif.formats.rows import SourceRow
from rlaif.formats.sheet import Attribution, Sheet, as_number, as_response

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
