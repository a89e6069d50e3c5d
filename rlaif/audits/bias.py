"""What the judge looks at instead of the merits: the length of a response. (Its position: `order_consistency`.)"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlaif.feedback.labelled import LabelledJudgment, decided
from rlaif.stats import Array, Bootstrap, Estimate, Mask, clustered_mean, interval


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
    if any(np.ptp(wrong[kind]) == 0 for kind in kinds):
        low, high = _square_and_add(value, *parts)
        return Estimate(value=value, low=low, high=high, n=len(wrong))

    def resampled(weights: Array) -> Array:
        sums, counts = (np.stack([weights @ (x * kind) for kind in kinds]) for x in (wrong, np.ones(len(wrong))))
        means = np.divide(sums, counts, out=np.full_like(sums, math.nan), where=counts > 0)
        difference: Array = means[0] - means[1]
        return difference

    found = interval(resampled, clusters, bootstrap)
    low, high = found if found is not None else _square_and_add(value, *parts)
    return Estimate(value=value, low=low, high=high, n=len(wrong))


def _square_and_add(value: float, one: Estimate, other: Estimate) -> tuple[float, float]:
    """Both parts are shares, so both have bounds."""
    assert one.low is not None and one.high is not None and other.low is not None and other.high is not None
    down = math.hypot(one.value - one.low, other.high - other.value)
    up = math.hypot(one.high - one.value, other.value - other.low)
    return value - down, value + up
