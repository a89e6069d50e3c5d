"""Several responses in order: each row is all C(K, 2) pairs of its K responses (InstructGPT ranks 4 to 9)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise
from typing import Any, Literal

from rlaif.errors import DataError
from rlaif.formats.format import Format
from rlaif.formats.rows import SourceRow, Unusable
from rlaif.formats.sheet import Attribution, Scale, Sheet, as_number, as_response, said_by, some_pairs
from rlaif.formats.signals import figure, is_worth, lead, words_of
from rlaif.records import Prompt

ELSEWHERE = {"rank", "ranks", "ranking", "rankings", "order"}
"""Words of columns that could be meant for `ranks`."""


class Rankings(Format):
    """`prompt` and `responses`, the best first, or with `ranks` beside them (1 = best, ties allowed): all pairs."""

    kind: Literal["rankings"] = "rankings"
    KEYS = ({"prompt", "responses"},)

    def read(self, rows: Iterable[SourceRow], sheet: Sheet) -> None:
        """`ranks`, where given, is parallel to `responses`: 1 (or 0) is the best, equal ranks are a tie."""
        scale = Scale("a whole number from 1 (the best) to the number of responses, or one less each")
        for row in rows:
            self.require(row, "prompt", "responses")
            _check_names(row)
            with sheet.attempt(row.place):
                responses = row.value["responses"]
                ranks = row.value.get("ranks")
                if not isinstance(responses, list):
                    raise DataError(f"{row.place}: responses: must be a list (got {responses!r})")
                if ranks is not None and (not isinstance(ranks, list) or len(ranks) != len(responses)):
                    raise DataError(f"{row.place}: ranks: must be a list of {len(responses)} numbers (got {ranks!r})")
                if len(responses) < 2:
                    raise Unusable("fewer than two responses are ranked")
                texts = [as_response(text, row.place, f"responses.{i}") for i, text in enumerate(responses)]
                places = range(len(texts)) if ranks is None else ranks
                numbers = [as_number(rank, row.place, f"ranks.{i}") for i, rank in enumerate(places)]
                if ranks is not None:
                    low = 0 if 0 in numbers else 1
                    for i, rank in enumerate(numbers):
                        on_it = rank.is_integer() and low <= rank < low + len(texts)
                        scale.holds(on_it, ranks[i], row.place, f"ranks.{i}")
                numbers = _as_figures_say(row, numbers, ties=ranks is None)
                pair_ranked(sheet.prompt(row, "prompt"), texts, numbers, said_by(row), sheet)
        scale.check("; figures of which more is better are no ranks")


def _check_names(row: SourceRow) -> None:
    """DataError for ranks under another name, which would be lost."""
    for key, value in row.value.items():
        words = set(words_of(key))
        if (
            key != "ranks"
            and words & ELSEWHERE
            and (isinstance(value, list) or words <= ELSEWHERE)
            and value is not None
        ):
            raise DataError(f"{row.place}: key {key!r} is not read; write 'ranks' (1 = best)")


def _as_figures_say(row: SourceRow, ranks: list[float], ties: bool) -> list[float]:
    """The ranks, held against lists of scores, ratings or rewards beside the responses. Unusable where they disagree;
    with `ties`, neighbours of which all of them say the same are equal."""
    lists = {key: value for key, value in row.value.items() if is_worth(key) and isinstance(value, list)}
    order = sorted(range(len(ranks)), key=ranks.__getitem__)
    for key, figures in lists.items():
        if len(figures) != len(ranks):
            raise Unusable(f"{key} and responses are not equally many", f"{len(figures)} and {len(ranks)}")
        _check_order(order, ranks, key, figures)
    for one, other in pairwise(order):
        leads = [lead(figures[one], figures[other], key, key) for key, figures in lists.items()]
        if ties and leads and all(found is not None and found.lead == 0 for found in leads):
            ranks[other] = ranks[one]
    return ranks


def _check_order(order: list[int], ranks: list[float], key: str, figures: list[Any]) -> None:
    """Unusable where a figure is above that of a response with a better rank."""
    found = {i: one for i in order if (one := figure(figures[i], f"{key}.{i}")) is not None}
    worst: int | None = None
    for _, group in groupby(found, key=ranks.__getitem__):
        here = list(group)
        for i in here:
            ahead = None if worst is None else lead(figures[worst], figures[i], f"{key}.{worst}", f"{key}.{i}")
            if ahead is not None and ahead.lead < 0:
                raise Unusable("the row's own figures say that another order is better", ahead.said)
        worst = min([*here, *([] if worst is None else [worst])], key=found.__getitem__)


def pair_ranked(
    prompt: Prompt, texts: Sequence[str], ranks: Sequence[float], said: Attribution, sheet: Sheet, p: float = 1.0
) -> None:
    """All pairs of different texts; the smaller rank is the better one, which has `p`."""
    for (one, first), (other, second) in some_pairs(list(zip(texts, ranks, strict=True)), prompt.id, sheet):
        if one == other:
            sheet.tally("same_text")
        else:
            sheet.label(prompt, one, other, 0.5 if first == second else p if first < second else 1 - p, said)
