"""All pairs of arms at equal length in one fit that knows how hard each prompt is.

Several arms against one baseline on the same prompts show what a single pair cannot (`length.py`): on which prompts
the baseline is hard to beat. As in AlpacaEval 2 (arXiv 2404.04475) that is a term of its own, and what it explains is
no longer put down to length:

    logit P(one wins) = theta_pair + phi_pair tanh((words_one - words_other) / s) + delta_prompt

delta only where `other` is the baseline (minus it where `one` is), s is the same for all. The rate is the mean of
sigma(theta_pair + delta_prompt) over the pair's games. The slopes phi are those of one judge, so each is drawn to their
mean: an arm that is deliberately short or long has no slope of its own to hide behind. The fit maximises

    log-likelihood - EASE / 2 sum delta^2 - SLOPES / 2 sum (phi - mean phi)^2 - RIDGE / 2 (sum theta^2 + sum phi^2)

G games, N pairs of arms, K prompts, F fits (the whole, every resample, each prompt left out).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from rlaif.evaluation.contest.games import Contest, Scale, prompts_of
from rlaif.evaluation.contest.length import (
    MAX_STEPS,
    RIDGE,
    ROOM,
    TOLERANCE,
    EqualLength,
    Fits,
    correctable,
    corrected,
    length_controlled,
    length_terms,
    uncorrected,
)
from rlaif.stats import Array, Bootstrap, numbered

EASE = 0.1
"""A prior of N(0, 3.2^2) on a prompt's difficulty: from here on the path of ridges is flat, on half of AlpacaEval 2's
models (benchmarks/length_control.py)."""
SLOPES = 10.0
"""A prior of N(mean, 0.32^2) on a pair's slope. AlpacaEval 2's published slopes have a standard deviation of 0.33."""
Numbers = NDArray[np.intp]


class Rows(NamedTuple):
    """A contest's games as arrays; `side` is delta's factor: 1, -1, or 0 where the prompt's term has no part."""

    pair: Numbers  # (G,), each game's pair of arms by number
    prompt: Numbers  # (G,)
    terms: Array  # (G,), the tanh
    side: Array  # (G,)
    worth: Array  # (G,)
    ease: float = EASE
    slopes: float = SLOPES

    @property
    def pairs(self) -> int:
        return int(self.pair.max()) + 1

    @property
    def prompts(self) -> int:
        return int(self.prompt.max()) + 1


class Joint(NamedTuple):
    """What is fitted: the theta of each pair and then the phi of each, and the delta of each prompt. With a first axis
    F where there are several fits."""

    pairs: Array  # (2 N,)
    prompts: Array  # (K,)


def all_at_equal_length(
    played: Contest, bootstrap: Bootstrap, baseline: str, scale: Scale = "choice"
) -> list[EqualLength]:
    """Each pair of arms that met, once, at equal length. In one fit where on most of the baseline's prompts two arms or
    more met it (`prompt_term` says in which pairs that took part), else each pair alone."""
    side = _sides(played, baseline)
    if side is None:
        return [length_controlled(played, one, other, bootstrap, scale) for one, other in played.pairs]
    terms, deviation = length_terms(played.games)
    number = {pair: i for i, pair in enumerate(played.pairs)}
    rows = Rows(
        pair=np.array([number[game.pair] for game in played.games], dtype=np.intp),
        prompt=numbered(prompts_of(played.games)),
        terms=terms,
        side=side,
        worth=np.array([game.worth(scale) for game in played.games]),
    )
    prompts, samples = rows.prompts, bootstrap.samples
    drawn = np.random.default_rng(bootstrap.seed).multinomial(prompts, np.full(prompts, 1 / prompts), samples)
    weights = np.vstack([np.ones(prompts), drawn, 1 - np.eye(prompts)])  # (F, K), F = 1 + samples + K
    fits = resampled(rows, fit(rows), weights)
    done = []
    for i, pair in enumerate(played.pairs):
        mine = rows.pair == i
        found = uncorrected(played.between(*pair), bootstrap, scale, deviation, bool(side[mine].any()))
        if correctable(found, rows.worth[mine], terms[mine]):
            # A prompt on which the pair did not meet says nothing of it when it is left out.
            left_out = 1 + samples + np.unique(rows.prompt[mine])
            both = np.column_stack([_rates(rows, i, fits, weights), fits.pairs[:, rows.pairs + i]])  # (F, 2)
            parts = Fits(both[0], both[1 : 1 + samples], both[left_out])
            rate, effect = (parts.estimate(c, bootstrap.confidence, int(mine.sum())) for c in (0, 1))
            found = corrected(found, rate, effect, terms[mine], bootstrap.confidence)
        done.append(found)
    return done


def _sides(played: Contest, baseline: str) -> Array | None:
    """Each game's `side`: not 0 against the baseline, on prompts where two arms met it. None where these are few."""
    met: dict[str, set[str]] = {}
    for game in played.games:
        if baseline in game.pair:
            met.setdefault(game.prompt_id, {baseline}).update(game.pair)
    # A prompt's term can be told from its one pair only where another arm met the baseline on it too.
    against = np.array([baseline in game.pair for game in played.games])
    shared = np.array([len(met.get(game.prompt_id, ())) > 2 for game in played.games])
    if 2 * np.sum(against & shared) <= np.sum(against):
        return None
    turned = np.array([game.one == baseline for game in played.games])
    return np.where(against & shared, np.where(turned, -1.0, 1.0), 0.0)


