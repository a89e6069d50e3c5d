"""What is known of each annotator, human or judge alike: agreement, gold questions, model estimates, habits; and whose
labels are left out for it, all of them (user-level removal, arXiv 2208.03295). Next: `trust.py`, what becomes of the
rest."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median

from scipy.stats import binomtest

from rlaif.config.feedback import Removal
from rlaif.feedback.annotators.labels import SIMULATED, Table, first_text, individual, means, shared, table, votes
from rlaif.feedback.annotators.noisy_bradley_terry import comparisons, fit_noisy_bradley_terry
from rlaif.feedback.dawid_skene import fit_dawid_skene
from rlaif.feedback.pairs import choice
from rlaif.records import Judgment, Record, Source, Verdict

CONFIDENCE = 0.95
LABELS_A_RESPONSE = 2
"""With fewer (three labels of a pair whose responses are in no other are 1.5) strengths can be found that agree with
nearly any label, and a coin looks skilled."""


class Rate(Record):
    """A share of n answers with its exact 95 % interval (Clopper and Pearson 1934).

    Not Wilson's: that one is too narrow for a handful of answers (it puts 0 of 2 below 0.66; somebody who is right 7
    times in 10 gives that 9 % of the time), and people are removed by its ends.
    """

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, hits: Sequence[float]) -> Rate | None:
        """Of answers that are hits (1), misses (0) or half of each (0.5), rounded outwards; None of none."""
        if not hits:
            return None
        total, n = math.fsum(hits), len(hits)
        few, many = (
            binomtest(hits, n).proportion_ci(CONFIDENCE, "exact") for hits in (math.floor(total), math.ceil(total))
        )
        return cls(value=total / n, low=float(few.low), high=float(many.high), n=n)


class AnnotatorReport(Record):
    """One annotator in figures; None where the labels cannot tell."""

    annotator: str
    source: Source
    simulated: bool
    labels: int
    """All of them, those of gold questions and repeated ones too."""
    shared: int
    """Pairs that both this annotator and another one voted on; ties are no votes."""
    agreement: Rate | None
    """On pairs that others labelled too: the same as their majority. A tie against a choice, or an even split of the
    others against one, is half."""
    gold: Rate | None
    """Right on gold questions, one for each pair; a tie is half right."""
    accuracy: float | None
    """Chance of voting for the true label (Dawid-Skene, one coin); from `min_shared` shared pairs on."""
    skill: float | None
    """Share of labels that compare the responses (noisy Bradley-Terry); from `min_shared` shared pairs on, and only
    where there are LABELS_A_RESPONSE labels for each response."""
    bias: float | None
    """How often the other labels prefer what stands first; None unless it is known what stood first."""
    seconds: float | None
    """Median time of an answer."""
    timed: int
    """Answers whose time is known."""
    first: Rate | None
    """Preferred what stood first, of the answers that prefer something. Of a judge: of its verdicts."""
    ties: float
    """Share of labels."""
    removed: str | None = None
    """Why all labels of this annotator are left out."""


def credibility(judgments: Sequence[Judgment], gold: Iterable[Judgment], min_shared: int) -> list[AnnotatorReport]:
    """A report on everyone who labelled anything, by name: `counted`, and what the two models estimate."""
    labels = table(judgments)
    overlap = shared(labels)
    reports = counted(judgments, gold)
    told = {report.annotator for report in reports if report.shared >= min_shared}
    if not told:
        return reports
    accuracy = fit_dawid_skene(votes(overlap)).accuracy
    compared = comparisons(judgment for judgment in judgments if judgment.pair.id in overlap)
    fit = fit_noisy_bradley_terry(compared)
    strengths_known = len(compared) >= LABELS_A_RESPONSE * len(fit.strength)
    return [
        report.model_copy(
            update={
                "accuracy": accuracy[report.annotator],
                "skill": fit.skill[report.annotator] if strengths_known else None,
                "bias": fit.bias[report.annotator] if strengths_known and report.first else None,
            }
        )
        if report.annotator in told
        else report
        for report in reports
    ]


def counted(judgments: Iterable[Judgment], gold: Iterable[Judgment]) -> list[AnnotatorReport]:
    """The reports without the models' estimates: only what can be counted."""
    rows: dict[str, list[Judgment]] = {}
    for judgment in individual(judgments):
        rows.setdefault(judgment.annotator, []).append(judgment)
    labels = table(judgment for theirs in rows.values() for judgment in theirs)
    agreed, right, overlap = _agreed(labels), _right(labels, means(gold)), shared(labels)
    return [
        _report(rows[name], agreed.get(name, []), right.get(name, []), sum(name in said for said in overlap.values()))
        for name in sorted(rows)
    ]


