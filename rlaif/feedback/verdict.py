"""From label log-probabilities to p(a): the mathematics of judging, without any model.

Everything works in log-odds for response a, and everything is antisymmetric: exchanging a and b negates the
log-odds and maps p to 1 - p. Next: `judge/`, which asks the questions that are answered here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from statistics import fmean

from scipy.special import expit, logit

from rlaif.config.feedback import Lexicographic, Mean, SampleOne
from rlaif.constitution import Principle
from rlaif.records import PrincipleJudgment, Verdict, derive_seed

Aggregation = Mean | SampleOne | Lexicographic
Decided = tuple[Principle, PrincipleJudgment]

LOGIT_LIMIT = 30.0
"""Some servers report no probability as -9999: one such verdict must not outvote all other principles."""


def verdict_logit(verdict: Verdict) -> float:
    """Log-odds for response a: the difference of the two labels' log-probabilities, within +-LOGIT_LIMIT."""
    lead = verdict.logprob_first - verdict.logprob_second
    lead = max(-LOGIT_LIMIT, min(LOGIT_LIMIT, lead))
    return lead if verdict.first == "a" else -lead


def judged(principle_id: str, v_ab: Verdict, v_ba: Verdict) -> PrincipleJudgment:
    """One principle's judgment from its verdicts with a first and with b first.

    p(a) = sigma((logit p1 + logit p2) / 2), p1 and p2 being P(a) with a shown first and second. A position
    bias that adds to the log-odds of the first place cancels exactly. The gap |p1 - p2| is kept as a measure
    of that bias.
    """
    if (v_ab.first, v_ba.first) != ("a", "b"):
        raise ValueError("judged() takes the verdict with a first, then the one with b first")
    leads = verdict_logit(v_ab), verdict_logit(v_ba)
    return PrincipleJudgment(
        principle=principle_id,
        checked=False,
        p_a=sigma(sum(leads) / 2),
        swap_gap=abs(sigma(leads[0]) - sigma(leads[1])),
        verdicts=(v_ab, v_ba),
    )


def reasoned(
    principle_id: str, by_reason: Sequence[tuple[Verdict, Verdict]], clamp: tuple[float, float]
) -> PrincipleJudgment:
    """One principle's judgment from its verdicts after each of m reasons, with a first and with b first.

    p(a) is the mean over the reasons of each reason's own p(a) (as in `judged`), and that mean is held within `clamp`,
    which is [x, 1 - x]: after a chain of thought the choice is nearly certain whatever its merit (arXiv 2212.08073,
    section 4.1). The gap is that of the mean P(a) in the two orders.
    """
    mean = average([judged(principle_id, v_ab, v_ba).p_a for v_ab, v_ba in by_reason])
    _, high = clamp  # and 1 - high, which mirrors it to the last bit
    in_order = [fmean(sigma(verdict_logit(pair[order])) for pair in by_reason) for order in (0, 1)]
    return PrincipleJudgment(
        principle=principle_id,
        checked=False,
        p_a=min(max(mean, 1 - high), high),
        swap_gap=abs(in_order[0] - in_order[1]),
        verdicts=tuple(verdict for pair in by_reason for verdict in pair),
    )


def checked(principle_id: str, passes_a: bool, passes_b: bool, margin: float) -> PrincipleJudgment:
    """A judgment made by code: `margin` log-odds for the one response that passes, else even."""
    return PrincipleJudgment(principle=principle_id, checked=True, p_a=sigma(margin * (passes_a - passes_b)))


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
    leads = [(principle, _logit(judgment, margin)) for principle, judgment in decided]
    vetoes = [
        (principle, lead)
        for (principle, lead), (_, judgment) in zip(leads, decided, strict=True)
        if principle.veto and lead != 0 and (judgment.checked or abs(lead) >= margin)
    ]
    if vetoes:
        return sigma(_mean(vetoes))
    if isinstance(how, SampleOne):
        chosen = draw([principle for principle, _ in leads], seed, pair_id)
        return sigma(next(lead for principle, lead in leads if principle.id == chosen.id))
    if isinstance(how, Lexicographic):
        ranked = sorted(leads, key=lambda item: item[0].priority)
        for _, group in groupby(ranked, key=lambda item: item[0].priority):
            mean = _mean(list(group))
            # From |log-odds|, so that the two orientations of a pair compare the very same number.
            if sigma(abs(mean)) - 0.5 > how.decided:
                return sigma(mean)
    return sigma(_mean(leads))


def _mean(leads: Sequence[tuple[Principle, float]]) -> float:
    total = math.fsum(principle.weight * lead for principle, lead in leads)
    return total / math.fsum(principle.weight for principle, _ in leads)


def _logit(judgment: PrincipleJudgment, margin: float) -> float:
    """Log-odds of a judgment: of a check the margin; of two plain verdicts their mean, because p_a is rounded to 1 long
    before the log-odds are large; of anything else (reasons, scores) those of p_a."""
    if judgment.checked:
        return 0.0 if judgment.p_a == 0.5 else math.copysign(margin, judgment.p_a - 0.5)
    if len(judgment.verdicts) == 2 and not any(verdict.reason for verdict in judgment.verdicts):
        return sum(verdict_logit(verdict) for verdict in judgment.verdicts) / 2
    return log_odds(judgment.p_a)


def average(ps: Sequence[float]) -> float:
    """The mean of probabilities (at least one); that of their complements is exactly 1 minus it."""
    mean, opposite = fmean(ps), fmean(1 - p for p in ps)
    return mean if mean >= opposite else 1 - opposite


def log_odds(p: float) -> float:
    """Of a probability, within +-LOGIT_LIMIT; those of 1 - p are exactly the opposite."""
    return math.copysign(min(LOGIT_LIMIT, float(logit(max(p, 1 - p)))), p - 0.5)


def sigma(lead: float) -> float:
    """The probability of log-odds; the opposite log-odds give exactly 1 - p.

    So the likelier side is computed and the other is its complement, which for numbers from 0.5 to 1 is exact: a
    label that depended on the last bit of its mirror image would grow by `log_odds` into one that differs visibly.
    """
    likelier = float(expit(abs(lead)))
    return likelier if lead >= 0 else 1 - likelier
