"""How far the judge agrees with itself, and how much of its work came back.

Every interval resamples prompts (`stats.py`). What training changed is measured in `winrate.py` and `evaluate.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

from rlaif.records import Failure, Judgment, Verdict
from rlaif.stats import Bootstrap, clustered_mean


class _OrderedPair(NamedTuple):
    """One principle's verdicts on one pair: P(the response that was shown first), the mean over the reasons if any."""

    prompt_id: str
    principle: str
    p_first_ab: float
    p_first_ba: float

    @property
    def outcome(self) -> str:
        """consistent: one response preferred in both orders; both_first and both_second: one position was."""
        if 0.5 in (self.p_first_ab, self.p_first_ba):
            return "undecided"
        if (self.p_first_ab > 0.5) != (self.p_first_ba > 0.5):
            return "consistent"
        return "both_first" if self.p_first_ab > 0.5 else "both_second"


def probability_of_first(verdict: Verdict) -> float:
    """P(the response shown first is better), normalised over the two labels (arXiv 2309.00267, sec. 2)."""
    return float(expit(verdict.logprob_first - verdict.logprob_second))


def order_consistency(
    judgments: Iterable[Judgment], samples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Any] | None:
    """How often a principle's preferred response is the same in both orders (position consistency).

    n counts (pair, principle) with a verdict in each order. The rest splits into `both_first` and
    `both_second` (the same position preferred twice: position bias, arXiv 2309.00267) and `undecided` (an
    exact 0.5 in either order); with `value` they add up to 1. A judge that tosses coins scores 0.5, one
    that sees only the position scores 0. `swap_gap` is the mean |p1 - p2|. `by_principle` has the same
    form. None when no pair was judged in both orders.
    """
    bootstrap = Bootstrap(samples, confidence, seed)
    rows = list(_ordered_pairs(judgments))
    if not rows:
        return None
    whole = _consistency(rows, bootstrap)
    principles = sorted({row.principle for row in rows})
    if len(principles) == 1:
        return whole | {"by_principle": {principles[0]: whole}}
    by_principle = {p: _consistency([r for r in rows if r.principle == p], bootstrap) for p in principles}
    return whole | {"by_principle": by_principle}


def _ordered_pairs(judgments: Iterable[Judgment]) -> Iterable[_OrderedPair]:
    for judgment in judgments:
        for principle in judgment.principles:
            shown: dict[str, list[float]] = {}
            for verdict in principle.verdicts:
                shown.setdefault(verdict.first, []).append(probability_of_first(verdict))
            if len(shown) == 2:
                means = fmean(shown["a"]), fmean(shown["b"])
                yield _OrderedPair(judgment.pair.prompt_id, principle.principle, *means)


def _consistency(rows: Sequence[_OrderedPair], bootstrap: Bootstrap) -> dict[str, Any]:
    clusters = [row.prompt_id for row in rows]

    def share(outcome: str) -> dict[str, Any]:
        return clustered_mean([float(r.outcome == outcome) for r in rows], clusters, *bootstrap).model_dump()

    others = {outcome: share(outcome) for outcome in ("both_first", "both_second", "undecided")}
    # p2 = P(a | b shown first) = 1 - p_first_ba.
    gaps = [abs(row.p_first_ab - (1 - row.p_first_ba)) for row in rows]
    return share("consistent") | others | {"swap_gap": float(np.mean(gaps))}


def coverage(judgments: Iterable[Judgment], failures: Iterable[Failure]) -> dict[str, Any]:
    """The share of pairs that came back from judging with a judgment, and why the others did not.

    `value` is None when the judge was asked nothing. `reasons` counts failures: one pair may have several.
    """
    failures = list(failures)
    judged = len({j.pair.id for j in judgments if j.source == "ai"})
    failed = len({f.id for f in failures})
    reasons: dict[str, int] = {}
    for failure in failures:
        reasons[failure.reason] = reasons.get(failure.reason, 0) + 1
    value = judged / (judged + failed) if judged + failed else None
    return {"value": value, "judged": judged, "failed": failed, "reasons": dict(sorted(reasons.items()))}