def _agreed(labels: Table) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for said in labels.values():
        choices = {name: choice(p) for name, p in said.items()}
        for name, own in choices.items():
            others = [other for another, other in choices.items() if another != name]
            if others:
                found.setdefault(name, []).append(1 - abs(own - choice(fmean(others))))
    return found


def _right(labels: Table, answers: Mapping[str, float]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for pair_id, p in answers.items():
        if choice(p) != 0.5:
            for name, own in labels.get(pair_id, {}).items():
                found.setdefault(name, []).append(1 - abs(choice(own) - choice(p)))
    return found


def _report(
    judgments: Sequence[Judgment], agreed: Sequence[float], right: Sequence[float], overlap: int
) -> AnnotatorReport:
    answers = [judgment.answer for judgment in judgments if judgment.answer is not None]
    seconds = [answer.seconds for answer in answers if answer.seconds is not None]
    name = judgments[0].annotator
    return AnnotatorReport(
        annotator=name,
        source="ai" if all(judgment.source == "ai" for judgment in judgments) else "human",
        simulated=name.startswith(SIMULATED) or any(answer.simulated for answer in answers),
        labels=len(judgments),
        shared=overlap,
        agreement=Rate.of(agreed),
        gold=Rate.of(right),
        accuracy=None,
        skill=None,
        bias=None,
        seconds=median(seconds) if seconds else None,
        timed=len(seconds),
        first=Rate.of([hit for judgment in judgments for hit in _preferred_first(judgment)]),
        ties=sum(choice(judgment.p_of(first_text(judgment.pair))) == 0.5 for judgment in judgments) / len(judgments),
    )


def _preferred_first(judgment: Judgment) -> list[float]:
    """1 or 0 for a person's answer, and for each verdict of a judge; nothing for a tie or an unknown side."""
    shown = None if judgment.answer is None else judgment.answer.shown_first
    own = [] if shown is None else [choice(judgment.p_of(getattr(judgment.pair, shown)))]
    verdicts = [verdict for principle in judgment.principles for verdict in principle.verdicts]
    return [hit for hit in [*own, *map(_leans_first, verdicts)] if hit != 0.5]


def _leans_first(verdict: Verdict) -> float:
    return choice(verdict.logprob_first - verdict.logprob_second, even=0.0)


def removed(reports: Iterable[AnnotatorReport], remove: Removal) -> dict[str, str]:
    """By annotator, the reasons; empty where no rule is set.

    A share counts against somebody when the whole of its interval lies beyond the limit, so that whoever is at the
    limit is removed by bad luck in 1 of 40 cases at most, with few answers and with many. The median time is
    taken as it is, from `min_labels` timed answers on.
    """
    found = {report.annotator: _reasons(report, remove) for report in reports if report.labels >= remove.min_labels}
    return {annotator: "; ".join(reasons) for annotator, reasons in found.items() if reasons}


def _reasons(report: AnnotatorReport, remove: Removal) -> list[str]:
    reasons = [
        *_below("right on gold questions", report.gold, remove.min_gold_accuracy),
        *_below("agrees with the others on", report.agreement, remove.min_agreement),
    ]
    timed = report.seconds if report.timed >= remove.min_labels else None
    if remove.min_seconds is not None and timed is not None and timed < remove.min_seconds:
        reasons.append(f"answers in {timed:.3g} s (median), below {remove.min_seconds:g} s")
    if remove.max_same_side is not None and report.first is not None:
        shares = {"first": report.first, "second": _rest(report.first)}
        reasons += [
            f"prefers what stands {side} in {_told(share)}, above {remove.max_same_side:.0%}"
            for side, share in shares.items()
            if share.low > remove.max_same_side
        ]
    return reasons


def _below(what: str, rate: Rate | None, limit: float | None) -> list[str]:
    return [f"{what} {_told(rate)}, below {limit:.0%}"] if rate and limit is not None and rate.high < limit else []


def _rest(rate: Rate) -> Rate:
    return Rate(value=1 - rate.value, low=1 - rate.high, high=1 - rate.low, n=rate.n)


def _told(rate: Rate) -> str:
    return f"{rate.value:.0%} of {rate.n} ({rate.low:.0%} to {rate.high:.0%})"
