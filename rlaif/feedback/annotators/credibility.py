"""What is known of each annotator, human or judge alike: agreement, gold questions, estimated accuracy, habits; and
whose labels are left out for it, all of them (user-level removal, arXiv 2208.03295). Next: `trust.py`, what becomes of
the rest."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, median

from scipy.stats import binomtest

from rlaif.config.feedback import Removal
from rlaif.feedback.annotators.labels import SIMULATED, accuracy_of, first_text, individual, means, shared, table
from rlaif.feedback.pairs import choice
from rlaif.records import Judgment, Record, Source, grouped
from rlaif.stats import Estimate
from rlaif.words import direction, whole_percents

CONFIDENCE = 0.95


def exact_rate(hits: Sequence[float]) -> Estimate | None:
    """The share of answers that are hits (1), misses (0) or half of each (0.5), with its exact 95 % interval (Clopper
    and Pearson 1934), rounded outwards; None of none.

    Not Wilson's: that one is too narrow for a handful of answers (it puts 0 of 2 below 0.66; somebody who is right 7
    times in 10 gives that 9 % of the time), and people are removed by its ends.
    """
    if not hits:
        return None
    total, n = math.fsum(hits), len(hits)
    few, many = (binomtest(k, n).proportion_ci(CONFIDENCE, "exact") for k in (math.floor(total), math.ceil(total)))
    return Estimate(value=total / n, low=float(few.low), high=float(many.high), n=n)


class AnnotatorReport(Record):
    """One annotator in figures; None where the labels cannot tell."""

    annotator: str
    source: Source
    simulated: bool
    labels: int
    """All of them, those of gold questions and repeated ones too."""
    shared: int
    """Pairs that both this annotator and another one voted on; ties are no votes."""
    agreement: Estimate | None
    """On pairs that others labelled too: the same as their majority. A tie against a choice, or an even split of the
    others against one, is half."""
    gold: Estimate | None
    """Right on gold questions, one for each pair; a tie is half right."""
    accuracy: float | None
    """Chance of voting for the true label (Dawid-Skene, one coin); from `min_shared` shared pairs on."""
    seconds: float | None
    """Median time of an answer."""
    timed: int
    """Answers whose time is known."""
    first: Estimate | None
    """Preferred what stood first, of the answers that prefer something. Of a judge: of its verdicts."""
    ties: float
    """Share of labels."""
    removed: str | None = None
    """Why all labels of this annotator are left out."""


def credibility(judgments: Iterable[Judgment], gold: Iterable[Judgment], min_shared: int) -> list[AnnotatorReport]:
    """A report on everyone who labelled anything, by name."""
    rows = grouped(individual(judgments), lambda judgment: judgment.annotator)
    labels = table(judgment for theirs in rows.values() for judgment in theirs)
    overlap, answers = shared(labels), means(gold)
    agreed: dict[str, list[float]] = {name: [] for name in rows}
    right: dict[str, list[float]] = {name: [] for name in rows}
    for pair_id, said in labels.items():
        choices = {name: choice(p) for name, p in said.items()}
        answer = choice(answers.get(pair_id, 0.5))
        for name, own in choices.items():
            others = [other for another, other in choices.items() if another != name]
            if others:
                agreed[name].append(1 - abs(own - choice(fmean(others))))
            if answer != 0.5:
                right[name].append(1 - abs(own - answer))
    both = {name: sum(name in said for said in overlap.values()) for name in sorted(rows)}
    accuracy = accuracy_of(overlap) if any(count >= min_shared for count in both.values()) else {}
    return [
        _report(rows[name], agreed[name], right[name], count, accuracy[name] if count >= min_shared else None)
        for name, count in both.items()
    ]


def _report(
    judgments: Sequence[Judgment], agreed: Sequence[float], right: Sequence[float], both: int, accuracy: float | None
) -> AnnotatorReport:
    answers = [judgment.answer for judgment in judgments if judgment.answer is not None]
    seconds = [answer.seconds for answer in answers if answer.seconds is not None]
    name = judgments[0].annotator
    return AnnotatorReport(
        annotator=name,
        source="ai" if all(judgment.source == "ai" for judgment in judgments) else "human",
        simulated=name.startswith(SIMULATED) or any(answer.simulated for answer in answers),
        labels=len(judgments),
        shared=both,
        agreement=exact_rate(agreed),
        gold=exact_rate(right),
        accuracy=accuracy,
        seconds=median(seconds) if seconds else None,
        timed=len(seconds),
        first=exact_rate([hit for judgment in judgments for hit in _preferred_first(judgment) if hit != 0.5]),
        ties=sum(choice(judgment.p_of(first_text(judgment.pair))) == 0.5 for judgment in judgments) / len(judgments),
    )


def _preferred_first(judgment: Judgment) -> list[float]:
    """1, 0 or a tie's 0.5 for a person's answer whose side is known, and for each verdict of a judge."""
    shown = None if judgment.answer is None else judgment.answer.shown_first
    own = [] if shown is None else [choice(judgment.p_of(getattr(judgment.pair, shown)))]
    verdicts = [verdict for principle in judgment.principles for verdict in principle.verdicts]
    return [*own, *(choice(one.logprob_first - one.logprob_second, even=0.0) for one in verdicts)]


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
        f"{what} {_of_answers(rate)}, below {limit:.0%}"
        for what, rate, limit in (
            ("right on gold questions", report.gold, remove.min_gold_accuracy),
            ("agrees with the others on", report.agreement, remove.min_agreement),
        )
        if rate and limit is not None and direction(rate, limit) == "down"
    ]
    timed = report.seconds if report.timed >= remove.min_labels else None
    if remove.min_seconds is not None and timed is not None and timed < remove.min_seconds:
        reasons.append(f"answers in {timed:.3g} s (median), below {remove.min_seconds:g} s")
    if remove.max_same_side is not None and report.first is not None:
        reasons += [
            f"prefers what stands {side} in {_of_answers(share)}, above {remove.max_same_side:.0%}"
            for side, share in (("first", report.first), ("second", report.first.opposite(1.0)))
            if direction(share, remove.max_same_side) == "up"
        ]
    return reasons


def _of_answers(rate: Estimate) -> str:
    return f"{rate.value:.0%} of {rate.n} ({whole_percents(rate)})"
