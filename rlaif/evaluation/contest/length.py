"""The win rate that two arms would have if their responses were equally long: AlpacaEval's `length_controlled_minimal`.

Judges are drawn to length, and training finds out. The model is logistic and antisymmetric, one for each pair of
arms:

    logit P(one wins) = theta + phi tanh((words_one - words_other) / s),        the rate is sigma(theta)

with s the standard deviation of the differences. AlpacaEval 2's published figure, `length_controlled_v1` (arXiv
2404.04475), has a term for the instruction's difficulty besides. Without it phi takes in that an arm falls short, and
is short, on the same prompts: where one arm is nearly always the longer, the rate goes too far. One pair of arms
cannot tell the two apart; several against one baseline can, and `joint.py` does it where a contest has them. Here the
interval and the note grow with the distance. It is an adjustment and no experiment: if better responses are longer
because they say more, that merit is taken out as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit, ndtri

from rlaif.evaluation.contest.games import Contest, Game, Scale, prompts_of
from rlaif.records import Record
from rlaif.stats import Array, Bootstrap, Estimate, bootstrap_bounds, clustered_mean, numbered
from rlaif.words import percent

FAR = 0.75
"""Where one arm is the longer in more games than this, equal length is outside most of them."""
UNSURE = {False: 0.3, True: 0.15}
"""Alone and with a prompt term: the standard error of the move to equal length, phi times the mean tanh in log-odds, as
a share of it. So that intervals hold about nine in ten of AlpacaEval 2's published rates, on the half that chooses."""
OFF = {False: ((0.75, 0.9, 0.95, 0.97, 0.99), (3, 5, 6, 15, 18)), True: ((0.75, 0.96, 0.99), (2, 2, 3))}
"""Likewise: where one arm is the longer in so many games, how many points such rates are from AlpacaEval 2's published
ones on average, with a prompt term from as few as three arms (benchmarks/length_control.py)."""


class EqualLength(Record):
    """`one` against `other` at equal length. `rate` is None where every response of one arm is longer.

    rate         its interval is over prompts, widened by what the model's form may be off after so long a move
    raw          the win rate as it is, on the same games
    effect       phi: log-odds that a response gains by being far longer; above 0 the judge is drawn to length
    longer       share of games in which `one` has the longer response, equal lengths counting half
    scale        s, in words
    prompt_term  whether the fit knew how hard each prompt is (`joint.py`)
    note         why there is no rate, or why not to lean on it; None where all is well
    """

    one: str
    other: str
    rate: Estimate | None
    raw: Estimate
    effect: Estimate | None
    longer: float
    scale: float
    prompt_term: bool
    note: str | None

    def swapped(self) -> EqualLength:
        """The same from the other arm's side: every rate w becomes 1 - w, the effect of length stays."""
        turned = {
            "one": self.other,
            "other": self.one,
            "rate": self.rate and self.rate.opposite(1.0),
            "raw": self.raw.opposite(1.0),
            "longer": 1 - self.longer,
        }
        return self.model_copy(update=turned)


def length_controlled(
    played: Contest, one: str, other: str, bootstrap: Bootstrap, scale: Scale = "choice"
) -> EqualLength:
    """The win rate of `one` against `other` at equal length; swapping the arms gives 1 minus it, to the last digit."""
    games = played.between(one, other)
    worth = np.array([game.worth(scale) for game in games])
    terms, deviation = length_terms(games)
    found = uncorrected(games, bootstrap, scale, deviation)
    if correctable(found, worth, terms):
        design = np.column_stack([np.ones(len(games)), terms])  # (games, 2): theta and phi
        fits = clustered_fits(design, worth, prompts_of(games), bootstrap)
        rate = Fits(*map(expit, fits)).estimate(0, bootstrap.confidence, len(games))
        effect = fits.estimate(1, bootstrap.confidence, len(games))
        found = corrected(found, rate, effect, terms, bootstrap.confidence)
    return found if found.one == one else found.swapped()


def length_terms(games: Sequence[Game]) -> tuple[Array, float]:
    """tanh of each game's difference in words over s, and s: the root of the mean variance within a pair of arms."""
    words = np.array([game.words_one - game.words_other for game in games], dtype=float)
    pairs = numbered([f"{game.one}\n{game.other}" for game in games])
    means = np.bincount(pairs, weights=words) / np.bincount(pairs)
    scale = float(np.sqrt(np.mean((words - means[pairs]) ** 2)))
    return np.tanh(words / scale) if scale > 0 else np.zeros(len(words)), scale


def uncorrected(
    games: Sequence[Game], bootstrap: Bootstrap, scale: Scale, deviation: float, prompt_term: bool = False
) -> EqualLength:
    """What is known of a pair's games before any fit: the rate is the raw one, or None if one arm is always longer."""
    raw = clustered_mean([game.worth(scale) for game in games], prompts_of(games), *bootstrap)
    longer = float(np.mean([np.sign(game.words_one - game.words_other) for game in games]) + 1) / 2
    return EqualLength(
        one=games[0].one,
        other=games[0].other,
        rate=None if longer in (0, 1) else raw,
        raw=raw,
        effect=None,
        longer=longer,
        scale=deviation,
        prompt_term=prompt_term,
        note=_note(games, longer, prompt_term),
    )


def correctable(found: EqualLength, worth: Array, terms: Array) -> bool:
    """Where all lengths are equal, or every game ended alike, there is nothing to correct: the raw rate stands."""
    return found.rate is not None and bool(np.any(terms)) and bool(np.ptp(worth) > 0)


