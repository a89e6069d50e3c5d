"""Several responses in order: each row is all C(K, 2) pairs of its K responses (InstructGPT ranks 4 to 9)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

from rlaif.config.sections import Rankings
from rlaif.errors import DataError
from rlaif.feedback.human.sheet import Said, Sheet, as_number, as_response, require, said_by
from rlaif.feedback.messages import Unusable
from rlaif.feedback.sources import SourceRow
from rlaif.records import Prompt


def read_rankings(rows: Iterable[SourceRow], form: Rankings, sheet: Sheet) -> None:
    """`ranks`, where given, is parallel to `responses`: 1 is the best, equal ranks are a tie."""
    for row in rows:
        require(row, form.kind, "prompt", "responses")
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
            pair_ranked(sheet.prompt(row, "prompt"), texts, numbers, said_by(row), sheet)


def pair_ranked(
    prompt: Prompt, texts: Sequence[str], ranks: Sequence[float], said: Said, sheet: Sheet, p: float = 1.0
) -> None:
    """All pairs of different texts; the smaller rank is the better one, which has `p`."""
    for (one, first), (other, second) in combinations(zip(texts, ranks, strict=True), 2):
        if one == other:
            sheet.tally("same_text")
        else:
            sheet.label(prompt, one, other, 0.5 if first == second else p if first < second else 1 - p, said)
