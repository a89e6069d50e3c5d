"""All human labels in, one trusted label per pair out: gold questions aside, reports, removal, aggregation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from rlaif.config.feedback import AnnotatorsSection, DawidSkene, MeanOfAnnotators
from rlaif.errors import DataError
from rlaif.feedback.annotators.credibility import AnnotatorReport, credibility, removed
from rlaif.feedback.annotators.labels import Alpha, Table, alpha, first_text, shared, table, votes
from rlaif.feedback.annotators.noisy_bradley_terry import comparisons, fit_noisy_bradley_terry
from rlaif.feedback.dawid_skene import fit_dawid_skene
from rlaif.feedback.pairs import choice
from rlaif.feedback.verdict import log_odds, sigma
from rlaif.records import Answer, Judgment, Pair, PrincipleJudgment

SCHEMA = "rlaif/annotators/v1"
PFirst = Mapping[str, float]
"""By pair: P(the first text is better)."""


class Examination(NamedTuple):
    """What the labels say about those who gave them."""

    reports: list[AnnotatorReport]
    """On everyone, by name; `removed` says why somebody's labels are left out."""
    removed: dict[str, str]
    """The reason, by annotator."""
    alpha: Alpha | None
    """Agreement of all annotators."""
    alpha_kept: Alpha | None
    """Agreement of those who are not removed."""
    labels: int
    pairs: int
    gold_labels: int
    """Labels of gold questions: they train nothing."""
    removed_labels: int
    """Labels left out with their annotators, gold questions apart."""

    def summary(self) -> dict[str, Any]:
        """annotators.json."""
        return {
            "schema": SCHEMA,
            "labels": self.labels,
            "pairs": self.pairs,
            "gold_labels": self.gold_labels,
            "removed_labels": self.removed_labels,
            "alpha": self.alpha.model_dump() if self.alpha else None,
            "alpha_kept": self.alpha_kept.model_dump() if self.alpha_kept else None,
            "removed": self.removed,
            "annotators": [report.model_dump() for report in self.reports],
        }


class TrustedLabels(NamedTuple):
    """What may train, and why the rest may not."""

    judgments: list[Judgment]
    """One a pair, in the order in which the pairs first come."""
    examined: Examination


def examine(
    judgments: Sequence[Judgment], gold: Sequence[Judgment], section: AnnotatorsSection, seed: int
) -> Examination:
    """Reports on all annotators and who of them is to be removed; `gold`: judgments known to be right.

    Everything is looked at once: nobody is judged again after others are gone. The seed is that of alpha's intervals.
    """
    questions = {judgment.pair.id for judgment in gold}
    reports = credibility(judgments, gold, section.min_shared)
    out = removed(reports, section.remove)
    believed = [judgment for judgment in judgments if judgment.annotator not in out]
    of_gold = sum(judgment.pair.id in questions for judgment in judgments)
    agreement = alpha(judgments, seed)
    return Examination(
        reports=[report.model_copy(update={"removed": out.get(report.annotator)}) for report in reports],
        removed=out,
        alpha=agreement,
        alpha_kept=alpha(believed, seed) if out else agreement,
        labels=len(judgments),
        pairs=len({judgment.pair.id for judgment in judgments}),
        gold_labels=of_gold,
        removed_labels=sum(j.annotator in out and j.pair.id not in questions for j in judgments),
    )


def trusted(
    judgments: Sequence[Judgment], gold: Sequence[Judgment], section: AnnotatorsSection, seed: int
) -> TrustedLabels:
    """The labels that may train, one a pair, by the section.

    Pairs in `gold` train nothing, whoever labelled them; they only test annotators (a gold tie tests nobody). Of the
    rest all labels of removed annotators go, and what is left is aggregated. DataError where nothing is left.
    """
    examined = examine(judgments, gold, section, seed)
    questions = {judgment.pair.id for judgment in gold}
    training = [judgment for judgment in judgments if judgment.pair.id not in questions]
    kept = [judgment for judgment in training if judgment.annotator not in examined.removed]
    if judgments and not training:
        raise DataError(f"annotators: all {len(judgments)} labels are of gold questions, which train nothing")
    if judgments and not kept:
        name, reason = next(iter(examined.removed.items()))
        raise DataError(
            f"preferences.annotators.remove: leaves no labels; {len(examined.removed)} annotators are removed, the "
            f"first: {name}: {reason}"
        )
    return TrustedLabels(aggregate(kept, section), examined)