def corrected(found: EqualLength, rate: Estimate, effect: Estimate, terms: Array, confidence: float) -> EqualLength:
    """With the rate at equal length, its interval widened by UNSURE."""
    # The move to equal length in log-odds, times the standard error of its form, times z: how far that may be off.
    form = UNSURE[found.prompt_term] * effect.value * float(terms.mean()) * float(ndtri((1 + confidence) / 2))
    moved: dict[str, float] = {}
    for end, bound in (("low", rate.low), ("high", rate.high)):
        if bound is not None:
            # Errors that are independent add in squares.
            reach = logit(bound) - logit(rate.value)
            moved[end] = float(expit(logit(rate.value) + np.copysign(np.hypot(reach, form), reach)))
    return found.model_copy(update={"rate": rate.model_copy(update=moved), "effect": effect})


def _note(games: Sequence[Game], longer: float, prompt_term: bool) -> str | None:
    most = max(longer, 1 - longer)
    if most <= FAR:
        return None
    arm = games[0].one if longer > 0.5 else games[0].other
    if most == 1:
        return f"no rate at equal length: '{arm}' is the longer in every game, so length and arm are one thing"
    return (
        f"'{arm}' has the longer response in {percent(most)} of the games, so equal length is outside most of them; "
        f"at this distance such rates are about {np.interp(most, *OFF[prompt_term]):.0f} points off AlpacaEval 2's own"
    )


# ------------------------------------------------------------------------------------------------ fits on resamples
# Length control and the league both fit thousands of weightings of the same rows: a resample is only another weight for
# every prompt. S resamples, K clusters (prompts), R rows (games), C coefficients.

RIDGE = 0.01
"""A prior of N(0, 10^2) on every coefficient. Where one arm wins everything the likelihood grows for ever with its
strength; this stops it near log-odds of 7 for 60 games, and moves an estimate of 60 ordinary games by under 0.1 %."""
LONGEST_STEP = 5.0
MAX_STEPS = 100
TOLERANCE = 1e-10
ROOM = 2_000_000
"""Numbers in the largest array: resamples are fitted in portions of this size."""


class Fits(NamedTuple):
    """Coefficients from all rows (C,), on every resample (S, C), and with each cluster left out (K, C)."""

    whole: Array
    resampled: Array
    left_out: Array

    def estimate(self, column: int, confidence: float, n: int) -> Estimate:
        """One coefficient with its interval, which is missing where nothing varies or there is a single cluster."""
        value, resampled, left_out = (part[..., column] for part in self)
        if len(left_out) < 2 or np.ptp(resampled) <= 1e-9:
            return Estimate(value=float(value), low=None, high=None, n=n)
        low, high = bootstrap_bounds(float(value), resampled, left_out, confidence)
        return Estimate(value=float(value), low=low, high=high, n=n)


def clustered_fits(design: Array, worth: Array, clusters: Sequence[str], bootstrap: Bootstrap) -> Fits:
    """The ridge logistic regression of `worth` (R,) in [0, 1] on the design (R, C), without an intercept of its own."""
    # Rows of one cluster that are alike become one, with their mean worth and their number: the same likelihood.
    rows, which = np.unique(np.column_stack([numbered(clusters), design]), axis=0, return_inverse=True)
    times = np.bincount(which).astype(float)
    worth = np.bincount(which, weights=worth) / times
    index, design = rows[:, 0].astype(np.intp), rows[:, 1:]
    count = int(index.max()) + 1
    # A resample is how often each cluster was drawn: (S, K).
    drawn = np.random.default_rng(bootstrap.seed).multinomial(count, np.full(count, 1 / count), bootstrap.samples)
    portion = max(1, ROOM // len(design))

    def fitted(weights_SK: Array) -> Array:
        parts = [weights_SK[start : start + portion] for start in range(0, len(weights_SK), portion)]
        return np.concatenate([_newton(design, worth, times * part[:, index]) for part in parts])

    return Fits(fitted(np.ones((1, count)))[0], fitted(drawn.astype(float)), fitted(1 - np.eye(count)))


def _newton(design: Array, worth: Array, weights: Array) -> Array:
    """Coefficients c (S, C) that maximise, for each row w of `weights` (S, R), by Newton's method

    sum_i w_i (y_i log sigma(x_i c) + (1 - y_i) log sigma(-x_i c)) - RIDGE |c|^2 / 2
    """
    found = np.zeros((len(weights), design.shape[1]))
    squares = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)  # (R, C * C): one matmul for all S
    ridge = RIDGE * np.eye(design.shape[1])
    for _ in range(MAX_STEPS):
        p = expit(found @ design.T)  # (S, R)
        slope = (weights * (worth - p)) @ design - RIDGE * found  # (S, C)
        bend = ((weights * p * (1 - p)) @ squares).reshape(len(found), *ridge.shape) + ridge  # (S, C, C)
        step = np.linalg.solve(bend, slope[..., None])[..., 0]
        size = np.abs(step).max(axis=1, keepdims=True)
        # A full step overshoots where an arm wins nearly everything and the likelihood is flat.
        found += step * np.minimum(1, LONGEST_STEP / np.maximum(size, LONGEST_STEP))
        if size.max() < TOLERANCE:
            return found
    raise ArithmeticError(f"the logistic fit did not settle in {MAX_STEPS} steps (last step {size.max():.1e})")
