"""Who said what of which pair, whichever way round each judgment holds it. Everything else here reads this.

A pair's first text is the one that comes first in sorted order: neither merit nor the row says which it is, so what
is called a can matter nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean

from rlaif.feedback.pairs import choice
from rlaif.records import Judgment, Pair

Table = Mapping[str, Mapping[str, float]]
"""By the pair's id and by annotator: P(the first text is better), the mean where one labelled a pair repeatedly."""
SIMULATED = "simulated:"
"""How the name of everyone begins who is not a person but `simulate.py`."""


def first_text(pair: Pair) -> str:
    """The pair's first text, in either orientation."""
    return min(pair.a, pair.b)


def table(judgments: Iterable[Judgment]) -> Table:
    """All labels by pair and annotator, both in sorted order; a panel's judgment is that of its members."""
    told: dict[tuple[str, str], list[float]] = {}
    for judgment in individual(judgments):
        told.setdefault((judgment.pair.id, judgment.annotator), []).append(judgment.p_of(first_text(judgment.pair)))
    rows: dict[str, dict[str, float]] = {}
    for pair_id, annotator in sorted(told):
        rows.setdefault(pair_id, {})[annotator] = fmean(told[pair_id, annotator])
    return rows


def individual(judgments: Iterable[Judgment]) -> Iterator[Judgment]:
    """Each annotator's own judgments: a panel's members in the place of the panel."""
    for judgment in judgments:
        if not judgment.members:
            yield judgment
        for member in judgment.members:
            said = {"annotator": member.annotator, "p_a": member.p_a, "principles": member.principles}
            yield judgment.model_copy(update={**said, "members": (), "provenance": member.provenance})


def means(judgments: Iterable[Judgment]) -> dict[str, float]:
    """By pair: P(the first text is better), the mean of all judgments of it; a panel's is its own."""
    told: dict[str, list[float]] = {}
    for judgment in judgments:
        told.setdefault(judgment.pair.id, []).append(judgment.p_of(first_text(judgment.pair)))
    return {pair_id: fmean(told[pair_id]) for pair_id in sorted(told)}


def votes(labels: Table) -> dict[tuple[str, str], bool]:
    """By (pair, annotator): whether the first text is preferred. A tie is no vote."""
    return {
        (pair_id, annotator): p > 0.5
        for pair_id, said in labels.items()
        for annotator, p in said.items()
        if choice(p) != 0.5
    }


def shared(labels: Table) -> Table:
    """The pairs on which two annotators voted at least, less their ties."""
    voted: dict[str, dict[str, float]] = {}
    for pair_id, annotator in votes(labels):
        voted.setdefault(pair_id, {})[annotator] = labels[pair_id][annotator]
    return {pair_id: said for pair_id, said in voted.items() if len(said) > 1}
