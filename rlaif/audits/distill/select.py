"""Which candidates predict held-out labels, and which of those are worth keeping beside each other. Pure.

Many candidates are tested at once, and by luck some do well: a candidate survives if its exact sign-flip test, with
whole prompts flipped together, holds after Holm's correction, and if its own 95 % interval lies above one half.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import permutation_test

from rlaif.audits.distill.merge import Candidate
from rlaif.audits.distill.settings import DistillSettings
from rlaif.records import TIE_ROUNDING
from rlaif.stats import Bootstrap, Estimate, clustered_mean, holm, numbered

Votes = NDArray[np.float64]
"""Pairs by candidates, as in `vote.Votes.p`."""


class CandidateTest(NamedTuple):
    """One candidate after the vote. `rejected` says why it is not kept; None for a principle of the constitution."""

    candidate: Candidate
    rejected: str | None
    support: Estimate | None = None
    """Share of the decided pairs on which it prefers what people preferred; None where it decided none."""
    p_value: float | None = None
    """Of the hypothesis that it does no better than a coin, after Holm's correction."""
    asked: int = 0
    """Pairs on which the judge gave a verdict by it; `support.n` of them it decided."""


def select(
    candidates: Sequence[Candidate],
    votes: Votes,
    prompt_ids: Sequence[str],
    settings: DistillSettings,
    bootstrap: Bootstrap,
) -> list[CandidateTest]:
    """The candidates with their fate, best first: kept ones, then the others in the same order of merit.

    Merit is the lower end of the interval of the support. Taken from the best down, a candidate is left out when it
    votes as one already kept does on more than `settings.redundant` of the pairs that both decide.
    """
    decided = np.abs(votes - 0.5) > settings.decided + TIE_ROUNDING  # False for nan
    tested = [_test(i, c, votes, decided, prompt_ids, settings, bootstrap) for i, c in enumerate(candidates)]
    corrected = holm([t.p_value for t in tested if t.p_value is not None])
    values = iter(corrected)
    tested = [t if t.p_value is None else t._replace(p_value=next(values)) for t in tested]
    order = sorted(range(len(tested)), key=lambda i: (-_merit(tested[i]), -len(candidates[i].supporters), i))
    kept: list[int] = []
    for i in order:
        tested[i] = tested[i]._replace(rejected=_rejected(i, tested, votes, decided, kept, settings))
        if tested[i].rejected is None:
            kept.append(i)
    return [tested[i] for i in [*kept, *(i for i in order if i not in kept)]]


def _test(
    index: int,
    candidate: Candidate,
    votes: Votes,
    decided: NDArray[np.bool_],
    prompt_ids: Sequence[str],
    settings: DistillSettings,
    bootstrap: Bootstrap,
) -> CandidateTest:
    """The candidate with its support, and the plain p-value where it decides pairs of enough prompts."""
    mine = decided[:, index]
    asked = int(np.isfinite(votes[:, index]).sum())
    clusters = [prompt for prompt, used in zip(prompt_ids, mine, strict=True) if used]
    if not clusters:
        return CandidateTest(candidate, None, asked=asked)
    hits = (votes[mine, index] > 0.5).astype(float)
    support = clustered_mean(list(hits), clusters, *bootstrap)
    enough = len(set(clusters)) >= settings.least_prompts
    p_value = _luck(hits, clusters, bootstrap) if enough else None
    return CandidateTest(candidate, None, support, p_value, asked)


def _luck(hits: NDArray[np.float64], clusters: Sequence[str], bootstrap: Bootstrap) -> float:
    """Chance of so many hits, or more, if each prompt's surplus of hits could as well have been its deficit.

    For prompts of one pair each this is the binomial test against one half.
    """
    surplus = np.bincount(numbered(clusters), weights=2 * hits - 1)
    found = permutation_test(
        (surplus,),
        lambda x, axis: x.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=bootstrap.samples * 5,
        batch=1000,
        alternative="greater",
        rng=np.random.default_rng(bootstrap.seed),
    )
    return float(found.pvalue)


def _merit(tested: CandidateTest) -> float:
    low = tested.support.low if tested.support else None
    return 0.0 if low is None or tested.p_value is None else low


def _rejected(
    index: int,
    tested: Sequence[CandidateTest],
    votes: Votes,
    decided: NDArray[np.bool_],
    kept: Sequence[int],
    settings: DistillSettings,
) -> str | None:
    mine = tested[index]
    if mine.support is None:
        return "decides no pair" if mine.asked else "the judge gave no verdict"
    if mine.p_value is None:
        return f"decides pairs of fewer than {settings.least_prompts} prompts"
    if mine.p_value > settings.alpha or (mine.support.low or 0.0) <= 0.5:
        return "no better than chance"
    for other in kept:
        both = decided[:, index] & decided[:, other]
        alike = (votes[both, index] > 0.5) == (votes[both, other] > 0.5)
        if both.any() and alike.mean() > settings.redundant:
            return f"votes as {tested[other].candidate.id} does on {alike.mean():.0%} of the pairs that both decide"
    return f"the constitution is full: {settings.keep} are better" if len(kept) >= settings.keep else None
