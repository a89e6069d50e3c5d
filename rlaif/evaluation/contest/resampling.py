"""Fits on resamples of prompts: a logistic regression solved for thousands of weightings of the same rows at once.

Length control and the league both need it, and for both a resample is only another weight for every prompt.
S resamples, K clusters (prompts), R rows (games), C coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from rlaif.stats import Array, Bootstrap, Estimate, bootstrap_bounds, numbered

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
