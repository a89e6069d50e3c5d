"""What is true of the arms, by enumeration, and what a study finds out by sampling and judging.

The truth is about these trained policies on new prompts of the same world, under the gold preference. A study is a draw
of such prompts, of the arms' responses to them, and of the contest judge's whims: those three vary between studies
and nothing else. The contest judge's choices have the gold preference as their probabilities, so that what a study
estimates is exactly what is true.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.special import expit
from scipy.stats import kendalltau

from benchmarks.world.labels import CONTEST, Judge, Traits, judge_of
from benchmarks.world.texts import Array, World
from rlaif.evaluation.contest.games import Contest, Game, contest, prompts_of
from rlaif.evaluation.contest.league import League
from rlaif.evaluation.contest.power import power_of
from rlaif.records import derive_seed, oriented


def true_rates(world: World, policies: Mapping[str, Array], prompts: Sequence[int]) -> dict[tuple[str, str], float]:
    """By two arms: how often the first truly wins, sum over x, y, y' of pi(y | x) pi'(y' | x) sigma(u(y) - u(y')).

    Every response of every one of these prompts is counted, so there is no error in it.
    """
    gold = world.gold[prompts]
    beats = expit(gold[:, :, None] - gold[:, None, :])
    at = np.stack([policy[prompts] for policy in policies.values()], axis=2)
    rates = np.einsum("nka,nkb->ab", at, beats @ at) / len(prompts)
    names = list(policies)
    return {(one, other): float(rates[i, j]) for i, one in enumerate(names) for j, other in enumerate(names)}


def true_scores(rates: Mapping[tuple[str, str], float]) -> dict[str, float]:
    """Each arm's mean true win rate against all others: where every two arms play equally often, Bradley and Terry's
    strengths have the order of these."""
    arms = dict.fromkeys(one for one, _ in rates)
    return {arm: float(np.mean([rates[arm, other] for other in arms if other != arm])) for arm in arms}


class Draw(NamedTuple):
    """What a study takes from a world."""

    seed: int
    prompts: int = 60
    samples: int = 4
    """Of every arm, a prompt."""
    traits: Traits = CONTEST
    """Of the judge of the contest."""


def hold(world: World, policies: Mapping[str, Array], new: Sequence[int], draw: Draw) -> Contest:
    """Every arm's samples on some of the new prompts against every other's, sample by sample, as in a real contest.

    Each pair of texts is judged once; equal texts are a tie and nobody is asked.
    """
    arms = list(policies)
    rng = np.random.default_rng(derive_seed(world.seed, "contest", draw.seed))
    judge = judge_of(world, draw.traits, "contest", derive_seed(draw.seed, "contest judge"))
    prompts = sorted(rng.choice(new, draw.prompts, replace=False).tolist())
    drawn = _draw(policies, prompts, draw.samples, rng)
    met = {
        (n, *sorted((row[i], row[j])))
        for n, rows in zip(prompts, drawn, strict=True)
        for row in rows
        for i, j in combinations(range(len(arms)), 2)
        if row[i] != row[j]
    }
    said = _judged(world, judge, prompts, sorted(met))
    games = []
    lengths = world.lengths
    for n, rows in zip(prompts, drawn, strict=True):
        prompt_id, words = world.prompt(n).id, lengths[n].astype(int).tolist()
        for row in rows:
            for i, j in combinations(range(len(arms)), 2):
                p = said.get((n, row[i], row[j]), 0.5)
                games.append(Game(prompt_id, arms[i], arms[j], p, words[row[i]], words[row[j]], judge.name))
    return contest(games)


def _draw(
    policies: Mapping[str, Array], prompts: Sequence[int], samples: int, rng: np.random.Generator
) -> list[list[list[int]]]:
    """Which responses the arms give: prompt by prompt, sample by sample, arm by arm."""
    upper = np.stack([policy[prompts] for policy in policies.values()], axis=1).cumsum(axis=2)
    luck = rng.random((len(prompts), samples, len(policies), 1))
    # The last bound may be 1 less a rounding error.
    found: list[list[list[int]]] = (luck > upper[:, None, :, :-1]).sum(axis=3).tolist()
    return found


def _judged(
    world: World, judge: Judge, prompts: Sequence[int], met: Sequence[tuple[int, int, int]]
) -> dict[tuple[int, int, int], float]:
    """By prompt and two responses, either way round: P(the first is better)."""
    texts = {n: [response.text for response in world.responses(n)] for n in prompts}
    asked = {n: world.prompt(n) for n in prompts}
    pairs = [oriented(asked[n], texts[n][one], texts[n][other]) for n, one, other in met]
    said = {}
    for (n, one, other), judgment in zip(met, judge.label(world, prompts, pairs), strict=True):
        said[n, one, other] = judgment.p_of(texts[n][one])
        said[n, other, one] = judgment.p_of(texts[n][other])
    return said


class Order(NamedTuple):
    """How far a study's league has the arms in their true order.

    `clear` are the pairs of arms whose true win rate against each other is farther from 1/2 than the study's own
    resolution, the difference that so many prompts find in four of five studies (`power.py`); `wrong` are those of
    them that the league has the other way round.
    """

    tau: float
    """Kendall's, over all arms, of the league's strengths and the true mean win rates."""
    pairs: int
    clear: int
    wrong: int


def order_of(played: Contest, table: League, rates: Mapping[tuple[str, str], float], confidence: float = 0.95) -> Order:
    """The league of these games held against the truth."""
    strength = {standing.arm: standing.theta for standing in table.standings}
    scores = true_scores(rates)
    clear = []
    for one, other in played.pairs:
        games = played.between(one, other)
        power = power_of([game.worth() for game in games], prompts_of(games), confidence)
        if power is not None and abs(rates[one, other] - 0.5) > power.detectable:
            clear.append((one, other))
    wrong = [(i, j) for i, j in clear if (strength[i] > strength[j]) != (rates[i, j] > 0.5)]
    tau = kendalltau([strength[arm] for arm in scores], list(scores.values())).statistic
    return Order(float(tau), len(played.pairs), len(clear), len(wrong))
