"""Where people and the judge labelled the same pairs: how reliable the judge is, what its labels are worth, conflicts.

Only pairs that people got by chance may say how good the judge is: those that were routed to them because the judge was
unsure are harder than the rest (`Routing.picked` in `route.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from scipy.stats import binomtest

from rlaif.audit.calibration import Confidences, fit_isotonic, fit_temperature
from rlaif.audit.labelled import Labelled, decided, match
from rlaif.config.feedback import Calibrated, Debiased, Reliable
from rlaif.errors import DataError
from rlaif.feedback.calibration import calibrate
from rlaif.feedback.pairs import WeightedJudgment, choice
from rlaif.hybrid.debias import debias
from rlaif.hybrid.evidence import swap_gap
from rlaif.records import Judgment, Pair, Record


class Agreement(NamedTuple):
    """How often the judge prefers what people prefer, on the pairs that both labelled."""

    value: float
    """(k + 1/2) / (n + 1): k of n shrunk a little towards even, so that ten of ten is not certainty (Jeffreys)."""
    low: float
    high: float
    """Wilson's 95 % interval of k of n."""
    n: int
    hits: float


def agreement(overlap: Sequence[Labelled]) -> Agreement:
    """Over pairs on which people have a preference; an even judge agrees by half. DataError of none."""
    rows = decided(overlap)
    if not rows:
        raise DataError("preferences.labels.policy: people and the judge labelled no pair both, so nothing can be said")
    hits = sum(item.right for item in rows)
    interval = binomtest(round(hits), len(rows)).proportion_ci(0.95, method="wilson")
    return Agreement((hits + 0.5) / (len(rows) + 1), float(interval.low), float(interval.high), len(rows), hits)


def overlap_of(ai: Sequence[Judgment], human: Sequence[Judgment], picked: Collection[str] = ()) -> list[Labelled]:
    """The judge's judgments that people labelled too, less those of pairs that a router picked for what the judge said
    of them."""
    left_out = set(picked)
    return [item for item in match(ai, human) if item.judgment.pair.id not in left_out]


def believed(
    weighted: Sequence[WeightedJudgment], overlap: Sequence[Labelled], policy: Calibrated | Reliable | Debiased
) -> list[WeightedJudgment]:
    """The rows with the judge's labels made worth what the overlap says; people's stay as they are.

    calibrated           p becomes what people said of such p: a temperature or an isotonic map
    reliability, smooth  p becomes the agreement a for the response that the judge prefers, however sure it was: label
                         smoothing with the error rate that was measured
    reliability, weight  (2a - 1)^2: the information about a difference of rewards in a label with that error rate,
                         relative to one without (Bradley-Terry, at a difference of 0)
    debiased             p loses the judge's taste for length, as far as people do not share it (`debias.py`)

    A judge that agrees no more often than a coin has its labels left out. DataError below `min_overlap`.
    """
    rows = decided(overlap)
    if len(rows) < policy.min_overlap:
        raise DataError(
            f"preferences.labels.policy: {len(rows)} pairs have a label of the judge and a person's preference, and "
            f"{policy.kind} needs {policy.min_overlap} (min_overlap); label more with `rlaif annotate`, or use "
            "kind human_wins"
        )
    people = [item for item in weighted if item.judgment.source == "human"]
    judge = [item for item in weighted if item.judgment.source == "ai"]
    if isinstance(policy, Calibrated):
        data = Confidences.of(rows)
        how = fit_temperature(data) if policy.map == "temperature" else fit_isotonic(data)
        return [*people, *(_with_p(item, calibrate(_raw(item.judgment), how)) for item in judge)]
    if isinstance(policy, Debiased):
        without = debias([item.judgment for item in judge], rows)
        return [*people, *(item._replace(judgment=j) for item, j in zip(judge, without, strict=True))]
    a = agreement(rows).value
    if a <= 0.5:
        return people
    if policy.use == "weight":
        return [*people, *(item._replace(weight=item.weight * (2 * a - 1) ** 2) for item in judge)]
    return [*people, *(_with_p(item, 0.5 + (a - 0.5) * (2 * choice(item.judgment.p_a) - 1)) for item in judge)]


def _raw(judgment: Judgment) -> float:
    return judgment.p_a if judgment.p_raw is None else judgment.p_raw


def _with_p(item: WeightedJudgment, p: float) -> WeightedJudgment:
    return item._replace(judgment=item.judgment.model_copy(update={"p_a": p, "p_raw": _raw(item.judgment)}))


class Conflict(Record):
    """A pair on which people and the judge prefer different responses."""

    pair: Pair
    p_human: float
    """P(a is better): 1 or 0."""
    p_judge: float
    swap_gap: float
    annotators: tuple[str, ...]


def conflicts(ai: Sequence[Judgment], human: Sequence[Judgment]) -> list[Conflict]:
    """The judge's surest mistakes, or people's, first."""
    people: dict[str, list[str]] = {}
    for label in human:
        people.setdefault(label.pair.id, []).append(label.annotator)
    found = [
        Conflict(
            pair=item.judgment.pair,
            p_human=item.p_human,
            p_judge=item.judgment.p_a,
            swap_gap=swap_gap(item.judgment),
            annotators=tuple(sorted(set(people[item.judgment.pair.id]))),
        )
        for item in decided(match(ai, human))
        if choice(item.judgment.p_a) not in (0.5, item.p_human)
    ]
    return sorted(found, key=lambda conflict: (-abs(conflict.p_judge - 0.5), conflict.pair.id))
