"""How far the judge agrees with humans and with itself: every figure of an audit, and `summarise`, which joins them.

Every interval resamples prompts. Nothing here asks a model: judgments and human labels come in, plain dicts that are
ready for JSON go out. Next: `calibration.py` (how far its probabilities can be believed).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlaif.audits.calibration import calibration
from rlaif.evaluation.agreement import coverage, order_consistency
from rlaif.feedback.judge.result import Cost
from rlaif.feedback.labelled import LabelledJudgment, agreement, decided
from rlaif.feedback.pairs import choice
from rlaif.records import Failure, Judgment, PrincipleJudgment
from rlaif.stats import Array, Bootstrap, Estimate, Mask, clustered_mean, interval, mean_of


def summarise(
    labelled: Sequence[LabelledJudgment],
    judgments: Sequence[Judgment],
    failures: Sequence[Failure],
    cost: Cost,
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Every figure of an audit, ready for JSON; what cannot be computed is None.

    `labelled` is `match(judgments, gold)`. An estimate is {value, low, high, n}: n counts pairs (for `consistency`
    pairs times principles), the interval resamples prompts.

    accuracy      share of pairs on which the judge's choice is the human's
    kappa         the same, corrected for chance (`kappa`)
    baselines     always_longer: the accuracy of taking the longer response; lead_over_longer: the judge less that
    by_principle  {id: {accuracy, undecided, checked, n, consistency}} (`by_principle`)
    by_tag        {tag: accuracy}
    consistency   {value, low, high, n, both_first, both_second, undecided, swap_gap}
    verbosity     {wrong_when_human_prefers_shorter, wrong_when_human_prefers_longer, bias}
    calibration   {ece, brier, log_loss, n, bins, temperature, isotonic} (`calibration.calibration`)
    coverage      {value, judged, failed, reasons}
    cost          {calls, prompt_tokens, completion_tokens} per judged pair
    human_ties, pairs, prompts  counts; pairs and prompts count those with a human label, ties among them
    decided_prompts             those with a human preference on one pair at least
    """
    right = accuracy(labelled, bootstrap)
    spread = [part for judgment in judgments for part in as_asked(judgment)]
    consistency = order_consistency(spread, *bootstrap)
    consistencies = consistency.pop("by_principle") if consistency is not None else {}
    principles = by_principle(labelled, bootstrap)
    return {
        "accuracy": dumped(right),
        "kappa": dumped(kappa(right)),
        "baselines": {
            "always_longer": dumped(always_longer(labelled, bootstrap)),
            "lead_over_longer": dumped(lead_over_longer(labelled, bootstrap)),
        },
        "by_principle": {
            name: principles.get(name, _UNLABELLED) | {"consistency": consistencies.get(name)}
            for name in sorted(principles.keys() | consistencies.keys())
        },
        "by_tag": by_tag(labelled, bootstrap),
        "consistency": consistency,
        "verbosity": verbosity(labelled, bootstrap),
        "calibration": calibration(labelled, bootstrap),
        "coverage": coverage(judgments, failures),
        "cost": cost_per_pair(cost, len(judgments)),
        "human_ties": sum(item.tie for item in labelled),
        "pairs": len(labelled),
        "prompts": len({item.prompt_id for item in labelled}),
        "decided_prompts": len({item.prompt_id for item in decided(labelled)}),
    }


_UNLABELLED: dict[str, Any] = {"accuracy": None, "undecided": 0, "checked": 0, "n": 0}


def dumped(estimate: Estimate | None) -> dict[str, Any] | None:
    """Ready for JSON."""
    return None if estimate is None else estimate.model_dump()


def as_asked(judgment: Judgment) -> list[Judgment]:
    """The judgment itself, or for a panel one judgment per member: it is the members who were asked."""
    if not judgment.members:
        return [judgment]
    return [judgment.model_copy(update={"principles": m.principles, "members": ()}) for m in judgment.members]


