"""From label log-probabilities to the value of one response: the mathematics of `score` and `checklist`, no model.

A `RatingScale` says how two values become p(a); the rest is the same for both, and for `contrast`. Exchanging a and b
maps p to 1 - p exactly. Next: `judge/score.py`, which asks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rlaif.constitution import Principle
from rlaif.feedback.verdict import checked
from rlaif.records import Messages, PrincipleJudgment, PrincipleScore

DIGITS = "0123456789"
"""They stand for the ratings 1 to 10."""
YES, NO, UNKNOWN = "Yes", "No", "Unknown"


class RatingScale(NamedTuple):
    """How values of responses by a principle lie. A response that fails a check has `low`, one that passes `high`."""

    low: float
    high: float
    lead: Callable[[PrincipleScore, PrincipleScore], float]
    """P(a follows the principle better) - P(b does), for two judged responses."""
    limit: float | None = None
    """The value below which a response goes against the principle; none = the middle."""

    def against(self, scored: PrincipleScore) -> bool:
        """Whether the response goes against the principle: it fails the check, or its value is below the limit."""
        return scored.value < ((self.low + self.high) / 2 if self.limit is None else self.limit)


def by_code(principle: Principle, text: str, scale: RatingScale, prompt: Messages = ()) -> PrincipleScore:
    """What the principle's check or classifier says about the response."""
    value = scale.high if principle.passes(text, prompt) else scale.low
    return PrincipleScore(principle=principle.id, checked=True, value=value)


def overall(scored: Sequence[tuple[Principle, PrincipleScore]], scale: RatingScale) -> tuple[float, bool]:
    """(value, vetoed) of a response: the mean of its principles' values (at least one) by weight, or `scale.low` if
    it goes against a veto principle."""
    if any(principle.veto and scale.against(score) for principle, score in scored):
        return scale.low, True
    total = math.fsum(principle.weight * score.value for principle, score in scored)
    return total / math.fsum(principle.weight for principle, _ in scored), False


def compared(
    principle: Principle, a: PrincipleScore, b: PrincipleScore, scale: RatingScale, margin: float
) -> PrincipleJudgment:
    """What the principle says about a pair, from what it says about each response.

    If code decided about either, only passing counts, as in `verdict.checked`; a response that was asked about has
    passed. Otherwise p(a) is P(a better) + P(neither better) / 2, the two responses' replies being independent.
    """
    if a.checked or b.checked:
        passes_a, passes_b = (not (score.checked and scale.against(score)) for score in (a, b))
        return checked(principle.id, passes_a, passes_b, margin)
    ratios = (a.ratio, b.ratio) if a.ratio and b.ratio else ()
    return PrincipleJudgment(principle=principle.id, checked=False, p_a=_half_more(scale.lead(a, b)), ratios=ratios)


def rate(principle: Principle, logprobs: Mapping[str, float]) -> PrincipleScore:
    """The expected rating, rescaled: with s = sum of i P(i) over the ratings i = 1 to 10, the value is 2(s - 1)/9 - 1.

    P is normalised over the ten labels (direct RLAIF, arXiv 2309.00267 section 3.2).
    """
    value = math.fsum((2 * digit / 9 - 1) * p for digit, p in enumerate(shares(logprobs, DIGITS)))
    value = min(max(value, RATING.low), RATING.high)  # rounding may add a last bit
    return PrincipleScore(principle=principle.id, checked=False, value=value, logprobs=dict(logprobs))


def rating_lead(a: PrincipleScore, b: PrincipleScore) -> float:
    """P(a is rated higher) - P(b is), the two ratings being independent."""
    shares_a, shares_b = shares(a.logprobs, DIGITS), shares(b.logprobs, DIGITS)
    return _chance_higher(shares_a, shares_b) - _chance_higher(shares_b, shares_a)


def answer(principle: Principle, logprobs: Mapping[str, float]) -> PrincipleScore:
    """P(desired) + P(Unknown)/2, normalised over the three labels: "cannot be told" speaks for neither side."""
    yes, no, unknown = shares(logprobs, (YES, NO, UNKNOWN))
    return PrincipleScore(
        principle=principle.id,
        checked=False,
        value=_half_more(yes - no if principle.desired == "yes" else no - yes),
        logprobs=dict(logprobs),
        unknown=unknown,
    )


def answer_lead(a: PrincipleScore, b: PrincipleScore) -> float:
    """P(only a follows the principle) - P(only b does), the two being independent."""
    return a.value - b.value


RATING = RatingScale(-1.0, 1.0, rating_lead)
"""`score`: from -1 to 1."""
CHECKLIST = RatingScale(0.0, 1.0, answer_lead)
"""`checklist`: from 0 to 1."""


def shares(logprobs: Mapping[str, float], labels: Sequence[str]) -> list[float]:
    """The labels' probabilities, normalised over them."""
    # Not by numpy, whose exp has another last bit on CPUs with AVX-512: a judgment's bytes would depend on the machine.
    highest = max(logprobs[label] for label in labels)
    weights = [math.exp(logprobs[label] - highest) for label in labels]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def _chance_higher(one: Sequence[float], other: Sequence[float]) -> float:
    return math.fsum(p * q for i, p in enumerate(one) for q in other[:i])


def _half_more(lead: float) -> float:
    """1/2 + lead/2, rounded so that the opposite lead gives exactly 1 minus it."""
    more = 0.5 + min(abs(lead), 1.0) / 2
    return more if lead >= 0 else 1 - more
