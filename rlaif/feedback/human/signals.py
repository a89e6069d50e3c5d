"""Figures beside a label that say which of two responses is better: scores, votes, margins, as data sets name them.

UltraFeedback's `score_chosen`, Argilla's `chosen-rating`, OpenRLHF's `chosen_score`, SHP's `score_A`, TRL's `margin`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from rlaif.feedback.messages import Unusable
from rlaif.feedback.sources import SourceRow

WORTH = {"score", "scores", "rating", "ratings", "reward", "rewards", "grade", "quality", "votes", "upvotes", "likes"}
WORTH_BACKWARDS = {"rank", "ranking"}
"""1 is the best."""
NOT_WORTH = {*["count", "num", "number", "n", "std", "var", "length", "len", "tokens", "id", "max", "min"]}
"""Words that make a figure of a score another one: `chosen_rating_count`."""
MARGIN = re.compile(r"margin|(score|rating|reward|preference|quality)_(margin|gap|diff|difference|delta|strength)")


class Signal(NamedTuple):
    """How far the first response leads the second; negative: the second is the better one."""

    said: str
    lead: float


def signals(row: SourceRow, first: str, second: str) -> Iterator[Signal]:
    """What the row's figures say of two responses, whose columns have these words in their names.

    Unusable for a figure that is no number one can compare.
    """
    named = {_words(key): key for key in row.value}
    for words, key in named.items():
        quality = set(words) - {first}
        other = named.get(tuple(second if word == first else word for word in words))
        if first not in words or other is None or quality & NOT_WORTH:
            continue
        backwards = bool(quality & WORTH_BACKWARDS)
        if backwards or quality & WORTH:
            one, two = _figure(row, key), _figure(row, other)
            if one is not None and two is not None:
                yield Signal(f"{key} {one:g}, {other} {two:g}", two - one if backwards else one - two)


def margins(row: SourceRow) -> Iterator[Signal]:
    """What its margins say of chosen over rejected."""
    for key in row.value:
        if MARGIN.fullmatch("_".join(_words(key))) and (value := _figure(row, key)) is not None:
            yield Signal(f"{key} {value:g}", value)


@lru_cache(maxsize=4096)
def _words(key: str) -> tuple[str, ...]:
    """`chosenRating`, `chosen-rating` and `chosen_rating` are the same two words."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower()
    return tuple(re.findall(r"[a-z]+|[0-9]+", apart))


def _figure(row: SourceRow, key: str) -> float | None:
    """The number there, or the text of one; None for what is none (a null, a word, a list)."""
    value: Any = row.value[key]
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError):
        return None
    if not math.isfinite(number):
        raise Unusable(f"{key} is no finite number", repr(value))
    return number