# ------------------------------------------------------------------------------------------ with the human


def accuracy(labelled: Sequence[LabelledJudgment], bootstrap: Bootstrap) -> Estimate | None:
    """The share of pairs on which the judge prefers what the human prefers.

    An exact 0.5 of the judge counts half: what tossing a coin would get. Human ties have no right choice and are left
    out. None when nothing is left.
    """
    return mean_of(((item.right, item.prompt_id) for item in decided(labelled)), bootstrap)


def always_longer(labelled: Sequence[LabelledJudgment], bootstrap: Bootstrap) -> Estimate | None:
    """The accuracy of a judge that takes the response with more words; two of one length count half."""
    return mean_of(((agreement(item.longer, item.p_human), item.prompt_id) for item in decided(labelled)), bootstrap)


def lead_over_longer(labelled: Sequence[LabelledJudgment], bootstrap: Bootstrap) -> Estimate | None:
    """`accuracy` less `always_longer`, pair by pair."""
    leads = ((item.right - agreement(item.longer, item.p_human), item.prompt_id) for item in decided(labelled))
    return mean_of(leads, bootstrap, (-1.0, 1.0))


def kappa(accuracy: Estimate | None) -> Estimate | None:
    """Cohen's kappa of judge and human on unordered pairs: 2 accuracy - 1, with the interval that follows.

    Kappa's categories must not depend on which response happens to be called a, so each pair enters in both
    orientations, as (judge, human) and as (1 - judge, 1 - human). Both raters then choose a and b equally often, chance
    agreement is exactly 1/2, and kappa = (accuracy - 1/2) / (1 - 1/2). Human ties are left out, as in accuracy, and the
    judge's own count half. 1: always the human's choice; 0: a coin; below 0: worse than a coin.
    """
    if accuracy is None:
        return None
    low, high = (None if end is None else 2 * end - 1 for end in (accuracy.low, accuracy.high))
    return Estimate(value=2 * accuracy.value - 1, low=low, high=high, n=accuracy.n)


def by_principle(labelled: Sequence[LabelledJudgment], bootstrap: Bootstrap) -> dict[str, dict[str, Any]]:
    """Each principle's own choice against the human's.

    `accuracy` is over the pairs on which the principle prefers one response; `undecided` counts those on which it is
    exactly even (most often a check that both responses pass, or neither). `checked` counts the pairs that code
    decided, and n all of them. Human ties are left out. Of a panel, every member's judgments count.
    """
    rows: dict[str, list[tuple[LabelledJudgment, PrincipleJudgment]]] = {}
    for item in decided(labelled):
        for judgment in as_asked(item.judgment):
            for principle in judgment.principles:
                rows.setdefault(principle.principle, []).append((item, principle))
    return {name: _principle(rows[name], bootstrap) for name in sorted(rows)}


def _principle(rows: Sequence[tuple[LabelledJudgment, PrincipleJudgment]], bootstrap: Bootstrap) -> dict[str, Any]:
    hits = [(agreement(choice(p.p_a), item.p_human), item.prompt_id) for item, p in rows if choice(p.p_a) != 0.5]
    return {
        "accuracy": dumped(mean_of(hits, bootstrap)),
        "undecided": len(rows) - len(hits),
        "checked": sum(principle.checked for _, principle in rows),
        "n": len(rows),
    }


def by_tag(labelled: Sequence[LabelledJudgment], bootstrap: Bootstrap) -> dict[str, dict[str, Any] | None]:
    """Accuracy on the prompts of each tag; a prompt with several counts for each."""
    tags = sorted({tag for item in labelled for tag in item.tags})
    return {tag: dumped(accuracy([item for item in labelled if tag in item.tags], bootstrap)) for tag in tags}


# ---------------------------------------------------------------------------- length, instead of the merits