def aggregate(judgments: Sequence[Judgment], section: AnnotatorsSection) -> list[Judgment]:
    """One judgment a pair, in the order and the orientation in which the pairs first come.

    mean                 the mean of the annotators' p, each annotator's own labels averaged before. A pair with one
                         label keeps it as it is
    dawid_skene          sigma of the sum over votes of +-logit(accuracy of the voter): the posterior of the one-coin
                         model with prior 1/2. Accuracies as `accuracies` has them; a single label comes out as
                         likely as its author is right. A pair of ties only is a tie. Where nobody's accuracy can be
                         estimated, since too few pairs have two labels, it is `mean`
    noisy_bradley_terry  sigma(s_a - s_b) of the fitted strengths

    A pair's annotators stay known: `dawid_skene:ann+bob`; so does whether one of them is simulated. The source is ai
    only where every label is. What they said by principle is averaged. A panel's members count as annotators.
    """
    labels = table(judgments)
    p_first, how = _p_first(judgments, labels, section)
    groups: dict[str, list[Judgment]] = {}
    for judgment in judgments:
        groups.setdefault(judgment.pair.id, []).append(judgment)
    return [
        group[0] if how == "mean" and len(group) == 1 else _merged(group, p_first[pair_id], how, list(labels[pair_id]))
        for pair_id, group in groups.items()
    ]


def accuracies(labels: Table, min_shared: int) -> dict[str, float]:
    """The chance that each annotator's vote is right; empty where nobody's can be estimated.

    By Dawid-Skene on the pairs with two votes at least, for those with `min_shared` votes there; with n of them as
    (n accuracy + 1) / (n + 2), since nobody is always right. The others have the mean of these.
    """
    overlap = shared(labels)
    counts: dict[str, int] = {}
    for said in overlap.values():
        for name in said:
            counts[name] = counts.get(name, 0) + 1
    told = {name: count for name, count in counts.items() if count >= min_shared}
    if not told:
        return {}
    fitted = fit_dawid_skene(votes(overlap)).accuracy
    own = {name: (count * fitted[name] + 1) / (count + 2) for name, count in told.items()}
    return dict.fromkeys((name for said in labels.values() for name in said), fmean(own.values())) | own


def _p_first(judgments: Sequence[Judgment], labels: Table, section: AnnotatorsSection) -> tuple[PFirst, str]:
    """By pair, and which way it was done in the end."""
    if isinstance(section.aggregate, DawidSkene):
        accuracy = accuracies(labels, section.min_shared)
        if accuracy:
            return {pair_id: _posterior(said, accuracy) for pair_id, said in labels.items()}, "dawid_skene"
    if isinstance(section.aggregate, MeanOfAnnotators | DawidSkene):
        return {pair_id: fmean(said.values()) for pair_id, said in labels.items()}, "mean"
    strength = fit_noisy_bradley_terry(comparisons(judgments)).strength

    def p(pair: Pair) -> float:
        first = first_text(pair)
        second = pair.b if first == pair.a else pair.a
        return sigma(strength[pair.prompt_id, first] - strength[pair.prompt_id, second])

    return {judgment.pair.id: p(judgment.pair) for judgment in judgments}, "noisy_bradley_terry"


def _posterior(said: Mapping[str, float], accuracy: Mapping[str, float]) -> float:
    return sigma(sum((2 * choice(p) - 1) * log_odds(accuracy[name]) for name, p in said.items()))


def _merged(group: Sequence[Judgment], p_first: float, how: str, names: Sequence[str]) -> Judgment:
    pair = group[0].pair
    tags = dict.fromkeys(tag for judgment in group for tag in judgment.pair.tags)
    return Judgment(
        pair=pair.model_copy(update={"tags": tuple(tags)}),
        source="ai" if all(judgment.source == "ai" for judgment in group) else "human",
        annotator=f"{how}:{'+'.join(names)}",
        p_a=p_first if pair.a == first_text(pair) else 1 - p_first,
        principles=_principles(group, pair),
        answer=Answer(simulated=True) if any(j.answer and j.answer.simulated for j in group) else None,
    )


def _principles(group: Sequence[Judgment], pair: Pair) -> tuple[PrincipleJudgment, ...]:
    """The mean of what was said by each principle, by its name; without verdicts, which are each judge's own."""
    said: dict[str, list[tuple[float, bool]]] = {}
    for judgment in group:
        turned = judgment.pair.a != pair.a
        for one in judgment.principles:
            said.setdefault(one.principle, []).append((1 - one.p_a if turned else one.p_a, one.checked))
    return tuple(
        PrincipleJudgment(
            principle=name, checked=all(checked for _, checked in said[name]), p_a=fmean(p for p, _ in said[name])
        )
        for name in sorted(said)
    )
