"""Bradley-Terry strengths of responses, told by annotators of different skill with a bias to what stands first.

    P(k prefers l, which stands first, to r) = g_k sigma(s_l - s_r) + (1 - g_k) sigma(q_k)

Chen et al. 2013 (doi 10.1145/2433396.2433420) in the form of crowd-kit's `NoisyBradleyTerry`: with probability g_k the
annotator compares, else follows a bias. The likelihood is tested against crowd-kit's. Its fit is not used: the
gradient of version 1.4.2 is shifted by one place and keeps one label of each annotator, so it stops at no maximum.

Strengths are told better by many comparisons of one response (rankings). The p that come out are too modest: each
response's strength is held towards 0 by its prior.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logit

from rlaif.feedback.annotators.labels import first_text, individual
from rlaif.feedback.pairs import choice
from rlaif.records import Judgment

Item = tuple[str, str]
"""A response: the prompt's id and the text."""
Floats = NDArray[np.float64]
START_SKILL = 0.8


class PairComparison(NamedTuple):
    """One label: 1 for the left response, 0 for the right one, 0.5 for a tie."""

    left: Item
    right: Item
    annotator: str
    sided: bool
    """Whether left is known to have stood first."""
    label: float


class Strengths(NamedTuple):
    """The fit. Log-odds for the responses."""

    strength: dict[Item, float]
    skill: dict[str, float]
    """g_k, from 0 (the label says nothing about the responses) to 1. A flipper has 0: the model knows no spite."""
    bias: dict[str, float]
    """sigma(q_k): how often what stands first is preferred where nothing is compared; 0.5 where nobody knows."""


class _Data(NamedTuple):
    left: NDArray[np.intp]
    right: NDArray[np.intp]
    annotator: NDArray[np.intp]
    sided: Floats
    label: Floats


def comparisons(judgments: Iterable[Judgment]) -> list[PairComparison]:
    """The labels in sorted order. Where the side is unknown the first text in sorted order is the left one."""
    rows = []
    for judgment in individual(judgments):
        pair, answer = judgment.pair, judgment.answer
        shown = None if answer is None else answer.shown_first
        left = first_text(pair) if shown is None else getattr(pair, shown)
        right = pair.b if left == pair.a else pair.a
        rows.append(
            PairComparison(
                (pair.prompt_id, left),
                (pair.prompt_id, right),
                judgment.annotator,
                shown is not None,
                choice(judgment.p_of(left)),
            )
        )
    return sorted(rows)


def fit_noisy_bradley_terry(rows: Iterable[PairComparison]) -> Strengths:
    """The most probable strengths, skills and biases, by L-BFGS from equal ones; equal rows give equal bits.

    Each strength, logit of a skill and bias has a standard logistic prior: Chen's regularisation by a virtual response
    that wins and loses once against each. Without it strengths of unanimous pairs would grow without end. A tie is
    half a label for either side. A label whose side is unknown has a bias of one half.
    """
    rows = sorted(rows)
    if not rows:
        return Strengths({}, {}, {})
    items = sorted({item for row in rows for item in (row.left, row.right)})
    names = sorted({row.annotator for row in rows})
    place, number = {item: i for i, item in enumerate(items)}, {name: i for i, name in enumerate(names)}
    data = _Data(
        np.array([place[row.left] for row in rows]),
        np.array([place[row.right] for row in rows]),
        np.array([number[row.annotator] for row in rows]),
        np.array([float(row.sided) for row in rows]),
        np.array([row.label for row in rows]),
    )
    start = np.concatenate([np.zeros(len(items)), np.full(len(names), logit(START_SKILL)), np.zeros(len(names))])
    found = minimize(
        lambda x: _loss(x, data, len(items), len(names)),
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 1000, "ftol": 1e-12, "gtol": 1e-8},
    ).x
    strengths, skills, biases = np.split(found, [len(items), len(items) + len(names)])
    return Strengths(
        dict(zip(items, strengths.tolist(), strict=True)),
        dict(zip(names, expit(skills).tolist(), strict=True)),
        dict(zip(names, expit(biases).tolist(), strict=True)),
    )


def _loss(x: Floats, data: _Data, items: int, names: int) -> tuple[float, Floats]:
    """Minus the log of the posterior, and its gradient."""
    strengths, skills, biases = np.split(x, [items, items + names])
    skill = expit(skills)[data.annotator]
    merit = expit(strengths[data.left] - strengths[data.right])
    habit = expit(biases[data.annotator] * data.sided)
    p = skill * merit + (1 - skill) * habit
    told = np.sum(data.label * np.log(p) + (1 - data.label) * np.log1p(-p))
    prior = np.sum(log_expit(x) + log_expit(-x))
    by_p = data.label / p - (1 - data.label) / (1 - p)
    by_merit = by_p * skill * merit * (1 - merit)
    gradient = np.concatenate(
        [
            np.bincount(data.left, by_merit, items) - np.bincount(data.right, by_merit, items),
            np.bincount(data.annotator, by_p * skill * (1 - skill) * (merit - habit), names),
            np.bincount(data.annotator, by_p * (1 - skill) * habit * (1 - habit) * data.sided, names),
        ]
    )
    return -float(told + prior), -(gradient - np.tanh(x / 2))
