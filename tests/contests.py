"""Seeded worlds of games whose true win rates are known, for the tests of rlaif/evaluation/contest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from scipy.special import expit

from rlaif.evaluation.contest.games import Game


def game(p_one=1.0, prompt="p", one="a", other="b", words=(10, 10), seeds=(0, 0), judge="j"):
    return Game(prompt, one, other, p_one, *words, judge, *seeds)


def planted(
    theta: float,
    phi: float = 0.0,
    prompts: int = 60,
    games: int = 2,
    longer: float = 0.0,
    alike: float = 0.5,
    seed: int = 0,
) -> list[Game]:
    """Arm a against b: P(a wins) is exactly sigma(theta + phi tanh(difference / 30)) in every game.

    Games of one prompt share the luck of the draw with probability `alike` each, so they are clustered while each
    alone keeps its probability. Differences in words are N(longer, 30), prompts having their own half of it.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(prompts):
        shared, own = rng.random(), rng.normal()
        for _ in range(games):
            words = round(longer + 30 * (own + rng.normal()) / np.sqrt(2))
            luck = shared if rng.random() < alike else rng.random()
            won = luck < expit(theta + phi * np.tanh(words / 30))
            rows.append(game(float(won), f"p{i}", words=(200 + words, 200)))
    return rows


def round_robin(
    strengths: Mapping[str, float], prompts: int = 60, seed: int = 0, seeds: Sequence[int] = (0,)
) -> list[Game]:
    """Every arm against every other on every prompt, by Bradley and Terry's model with these strengths."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(prompts):
        for one, other in combinations(strengths, 2):
            for s in seeds:
                won = rng.random() < expit(strengths[one] - strengths[other])
                words = (int(rng.integers(50, 150)), int(rng.integers(50, 150)))
                rows.append(game(float(won), f"p{i}", one, other, words, (s, s)))
    return rows


def against_baseline(
    strengths: Mapping[str, float],
    longer: float = -30.0,
    prompts: int = 60,
    difficulty: float = 1.4,
    seed: int = 0,
) -> tuple[list[Game], dict[str, float]]:
    """Every arm against `base` on the same prompts, some of them hard, and each arm's true rate at equal length.

    Difficulties are N(0, difficulty^2), 1.4 as in AlpacaEval 2, and where a prompt is hard arms write less: half of the
    variance of the differences in words, N(longer, 30^2) with phi = 1.75, is difficulty.
    """
    rng = np.random.default_rng(seed)
    hard = rng.normal(size=prompts)
    grid = np.linspace(-4, 4, 801)
    rows = []
    for arm, strength in strengths.items():
        for i in range(prompts):
            words = round(longer + 30 * (rng.normal() - hard[i]) / np.sqrt(2))
            won = rng.random() < expit(strength - difficulty * hard[i] + 1.75 * np.tanh(words / 30))
            rows.append(game(float(won), f"p{i}", arm, "base", (300 + words, 300)))
    weights = np.exp(-(grid**2) / 2)
    true = {
        arm: float(np.average(expit(strength + difficulty * grid), weights=weights))
        for arm, strength in strengths.items()
    }
    return rows, true
