"""From two likelihoods of a response to its value: the mathematics of `contrast`, without any model.

With i+ and i- a principle's two instructions and x the conversation, s(y) = log p(y | i+, x) - log p(y | i-, x) is a
log density ratio: how much likelier the first instruction makes the response (arXiv 2411.02481, with two models in
place of two instructions). By Bayes' rule it is the log-odds that y was written under i+, but for a term without y.
Exchanging the instructions negates s; exchanging a and b maps p(a) to 1 - p(a).
"""

from __future__ import annotations

import math
from typing import Literal

from rlaif.constitution import Principle
from rlaif.feedback.rating import RatingScale
from rlaif.records import DensityRatio, PrincipleScore

Length = Literal["sum", "mean", "root"]
TAU: dict[Length, float] = {"sum": 8.0, "mean": 0.1, "root": 1.0}
"""The s at which odds are e to 1, where a recipe names none."""


def log_ratio(ratio: DensityRatio, length: Length) -> float:
    """s in nats: summed over the response's n tokens, their mean, or the sum over the root of n. 0 of no tokens."""
    whole, n = ratio.logprob_for - ratio.logprob_against, max(1, ratio.tokens)
    return whole / {"sum": 1.0, "mean": n, "root": math.sqrt(n)}[length]


def rated(principle: Principle, ratio: DensityRatio, length: Length, tau: float) -> PrincipleScore:
    """The value of a response: s / tau."""
    return PrincipleScore(principle=principle.id, checked=False, value=log_ratio(ratio, length) / tau, ratio=ratio)


def ratio_lead(a: PrincipleScore, b: PrincipleScore) -> float:
    """P(a follows the principle better) - P(b does): with p(a) = sigma((s_a - s_b) / tau), 2 p(a) - 1."""
    return math.tanh((a.value - b.value) / 2)


def ratio_scale(margin: float) -> RatingScale:
    """Of `contrast`, where a check that one of two responses passes gives `margin` log-odds, as in `verdict.checked`.
    A value is below the middle where the opposite instruction makes the response likelier."""
    return RatingScale(-margin / 2, margin / 2, ratio_lead)
