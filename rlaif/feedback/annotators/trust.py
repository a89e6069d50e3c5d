"""All human labels in, one trusted label per pair out: gold questions aside, reports, removal, aggregation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from pydantic import ValidationError

from rlaif.config.feedback import AnnotatorsSection, DawidSkene, Removal
from rlaif.errors import ConfigError, DataError, did_you_mean
from rlaif.feedback.annotators.credibility import AnnotatorReport, credibility, removed
from rlaif.feedback.annotators.labels import Alpha, Table, accuracy_of, alpha, first_text, shared, table
from rlaif.feedback.pairs import choice
from rlaif.feedback.verdict import log_odds, sigma
from rlaif.jsonl import first_problem
from rlaif.records import Answer, Judgment, PrincipleJudgment, Record, grouped

SCHEMA = "rlaif/annotators/v1"


class Examination(Record):
    """What the labels say about those who gave them: annotators.json, less its schema."""

    labels: int
    pairs: int
    gold_labels: int
    """Labels of gold questions: they train nothing."""
    removed_labels: int
    """Labels left out with their annotators, gold questions apart."""
    alpha: Alpha | None
    """Agreement of all annotators."""
    alpha_kept: Alpha | None
    """Agreement of those who are not removed."""
    removed: dict[str, str]
    """The reason, by annotator."""
    annotators: tuple[AnnotatorReport, ...]
    """On everyone, by name; `removed` says why somebody's labels are left out."""

    def summary(self) -> dict[str, Any]:
        """annotators.json."""
        return {"schema": SCHEMA} | self.model_dump()


class TrustedLabels(NamedTuple):
    """What may train, and why the rest may not."""

    judgments: list[Judgment]
    """One per pair, in the order in which the pairs first come."""
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
    agreement = alpha(judgments, seed)
    return Examination(
        labels=len(judgments),
        pairs=len({judgment.pair.id for judgment in judgments}),
        gold_labels=sum(judgment.pair.id in questions for judgment in judgments),
        removed_labels=sum(j.annotator in out and j.pair.id not in questions for j in judgments),
        alpha=agreement,
        alpha_kept=alpha(believed, seed) if out else agreement,
        removed=out,
        annotators=tuple(report.model_copy(update={"removed": out.get(report.annotator)}) for report in reports),
    )


def trusted(
    judgments: Sequence[Judgment], gold: Sequence[Judgment], section: AnnotatorsSection, seed: int
) -> TrustedLabels:
    """The labels that may train, one per pair, by the section.

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


def removal_of(text: str) -> Removal:
    """`min_gold_accuracy=0.6,min_seconds=2` as rules; ConfigError for anything else."""
    values: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ConfigError(f"remove {text!r}: {part!r} is not of the form name=value")
        if name not in Removal.model_fields:
            raise ConfigError(f"remove {text!r}: no rule {name!r}{did_you_mean(name, Removal.model_fields)}")
        values[name] = value
    try:
        return Removal.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"remove {text!r}: {first_problem(error)}") from None


def aggregate(judgments: Sequence[Judgment], section: AnnotatorsSection) -> list[Judgment]:
    """One judgment per pair, in the order and the orientation in which the pairs first come.

    mean         the mean of the annotators' p, each annotator's own labels averaged before. A pair with one label
                 keeps it as it is
    dawid_skene  sigma of the sum over votes of +-logit(accuracy of the voter): the posterior of the one-coin model
                 with prior 1/2. Accuracies as `accuracies` has them; a single label comes out as likely as its author
                 is right. A pair of ties only is a tie. Where nobody's accuracy can be estimated, since too few pairs
                 have two labels, it is `mean`

    A pair's annotators stay known: `dawid_skene:ann+bob`; so does whether one of them is simulated. The source is ai
    only where every label is. What they said by principle is averaged. A panel's members count as annotators.
    """
    labels = table(judgments)
    accuracy = accuracies(labels, section.min_shared) if isinstance(section.aggregate, DawidSkene) else {}
    merged = []
    for pair_id, group in grouped(judgments, lambda judgment: judgment.pair.id).items():
        said = labels[pair_id]
        if accuracy:
            p_first = sigma(sum((2 * choice(p) - 1) * log_odds(accuracy[name]) for name, p in said.items()))
            merged.append(_merged(group, p_first, f"dawid_skene:{'+'.join(said)}"))
        elif len(group) > 1:
            merged.append(_merged(group, fmean(said.values()), f"mean:{'+'.join(said)}"))
        else:
            merged += group
    return merged


def accuracies(labels: Table, min_shared: int) -> dict[str, float]:
    """The chance that each annotator's vote is right; empty where nobody's can be estimated.

    By Dawid-Skene on the pairs with two votes at least, for those with `min_shared` votes there; with n of them as
    (n accuracy + 1) / (n + 2), since nobody is always right. The others have the mean of these.
    """
    overlap = shared(labels)
    counts = Counter(name for said in overlap.values() for name in said)
    told = {name: count for name, count in counts.items() if count >= min_shared}
    if not told:
        return {}
    fitted = accuracy_of(overlap)
    own = {name: (count * fitted[name] + 1) / (count + 2) for name, count in told.items()}
    return dict.fromkeys((name for said in labels.values() for name in said), fmean(own.values())) | own


def _merged(group: Sequence[Judgment], p_first: float, annotator: str) -> Judgment:
    pair = group[0].pair
    tags = dict.fromkeys(tag for judgment in group for tag in judgment.pair.tags)
    return Judgment(
        pair=pair.model_copy(update={"tags": tuple(tags)}),
        source="ai" if all(judgment.source == "ai" for judgment in group) else "human",
        annotator=annotator,
        p_a=p_first if pair.a == first_text(pair) else 1 - p_first,
        principles=_principles(group, pair.a),
        answer=Answer(simulated=True) if any(j.answer and j.answer.simulated for j in group) else None,
    )


def _principles(group: Sequence[Judgment], a: str) -> tuple[PrincipleJudgment, ...]:
    """The mean of what was said by each principle, by its name; without verdicts, which are each judge's own."""
    said: dict[str, list[tuple[float, bool]]] = {}
    for judgment in group:
        for one in judgment.principles:
            p_a = one.p_a if judgment.pair.a == a else 1 - one.p_a
            said.setdefault(one.principle, []).append((p_a, one.checked))
    return tuple(
        PrincipleJudgment(
            principle=name, checked=all(checked for _, checked in said[name]), p_a=fmean(p for p, _ in said[name])
        )
        for name in sorted(said)
    )
