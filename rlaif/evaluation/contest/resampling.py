"""Fits on resamples of prompts: a logistic regression solved for thousands of weightings of the same rows at once.

Length control and the league both need it, and for both a resample is only another weight for every prompt.
The interval itself is `stats.bootstrap_bounds`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from rlaif.stats import Bootstrap, numbered

Array = NDArray[np.float64]

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


def clustered_fits(design: Array, worth: Array, clusters: Sequence[str], bootstrap: Bootstrap) -> Fits:
    """The ridge logistic regression of `worth` in [0, 1] on the design (rows, C), without an intercept of its own."""
    index = numbered(clusters)
    count = int(index.max()) + 1
    design, worth, times, index = _merged(design, worth, index)
    # A resample is how often each cluster was drawn.
    drawn = np.random.default_rng(bootstrap.seed).multinomial(count, np.full(count, 1 / count), bootstrap.samples)
    resampled = fit_logistic(design, worth, times, drawn.astype(float), index)
    left_out = fit_logistic(design, worth, times, 1 - np.eye(count), index)
    whole = fit_logistic(design, worth, times, np.ones((1, count)), index)[0]
    return Fits(whole, resampled, left_out)


def _merged(design: Array, worth: Array, index: NDArray[np.intp]) -> tuple[Array, Array, Array, NDArray[np.intp]]:
    """Rows of one cluster that are alike, as one with their mean worth and their number: the same likelihood."""
    rows, which = np.unique(np.column_stack([index, design]), axis=0, return_inverse=True)
    times = np.bincount(which).astype(float)
    return rows[:, 1:], np.bincount(which, weights=worth) / times, times, rows[:, 0].astype(np.intp)


def fit_logistic(design: Array, worth: Array, times: Array, weights: Array, index: NDArray[np.intp]) -> Array:
    """Coefficients (S, C) that maximise, for each row s of `weights` (S, clusters) and with w = times weights_s[index],

    sum_i w_i (y_i log sigma(x_i c) + (1 - y_i) log sigma(-x_i c)) - RIDGE |c|^2 / 2        (Newton's method)
    """
    portion = max(1, ROOM // len(design))
    parts = [weights[start : start + portion] for start in range(0, len(weights), portion)]
    return np.concatenate([_newton(design, worth, times * part[:, index]) for part in parts])


def _newton(design: Array, worth: Array, weights: Array) -> Array:
    found = np.zeros((len(weights), design.shape[1]))
    squares = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    ridge = RIDGE * np.eye(design.shape[1])
    for _ in range(MAX_STEPS):
        p = expit(found @ design.T)
        slope = (weights * (worth - p)) @ design - RIDGE * found
        bend = ((weights * p * (1 - p)) @ squares).reshape(len(found), *ridge.shape) + ridge
        step = np.linalg.solve(bend, slope[..., None])[..., 0]
        size = np.abs(step).max(axis=1, keepdims=True)
        found += step * np.minimum(1, LONGEST_STEP / np.maximum(size, LONGEST_STEP))
        if size.max() < TOLERANCE:
            return found
    raise ArithmeticError(f"the logistic fit did not settle in {MAX_STEPS} steps (last step {size.max():.1e})")
