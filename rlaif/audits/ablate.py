"""What each principle adds: agreement with humans without it, and by it alone, from judgments that were already made.

The principles' own judgments are put together again; no model is asked. Writing the table is for the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from rlaif.config.feedback import LabelSection, SampleOne
from rlaif.config.judging import PanelMode, RankMode
from rlaif.constitution import Constitution
from rlaif.errors import ConfigError, DataError
from rlaif.feedback.labelled import LabelledJudgment, agreement, decided, match
from rlaif.feedback.pairs import choice
from rlaif.feedback.verdict import Decided, aggregate
from rlaif.records import Judgment, Record
from rlaif.stats import Bootstrap, Estimate, clustered_mean, clustered_mean_difference

FAR_FROM_EVEN = 1e-6
"""Log-odds are summed in another order than by the judge: nearer than this to even, a choice may turn."""


class Ablation(Record):
    """One variant of a constitution against the whole of it, on the pairs that both can label."""

    principle: str
    """Which one is left out, or stands alone."""
    variant: Literal["without", "alone"]
    accuracy: Estimate | None
    """Of the variant; None where it labels no pair."""
    difference: Estimate | None
    """`accuracy` less that of the whole constitution on the same pairs, paired, resampled by prompt. Below 0 for
    `without`: the principle helps."""
    unlabelled: int
    """Pairs to which no principle of the variant applies. They are in neither figure."""


class AblationResult(NamedTuple):
    """The whole constitution, and for each principle in its order the two variants."""

    whole: Estimate
    rows: tuple[Ablation, ...]


class _Row(NamedTuple):
    """One pair: all that its principles say, in the constitution's order."""

    item: LabelledJudgment
    decided: tuple[Decided, ...]


def ablate(
    judgments: Sequence[Judgment],
    gold: Sequence[Judgment],
    constitution: Constitution,
    section: LabelSection,
    seed: int,
    bootstrap: Bootstrap,
) -> AblationResult:
    """The accuracy of the constitution, without each of its principles, and of each alone.

    Accuracy is the audit's: human ties are left out, an exactly even p(a) is half right. Principles are joined as
    `section.aggregation` says, vetoes included.

    Raises ConfigError for `sample`, which asks one principle a pair (judge with `mean` to ablate), and for a mode whose
    label is not made of its principles pair by pair (a panel, a ranking). Raises DataError when a judgment lacks a
    principle of the constitution or has another one, and when no pair has a human preference.
    """
    check_ablatable(section)
    rows = [_row(item, constitution, section, seed) for item in decided(match(judgments, gold))]
    if not rows:
        raise DataError("ablate: no judged pair has a human preference")
    whole = [_hit(row, list(row.decided), section, seed) for row in rows]
    clusters = [row.item.prompt_id for row in rows]

    def variant(name: str, which: Literal["without", "alone"]) -> Ablation:
        kept = [[d for d in row.decided if (d[0].id == name) == (which == "alone")] for row in rows]
        chosen = [i for i, decisions in enumerate(kept) if decisions]
        hits = [_hit(rows[i], kept[i], section, seed) for i in chosen]
        names = [clusters[i] for i in chosen]
        before = [whole[i] for i in chosen]
        return Ablation(
            principle=name,
            variant=which,
            accuracy=clustered_mean(hits, names, *bootstrap) if hits else None,
            difference=clustered_mean_difference(before, hits, names, bootstrap) if hits else None,
            unlabelled=len(rows) - len(hits),
        )

    return AblationResult(
        whole=clustered_mean(whole, clusters, *bootstrap),
        rows=tuple(variant(p.id, which) for p in constitution.principles for which in ("without", "alone")),
    )


def check_ablatable(section: LabelSection) -> None:
    """The ConfigErrors of `ablate` that need no judgments: worth raising before any is made."""
    if isinstance(section.aggregation, SampleOne):
        raise ConfigError(
            "label.aggregation: sample asks one principle a pair, so no other can be put in its place; "
            "judge with label.aggregation.kind=mean to ablate"
        )
    if isinstance(section.mode, PanelMode | RankMode):
        raise ConfigError(
            f"label.mode: {section.mode.kind}: its label is not made of principles pair by pair; ablate by a mode "
            "whose label is, of a panel one member's"
        )


def _row(item: LabelledJudgment, constitution: Constitution, section: LabelSection, seed: int) -> _Row:
    """The pair's principles with what they say, if these and nothing else made its label."""
    judgment = item.judgment
    where = f"judgment of pair {judgment.pair.id}"
    said = {principle.principle: principle for principle in judgment.principles}
    expected = [principle.id for principle in constitution.for_tags(judgment.pair.tags)]
    missing, other = sorted(set(expected) - set(said)), sorted(set(said) - set(expected))
    if missing:
        raise DataError(f"{where}: says nothing of principle '{missing[0]}'; judge again with this constitution")
    if other:
        raise DataError(f"{where}: principle '{other[0]}' is not one of {expected}; judge again with this constitution")
    row = _Row(item, tuple((p, said[p.id]) for p in constitution.for_tags(judgment.pair.tags)))
    stored = judgment.p_a if judgment.p_raw is None else judgment.p_raw
    again = _joined(row, list(row.decided), section, seed)
    if (stored - 0.5) * (again - 0.5) < 0 and min(abs(stored - 0.5), abs(again - 0.5)) > FAR_FROM_EVEN:
        raise ConfigError(
            f"{where}: p_a is {stored:.3g}, but its principles together give {again:.3g} by "
            f"label.aggregation.kind={section.aggregation.kind}; ablate needs the aggregation that it was judged with, "
            "and a mode that labels each pair by itself"
        )
    return row


def _joined(row: _Row, decisions: Sequence[Decided], section: LabelSection, seed: int) -> float:
    return aggregate(decisions, section.aggregation, section.check_margin, seed, row.item.judgment.pair.id)


def _hit(row: _Row, decisions: Sequence[Decided], section: LabelSection, seed: int) -> float:
    return agreement(choice(_joined(row, decisions, section, seed)), row.item.p_human)