def _rates(rows: Rows, pair: int, fits: Joint, weights: Array) -> Array:
    """The pair's rate at equal length by each fit: the mean over its games' prompts, as they were drawn."""
    mine = np.flatnonzero(rows.pair == pair)
    prompts, first, times = np.unique(rows.prompt[mine], return_index=True, return_counts=True)
    # (F, prompts of the pair): every game of a prompt has the same rate, so one column stands for `times` games.
    rates = expit(fits.pairs[:, [pair]] + rows.side[mine[first]] * fits.prompts[:, prompts])
    counts = weights[:, prompts] * times
    # A resample may have none of the pair's prompts; then all of them count.
    counts[counts.sum(axis=1) == 0] = times
    found: Array = np.average(rates, axis=1, weights=counts)
    return found


# ------------------------------------------------------------------------------------------------------------ the fit


def objective(rows: Rows, at: Joint) -> float:
    """What the fit maximises, as this module's first lines have it."""
    phi = at.pairs[rows.pairs :]
    z = _logits(rows, at)
    likelihood = -rows.worth @ np.logaddexp(0, -z) - (1 - rows.worth) @ np.logaddexp(0, z)
    penalty = (
        rows.ease * at.prompts @ at.prompts
        + rows.slopes * np.sum((phi - phi.mean()) ** 2)
        + RIDGE * at.pairs @ at.pairs
    )
    return float(likelihood - penalty / 2)


def fit(rows: Rows) -> Joint:
    """The maximum, by Newton's method with steps that are halved until they gain."""
    at, whole = Joint(np.zeros(2 * rows.pairs), np.zeros(rows.prompts)), np.ones((1, rows.prompts))
    for _ in range(MAX_STEPS):
        step, value, size = _steps(rows, at, whole), objective(rows, at), 1.0
        while True:
            there = Joint(at.pairs + size * step.pairs[0], at.prompts + size * step.prompts[0])
            if objective(rows, there) >= value - 1e-9 * abs(value):
                break
            size /= 2
        at = there
        if max(np.abs(part).max() for part in step) < TOLERANCE:
            return at
    raise ArithmeticError(f"the joint fit did not settle in {MAX_STEPS} steps")


def resampled(rows: Rows, at: Joint, weights: Array) -> Joint:
    """The fit with each prompt counted as often as each row of `weights` (fits, prompts) says, its delta's prior too.

    One step of Newton's method from the fit to all rows: the k-step bootstrap of Andrews (2002) with k = 1, which has
    the full one's order of error.
    """
    portion = max(1, ROOM // (2 * rows.pairs * max(rows.prompts, 2 * rows.pairs)))
    steps = [_steps(rows, at, weights[start : start + portion]) for start in range(0, len(weights), portion)]
    pairs, prompts = (np.concatenate([step[part] for step in steps]) for part in (0, 1))
    return Joint(at.pairs + pairs, at.prompts + prompts)


def _steps(rows: Rows, at: Joint, weights: Array) -> Joint:
    """Newton's step for each row of `weights` (F, K).

    No prompt's delta knows another's: their block of the Hessian is diagonal, so they are eliminated first (Schur's
    complement) and what is solved is 2 N by 2 N.
    """
    n = rows.pairs
    p = expit(_logits(rows, at))  # (G,)
    bend, slope = p * (1 - p), rows.worth - p
    both = np.column_stack([np.ones(len(p)), rows.terms])  # (G, 2): what theta and phi are multiplied by
    # (K, 2 N) each: the Hessian between deltas and pairs, and the gradient of the pairs by prompt.
    cross, slopes = _by_pair(rows, both * (bend * rows.side)[:, None]), _by_pair(rows, both * slope[:, None])
    # (K,) each: the Hessian's diagonal and the gradient of the deltas.
    own = np.bincount(rows.prompt, bend * rows.side**2) + rows.ease
    delta = np.bincount(rows.prompt, slope * rows.side) - rows.ease * at.prompts
    ridge = RIDGE * np.eye(2 * n)
    ridge[n:, n:] += rows.slopes * (np.eye(n) - 1 / n)  # of sum (phi - mean phi)^2
    scaled = cross / np.sqrt(own)[:, None]
    curve = ridge - (scaled.T * weights[:, None, :]) @ scaled  # (F, 2 N, 2 N)
    # Within the pairs' own block only a pair's theta and phi meet: its diagonal and two off-diagonals.
    squares = _by_pair(rows, np.column_stack([bend, bend * rows.terms**2]))
    at_theta, at_phi = np.arange(n), np.arange(n, 2 * n)
    curve[:, np.arange(2 * n), np.arange(2 * n)] += weights @ squares
    mixed = weights @ _by_pair(rows, np.column_stack([bend * rows.terms, bend]))[:, :n]
    curve[:, at_theta, at_phi] += mixed
    curve[:, at_phi, at_theta] += mixed
    # A prompt that counts w times has w deltas' worth of prior too, so w cancels in delta / own.
    uphill = weights @ (slopes - cross * (delta / own)[:, None]) - ridge @ at.pairs
    pairs = np.linalg.solve(curve, uphill[..., None])[..., 0]
    return Joint(pairs, (delta - pairs @ cross.T) / own)


def _logits(rows: Rows, at: Joint) -> Array:
    theta, phi = at.pairs[rows.pair], at.pairs[rows.pairs + rows.pair]
    return theta + phi * rows.terms + rows.side * at.prompts[rows.prompt]


def _by_pair(rows: Rows, values: Array) -> Array:
    """Sums (prompts, 2 pairs) over each prompt's games: of the first column by pair, and then of the second."""
    found = np.zeros((rows.prompts, 2 * rows.pairs))
    np.add.at(found, (rows.prompt, rows.pair), values[:, 0])
    np.add.at(found, (rows.prompt, rows.pairs + rows.pair), values[:, 1])
    return found
