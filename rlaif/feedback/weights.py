"""Fit a constitution's weights to human labels (rule-based rewards, arXiv 2411.01111), and write them back.

A response's features are its checklist values, one per principle; the reward is their sum by weight, and the weights
are those that put the chosen response of a pair above the rejected one. The solvers are scipy's. Vetoes are outside of
the fit: they override the sum, whatever the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy.optimize import linprog, minimize
from scipy.sparse import csr_matrix, eye_array, hstack
from scipy.special import expit

from rlaif.constitution import Constitution
from rlaif.constitution.diff import is_semver
from rlaif.errors import ConfigError, DataError
from rlaif.records import Judgment, Score, content_id, derive_seed, plain

Loss = Literal["logistic", "hinge"]

HELDOUT = 0.2
"""Share of the prompts that test the fit."""
NEGLIGIBLE = 1e-3
"""A weight below this share of the largest counts as none."""


class LabelledPair(NamedTuple):
    """One human choice: the checklist values of the chosen and of the rejected response, by principle."""

    prompt_id: str
    chosen: Mapping[str, float]
    rejected: Mapping[str, float]


class WeightFit(NamedTuple):
    """Weights that explain the training pairs, and how they do on the prompts that the fit has not seen."""

    weights: dict[str, float]
    """Of the principles kept; their mean is 1."""
    dropped: tuple[str, ...]
    """Their weight came out as none."""
    untested: tuple[str, ...]
    """They never told a chosen response from a rejected one, so nothing is known about their weight."""
    loss: Loss
    penalty: float
    trained: int
    """Pairs that the fit has seen."""
    heldout: tuple[LabelledPair, ...]
    """Pairs that it has not seen."""
    hits: tuple[float, ...]
    """1 for a held-out pair whose chosen response has the higher reward, 0.5 for equal rewards, else 0."""

    @property
    def prompt_ids(self) -> tuple[str, ...]:
        """Of the held-out pairs, beside `hits`."""
        return tuple(pair.prompt_id for pair in self.heldout)

    @property
    def accuracy(self) -> float:
        """Mean of the held-out hits."""
        return math.fsum(self.hits) / len(self.hits)


def labelled_pairs(judgments: Iterable[Judgment], scores: Iterable[Score]) -> list[LabelledPair]:
    """The human judgments that prefer a response, with the two responses' values; pairs without both scores are left
    out."""
    values = {(score.id, score.tags): {p.principle: p.value for p in score.principles} for score in scores}
    found = []
    for judgment in judgments:
        pair = judgment.pair
        a, b = (values.get((content_id(plain(pair.prompt), text), pair.tags)) for text in (pair.a, pair.b))
        if a is not None and b is not None and judgment.p_a != 0.5:
            chosen, rejected = (a, b) if judgment.p_a > 0.5 else (b, a)
            found.append(LabelledPair(pair.prompt_id, chosen, rejected))
    return found


def fit_weights(
    pairs: Sequence[LabelledPair],
    principles: Sequence[str],
    loss: Loss = "logistic",
    penalty: float = 1e-3,
    heldout: float = HELDOUT,
    seed: int = 0,
) -> WeightFit:
    """Weights w >= 0 that minimise the loss over the training pairs, d being a pair's chosen minus rejected values.

    logistic    mean of log(1 + exp(-w.d)) + penalty * sum of w^2
    hinge       mean of max(0, 1 - w.d) + penalty * sum of w, solved exactly as a linear program

    The share `heldout` of the prompts, chosen by hash, is kept from the fit. A principle that does not apply to a
    prompt has no part in its pairs. Only the ratios of the weights mean anything, so they are scaled to a mean of 1.
    DataError where there is nothing to fit or to hold out, or where no principle goes with the labels.
    """
    if penalty <= 0:
        raise ConfigError(
            f"penalty: must be above 0, or the weights of separable pairs grow without end (got {penalty})"
        )
    train, held = split_by_prompt(pairs, heldout, seed)
    differences = _differences(train, principles)
    tested = [i for i in range(len(principles)) if np.any(differences[:, i])]
    solve = _logistic if loss == "logistic" else _hinge
    fitted = solve(differences[:, tested], penalty) if tested else np.zeros(0)
    largest = fitted.max(initial=0.0)
    if largest == 0:
        raise DataError(
            f"weights: none of the {len(principles)} principles prefers what the humans of {len(train)} pairs chose; "
            "see `rlaif audit` for what this judge is worth"
        )
    kept = fitted >= NEGLIGIBLE * largest
    scaled = fitted / fitted[kept].mean()
    # Rounded before they are tested: what is measured is what will be written.
    weights = {principles[i]: round(float(w), 6) for i, w, keep in zip(tested, scaled, kept, strict=True) if keep}
    return WeightFit(
        weights=weights,
        dropped=tuple(principles[i] for i in tested if principles[i] not in weights),
        untested=tuple(name for i, name in enumerate(principles) if i not in tested),
        loss=loss,
        penalty=penalty,
        trained=len(train),
        heldout=tuple(held),
        hits=hits(held, weights),
    )


def split_by_prompt(
    pairs: Sequence[LabelledPair], heldout: float, seed: int
) -> tuple[list[LabelledPair], list[LabelledPair]]:
    """(train, held out): the pairs of the share `heldout` of the prompts with the smallest hashes are held out."""
    prompts = sorted(
        {pair.prompt_id for pair in pairs}, key=lambda prompt: (derive_seed(seed, "weights", prompt), prompt)
    )
    count = round(heldout * len(prompts))
    if not 0 < count < len(prompts):
        raise DataError(
            f"weights: a share of {heldout:g} of {len(prompts)} prompts holds out {count}, and the fit and its test "
            "both need some; give more labelled pairs or another share"
        )
    out = set(prompts[:count])
    return [pair for pair in pairs if pair.prompt_id not in out], [pair for pair in pairs if pair.prompt_id in out]


def hits(pairs: Sequence[LabelledPair], weights: Mapping[str, float]) -> tuple[float, ...]:
    """For each pair 1 if these weights put the chosen response higher, 0.5 if they put both equal, else 0."""
    names = list(weights)
    margins = _differences(pairs, names) @ np.array([weights[name] for name in names])
    return tuple(((np.sign(margins) + 1) / 2).tolist())


def reweighted(constitution: Constitution, fit: WeightFit) -> Constitution:
    """The constitution with the fitted weights, as the version that `rlaif constitution diff` calls for.

    Principles whose weight came out as none are gone, vetoes apart: those keep the smallest weight there is, since they
    override the sum. Principles that the pairs say nothing about stay as they were. ConfigError for a version that
    cannot be raised.
    """
    kept = [p for p in constitution.principles if p.veto or p.id not in fit.dropped]
    weight = fit.weights | {p.id: NEGLIGIBLE for p in kept if p.id in fit.dropped}
    principles = tuple(p.model_copy(update={"weight": weight.get(p.id, p.weight)}) for p in kept)
    version = _next_version(constitution, fewer=len(kept) < len(constitution.principles))
    return constitution.model_copy(update={"version": version, "principles": principles})


def fit_header(source: Constitution, fit: WeightFit) -> str:
    """The comment on top of the written constitution: what it came from, and how well the weights do."""
    prompts = len(set(fit.prompt_ids))
    lines = [
        f"Weights fitted to human labels. Source: {source.id} {source.version}, hash {source.hash}.",
        f"Loss: {fit.loss}, penalty {fit.penalty:g}, {fit.trained} pairs.",
        f"Held-out accuracy: {fit.accuracy:.3f} on {len(fit.hits)} pairs of {prompts} prompts.",
    ]
    vetoes = [p.id for p in source.principles if p.veto and p.id in fit.dropped]
    for what, names in (
        ("Dropped, since their weight came out as 0", [name for name in fit.dropped if name not in vetoes]),
        ("Kept only as vetoes, since their weight came out as 0", vetoes),
        ("Weights as they were, since these pairs say nothing about them", fit.untested),
    ):
        if names:
            lines.append(f"{what}: {', '.join(names)}.")
    return "\n".join(lines)


def _next_version(constitution: Constitution, fewer: bool) -> str:
    """Major for fewer principles, minor for other weights; below 1.0.0 always minor."""
    if not is_semver(constitution.version):
        raise ConfigError(
            f"constitution {constitution.id!r}: version {constitution.version!r} cannot be raised; write it like 1.0.0"
        )
    major, minor = (int(number) for number in constitution.version.split(".")[:2])
    return f"{major + 1}.0.0" if fewer and major else f"{major}.{minor + 1}.0"


def _differences(pairs: Sequence[LabelledPair], principles: Sequence[str]) -> np.ndarray:
    """Chosen minus rejected, one row per pair; 0 for a principle that does not apply."""
    rows = [[pair.chosen.get(name, 0.0) - pair.rejected.get(name, 0.0) for name in principles] for pair in pairs]
    return np.array(rows, dtype=np.float64).reshape(len(pairs), len(principles))


def _logistic(differences: np.ndarray, penalty: float) -> np.ndarray:
    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margins = differences @ weights
        value = np.logaddexp(0.0, -margins).mean() + penalty * weights @ weights
        gradient = -(differences.T @ expit(-margins)) / len(margins) + 2 * penalty * weights
        return float(value), gradient

    size = differences.shape[1]
    found = minimize(
        loss,
        np.ones(size),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, None)] * size,
        options={"gtol": 1e-10, "ftol": 0.0, "maxiter": 1000},
    )
    return np.asarray(found.x)  # convex: however it stopped, at this precision it is the minimum


def _hinge(differences: np.ndarray, penalty: float) -> np.ndarray:
    """Minimise mean(slack) + penalty * sum(w) over w, slack >= 0 where slack >= 1 - w.d."""
    count, size = differences.shape
    found = linprog(
        c=np.concatenate([np.full(size, penalty), np.full(count, 1 / count)]),
        A_ub=-hstack([csr_matrix(differences), eye_array(count)], format="csr"),
        b_ub=-np.ones(count),
        method="highs",
    )
    if not found.success:
        raise RuntimeError(f"the linear program always has a solution, but: {found.message}")
    return np.asarray(found.x[:size])
