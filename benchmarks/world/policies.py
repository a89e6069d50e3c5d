"""The arms: labels through the project's own mixing, a linear reward model, and policies that spend one KL budget.

Every arm but two comes down to a number for each response, its reward, and is the KL-regularised optimum for it,

    pi(y | x) = pi0(y | x) exp(r(x, y) / beta) / Z(x),

beta being such that the mean KL from pi0 over the prompts that no arm has seen, where the arms are compared, is the
budget. The two are best-of-n, whose exact KL is the budget of all, and the reference, pi0 itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq, minimize
from scipy.special import expit, log_softmax, rel_entr

from benchmarks.world.labels import Judge, Traits, judge_of, people
from benchmarks.world.texts import WORDS, Array, World, features, make_world
from rlaif.annotate.routers import by_hash
from rlaif.config.feedback import (
    CalibratedMix,
    DebiasedMix,
    HumanWinsMix,
    MixPolicy,
    PreferencesSection,
    ReliabilityMix,
    WeightedMix,
)
from rlaif.feedback.mix import believed, mix, overlap_of
from rlaif.feedback.pairs import WeightedJudgment, make_pairs, to_preferences
from rlaif.records import Judgment, Preference, derive_seed

HYBRIDS: dict[str, MixPolicy] = {
    "hybrid": HumanWinsMix(),
    "hybrid_weighted": WeightedMix(human=4.0),
    "hybrid_calibrated": CalibratedMix(min_overlap=20),
    "hybrid_smooth": ReliabilityMix(use="smooth", min_overlap=20),
    "hybrid_reliable": ReliabilityMix(use="weight", min_overlap=20),
    "hybrid_debiased": DebiasedMix(min_overlap=20),
}
"""`hybrid` is what recipes do unless told otherwise. Weighted: with 20 % human labels both sources weigh alike. The
least overlap is lowered so that studies with few human labels can be simulated too."""
PENALTY = 1e-3
"""L2 on the reward model; counts and length together are not independent, so without it there is no unique fit."""


class Size(NamedTuple):
    """How large a study is."""

    prompts: int = 200
    """Whose pairs are labelled."""
    new: int = 4000
    """That no arm has seen: contests take theirs from these, and the truth is about all of them."""
    responses: int = 8
    """All that are possible for a prompt."""
    pairs: int = 6
    """To label, of each prompt."""
    share: float = 0.2
    """Of the pairs that hybrid arms have from people, drawn at random."""
    best_of: int = 4


class Labels(NamedTuple):
    """All labels of one study."""

    ai: list[Judgment]
    human: list[Judgment]
    """Of every pair."""
    some: list[Judgment]
    """Those that hybrid arms may see."""


def label(world: World, judge: Judge, size: Size, seed: int) -> Labels:
    """The judge's and the simulated people's labels of the same pairs."""
    at = range(size.prompts)
    responses = [response for n in at for response in world.responses(n)]
    pairs = make_pairs([world.prompt(n) for n in at], responses, size.pairs, seed)
    ai, human = judge.label(world, at, pairs), people(pairs, seed)
    seen = set(by_hash(ai, derive_seed(seed, "by chance"))[: round(size.share * len(pairs))])
    return Labels(ai, human, [one for one in human if one.pair.id in seen])


def preferences(labels: Labels) -> dict[str, tuple[Preference, ...]]:
    """What the reward model of each arm trains on, the rows it would be measured by left out."""
    sources = {
        "rlaif": mix(labels.ai, [], HumanWinsMix()).judgments,
        "rlhf": mix([], labels.human, HumanWinsMix()).judgments,
        "rlhf_some": mix([], labels.some, HumanWinsMix()).judgments,
        **{name: _hybrid(labels, policy) for name, policy in HYBRIDS.items()},
    }
    return {
        name: tuple(row for row in to_preferences(weighted, PreferencesSection()).rows if row.split == "train")
        for name, weighted in sources.items()
    }


def _hybrid(labels: Labels, policy: MixPolicy) -> list[WeightedJudgment]:
    weighted = mix(labels.ai, labels.some, policy).judgments
    if not isinstance(policy, CalibratedMix | ReliabilityMix | DebiasedMix):
        return weighted
    return believed(weighted, overlap_of(labels.ai, labels.some), policy)


# --------------------------------------------------------------------------------------------- reward model


def preference_loss(margin: Array, p_chosen: Array, weight: Array) -> Array:
    """-p log sigma(margin) - (1 - p) log sigma(-margin), times the weight: what `training/losses/preference.py` has in
    torch, row by row."""
    return np.asarray(weight * (p_chosen * np.logaddexp(0, -margin) + (1 - p_chosen) * np.logaddexp(0, margin)))


def train_reward(rows: Sequence[Preference]) -> Array:
    """The linear Bradley-Terry model on word counts and length (`texts.features`) with the least weighted mean loss."""
    gaps = np.array([features(row.chosen[0].content) - features(row.rejected[0].content) for row in rows])
    p = np.array([row.p_chosen for row in rows])
    share = np.array([row.weight for row in rows])
    share /= share.sum()

    def loss(weights: Array) -> tuple[float, Array]:
        margin = gaps @ weights
        value = preference_loss(margin, p, share).sum() + PENALTY / 2 * weights @ weights
        return float(value), np.asarray(gaps.T @ (share * (expit(margin) - p)) + PENALTY * weights)

    return np.asarray(minimize(loss, np.zeros(gaps.shape[1]), jac=True, method="L-BFGS-B").x)


def reward_of(world: World, weights: Array) -> Array:
    """What a linear model gives each response (N, K)."""
    return np.asarray(world.counts @ weights[: len(WORDS)] + world.lengths * weights[len(WORDS)])


def favourites(world: World, judge: Judge, prompts: int) -> Array:
    """SFT on the response that the judge likes best of each training prompt: the weights of the policy
    pi0 exp(weights x features) under which those are likeliest (conditional logit)."""
    table = np.concatenate([world.counts, world.lengths[:, :, None]], axis=2)[:prompts].astype(float)
    best = judge.merit[:prompts].argmax(axis=1)
    rows = np.arange(prompts)

    def loss(weights: Array) -> tuple[float, Array]:
        logs = log_softmax(table @ weights, axis=1)
        slope = np.einsum("nk,nkf->f", np.exp(logs), table) - table[rows, best].sum(axis=0)
        return float(-logs[rows, best].mean() + PENALTY / 2 * weights @ weights), slope / prompts + PENALTY * weights

    return np.asarray(minimize(loss, np.zeros(table.shape[2]), jac=True, method="L-BFGS-B").x)


# ------------------------------------------------------------------------------------------------- policies


def optimum(reward: Array, seen: int, budget: float) -> Array:
    """pi0 exp(r / beta) / Z for all prompts (N, K), beta spending the budget on those after the first `seen`."""

    def overspent(log_beta: float) -> float:
        return float(kl(tilted(reward[seen:], log_beta)).mean()) - budget

    return tilted(reward, brentq(overspent, -12.0, 12.0))


def tilted(reward: Array, log_beta: float) -> Array:
    """pi0 exp(r / beta) / Z with pi0 the same for all responses."""
    return np.asarray(np.exp(log_softmax(reward / np.exp(log_beta), axis=1)))


def best_of(reward: Array, n: int) -> Array:
    """P that each response is the best of n drawn from pi0 (N, K), by order statistics; equal ones share."""
    ones = reward[:, :, None]
    others = reward[:, None, :]
    up_to, below, like = ((f(ones, others)).mean(axis=2) for f in (np.greater_equal, np.greater, np.equal))
    return np.asarray((up_to**n - below**n) / (like * reward.shape[1]))


def kl(policy: Array) -> Array:
    """KL(pi || pi0) in nats of each prompt (N)."""
    return np.asarray(rel_entr(policy, 1 / policy.shape[1]).sum(axis=1))


def budget_of(responses: int, best_of_n: int) -> float:
    """The KL of best-of-n among K different rewards, in nats: exact, and below the bound log n - (n - 1) / n."""
    return float(kl(best_of(np.arange(responses, dtype=float)[None], best_of_n))[0])


def make_policies(world: World, judge: Judge, labels: Labels, size: Size) -> dict[str, Array]:
    """Every arm's policy on all prompts of the world (N, K).

    rlaif, rlhf, rlhf_some   a reward model of the judge's labels, of people's, of those of people's that hybrids have
    hybrid...                of both (HYBRIDS)
    best_of_n                the best of n by rlaif's reward model
    direct                   the judge's merit is the reward, whims and all
    sft_on_judge             `favourites`
    length_only, oracle      the number of words, and the gold value, are the reward
    """
    rewards = {name: reward_of(world, train_reward(rows)) for name, rows in preferences(labels).items()}
    scored = rewards | {
        "direct": judge.merit,
        "sft_on_judge": reward_of(world, favourites(world, judge, size.prompts)),
        "length_only": world.lengths,
        "oracle": world.gold,
    }
    budget = budget_of(world.counts.shape[1], size.best_of)
    policies = {name: optimum(reward, size.prompts, budget) for name, reward in scored.items()}
    reference = np.full_like(world.gold, 1 / world.counts.shape[1])
    return {"reference": reference, **policies, "best_of_n": best_of(rewards["rlaif"], size.best_of)}


class Simulated(NamedTuple):
    """One study up to the contest."""

    world: World
    labels: Labels
    policies: dict[str, Array]
    new: range
    """Prompts that no arm has seen."""


def train_arms(traits: Traits, seed: int, size: Size) -> Simulated:
    """A new world, a judge with these traits, people, and every arm trained."""
    world = make_world(size.prompts + size.new, size.responses, seed)
    judge = judge_of(world, traits, "labels", derive_seed(seed, "labels"))
    labels = label(world, judge, size, seed)
    policies = make_policies(world, judge, labels, size)
    return Simulated(world, labels, policies, range(size.prompts, size.prompts + size.new))