def verbosity(labelled: Sequence[LabelledJudgment], bootstrap: Bootstrap) -> dict[str, Any] | None:
    """P(wrong | human prefers the shorter) - P(wrong | human prefers the longer), and both parts (arXiv 2310.10076).

    Above 0: the judge is drawn to length. A judge that always takes the longer response has 1, one that always takes
    the shorter -1, and one whose errors have nothing to do with length 0. Lengths are in words; pairs of one length
    and human ties are left out, a judge's exact 0.5 is half wrong. None where the human never prefers the shorter or
    never the longer.
    """
    rows = [item for item in decided(labelled) if item.longer != 0.5]
    shorter = np.array([item.longer != item.p_human for item in rows])
    if not rows or shorter.all() or not shorter.any():
        return None
    wrong = np.array([1 - item.right for item in rows])
    clusters = [item.prompt_id for item in rows]

    def part(chosen: Mask) -> Estimate:
        names = [name for name, taken in zip(clusters, chosen, strict=True) if taken]
        return clustered_mean(list(wrong[chosen]), names, *bootstrap)

    parts = part(shorter), part(~shorter)
    return {
        "wrong_when_human_prefers_shorter": parts[0].model_dump(),
        "wrong_when_human_prefers_longer": parts[1].model_dump(),
        "bias": _difference(wrong, shorter, clusters, parts, bootstrap).model_dump(),
    }


def _difference(
    wrong: Array, shorter: Mask, clusters: Sequence[str], parts: tuple[Estimate, Estimate], bootstrap: Bootstrap
) -> Estimate:
    """The first part less the second, resampled together: a prompt may have pairs of both kinds.

    Resampling is blind where a part's values are all the same (a judge that is never wrong there). Then the parts'
    own intervals are put together by square and add (Newcombe 1998, method 10).
    """
    value = parts[0].value - parts[1].value
    kinds = (shorter, ~shorter)

    def resampled(weights: Array) -> Array:
        sums, counts = (np.stack([weights @ (x * kind) for kind in kinds]) for x in (wrong, np.ones(len(wrong))))
        means = np.divide(sums, counts, out=np.full_like(sums, math.nan), where=counts > 0)
        return np.asarray(means[0] - means[1])

    blind = any(np.ptp(wrong[kind]) == 0 for kind in kinds)
    found = None if blind else interval(resampled, clusters, bootstrap)
    low, high = found or _square_and_add(value, *parts)
    return Estimate(value=value, low=low, high=high, n=len(wrong))


def _square_and_add(value: float, one: Estimate, other: Estimate) -> tuple[float, float]:
    """Both parts are shares, so both have bounds."""
    assert one.low is not None and one.high is not None and other.low is not None and other.high is not None
    down = math.hypot(one.value - one.low, other.high - other.value)
    up = math.hypot(one.high - one.value, other.value - other.low)
    return value - down, value + up


# -------------------------------------------------------------------------------------------- of the judge


def cost_per_pair(cost: Cost, judged: int) -> dict[str, float] | None:
    """Requests and tokens for each pair that came back judged: failures are paid for too. None without any."""
    return {name: value / judged for name, value in cost._asdict().items()} if judged else None


def stability(both: Sequence[tuple[Judgment, Judgment]], bootstrap: Bootstrap) -> dict[str, Any] | None:
    """How stable the judge is over two judgments of each pair (repetition stability, arXiv 2406.07791); None of none.

    `same_choice` is the share of pairs with the same preference both times (an exact 0.5 is the same as another), and
    `mean_change` the mean |p - p'|.
    """
    if not both:
        return None
    rows = [(one.p_a, other.p_of(one.pair.a), one.pair.prompt_id) for one, other in both]
    return {
        "same_choice": dumped(mean_of(((float(choice(p) == choice(q)), prompt) for p, q, prompt in rows), bootstrap)),
        "mean_change": dumped(mean_of(((abs(p - q), prompt) for p, q, prompt in rows), bootstrap)),
    }
