"""Which candidates predict held-out labels, and which of those are kept: the second half of a distillation.

All candidates are asked about a pair together, so that an engine with a prefix cache reads the pair once; each is still
judged by itself, in both orders. Many are tested at once, and by luck some do well: a candidate survives if its exact
sign-flip test, with whole prompts flipped together, holds after Holm's correction, and if its own 95 % interval lies
above one half.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import permutation_test

from rlaif.audits.proposals import Candidate, DistillSettings
from rlaif.config.feedback import LabelSection, Mean
from rlaif.config.judging import CompareMode
from rlaif.constitution import Constitution, Principle
from rlaif.constitution.schema import SCHEMA
from rlaif.feedback.judge import SingleJudge
from rlaif.feedback.judge.result import Cost
from rlaif.feedback.sample import Progress
from rlaif.models.engine import Engine
from rlaif.records import TIE_ROUNDING, Judgment
from rlaif.stats import Array, Bootstrap, Estimate, Mask, clustered_mean, holm, numbered
from rlaif.templates import JudgeTemplate


class Votes(NamedTuple):
    """`p` (pairs, candidates) is the candidate's probability that the response that people preferred is the better one;
    nan where the judge gave no verdict."""

    p: Array
    cost: Cost


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


def vote(
    model: Engine,
    candidates: Sequence[Candidate],
    labels: Sequence[Judgment],
    template: JudgeTemplate,
    section: LabelSection,
    seed: int,
    progress: Progress | None = None,
) -> Votes:
    """The votes of the candidates on these labelled pairs (different pairs, no ties). `progress` counts pairs."""
    alone = section.model_copy(update={"aggregation": Mean(), "mode": CompareMode(), "audit": None})
    pairs = [label.pair for label in labels]
    row_of = {pair.id: row for row, pair in enumerate(pairs)}
    column_of = {candidate.id: column for column, candidate in enumerate(candidates)}
    p = np.full((len(labels), len(candidates)), np.nan)

    def put(judgments: Sequence[Judgment]) -> None:
        for judgment in judgments:
            row = row_of[judgment.pair.id]
            for principle in judgment.principles:
                p_a = principle.p_a
                p[row, column_of[principle.principle]] = p_a if labels[row].p_a > 0.5 else 1 - p_a

    together = SingleJudge(CompareMode(), constitution_of(candidates), alone, seed, template)(model, pairs, progress)
    put(together.judgments)
    # A pair on which the judge fails one candidate has no judgment at all: the others are asked again, one by one.
    failed = {failure.id for failure in together.failures}
    again = [pair for pair in pairs if pair.id in failed]
    cost = together.cost
    for candidate in candidates if again else ():
        single = SingleJudge(CompareMode(), constitution_of([candidate]), alone, seed, template)(model, again)
        put(single.judgments)
        cost = cost.plus(single.cost)
    return Votes(p, cost)


def constitution_of(
    candidates: Sequence[Candidate], name: str = "candidates", title: str = "Candidates of a distillation"
) -> Constitution:
    """The candidates as a constitution, in this order, each with weight 1."""
    principles = tuple(Principle(id=candidate.id, compare=candidate.text) for candidate in candidates)
    head = {"schema": SCHEMA, "id": name, "version": "1.0.0", "title": title}
    return Constitution.model_validate(head | {"principles": principles})


# ----------------------------------------------------------------------------------------------- the choice


def select(
    candidates: Sequence[Candidate],
    votes: Array,
    prompt_ids: Sequence[str],
    settings: DistillSettings,
    bootstrap: Bootstrap,
) -> list[CandidateTest]:
    """The candidates with their fate, best first: kept ones, then the others in the same order of merit.

    Merit is the lower end of the interval of the support. Taken from the best down, a candidate is left out when it
    votes as one already kept does on more than `settings.redundant` of the pairs that both decide. `votes` is `Votes.p`
    (pairs, candidates).
    """
    decided = np.abs(votes - 0.5) > settings.decided + TIE_ROUNDING  # False for nan
    tested = []
    for candidate, p, mine in zip(candidates, votes.T, decided.T, strict=True):
        clusters = [prompt for prompt, taken in zip(prompt_ids, mine, strict=True) if taken]
        support, p_value = _support(p[mine] > 0.5, clusters, settings, bootstrap)
        tested.append(CandidateTest(candidate, None, support, p_value, int(np.isfinite(p).sum())))
    corrected = iter(holm([t.p_value for t in tested if t.p_value is not None]))
    tested = [t if t.p_value is None else t._replace(p_value=next(corrected)) for t in tested]
    order = sorted(range(len(tested)), key=lambda i: (-_merit(tested[i]), -len(candidates[i].supporters), i))
    kept: list[int] = []
    for i in order:
        tested[i] = tested[i]._replace(rejected=_rejected(i, tested, votes, decided, kept, settings))
        if tested[i].rejected is None:
            kept.append(i)
    return [tested[i] for i in [*kept, *(i for i in order if i not in kept)]]


def _support(
    hits: Mask, clusters: Sequence[str], settings: DistillSettings, bootstrap: Bootstrap
) -> tuple[Estimate | None, float | None]:
    """The share of hits, and the chance of so many or more if each prompt's surplus of hits could as well have been its
    deficit: for prompts of one pair each the binomial test against one half. No such chance for too few prompts."""
    if not clusters:
        return None, None
    support = clustered_mean(hits.astype(float).tolist(), clusters, *bootstrap)
    if len(set(clusters)) < settings.least_prompts:
        return support, None
    found = permutation_test(
        (np.bincount(numbered(clusters), weights=2.0 * hits - 1),),
        lambda x, axis: x.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=bootstrap.samples * 5,
        batch=1000,
        alternative="greater",
        rng=np.random.default_rng(bootstrap.seed),
    )
    return support, float(found.pvalue)


def _merit(tested: CandidateTest) -> float:
    low = tested.support.low if tested.support else None
    return 0.0 if low is None or tested.p_value is None else low


def _rejected(
    index: int,
    tested: Sequence[CandidateTest],
    votes: Array,
    decided: Mask,
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
