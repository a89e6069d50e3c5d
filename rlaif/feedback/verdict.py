"""From label log-probabilities to p(a): the mathematics of judging, without any model.

Everything works in log-odds for response a, and everything is antisymmetric: exchanging a and b negates the
log-odds and maps p to 1 - p. Next: `judge.py`, which asks the questions that are answered here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from scipy.special import expit

from rlaif.config.sections import Lexicographic, Mean, SampleOne
from rlaif.constitution import Principle
from rlaif.records import PrincipleJudgment, Verdict, derive_seed

Aggregation = Mean | SampleOne | Lexicographic
Decided = tuple[Principle, PrincipleJudgment]

LOGIT_LIMIT = 30.0
"""Some servers report no probability as -9999: one such verdict must not outvote all other principles."""


def verdict_logit(verdict: Verdict) -> float:
    """Log-odds for response a: the difference of the two labels' log-probabilities, within +-LOGIT_LIMIT."""
    logit = verdict.logprob_first - verdict.logprob_second
    logit = max(-LOGIT_LIMIT, min(LOGIT_LIMIT, logit))
    return logit if verdict.first == "a" else -logit


def judged(principle_id: str, v_ab: Verdict, v_ba: Verdict) -> PrincipleJudgment:
    """One principle's judgment from its verdicts with a first and with b first.

    p(a) = sigma((logit p1 + logit p2) / 2), p1 and p2 being P(a) with a shown first and second. A position
    bias that adds to the log-odds of the first place cancels exactly. The gap |p1 - p2| is kept as a measure
    of that bias.
    """
    if (v_ab.first, v_ba.first) != ("a", "b"):
        raise ValueError("judged() takes the verdict with a first, then the one with b first")
    logits = verdict_logit(v_ab), verdict_logit(v_ba)
    return PrincipleJudgment(
        principle=principle_id,
        checked=False,
        p_a=_sigma(sum(logits) / 2),
        swap_gap=abs(_sigma(logits[0]) - _sigma(logits[1])),
        verdicts=(v_ab, v_ba),
    )


def checked(principle_id: str, passes_a: bool, passes_b: bool, margin: float) -> PrincipleJudgment:
    """A judgment made by code: `margin` log-odds for the one response that passes, else even."""
    return PrincipleJudgment(principle=principle_id, checked=True, p_a=_sigma(margin * (passes_a - passes_b)))


def draw(principles: Sequence[Principle], seed: int, pair_id: str) -> Principle:
    """One principle, with probability in proportion to its weight, fixed by the seed and the pair.

    An exponential race: the waiting time -log(u)/weight that is shortest wins, each u seeded by pair and
    principle. So the draw does not depend on the order of the principles, nor on which of the losers take
    part, and since a pair's id is symmetric it does not depend on which response is called a.
    """

    def waiting_time(principle: Principle) -> float:
        u = (derive_seed(seed, "label", pair_id, principle.id) + 1) / 2**63
        return -math.log(u) / principle.weight

    return min(principles, key=lambda principle: (waiting_time(principle), principle.id))


def aggregate(decided: Sequence[Decided], how: Aggregation, margin: float, seed: int, pair_id: str) -> float:
    """p(a) of the pair from all its principles' judgments (at least one).

    Vetoes come first. A veto principle speaks when exactly one response passes its check, or when it was
    judged with log-odds of at least `margin` (`label.check_margin`) either way. Where any speak, p(a) is the
    sigma of their mean log-odds by weight and nothing else counts; two equal vetoes against each other make
    a tie. Otherwise:

    mean           sigma of the mean log-odds by weight; a check that both pass counts, with log-odds 0
    sample         the drawn principle alone
    lexicographic  priority groups in ascending order, mean log-odds by weight inside each; the first with
                   |p - 0.5| above `how.decided` decides. If none does, the mean over all principles: it
                   stays near 0.5, so the tie margin of the preferences section decides about such pairs.
    """
    logits = [(principle, _logit(judgment, margin)) for principle, judgment in decided]
    vetoes = [
        (principle, logit)
        for (principle, logit), (_, judgment) in zip(logits, decided, strict=True)
        if principle.veto and logit != 0 and (judgment.checked or abs(logit) >= margin)
    ]
    if vetoes:
        return _sigma(_mean(vetoes))
    if isinstance(how, SampleOne):
        chosen = draw([principle for principle, _ in logits], seed, pair_id)
        return _sigma(next(logit for principle, logit in logits if principle.id == chosen.id))
    if isinstance(how, Lexicographic):
        ranked = sorted(logits, key=lambda item: item[0].priority)
        for _, group in groupby(ranked, key=lambda item: item[0].priority):
            mean = _mean(list(group))
            # From |log-odds|, so that the two orientations of a pair compare the very same number.
            if _sigma(abs(mean)) - 0.5 > how.decided:
                return _sigma(mean)
    return _sigma(_mean(logits))


def _mean(logits: Sequence[tuple[Principle, float]]) -> float:
    total = math.fsum(principle.weight * logit for principle, logit in logits)
    return total / math.fsum(principle.weight for principle, _ in logits)


def _logit(judgment: PrincipleJudgment, margin: float) -> float:
    """Log-odds from what p_a was made of: p_a itself is rounded to 1 long before the log-odds are large."""
    if judgment.checked:
        return 0.0 if judgment.p_a == 0.5 else math.copysign(margin, judgment.p_a - 0.5)
    return sum(verdict_logit(verdict) for verdict in judgment.verdicts) / len(judgment.verdicts)


def _sigma(logit: float) -> float:
    return float(expit(logit))
