"""Figures beside a label that say which of two responses is better: scores, votes, margins, as data sets name them.

UltraFeedback's `score_chosen`, Argilla's `chosen-rating`, OpenRLHF's `chosen_score`, SHP's `score_A`, TRL's `margin`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from rlaif.errors import DataError, shown
from rlaif.formats.rows import SourceRow, Unusable
from rlaif.formats.sheet import Attribution, Sheet, response_text

WORTH = {"score", "scores", "rating", "ratings", "reward", "rewards", "grade", "quality", "votes", "upvotes", "likes"}
WORTH_BACKWARDS = {"rank", "ranking"}
"""1 is the best."""
NOT_WORTH = {*["count", "counts", "num", "number", "n", "std", "var", "length", "len", "tokens", "id", "max", "min"]}
"""Words that make a figure of a score another one: `chosen_rating_count`."""
VERDICT = {"winner", "preference", "preferred", "better"}
"""Words of a column that names the better response: `preferred_response` holds `response_b`."""
NEITHER = {"tie", "tied", "equal", "both", "neither"}
BESIDE = {"response", "model", "answer", "completion", "assistant", "option"}
"""What may stand beside the side that a verdict names."""
MARGIN = re.compile(r"margin|(score|rating|reward|preference|quality)_(margin|gap|diff|difference|delta|strength)")


class Signal(NamedTuple):
    """How far the first response leads the second; negative: the second is the better one."""

    said: str
    lead: float


def sides(one: str, other: str) -> tuple[str, str]:
    """The words by which the columns of two responses differ: `1` and `2` of `response_1` and `response_2`."""
    apart = [(a, b) for a, b in zip(words_of(one), words_of(other), strict=False) if a != b]
    return apart[0] if len(apart) == 1 and len(words_of(one)) == len(words_of(other)) else ("a", "b")


def signals(row: SourceRow, first: str, second: str, apart: Collection[str] = ()) -> Iterator[Signal]:
    """What the row's figures say of two responses, whose columns have these words in their names; columns `apart` are
    not read. Unusable for a figure that is no number one can compare."""
    named = {words_of(key): key for key in row.value if key not in apart}
    for words, key in named.items():
        other = named.get(tuple(second if word == first else word for word in words))
        quality = set(words) - {first}
        if first not in words or other is None or quality & NOT_WORTH:
            continue
        backwards = bool(quality & WORTH_BACKWARDS)
        if backwards or quality & WORTH:
            found = lead(row.value[key], row.value[other], key, other)
            if found is not None:
                yield found._replace(lead=-found.lead) if backwards else found


def verdicts(row: SourceRow, first: str, second: str, apart: Collection[str] = ()) -> Iterator[Signal]:
    """What its columns that name the better one say of two responses with these names."""
    for key, value in row.value.items():
        if key in apart or not set(words_of(key)) & VERDICT or not isinstance(value, str) or len(value) > 40:
            continue
        words = set(words_of(value)) - BESIDE
        if words in ({first}, {second}) or (words and words <= NEITHER):
            yield Signal(f"{key} {value}", (first in words) - (second in words))


def is_worth(key: str) -> bool:
    """Whether the column's name is one of figures of which more is better."""
    return bool(set(words_of(key)) & WORTH) and not set(words_of(key)) & NOT_WORTH


def lead(one: Any, other: Any, key: str, other_key: str) -> Signal | None:
    """How far one figure is above another; None where either is absent. Unusable where they cannot be compared."""
    first, second = figure(one, key), figure(other, other_key)
    if first is None or second is None:
        return None
    if first.unit != second.unit:
        raise Unusable(f"{key} and {other_key} cannot be compared", f"{one!r}, {other!r}")
    return Signal(f"{key} {first.value:g}, {other_key} {second.value:g}", first.value - second.value)


def margins(row: SourceRow) -> Iterator[Signal]:
    """What its margins say of chosen over rejected. DataError for a `margin` that is no number."""
    for key, value in row.value.items():
        name = "_".join(words_of(key))
        if not MARGIN.fullmatch(name):
            continue
        if isinstance(value, str) and name.endswith("_strength") and not any(letter.isdigit() for letter in value):
            continue  # a word: how much better, not which
        try:
            found = None if isinstance(value, bool) else figure(value, key)
        except Unusable as bad:
            if "finite" in bad.reason:
                raise
            found = None
        if found is not None:
            yield Signal(f"{key} {found.value:g}", found.value)
        elif value is not None and value != "":
            raise DataError(f"{row.place}: {key}: must be a number (got {shown(value)})")


@lru_cache(maxsize=4096)
def words_of(name: str) -> tuple[str, ...]:
    """`chosenRating`, `chosen-rating` and `chosen_rating` are the same two words."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return tuple(re.findall(r"[a-z]+|[0-9]+", apart))


class Figure(NamedTuple):
    """A number, and what it counts: nothing, `%` or shares (`1/5`)."""

    value: float
    unit: str


def figure(value: Any, key: str) -> Figure | None:
    """The figure there; None for none. Unusable for what is no number, `n%` or `n/m` (words, lists, objects)."""
    text = str(value).strip() if isinstance(value, int | float | str) else ""
    if value is None or (isinstance(value, str) and not text):
        return None
    unit = "%" if text.endswith("%") else "/" if "/" in text else ""
    above, _, below = text.removesuffix("%").partition("/")
    try:
        number = float(value) if isinstance(value, bool) else float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        raise Unusable(f"{key} is no number", f"{key} = {value!r}") from None
    if not math.isfinite(number):
        raise Unusable(f"{key} is no finite number", repr(value))
    return Figure(number, unit)


class Columns(NamedTuple):
    """The columns of the prompt and of both responses."""

    prompt: str
    a: str
    b: str


def strength_of(row: SourceRow) -> float | None:
    """The row's `p_chosen`, P of what it says is better; None where it has none. DataError where that is no such p."""
    p = row.value.get("p_chosen")
    if p is None:
        return None
    if isinstance(p, bool) or not isinstance(p, int | float) or not 0.5 <= p <= 1:
        raise DataError(f"{row.place}: p_chosen: must be from 0.5 to 1 (got {p!r})")
    return float(p)


def with_strength(row: SourceRow, p_a: float) -> float:
    """P(a is better) of a verdict, with the row's `p_chosen` if it has one. Unusable where that belies a tie."""
    p = strength_of(row)
    if p is None:
        return p_a
    if p_a == 0.5 != p:
        raise Unusable("p_chosen says that a tie is none", f"p_chosen = {p:g}")
    return p if p_a > 0.5 else 1 - p


def label_columns(
    row: SourceRow, columns: Columns, p_a: float, said: Attribution, sheet: Sheet, verdict: str = ""
) -> None:
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
