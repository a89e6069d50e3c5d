"""All human labels in, one trusted label a pair out: gold questions aside, reports, removal, aggregation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rlaif.config.annotators import AnnotatorsSection
from rlaif.errors import DataError
from rlaif.feedback.annotators.aggregate import aggregate
from rlaif.feedback.annotators.alpha import Alpha, alpha
from rlaif.feedback.annotators.credibility import AnnotatorReport, credibility
from rlaif.feedback.annotators.removal import removed as removed_annotators
from rlaif.records import Judgment

SCHEMA = "rlaif/annotators/v1"


class Examined(NamedTuple):
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


class Trusted(NamedTuple):
    """What may train, and why the rest may not."""

    judgments: list[Judgment]
    """One a pair, in the order in which the pairs first come."""
    examined: Examined

    @property
    def reports(self) -> list[AnnotatorReport]:
        """On everyone, those who are removed too."""
        return self.examined.reports

    @property
    def removed(self) -> dict[str, str]:
        """The reason, by annotator."""
        return self.examined.removed

    @property
    def alpha(self) -> Alpha | None:
        """Agreement of all annotators."""
        return self.examined.alpha


def examine(judgments: Sequence[Judgment], gold: Sequence[Judgment], section: AnnotatorsSection, seed: int) -> Examined:
    """Reports on all annotators and who of them is to be removed; `gold`: judgments known to be right.

    Everything is looked at once: nobody is judged again after others are gone. The seed is that of alpha's intervals.
    """
    questions = {judgment.pair.id for judgment in gold}
    reports = credibility(judgments, gold, section.min_shared)
    out = removed_annotators(reports, section.remove)
    believed = [judgment for judgment in judgments if judgment.annotator not in out]
    of_gold = sum(judgment.pair.id in questions for judgment in judgments)
    agreement = alpha(judgments, seed)
    return Examined(
        reports=[report.model_copy(update={"removed": out.get(report.annotator)}) for report in reports],
        removed=out,
        alpha=agreement,
        alpha_kept=alpha(believed, seed) if out else agreement,
        labels=len(judgments),
        pairs=len({judgment.pair.id for judgment in judgments}),
        gold_labels=of_gold,
        removed_labels=sum(j.annotator in out and j.pair.id not in questions for j in judgments),
    )


def trusted(judgments: Sequence[Judgment], gold: Sequence[Judgment], section: AnnotatorsSection, seed: int) -> Trusted:
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
    return Trusted(aggregate(kept, section), examined)
